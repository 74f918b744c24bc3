"""Whatever is in an archive, what comes out is whole and inside its folder, or is not there."""

import random
import shutil
import stat
import struct
import zipfile
from pathlib import Path

import pytest

from segmentation.datasets import unpack as module
from segmentation.datasets.unpack import differences, unpack
from segmentation.errors import UserError

Members = dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]


def pack(path: Path, members: Members, method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as file:
        for name, data in members.items() if isinstance(members, dict) else members:
            file.writestr(name, data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive: Path, says: str) -> None:
    """Nothing is written outside the folder for parts, and the line names the archive."""
    with pytest.raises(UserError, match=says) as caught:
        unpack(archive, archive.parent / "out" / ".images.part", "images")
    assert str(caught.value).startswith(f"{archive}: ") and "\n" not in str(caught.value)
    assert {path.name for path in archive.parent.iterdir()} <= {archive.name, "out"}


@pytest.mark.parametrize("top", ["", "images/"])
def test_with_and_without_a_top_folder(tmp_path: Path, top: str) -> None:
    wanted = {"a.png": b"1" * 5000, "sub/b.png": b"", "sub/c d ä.png": bytes(range(256))}
    junk = {f"{top}sub/": b"", "__MACOSX/._a.png": b"junk", f"{top}.DS_Store": b"junk"}
    archive = pack(tmp_path / "x.zip", {**junk, **{f"{top}{n}": d for n, d in wanted.items()}})
    (tmp_path / "part" / "old").mkdir(parents=True)  # left by a kill
    target = unpack(archive, tmp_path / "part", "images").rename(tmp_path / "images")
    assert contents(target) == wanted and differences(archive, target) == []
    (target / "a.png").write_bytes(b"1" * 4999 + b"2")
    (target / "sub" / "b.png").unlink()
    (target / "extra.txt").touch()
    assert differences(archive, target) == ["a.png", "sub/b.png"]


def test_takes_one_folder_of_a_larger_archive(tmp_path: Path) -> None:
    members = {"train/1.tif": b"one", "train/deep/2.tif": b"two", "test/1.tif": b"3", "a.csv": b"4"}
    archive = pack(tmp_path / "everything.zip", members)
    found = unpack(archive, tmp_path / "part", "train")
    assert contents(found) == {"1.tif": b"one", "deep/2.tif": b"two"}
    assert [*(tmp_path / "part").iterdir()] == [found]


@pytest.mark.parametrize(
    "name",
    [
        *["../a.png", "images/../../a.png", "images/..", "..\\a.png", "/tmp/a.png"],
        *["//host/a.png", "\\a.png", "C:/a.png", "C:a.png", "__MACOSX/../../a", "../folder/"],
    ],
)
def test_names_that_escape(tmp_path: Path, name: str) -> None:
    says = "leads out of the folder; do not trust"
    refused(pack(tmp_path / "x.zip", {"good.png": b"1", name: b"2"}), says)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("kind", [stat.S_IFLNK, stat.S_IFCHR, stat.S_IFIFO])
def test_links_and_devices(tmp_path: Path, kind: int) -> None:
    info = zipfile.ZipInfo("evil")
    info.external_attr = (kind | 0o777) << 16
    refused(pack(tmp_path / "x.zip", [(info, b"/etc/passwd")]), "'evil' is a link or a device")


@pytest.mark.filterwarnings("ignore:Duplicate name")
@pytest.mark.parametrize("names", [("a.png", "A.PNG"), ("d/ä.png", "d/a\u0308.png"), ("a", "a")])
def test_names_that_are_the_same_somewhere(tmp_path: Path, names: tuple[str, str]) -> None:
    refused(pack(tmp_path / "x.zip", [(name, b"1") for name in names]), "is there twice")


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "x.zip", {"a": bytes(2**20), "b": bytes(2**20)})
    unpack(archive, tmp_path / "out" / "harmless", "")  # a thousand to one, but only 2 MB
    monkeypatch.setattr(module, "SMALL", 2**20)
    refused(archive, "would unpack to 2,097,152, a decompression bomb")


def test_sizes_that_lie(tmp_path: Path) -> None:
    """A member that announces 10 bytes and holds 10,000 gives no more than it announced."""
    archive = pack(tmp_path / "x.zip", {"a": bytes(10_000)})
    lie = archive.read_bytes().replace(struct.pack("<L", 10_000), struct.pack("<L", 10))
    archive.write_bytes(lie)
    refused(archive, r"cannot be unpacked \(Bad CRC-32")


@pytest.mark.parametrize(
    ("places", "value", "says"),
    [((6, 8), 1, "encrypted"), ((8, 10), 9, r"cannot be unpacked \(.*not supported\); remove")],
)
def test_packed_in_ways_that_python_lacks(
    tmp_path: Path, places: tuple[int, ...], value: int, says: str
) -> None:
    archive = pack(tmp_path / "x.zip", {"a": b"1"})
    content = bytearray(archive.read_bytes())
    for place, mark in zip(places, (b"PK\x03\x04", b"PK\x01\x02"), strict=True):
        content[content.index(mark) + place] = value
    archive.write_bytes(content)
    refused(archive, says)


@pytest.mark.parametrize("content", [b"", b"no zip", b"PK\x03\x04", b"PK\x05\x06" + bytes(18)])
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "remove it and download it again")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_is_told(tmp_path: Path, method: int) -> None:
    """A byte changed: the archive is refused, or the files are as they were packed."""
    wanted = {"a": b"abc" * 300, "sub/b": b"", "c": random.Random(1).randbytes(100)}
    archive = pack(tmp_path / "x.zip", wanted, method)
    whole, rng, refusals = archive.read_bytes(), random.Random(2), 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        archive.write_bytes(damaged)
        try:
            partial = unpack(archive, tmp_path / "out", "images")
            assert contents(partial).items() <= wanted.items()  # it may list fewer
            shutil.rmtree(partial)
        except UserError:
            refusals += 1
    assert refusals > 50
