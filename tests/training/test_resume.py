"""Killed at random moments and started again: the same weights, bit for bit. Which run goes on."""

import json
import os
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from lightning.pytorch.trainer.states import TrainerFn

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.training.preemption import Preemption
from segmentation.training.resume import AtomicCheckpointIO
from segmentation.training.run_folder import (
    FILE,
    MARKER,
    RUN_FOLDER,
    _digest,
    checkpoint_of,
    finish,
    forsake,
    mark,
    unfinished,
)
from tests.helpers import CONFIGS

CONFIG = {"model": {"lr": 0.1}, "run": {"resume": True}}


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


def start(folder: Path, config: dict[str, object] = CONFIG) -> Path:
    """A run that was ended before it had written anything else."""
    folder.mkdir(parents=True)
    run_id = os.environ.get("WANDB_RUN_ID", "id")
    (folder / MARKER).write_text(f"{run_id} {_digest(config)}")  # not by mark, which holds a lock
    os.utime(folder / MARKER, ns=(0, int(folder.name)))
    return folder


def test_the_newest_unfinished_run_of_the_same_config_goes_on(tmp_path: Path) -> None:
    assert unfinished(tmp_path, CONFIG) is None
    first, second = start(tmp_path / "1"), start(tmp_path / "2")
    start(tmp_path / "3", {**CONFIG, "model": {"lr": 0.2}})
    assert unfinished(tmp_path, CONFIG) == second
    (second / MARKER).rename(second / "other")  # no marker: it came to its end
    assert unfinished(tmp_path, CONFIG) == first
    finish(first)
    assert unfinished(tmp_path, CONFIG) is None


def test_a_run_at_work_is_left_alone(tmp_path: Path) -> None:
    folder = start(tmp_path / "1")
    holder = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import fcntl, sys; file = open(sys.argv[1], 'r+'); fcntl.lockf(file, fcntl.LOCK_EX); "
            "print('held', flush=True); input()",
            str(folder / MARKER),
        ],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    )
    with holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        assert unfinished(tmp_path, CONFIG) is None
        with pytest.raises(UserError, match="at work"):
            mark(folder, CONFIG)
        holder.kill()
    assert unfinished(tmp_path, CONFIG) == folder


def test_wandbs_agent_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    one = start(tmp_path / "1")
    monkeypatch.setenv("WANDB_RUN_ID", "two")
    start(tmp_path / "2")
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    assert unfinished(tmp_path, CONFIG) == one
    monkeypatch.delenv("WANDB_RUN_ID")
    assert mark(one, CONFIG) == "one"


def test_a_broken_checkpoint_is_told_and_the_previous_one_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint_of(tmp_path) is None
    path = tmp_path / "checkpoints" / FILE
    for step in range(2):
        AtomicCheckpointIO().save_checkpoint({"segmentation": {}, "step": step}, path)
    assert checkpoint_of(tmp_path) == path
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint_of(tmp_path) == path.with_name("resume.previous.ckpt")
    assert str(path) in capsys.readouterr().out


def test_another_version_does_not_go_on_to_the_bit() -> None:
    """It says so before anything is lost, and what to do."""
    trainer: Any = SimpleNamespace(
        state=SimpleNamespace(fn=TrainerFn.FITTING), ckpt_path="a/resume.ckpt"
    )
    task: Any = None
    checkpoint = {"segmentation": {"version": "0.0.9"}, "resume": {"over": False}}
    with pytest.raises(
        UserError, match=r"under version 0\.0\.9, this is .*--run\.weights a/resume"
    ):
        Preemption().on_load_checkpoint(trainer, task, checkpoint)
    callback = Preemption()
    callback.on_load_checkpoint(trainer, task, {"segmentation": {"version": "0.0.9"}})
    assert callback.state is None  # the best or the last: it trains on from there
    checkpoint["segmentation"]["version"] = __version__
    callback.on_load_checkpoint(trainer, task, checkpoint)
    assert callback.state == {"over": False}


def test_only_an_empty_run_is_forsaken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = start(tmp_path / "home" / "1")
    monkeypatch.setenv(RUN_FOLDER, str(folder))
    monkeypatch.setenv("RANK", "1")  # the first of several is at work there
    forsake()
    assert (folder / MARKER).exists()
    monkeypatch.delenv("RANK")
    (folder / "metrics.csv").touch()
    forsake()
    assert (folder / MARKER).exists()
    (folder / "metrics.csv").unlink()
    start(tmp_path / "home" / "2")
    forsake()
    assert [path.name for path in (tmp_path / "home").iterdir()] == ["2"]
    forsake()  # it is gone already
