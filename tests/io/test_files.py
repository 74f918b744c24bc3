"""Files are whole or absent."""

import csv
import os
from pathlib import Path
from typing import Any

import pytest

from segmentation.errors import UserError
from segmentation.io.files import check_regular, write_bytes, write_table
from tests.errors import refuses


def test_tables(tmp_path: Path) -> None:
    rows = [{"b": 'x,"y"\nz', "a": "中"}, {"a": 0.5}]
    write_table(tmp_path / "new" / "x.csv", ("a", "b"), iter(rows))
    text = (tmp_path / "new" / "x.csv").read_bytes().decode("utf-8")
    assert text == 'a,b\n中,"x,""y""\nz"\n0.5,\n'
    with (tmp_path / "new" / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [rows[0], {"a": "0.5", "b": ""}]
    with pytest.raises(ValueError, match="not in fieldnames: 'c'"):
        write_table(tmp_path / "x.csv", ("a", "b"), [{"c": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing begun
    with pytest.raises(UserError, match=r"cannot be written .*; choose a folder with write"):
        write_table(tmp_path / "new" / "x.csv" / "y.csv", ("a",), [])


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    real = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "w" not in mode:
            return real(path, mode, *more, **named)
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"x: cannot be written \(No space left on device\)"):
        write_bytes(tmp_path / "x", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"x"}
    assert (tmp_path / "x").read_bytes() == b"old"


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes in folders")
    os.mkfifo(pipe := tmp_path / "a.png")
    for path in (pipe, "/dev/zero"):
        refuses("a pipe, a socket or a device", check_regular, path)
    for path in (tmp_path, tmp_path / "absent", "a\0b"):
        check_regular(path)
