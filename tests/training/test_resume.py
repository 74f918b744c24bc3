"""Killed at random moments and started again: the same weights, bit for bit; and its parts."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
import torch
from lightning.pytorch.trainer.states import TrainerFn

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.training.loggers import MetricsLogger
from segmentation.training.resume import (
    _STATE,
    AtomicCheckpointIO,
    ExactResume,
    random_state,
    set_random_state,
)
from segmentation.training.signals import SIGNALS, STATUS, leaving
from tests.helpers import CONFIGS


def test_killed_trainings_end_as_undisturbed_ones(tmp_path: Path) -> None:
    """Twenty kills, both ways, of one and of two processes."""
    output = tmp_path / "resume.json"
    done = subprocess.run(
        [sys.executable, "benchmarks/resume.py", "--kills=20", f"--output={output}"],
        cwd=CONFIGS.parent,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        check=False,
        timeout=600,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    result = json.loads(output.read_text())
    assert result["exact"] and result["kills"] == 20
    assert {case["processes"] for case in result["cases"]} == {1, 2}
    kills = [kill for case in result["cases"] for kill in case["kills"]]
    assert {kill["signal"] for kill in kills} == {"SIGKILL", "SIGTERM", "SIGUSR1"}
    assert len({hook for kill in kills for hook in kill["after"]}) > 5  # anywhere, batches too


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_ends_with_143(number: int) -> None:
    before = signal.getsignal(number)
    with pytest.raises(SystemExit) as left, leaving():
        os.kill(os.getpid(), number)
        time.sleep(1)
    assert left.value.code == STATUS
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("number", SIGNALS)
def test_a_signal_during_the_imports_ends_with_143(number: int) -> None:
    """They take seconds, in which a scheduler may change its mind."""
    code = """
import os, sys
from importlib.abc import MetaPathFinder

class Finder(MetaPathFinder):
    def find_spec(self, name, path, target=None):
        if name == "torch":
            os.kill(os.getpid(), int(sys.argv.pop()))

sys.meta_path.insert(0, Finder())
from segmentation.__main__ import main
sys.exit(main(["fit", "--config", "configs/quickstart.yaml"]))
"""
    command = [sys.executable, "-c", code, str(int(number))]
    folder = CONFIGS.parent
    done = subprocess.run(command, cwd=folder, capture_output=True, timeout=60, check=False)
    assert done.returncode == STATUS and done.stderr == b"segmentation: interrupted\n", done.stderr


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

    def full(checkpoint: object, file: Any) -> None:
        file.write(b"half")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(torch, "save", full)
    with pytest.raises(UserError, match=r"resume\.ckpt: .*No space"):
        files.save_checkpoint({"step": 3}, path)
    assert files.load_checkpoint(path) == {"step": 2}
    assert len(list(path.parent.iterdir())) == 2


def test_the_log_goes_on_after_the_rows_that_hold(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").touch()  # its process was killed at that moment
    log = MetricsLogger(tmp_path)
    log.experiment.keep(0)
    for step in range(2):
        log.log_metrics({"a": 1.0 + step}, step)
    kept = log.flushed()
    log.log_metrics({"a": 3.0, "b": 4.0}, 2)
    log.save()
    again = MetricsLogger(tmp_path)  # in another process
    assert again.experiment.rows == 3
    again.experiment.keep(kept)
    again.log_metrics({"a": 3.5, "b": 4.5, "c": 5.0}, 2)
    again.save()
    rows = (tmp_path / "metrics.csv").read_bytes().split(b"\r\n")
    assert rows == [b"a,b,c,step", b"1.0,,,0", b"2.0,,,1", b"3.5,4.5,5.0,2", b""]
    again.experiment.keep(0)
    assert (tmp_path / "metrics.csv").read_text().split() == ["a,b,c,step"]


def test_another_version_does_not_go_on_to_the_bit(tmp_path: Path) -> None:
    """It says so before anything is lost, and what to do."""
    fitting = SimpleNamespace(fn=TrainerFn.FITTING)
    trainer: Any = SimpleNamespace(state=fitting, ckpt_path="a/resume.ckpt")
    task: Any = None
    callback = ExactResume(MetricsLogger(tmp_path))
    checkpoint = {"segmentation": {"version": "0.0.9"}, "resume": dict.fromkeys(_STATE)}
    wanted = r"under version 0\.0\.9, this is .*--run\.weights a/resume"
    with pytest.raises(UserError, match=wanted):
        callback.on_load_checkpoint(trainer, task, checkpoint)
    callback.on_load_checkpoint(trainer, task, {"segmentation": {"version": "0.0.9"}})
    assert callback.state is None  # the best or the last: it trains on from there
    checkpoint["segmentation"]["version"] = __version__
    callback.on_load_checkpoint(trainer, task, checkpoint)
    assert callback.state == checkpoint["resume"]
