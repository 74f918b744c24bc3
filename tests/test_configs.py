"""Every YAML of configs/ is complete, and every experiment takes a real step."""

from pathlib import Path

import pytest
import yaml

from segmentation.__main__ import main
from segmentation.config_files import read_parts
from segmentation.data.corrections import Corrected
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.synthetic import (
    write_bbbc039,
    write_classes,
    write_dic_hela,
    write_dsb2018_stardist,
    write_ultrasound_nerve,
)
from segmentation.experiments.reproduce import data_root
from tests.helpers import CONFIGS

PUBLISHED = ("reproduce/a/unetpp", "reproduce/b", "reproduce/c", "reproduce/d", "reproduce/e")
# Parts of experiments; and files that are no configs of fit, see tests/sweeps and the end.
PARTS = {
    CONFIGS / name for name in ("data", "model", "trainer", "sweeps", "cluster", "corrections")
}
EXPERIMENTS = [
    p
    for p in sorted(CONFIGS.rglob("*.yaml"))
    if p.parent not in PARTS and not p.name.startswith("_")
]
SMALLER = {  # so that two cores take the step in a second: sizes change, nothing else
    "dsb2018/small_unet.yaml": [],
    "dsb2018/smp_unet.yaml": [
        "--model.net.encoder_name=resnet18",
        "--model.net.encoder_weights=null",
    ],
    "dsb2018/encoder_unet.yaml": ["--model.net.encoder_weights=null"],
    "dsb2018/star_convex.yaml": ["--model.net.encoder_weights=null"],
    "dsb2018/flow.yaml": ["--model.net.encoder_weights=null"],
    "dsb2018/generalist.yaml": ["--model.net.encoder_weights=null"],
    "finetune.yaml": [],
    "reproduce/c/hrnet.yaml": ["--model.net.encoder_name=tu-hrnet_w18_small"],
    "reproduce/b/": ["--model.net.width=4", "--model.preprocess.resize=[64,64]"],
    "reproduce/d/": ["--data.split.train=3"],
    "reproduce/e/": ["--model.net.weights=null", "--model.preprocess.crop=[96,128]"],
    "ultrasound_nerve/": [
        "--model.net.width=4",
        "--model.preprocess.crop=[192,256]",
        "--model.preprocess.resize=[96,128]",
    ],
    "": ["--model.net.width=4"],
}


@pytest.fixture(scope="session")
def roots(
    dsb_root: Path, folder_root: Path, tmp_path_factory: pytest.TempPathFactory
) -> dict[str, Path]:
    """Small data in the layout of each dataset, by the name of its folder."""
    new = tmp_path_factory.mktemp
    return {
        "dsb2018": dsb_root,
        "data": dsb_root,
        "mine": folder_root,
        "classes": write_classes(new("classes"), 9, size=(64, 64)),
        "dic_hela": write_dic_hela(new("dic_hela"), 8, (64, 64)),
        "dsb2018_stardist": write_dsb2018_stardist(new("stardist"), 24, (64, 64)),
        "bbbc039": write_bbbc039(new("bbbc039"), 8, (512, 640)),
        "ultrasound_nerve": write_ultrasound_nerve(new("nerve"), 24),
    }


def name(path: Path) -> str:
    return path.relative_to(CONFIGS).as_posix()


def test_every_part_belongs_to_an_experiment_or_is_offered_beside_one() -> None:
    other = [CONFIGS / name for name in ("sweeps", "cluster", "corrections")]
    every = [path for path in CONFIGS.rglob("*.yaml") if path.parent not in other]
    lists = [yaml.safe_load(path.read_text()).get("compose", []) for path in every]
    named = {
        (path.parent / part).resolve()
        for path, parts in zip(every, lists, strict=True)
        for part in parts
    }
    unused = {path.name for path in set(every) - set(EXPERIMENTS) if path.resolve() not in named}
    assert unused == {"gpus.yaml"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=name)
def test_an_experiment_takes_a_real_step(
    path: Path, roots: dict[str, Path], tmp_path: Path
) -> None:
    option, folder = data_root(path)
    root = roots[folder]
    smaller = next(words for start, words in SMALLER.items() if name(path).startswith(start))
    data = []
    small = [roots[one] for one in ("dsb2018", "mine", "classes")]
    if root in small and "reproduce/c" not in name(path):
        data = ["--data.split.val=2", "--data.split.test=3"]
    if root == roots["mine"]:
        data += ["--data.mask_type=labels"]
    if "crop: null" not in path.read_text() and not name(path).startswith(PUBLISHED):
        data += [] if "ultrasound" in name(path) else ["--data.crop=32"]
    if "reproduce/b" in name(path):
        data += ["--data.split.gap=0"] if "sound" in name(path) else []
    argv = [
        "fit",
        f"--config={path}",
        f"{option}={root}",
        f"--run.root={tmp_path}",
        *smaller,
        *data,
        "--data.num_workers=0",
        "--data.batch_size=2",
        "--trainer.fast_dev_run=1",
        "--trainer.accelerator=cpu",
        "--trainer.enable_progress_bar=false",
        "--trainer.enable_model_summary=false",
    ]
    assert main(argv) == 0


def test_all_gpus_config_parses(dsb_root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    argv = [
        "fit",
        f"--config={CONFIGS / 'quickstart.yaml'}",
        f"--config={CONFIGS / 'trainer/gpus.yaml'}",
        "--print_config",
    ]
    with pytest.raises(SystemExit) as done:
        main(argv)
    assert done.value.code == 0
    assert "strategy: ddp" in capsys.readouterr().out


@pytest.mark.parametrize("path", sorted((CONFIGS / "corrections").glob("*.yaml")), ids=name)
def test_corrections_fit_the_real_data(path: Path, real_data: Path) -> None:
    source = DSB2018(str(real_data / "dsb2018"))
    kept = Corrected(source, path).index()
    assert (len(source.index()), len(kept)) == (670, 546)


@pytest.mark.parametrize("system", ["a/unetpp", "a/sound", *(f"{s}/_base" for s in "bcde")])
def test_published_protocols_keep_their_decoding_and_their_epoch(system: str) -> None:
    parts = read_parts(CONFIGS / f"reproduce/{system}.yaml")
    assert [part["run"]["tune"] for part in parts if "tune" in part.get("run", {})] == [False]
    pixels = all("Foreground" in str(p["model"]) for p in parts if "target" in str(p.get("model")))
    assert pixels or any("monitor" in part.get("checkpoint", {}) for part in parts)
