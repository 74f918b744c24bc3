"""``segmentation init`` with a budget: what it writes is what ``fit`` takes."""

import re
import shutil
import time
from pathlib import Path

import numpy as np
import pytest
import yaml

from segmentation.__main__ import main
from segmentation.data.sources import read_sources
from segmentation.datasets.synthetic import write_folder
from segmentation.experiments.plan import facts, timing
from segmentation.io.images import write_image
from tests.helpers import refusal


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(timing, "SECONDS", 0.2)
    monkeypatch.setattr(facts, "usable_cores", lambda: 1)  # no loading processes to start
    monkeypatch.chdir(tmp_path)


def test_what_is_written_trains_within_the_budget(
    folder_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = 60
    words = ["init", f"--data.root={folder_root}", f"--budget={asked}s", "--output=mine.yaml"]
    words += ["--data.split.val=2"]
    assert main(words) == 0
    shown = capsys.readouterr().out
    assert re.search(r"^images +6 to train, 2 to validate, 1 to test; 48×64, 1 channel", shown)
    text = Path("mine.yaml").read_text(encoding="utf-8")
    config = yaml.safe_load(text)
    assert config["data"]["init_args"]["mask_type"] == "labels"  # found out
    assert "# mask_type: masks hold more than two values" in text
    assert max(map(len, text.splitlines()[1:])) <= 100  # the first is the command as typed
    shorter = ["--trainer.max_epochs=1", "--data.sampling.length=8"]  # a test has no minute
    begun = time.perf_counter()
    assert main(["fit", "--config=mine.yaml", *shorter, "--run.wandb=off"]) == 0
    assert time.perf_counter() - begun < asked
    assert list(Path("runs/plan").glob("*/scores.json"))


def test_clear_sources_become_the_split(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Five sizes of frames, ten images of each."""
    rng = np.random.default_rng(0)
    for i in range(50):
        mask = np.zeros((48, 40 + 8 * (i % 5)), bool)
        for top, left in rng.integers(0, 30, (2, 2)):
            mask[top : top + 9, left : left + 9] = True
        image = (np.where(mask, 200, 30) + rng.integers(0, 9, mask.shape)).astype(np.uint8)
        write_image(tmp_path / f"mine/images/{i:02d}.png", image)
        write_image(tmp_path / f"mine/masks/{i:02d}.png", mask.astype(np.uint8) * 255)
    words = ["init", "--data.root=mine", "--output=mine.yaml"]
    assert "too small" in refusal(capsys, [*words, "--budget=9s"])
    assert not Path("mine_sources.csv").exists()
    assert main([*words, "--budget=60s"]) == 0
    shown = capsys.readouterr().out
    assert "30 to train, 10 to validate, 10 to test" in shown
    assert re.search(r"^test +test images are from sources never trained on$", shown, re.M)
    split = yaml.safe_load(Path("mine.yaml").read_text())["data"]["init_args"]["split"]
    assert split["init_args"]["sources"] == "mine_sources.csv"
    of = read_sources(Path("mine_sources.csv"))
    assert [len({of[f"{i:02d}"] for i in range(k, 50, 5)}) for k in range(5)] == [1] * 5
    assert len({*of.values()}) == 5
    Path("mine.yaml").unlink()
    assert "mine_sources.csv: cannot be written" in refusal(capsys, [*words, "--budget=60s"])
    assert len(read_sources(Path("mine_sources.csv"))) == 50


def test_what_cannot_be_planned_is_one_line(
    folder_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def line(*words: str) -> str:
        return refusal(capsys, ["init", *words])

    root = f"--data.root={folder_root}"
    assert "--budget fast: must be a time such as 90s" in line(root, "--budget=fast")
    assert "absent: the data root does not exist" in line("--data.root=absent", "--budget=9m")
    assert "no such folder" in line(root, "--output=absent/mine.yaml").replace("is no", "no such")
    Path("mine.yaml").write_text("mine")
    assert "mine.yaml: cannot be written (File exists)" in line(root, "--output=mine.yaml")
    assert Path("mine.yaml").read_text() == "mine"
    assert "this is the kind of data: bbbc039, " in line("dsb2018/unet", root)
    assert "--data.crop: of the data's settings init takes" in line(root, "--data.crop=64")
    assert "--pretrained absent.pth: no such file" in line(root, "--pretrained=absent.pth")
    assert "--data.crop=64: goes with --data.root" in line("--data.crop=64")
    assert "--budget 9s: too small for this data on this machine" in line(root, "--budget=9s")
    assert not Path("config.yaml").exists()


def test_data_that_cannot_be_planned_for(
    folder_root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    few = write_folder(tmp_path / "few", 1, size=(48, 64))
    told = refusal(capsys, ["init", f"--data.root={few}"])
    assert "1 image(s) with masks: at least 3 are needed" in told
    shutil.rmtree(few / "masks")
    assert f"{few / 'masks'}: the data root does not exist" in refusal(
        capsys, ["init", f"--data.root={few}"]
    )
    mixed = tmp_path / "mixed"
    shutil.copytree(folder_root, mixed)
    for i, path in enumerate(sorted((mixed / "images").iterdir())[:8]):
        path.unlink()
        np.save(path.with_suffix(".npy"), np.full((48, 64, 2), i, np.uint8))
    assert "and 2 channel(s) (" in refusal(capsys, ["init", f"--data.root={mixed}"])
