"""A run's own folder says how to repeat it and what it cost, and is never written over."""

import json
import resource
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from segmentation.callbacks.run_folder import RunFolder
from segmentation.data.splits import Split
from segmentation.errors import UserError

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
    assert names(tmp_path / "run") == {"config.yaml", "split.json"}
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
    assert names(tmp_path) == {"config.yaml"}


def test_only_the_first_process_writes(tmp_path: Path) -> None:
    callback = RunFolder(tmp_path, "x")
    callback.setup(trainer(zero=False), task(), "fit")
    callback.on_fit_start(trainer(zero=False), task())
    callback.on_fit_end(trainer(zero=False), task())
    assert names(tmp_path) == set()


def test_what_a_training_cost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    callback, wall, cpu = RunFolder(tmp_path, "x"), [100.0, 190.26], [5.0, 7.51]
    monkeypatch.setattr(time, "monotonic", lambda: wall.pop(0))
    monkeypatch.setattr(time, "process_time", lambda: cpu.pop(0))
    callback.on_fit_start(trainer(), task())
    callback.on_fit_end(trainer(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    peak = found.pop("peak_memory_bytes")
    assert found == {
        "fit_seconds": 90.3,
        "cpu_seconds": 2.5,
        "steps": 12,
        "parameters": 20,
        "device": "cpu",
        "processes": 3,
    }
    # With torch loaded a process holds between 100 MB and 100 GB: a wrong unit is a thousandfold.
    assert 1e8 < peak < 1e11


@pytest.mark.parametrize(("system", "unit"), [("linux", 1024), ("darwin", 1)])
def test_memory_is_in_bytes_on_every_system(
    system: str, unit: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    callback = RunFolder(tmp_path, "x")
    callback.on_fit_start(trainer(), task())
    monkeypatch.setattr(resource, "getrusage", lambda who: SimpleNamespace(ru_maxrss=7000))
    monkeypatch.setattr("segmentation.callbacks.run_folder.sys", SimpleNamespace(platform=system))
    callback.on_fit_end(trainer(), task())
    found = json.loads((tmp_path / "resources.json").read_text())
    assert found["peak_memory_bytes"] == 7000 * unit


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match=r"file/config\.yaml: cannot be written .*; choose a folder"
    ):
        RunFolder(tmp_path / "file", "x").setup(trainer(), task(), "fit")
