"""The network that comes with the package: found by its name, and good at nuclei."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

import segmentation
from segmentation.__main__ import main
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.synthetic import write_dsb2018, write_folder
from segmentation.io.files import sha256_of
from segmentation.metrics import ScoreTable
from segmentation.networks import find_checkpoint, shipped_networks
from tests.helpers import refusal


def test_a_name_is_the_shipped_file_but_a_file_of_ones_own_wins(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert shipped_networks() == ["nuclei"]
    assert find_checkpoint("nuclei").is_file()
    assert find_checkpoint("other.ckpt") == Path("other.ckpt")
    monkeypatch.chdir(tmp_path)
    Path("nuclei").mkdir()  # of images, say
    assert find_checkpoint("nuclei").is_file()
    Path("nuclei").rmdir()
    Path("nuclei").write_text("mine")
    assert find_checkpoint("nuclei") == Path("nuclei")


def test_it_is_small_enough_for_the_wheel() -> None:
    assert sum(find_checkpoint(name).stat().st_size for name in shipped_networks()) <= 12e6


def test_it_finds_synthetic_nuclei_of_every_kind(tmp_path: Path) -> None:
    """Fluorescence, bright field and stained ones, none of which it was trained on."""
    data = DSB2018(write_dsb2018(tmp_path, images=9, size=(160, 192), seed=3))
    model = segmentation.load("nuclei", device="cpu")
    table = ScoreTable(model.target.threshold)
    for sample in data:
        assert sample.labels is not None
        pair = (
            torch.from_numpy(labels)[None]
            for labels in (sample.labels, model.predict(sample.image))
        )
        table.update(*pair, ids=[sample.id], kinds=[sample.kind])
    rows = table.rows()
    assert rows.kind.nunique() >= 3
    assert (rows.groupby("kind").iou.mean() > 0.7).all()
    assert rows.ap50.mean() > 0.6


def test_commands_take_its_name(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    root = write_folder(tmp_path / "data", 3, 0, "labels", ".png", 8, 1, size=(64, 80))
    out = tmp_path / "out"
    words = ["--data.images", str(root / "images"), "--output", str(out)]
    assert main(["predict", "--ckpt_path", "nuclei", *words]) == 0
    about = json.loads((out / "manifest.json").read_text())
    assert about["settings"]["checkpoint_sha256"] == [sha256_of(find_checkpoint("nuclei"))]
    capsys.readouterr()
    assert main(["card", "--ckpt_path", "nuclei"]) == 0
    card = capsys.readouterr().out
    assert "license: apache-2.0" in card and "| IoU, mean over images |" in card
    copy = tmp_path / "copy.ckpt"
    assert main(["export", "--ckpt_path", "nuclei", "--output", str(copy)]) == 0
    model = segmentation.load(copy, device="cpu")
    image = np.zeros((32, 32), np.uint8)
    assert not model.predict(image).any()


def test_training_goes_on_from_it(tmp_path: Path) -> None:
    root = write_folder(tmp_path / "data", 6, 0, "labels", ".png", 8, 1, size=(64, 80))
    short = ["--trainer.max_epochs=1", "--trainer.limit_train_batches=1", "--run.tune=false"]
    where = [f"--data.root={root}", f"--run.root={tmp_path}", "--data.crop=64", "--run.wandb=off"]
    assert main(["fit", "--config=finetune", *where, *short, "--data.num_workers=0"]) == 0
    (best,) = tmp_path.glob("finetune/*/checkpoints/best.ckpt")
    before, after = (segmentation.load(path, device="cpu").net for path in ("nuclei", best))
    pairs = zip(before.parameters(), after.parameters(), strict=True)
    assert max(float((a - b).detach().abs().max()) for a, b in pairs) < 0.01


def test_what_cannot_be_done_with_it_is_said(
    capsys: pytest.CaptureFixture[str], folder_root: Path
) -> None:
    words = ["--config=finetune", f"--data.root={folder_root}"]
    said = refusal(capsys, ["tune", "--ckpt_path", "nuclei", *words])
    assert "nuclei: comes with the package, and is not changed; write a copy" in said
    said = refusal(capsys, ["card", "--ckpt_path", "cells"])
    assert said.endswith("check the path, or name one that comes with the package: nuclei")
