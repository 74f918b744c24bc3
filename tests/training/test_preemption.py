"""What a run keeps to go on from: whole files, the rows that hold, and random numbers."""

import random
from pathlib import Path

import numpy as np
import pytest
import torch

from segmentation.training.resume import (
    AtomicCheckpointIO,
    ContinuedCSVLogger,
    random_state,
    set_random_state,
)


def test_random_numbers_go_on(tmp_path: Path) -> None:
    """Through a file that holds nothing but tensors and plain values."""

    def draw() -> list[float]:
        normal = [random.gauss(0, 1), np.random.normal(), float(torch.randn(()))]
        return [*normal, random.random(), np.random.rand(), float(torch.rand(()))]

    draw()  # half of a pair of normal numbers is kept back
    torch.save(random_state(), tmp_path / "state")
    drawn = draw()
    assert draw() != drawn
    set_random_state(torch.load(tmp_path / "state", weights_only=True))
    assert draw() == drawn


def test_a_checkpoint_is_whole_and_the_previous_one_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    files, path = AtomicCheckpointIO(), tmp_path / "checkpoints" / "resume.ckpt"
    for step in range(3):
        files.save_checkpoint({"step": step}, path)
    assert files.load_checkpoint(path) == {"step": 2}
    assert files.load_checkpoint(path.with_name("resume.previous.ckpt")) == {"step": 1}

    def full(checkpoint: object, file: object) -> None:
        file.write(b"half")  # type: ignore[attr-defined]
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(OSError, match="No space"):
        files.save_checkpoint({"step": 3}, path)
    assert files.load_checkpoint(path) == {"step": 2}
    assert len(list(path.parent.iterdir())) == 2


def test_the_log_goes_on_after_the_rows_that_hold(tmp_path: Path) -> None:
    log = ContinuedCSVLogger(tmp_path)
    log.log_metrics({"a": 1.0}, 0)
    log.log_metrics({"a": 2.0}, 1)
    log.save()
    kept = log.experiment.rows
    log.log_metrics({"a": 3.0, "b": 4.0}, 2)
    log.save()
    again = ContinuedCSVLogger(tmp_path)  # in another process
    assert again.experiment.rows == 3
    again.experiment.keep(kept)
    again.log_metrics({"a": 3.5, "b": 4.5, "c": 5.0}, 2)
    again.save()
    assert (tmp_path / "metrics.csv").read_text().split() == [
        "a,b,c,step",
        "1.0,,,0",
        "2.0,,,1",
        "3.5,4.5,5.0,2",
    ]
    again.experiment.keep(0)
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,b,c,step"]


def test_a_log_that_was_opened_and_never_written_goes_on(tmp_path: Path) -> None:
    """Its process was killed at that moment."""
    (tmp_path / "metrics.csv").touch()
    log = ContinuedCSVLogger(tmp_path)
    log.experiment.keep(0)
    log.log_metrics({"a": 1.0}, 0)
    log.save()
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,step", "1.0,0"]
