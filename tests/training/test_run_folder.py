"""Which folder a run gets, which run goes on, and what is kept to repeat it."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from segmentation.data.sample import Split
from segmentation.errors import UserError
from segmentation.training import run_folder
from segmentation.training.resume import AtomicCheckpointIO
from segmentation.training.run_folder import (
    LARGEST_DIFF,
    LOCK,
    MARKER,
    RESUME,
    RUN_FOLDER,
    RunRecord,
    checkpoint_of,
    finish,
    git_state,
    mark,
    remove_if_empty,
    unfinished,
)

CONFIG = {"model": {"lr": 0.1}, "run": {"resume": True}}
SPLIT = Split(train=("a", "b"), val=("c",), test=("d",))


@pytest.fixture(autouse=True)
def no_run() -> Iterator[None]:
    yield
    os.environ.pop(RUN_FOLDER, None)


def test_a_second_run_gets_a_folder_of_its_own(tmp_path: Path) -> None:
    folders = []
    for _ in range(3):
        os.environ.pop(RUN_FOLDER, None)
        folders.append(run_folder.make(tmp_path, "name", "fit"))
    assert len(set(folders)) == 3
    assert os.environ[RUN_FOLDER] == str(folders[-1])
    assert run_folder.make(tmp_path, "name", "fit") == folders[-1]  # another process of the run


def test_launched_processes_share_a_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SLURM_JOB_ID", "17")
    monkeypatch.setenv("SLURM_NTASKS", "2")
    folders = set()
    for _ in range(2):
        os.environ.pop(RUN_FOLDER, None)
        folders.add(run_folder.make(tmp_path, "name", "fit"))
    assert folders == {tmp_path / "name" / "job-17"}


def start(folder: Path, config: dict[str, Any] = CONFIG) -> Path:
    """A run that was ended before it had written anything else."""
    folder.mkdir(parents=True)
    mark(folder, config)
    marker = (folder / MARKER).read_text()
    finish(folder)  # gives up the lock, as a process that ends does
    (folder / MARKER).write_text(marker)
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
    assert unfinished(tmp_path, CONFIG) is None and not list(first.iterdir())


def test_a_run_goes_on_that_was_started_without_the_word_for_it(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """As an interrupted one says that it will."""
    folder = start(tmp_path / "1", {**CONFIG, "run": {"name": "a", "resume": False}})
    again = {"name": "a", "resume": True}
    assert unfinished(tmp_path, {**CONFIG, "run": again}) == folder
    assert capsys.readouterr().out == ""
    assert unfinished(tmp_path, {"model": {"lr": 0.2}, "run": again}) is None
    assert "the 1 unfinished run(s) has another config or is at work" in capsys.readouterr().out


def test_a_run_at_work_is_left_alone_for_as_long_as_its_process_lives(tmp_path: Path) -> None:
    """Also where it has forked processes that outlive it, as those are that load batches."""
    folder = start(tmp_path / "1")
    code = (
        "import os, sys, time, pathlib, segmentation.training.run_folder as r\n"
        "r.mark(pathlib.Path(sys.argv[1]), {})\n"
        "child = os.fork()\n"
        "if child: print(child, flush=True)\n"
        "time.sleep(60)"
    )
    holder = subprocess.Popen([sys.executable, "-c", code, folder], stdout=subprocess.PIPE)
    with holder:
        assert holder.stdout is not None
        child = int(holder.stdout.readline())
        assert unfinished(tmp_path, CONFIG) is None
        with pytest.raises(UserError, match="at work"):
            mark(folder, CONFIG)
        holder.kill()
    assert unfinished(tmp_path, CONFIG) == folder
    os.kill(child, 9)


def test_wandbs_agent_names_the_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for number, name in enumerate(("one", "two")):
        monkeypatch.setenv("WANDB_RUN_ID", name)
        start(tmp_path / str(number))
    monkeypatch.setenv("WANDB_RUN_ID", "one")
    assert unfinished(tmp_path, CONFIG) == tmp_path / "0"
    monkeypatch.delenv("WANDB_RUN_ID")
    assert mark(tmp_path / "0", CONFIG) == "one"


def test_a_broken_checkpoint_is_named_and_the_previous_one_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert checkpoint_of(tmp_path) is None
    path = tmp_path / "checkpoints" / RESUME
    for step in range(2):
        content = {"segmentation": {}, "state_dict": {}, "step": step}
        AtomicCheckpointIO().save_checkpoint(content, path)
    assert checkpoint_of(tmp_path) == path
    path.write_bytes(path.read_bytes()[:100])
    assert checkpoint_of(tmp_path) == path.with_name("resume.previous.ckpt")
    assert str(path) in capsys.readouterr().out


def test_only_an_empty_run_is_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder, other = start(tmp_path / "home" / "1"), start(tmp_path / "home" / "2")
    (folder / LOCK).touch()
    monkeypatch.setenv(RUN_FOLDER, str(folder))
    monkeypatch.setenv("RANK", "1")  # the first of several is at work there
    remove_if_empty()
    monkeypatch.delenv("RANK")
    (folder / "metrics.csv").touch()
    remove_if_empty()
    assert (folder / MARKER).exists()
    (folder / "metrics.csv").unlink()
    remove_if_empty()
    assert list((tmp_path / "home").iterdir()) == [other]
    remove_if_empty()  # it is gone already


def record(
    folder: Path,
    config: str = "x: 1",
    split: Split | None = SPLIT,
    zero: bool = True,
    content: str = "data-1f",
) -> None:
    data = (
        SimpleNamespace(content=content)
        if split is None
        else SimpleNamespace(split=split, content=content)
    )
    trainer: Any = SimpleNamespace(is_global_zero=zero, datamodule=data)
    task: Any = SimpleNamespace()
    RunRecord(folder, config).setup(trainer, task, "fit")


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()} - {"git.diff"}


def test_config_and_split_are_kept_as_they_were_first(tmp_path: Path) -> None:
    """The test after a training sets everything up again, and so does another run by mistake."""
    record(tmp_path, zero=False)
    assert not names(tmp_path)
    record(tmp_path, "a: 1  # 中\n")
    assert names(tmp_path) == {"config.yaml", "split.json", "run.json"}
    assert (tmp_path / "config.yaml").read_text(encoding="utf-8") == "a: 1  # 中\n"
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    record(tmp_path, "second: 2", Split(train=("x",), val=(), test=()))
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept
    with pytest.raises(
        UserError, match=r"began with other images or masks \(data-1f, these are data-2e"
    ):
        record(tmp_path, content="data-2e")
    record(tmp_path / "no split", split=None)
    assert names(tmp_path / "no split") == {"config.yaml", "run.json"}
    with pytest.raises(UserError, match=r"split\.json: cannot be written .*; choose a folder"):
        record(tmp_path / "config.yaml")


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *own, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


def test_the_commit_and_what_was_not_committed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repository = tmp_path / "repository"
    repository.mkdir()
    git(repository, "init", "--quiet", "--initial-branch=trunk")
    (repository / "code.py").write_text("a = 1\n")
    git(repository, "add", "code.py")
    git(repository, "commit", "--quiet", "--message=first")
    monkeypatch.chdir(repository)
    record(tmp_path / "clean")
    found = json.loads((tmp_path / "clean/run.json").read_text())
    wanted = {"commit": git(repository, "rev-parse", "HEAD"), "branch": "trunk"}
    assert found["git"] == {**wanted, "changed": False, "untracked": []}
    assert found["split_sha256"] == json.loads(SPLIT.to_json())["sha256"]
    assert found["versions"]["torch"] == str(torch.__version__)
    assert not (tmp_path / "clean/git.diff").exists()
    (repository / "code.py").write_text("a = 2\n")
    (repository / "runs").mkdir()
    (repository / "runs/many").write_text("")
    record(tmp_path / "changed")
    found = json.loads((tmp_path / "changed/run.json").read_text())
    assert found["git"] == {**wanted, "changed": True, "untracked": ["runs/"]}
    git(repository, "checkout", "code.py")
    git(repository, "apply", str(tmp_path / "changed/git.diff"))  # it is whole
    assert (repository / "code.py").read_text() == "a = 2\n"
    (repository / "code.py").write_text("0123456789" * 200_000)
    state = git_state(repository)
    assert state is not None
    assert LARGEST_DIFF < len(state[1]) < LARGEST_DIFF + 100 and b"bytes more" in state[1][-40:]


def test_without_a_repository(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")  # without a commit
    assert git_state(tmp_path) is None
