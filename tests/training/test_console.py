"""What a training says: a line an epoch, once."""

import re
from pathlib import Path
from typing import Any

import pytest
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint

from segmentation.experiments.process import _trained
from segmentation.training.console import Console
from tests import tiny
from tests.training.test_tracking import Data

LINE = re.compile(
    r"Epoch (?P<epoch> ?\d+)(?: of (?P<most>\d+))?  loss (?P<loss>[\d.]+)(?P<scores>(?:  val/\w+ "
    r"[\d.]+)*)  \d+ s(?:  ETA (?P<eta>[\d:]+))?(?P<best>  best)?"
)


def said(
    capsys: pytest.CaptureFixture[str], tmp_path: Path, monitor: str = "val/iou", **more: Any
) -> list[str]:
    best = ModelCheckpoint(tmp_path, "best", monitor=monitor, mode="max")
    settings: dict[str, Any] = {"max_epochs": 3, "num_sanity_val_steps": 1, **more}
    settings["callbacks"] = [Console(best), *more.get("callbacks", ())]
    trainer = tiny.trainer(**settings)
    trainer.callbacks.append(best)
    trainer.fit(tiny.task(), datamodule=Data())
    return capsys.readouterr().out.splitlines()


def test_one_line_an_epoch_that_says_what_was_learned(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    about, *lines = said(capsys, tmp_path, "val/ap")
    assert about == "network   Tiny, 149 parameters, on cpu"
    found = [LINE.fullmatch(line) for line in lines]
    assert [one and one["epoch"] for one in found] == ["1", "2", "3"]
    for one in found:
        assert one is not None and one["most"] == "3" and float(one["loss"]) > 0
        assert re.findall(r"val/\w+", one["scores"]) == ["val/iou", "val/ap50", "val/ap"]
        assert (one["eta"] is None) == (one["epoch"] == "3")  # nothing is left
    assert found[0] and found[0]["best"]


@pytest.mark.filterwarnings("ignore:.ModelCheckpoint")
@pytest.mark.parametrize(
    ("more", "titles"),
    [
        ({"max_epochs": -1, "max_steps": 9}, ["Epoch 1", "Epoch 2"]),
        ({"max_epochs": 10, "max_steps": 12}, ["Epoch  1 of 10", "Epoch  2 of 10"]),
        ({"max_epochs": 1, "limit_val_batches": 0}, ["Epoch 1 of 1"]),
        ({"max_epochs": 2, "val_check_interval": 2}, ["Epoch 1 of 2", "Epoch 2 of 2"]),
    ],
    ids=["steps alone", "steps first", "no validation", "three validations an epoch"],
)
def test_however_long_a_training_is(
    more: dict[str, Any], titles: list[str], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    lines = said(capsys, tmp_path, **more)[1:]
    assert [line.partition("  loss")[0] for line in lines] == titles
    assert all(LINE.fullmatch(line) for line in lines)


def test_why_a_training_stopped_early(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    stop = EarlyStopping("val/iou", min_delta=1.0, patience=1, mode="max")
    last = said(capsys, tmp_path, callbacks=[stop], max_epochs=9)[-1]
    assert last.startswith("stopped   Monitored metric val/iou did not improve")


@pytest.mark.parametrize(
    ("text", "share"),
    [
        ("", 0.0),
        ("report  x\nEpoch  3 of 30  loss 0.4\n", 0.1),
        ("Epoch 1 of 4  loss 1\nEpoch 2 of 4: 50 % in 01:00, 01:00 left\n", 0.375),
    ],
)
def test_who_waits_for_a_training_reads_its_lines(text: str, share: float, tmp_path: Path) -> None:
    (tmp_path / "log").write_text(text)
    assert _trained(tmp_path / "log") == pytest.approx(share)
