"""Files are whole or absent."""

import csv
import os
from pathlib import Path

import pytest

from segmentation.errors import UserError
from segmentation.io.files import check_regular, write_table
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


def test_pipes_and_devices_are_never_opened(tmp_path: Path) -> None:
    if not hasattr(os, "mkfifo"):
        pytest.skip("this system has no pipes in folders")
    os.mkfifo(pipe := tmp_path / "a.png")
    for path in (pipe, "/dev/zero"):
        refuses("a pipe, a socket or a device", check_regular, path)
    for path in (tmp_path, tmp_path / "absent", "a\0b"):
        check_regular(path)
