"""Checkpoint files: every bit counts, and whatever is wrong is told in one line."""

import errno
import pickle
import random
import zipfile
from pathlib import Path
from typing import Any

import pytest
import torch

from segmentation.errors import Unwritten
from segmentation.io import sealed
from segmentation.io.files import writing
from tests.errors import refuses

BROKEN = r"x\.ckpt: not a checkpoint, or a broken one; copy it again"


def content(numbers: int = 500) -> dict[str, Any]:
    generator = torch.Generator().manual_seed(0)
    tensors = {f"layer.{i}": torch.randn(numbers, generator=generator) for i in range(5)}
    return {"state_dict": tensors, "epoch": 3, "rng": (1, None, ["a", 2.5])}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "x.ckpt"
    with writing(path) as file:
        sealed.dump(content(), file)
    return path


def test_what_is_written_is_read(path: Path) -> None:
    for found in (sealed.read(path), torch.load(path, mmap=True), torch.load(path)):
        assert found["rng"] == (1, None, ["a", 2.5])
        assert torch.equal(found["state_dict"]["layer.4"], content()["state_dict"]["layer.4"])
    with zipfile.ZipFile(path) as archive:
        assert archive.testzip() is None and archive.comment.startswith(b"sha256:")


def test_no_bit_may_change(path: Path) -> None:
    """At the ends of the file, where the records are that lead to the others, and anywhere."""
    good, draw = path.read_bytes(), random.Random(0)
    places = [*range(120), *range(len(good) - 120, len(good))]
    places += [draw.randrange(len(good)) for _ in range(300)]
    for place in places:
        bad = bytearray(good)
        bad[place] ^= 1 << draw.randrange(8)
        path.write_bytes(bad)
        refuses(BROKEN, sealed.read, path)
    for length in [0, 1, 30, len(good) - 1, *draw.choices(range(len(good)), k=30)]:
        path.write_bytes(good[:length])
        refuses(BROKEN, sealed.read, path)
    path.write_bytes(good + b"\0")
    refuses(BROKEN, sealed.read, path)


def test_a_file_without_a_seal_is_held_to_its_own_check_sums(path: Path) -> None:
    torch.save(content(), path)
    assert sealed.read(path)["epoch"] == 3
    good = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        entries = [(e.header_offset + 128, e.file_size) for e in archive.infolist()]
    for start, size in entries:
        if size > 1000:  # within the data of a tensor, or the pickle
            bad = bytearray(good)
            bad[start + size // 2] ^= 16
            path.write_bytes(bad)
            refuses(BROKEN, sealed.read, path)


def test_entries_are_no_larger_than_the_file(path: Path) -> None:
    """A compressed archive of a kilobyte could ask for gigabytes of memory."""
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(path.with_name("y.ckpt"), "w") as new:
        for entry in old.infolist():
            new.writestr(entry.filename, old.read(entry), zipfile.ZIP_DEFLATED)
        new.writestr("archive/data/9", bytes(10**7), zipfile.ZIP_DEFLATED)
    path.with_name("y.ckpt").replace(path)
    refuses(BROKEN, sealed.read, path)


class Code:
    def __reduce__(self) -> Any:
        return print, ("run",)


def test_other_files(tmp_path: Path, path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    torch.save({"a": Code()}, path)
    refuses(r"x\.ckpt: refused, it holds more than tensors", sealed.read, path)
    for data in (b"", b"hello", pickle.dumps({"a": 1}), pickle.dumps(Code())):
        path.write_bytes(data)
        refuses(r"x\.ckpt: not a checkpoint", sealed.read, path)
    for missing in (tmp_path, tmp_path / "gone.ckpt"):
        refuses(rf"^{missing}: cannot be read \(", sealed.read, missing)
    assert "run" not in capsys.readouterr().out


class Full:
    """A file on a disk that has room for so many bytes."""

    def __init__(self, file: Any, room: int) -> None:
        self.file, self.room = file, room

    def write(self, data: bytes) -> None:
        self.room -= len(data)
        if self.room < 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        self.file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.file, name)


@pytest.mark.parametrize("room", [0, 100, 8000])
def test_a_full_disk_is_one_line_and_the_old_file_stays(path: Path, room: int) -> None:
    before = path.read_bytes()
    told = pytest.raises(Unwritten, match=r"x\.ckpt: cannot be written \(No space left")
    with told, writing(path) as file:
        sealed.dump(content(), Full(file, room))  # type: ignore[arg-type]
    assert path.read_bytes() == before and [*path.parent.iterdir()] == [path]
