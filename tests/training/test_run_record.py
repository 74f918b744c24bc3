"""A run's own folder says how to repeat it, and is never written over."""

import json
import subprocess
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from segmentation.data.splits import Split
from segmentation.errors import UserError
from segmentation.training.run_record import LARGEST_DIFF, RunFolder, git_state

SPLIT = Split(train=("a", "b"), val=("c",), test=("d",))


def trainer(split: Split | None = SPLIT, zero: bool = True) -> Any:
    data = SimpleNamespace() if split is None else SimpleNamespace(split=split)
    return SimpleNamespace(is_global_zero=zero, datamodule=data, global_step=12, world_size=3)


def task() -> Any:
    net = nn.Linear(3, 5)  # 3·5 weights and 5 biases
    return SimpleNamespace(parameters=net.parameters, device=torch.device("cpu"))


def names(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


def test_config_and_split_are_kept_as_they_are(tmp_path: Path) -> None:
    RunFolder(tmp_path / "run", "a: 1  # 中\n").setup(trainer(), task(), "fit")
    assert names(tmp_path / "run") - {"git.diff"} == {"config.yaml", "split.json", "run.json"}
    assert (tmp_path / "run/config.yaml").read_text(encoding="utf-8") == "a: 1  # 中\n"
    kept = json.loads((tmp_path / "run/split.json").read_text())
    assert kept["train"] == ["a", "b"] and kept["val"] == ["c"] and kept["test"] == ["d"]
    assert kept["counts"] == {"train": 2, "val": 1, "test": 1}


def test_the_first_config_and_split_stay(tmp_path: Path) -> None:
    """The test after a training sets everything up again, and so does another run by mistake."""
    RunFolder(tmp_path, "first").setup(trainer(), task(), "fit")
    kept = {path: path.read_bytes() for path in tmp_path.iterdir()}
    other = Split(train=("x",), val=(), test=())
    RunFolder(tmp_path, "second").setup(trainer(other), task(), "test")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == kept


def test_without_a_split_there_is_no_file_of_it(tmp_path: Path) -> None:
    RunFolder(tmp_path, "x").setup(trainer(None), task(), "fit")
    assert names(tmp_path) - {"git.diff"} == {"config.yaml", "run.json"}


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    callback = RunFolder(tmp_path, "x")
    callback.setup(trainer(zero=False), task(), "fit")
    assert names(tmp_path) == set()


def git(folder: Path, *arguments: str) -> str:
    own = ["-c", "user.name=x", "-c", "user.email=x@example.org", "-c", "commit.gpgsign=false"]
    command = ["git", "-C", str(folder), *own, *arguments]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """With one commit of one file."""
    folder = tmp_path / "repository"
    folder.mkdir()
    git(folder, "init", "--quiet", "--initial-branch=trunk")
    (folder / "code.py").write_text("a = 1\n")
    git(folder, "add", "code.py")
    git(folder, "commit", "--quiet", "--message=first")
    return folder


def test_the_commit_and_what_was_not_committed(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(repository)
    RunFolder(tmp_path / "clean", "x").setup(trainer(), task(), "fit")
    found = json.loads((tmp_path / "clean/run.json").read_text())
    wanted = {"commit": git(repository, "rev-parse", "HEAD"), "branch": "trunk"}
    assert found["git"] == {**wanted, "changed": False, "untracked": []}
    assert found["split_sha256"] == json.loads(SPLIT.to_json())["sha256"]
    assert found["versions"]["torch"] == str(torch.__version__)
    assert not (tmp_path / "clean/git.diff").exists()
    (repository / "code.py").write_text("a = 2\n")
    (repository / "runs").mkdir()
    (repository / "runs/many").write_text("")
    RunFolder(tmp_path / "changed", "x").setup(trainer(), task(), "fit")
    found = json.loads((tmp_path / "changed/run.json").read_text())
    assert found["git"] == {**wanted, "changed": True, "untracked": ["runs/"]}
    git(repository, "checkout", "code.py")
    git(repository, "apply", str(tmp_path / "changed/git.diff"))  # it is whole
    assert (repository / "code.py").read_text() == "a = 2\n"


def test_a_huge_diff_is_cut_off(repository: Path) -> None:
    (repository / "code.py").write_text("0123456789" * 200_000)
    state = git_state(repository)
    assert state is not None
    assert LARGEST_DIFF < len(state[1]) < LARGEST_DIFF + 100
    assert b"bytes more" in state[1][-40:]


def test_without_a_repository_a_commit_or_git(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path.parent))
    assert git_state(tmp_path) is None
    git(tmp_path, "init", "--quiet")
    assert git_state(tmp_path) is None
    monkeypatch.setenv("PATH", str(tmp_path))
    assert git_state(tmp_path) is None


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match=r"file/split\.json: cannot be written .*; choose a folder"):
        RunFolder(tmp_path / "file", "x").setup(trainer(), task(), "fit")
