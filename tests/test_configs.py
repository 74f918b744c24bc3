"""Every YAML of configs/ is complete, and every experiment takes a real step."""

from pathlib import Path

import pytest

from segmentation.__main__ import main
from tests.helpers import CONFIGS

EXPERIMENTS = sorted([*CONFIGS.glob("*.yaml"), *CONFIGS.glob("dsb2018/*.yaml")])
SMALLER = {  # so that two cores take the step in a second: widths change, nothing else
    "UNet": ["--model.net.width=4"],
    "UNetPlusPlus": ["--model.net.width=4"],
    "smp_unet": ["--model.net.encoder_name=resnet18", "--model.net.encoder_weights=null"],
}


def test_every_part_belongs_to_an_experiment_or_is_offered_beside_one() -> None:
    text = "".join(path.read_text() for path in EXPERIMENTS)
    unused = {
        p.name for p in CONFIGS.glob("*/*.yaml") if p not in EXPERIMENTS and p.name not in text
    }
    assert unused == {"gpus.yaml"}


@pytest.mark.parametrize("path", EXPERIMENTS, ids=lambda p: str(p.relative_to(CONFIGS)))
def test_an_experiment_takes_a_real_step(
    path: Path, dsb_root: Path, folder_root: Path, tmp_path: Path
) -> None:
    text = path.read_text()
    small = next((words for key, words in SMALLER.items() if key in text or key in path.name), [])
    if not small and path.name != "small_unet.yaml":
        small = SMALLER["UNet"]
    root, data = dsb_root, ["--data.split.val=2", "--data.split.test=3"]
    if "folder" in path.name:
        root, data = folder_root, ["--data.mask_type=labels"]
    crop = [] if path.name == "unetpp_published.yaml" else ["--data.crop=32"]
    argv = [
        "fit",
        f"--config={path}",
        f"--data.root={root}",
        f"--run.root={tmp_path}",
        *small,
        *data,
        *crop,
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
