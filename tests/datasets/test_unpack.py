"""Whatever is in an archive, what comes out is whole and inside its folder, or is not there."""

import random
import shutil
import stat
import struct
import zipfile
from collections import namedtuple
from pathlib import Path

import pytest

from segmentation.datasets import unpack
from segmentation.datasets.unpack import differences, stage
from segmentation.errors import UserError

Usage = namedtuple("Usage", "total used free")


def pack(path: Path, members: dict[str, bytes] | list[tuple[str | zipfile.ZipInfo, bytes]]) -> Path:
    pairs = members.items() if isinstance(members, dict) else members
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in pairs:
            file.writestr(name, data)
    return path


def contents(folder: Path) -> dict[str, bytes]:
    files = (path for path in folder.rglob("*") if path.is_file())
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def refused(archive: Path, says: str) -> None:
    """Nothing is written, neither in the folder nor beside it, and the line names the archive."""
    before = contents(archive.parent)
    with pytest.raises(UserError, match=says) as caught:
        stage(archive, archive.parent / "out" / "images")
    assert str(caught.value).startswith(f"{archive}: ") and "\n" not in str(caught.value)
    assert contents(archive.parent) == before
    assert not list((archive.parent / "out").glob("**/*"))


@pytest.mark.parametrize("prefix", ["", "images/"])
def test_unpacks_with_and_without_a_top_folder(tmp_path: Path, prefix: str) -> None:
    wanted = {"a.png": b"1" * 5000, "sub/b.png": b"", "sub/c d ä.png": bytes(range(256))}
    archive = pack(
        tmp_path / "images.zip",
        {
            **{f"{prefix}sub/": b"", "__MACOSX/._a.png": b"junk", f"{prefix}.DS_Store": b"junk"},
            **{f"{prefix}{name}": data for name, data in wanted.items()},
        },
    )
    target = tmp_path / "root" / "images"
    partial = stage(archive, target)
    assert partial == tmp_path / "root" / ".images.part" and not target.exists()
    assert contents(partial) == wanted
    partial.rename(target)
    assert differences(archive, target) == []
    (target / "a.png").write_bytes(b"1" * 4999 + b"2")
    (target / "sub" / "b.png").unlink()
    (target / "extra.txt").touch()
    assert differences(archive, target) == ["a.png", "sub/b.png"]


def test_takes_only_its_folder_of_a_larger_archive(tmp_path: Path) -> None:
    members = {"train/1.tif": b"one", "train/deep/2.tif": b"two", "test/1.tif": b"3", "a.csv": b"4"}
    archive = pack(tmp_path / "everything.zip", members)
    assert contents(stage(archive, tmp_path / "train")) == {"1.tif": b"one", "deep/2.tif": b"two"}


def test_leftovers_of_a_kill_are_replaced(tmp_path: Path) -> None:
    (tmp_path / ".images.part" / "old").mkdir(parents=True)
    archive = pack(tmp_path / "images.zip", {"a.png": b"1"})
    assert contents(stage(archive, tmp_path / "images")) == {"a.png": b"1"}


@pytest.mark.parametrize(
    ("name", "says"),
    [
        ("../a.png", "'../a.png' leads out of the folder; do not trust"),
        ("images/../../a.png", "leads out"),
        ("images/..", "leads out"),
        ("..\\a.png", "leads out"),
        ("/tmp/a.png", "'/tmp/a.png' is an absolute path"),
        ("//host/a.png", "is an absolute path"),
        ("\\a.png", "is an absolute path"),
        ("C:/a.png", "is an absolute path"),
        ("C:a.png", "is an absolute path"),
        ("images\\a.png", "is no portable name"),
        ("images//a.png", "is no portable name"),
        ("./a.png", "is no portable name"),
        ("a.png:stream", "is no portable name"),
        ("a\n.png", "is no portable name"),
        ("a\u202e.png", "is no portable name"),  # turns the text around
        ("__MACOSX/../../a", "leads out"),  # also where it would have been skipped
        ("../folder/", "leads out"),
    ],
)
def test_names_that_escape(tmp_path: Path, name: str, says: str) -> None:
    refused(pack(tmp_path / "x.zip", {"good.png": b"1", name: b"2"}), says)


def test_a_name_cut_by_a_zero_byte(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"good.pngX../../a": b"1"})
    archive.write_bytes(archive.read_bytes().replace(b"pngX", b"png\0"))
    refused(archive, "leads out|is no portable name")


@pytest.mark.parametrize(
    ("kind", "says"),
    [
        (stat.S_IFLNK, "'evil' is a link"),
        (stat.S_IFCHR, "'evil' is a device"),
        (stat.S_IFBLK, "is a device"),
        (stat.S_IFIFO, "is a device"),
        (stat.S_IFSOCK, "is a device"),
    ],
)
@pytest.mark.parametrize("system", [0, 3])
def test_links_and_devices(tmp_path: Path, kind: int, says: str, system: int) -> None:
    info = zipfile.ZipInfo("evil")
    info.create_system = system
    info.external_attr = (kind | 0o777) << 16
    refused(pack(tmp_path / "x.zip", [(info, b"/etc/passwd"), ("evil2", b"1")]), says)


@pytest.mark.parametrize(
    ("names", "says"),
    [
        (("a.png", "A.PNG"), r"'A.PNG' is there twice \(as 'a.png'\)"),
        (("d/ä.png", "d/a\u0308.png"), "is there twice"),
        (("a", "a/b.png"), "'a' is both file and folder"),
        (("x/b/c/d.png", "X/B"), "'X/B' is both file and folder"),
    ],
)
def test_names_that_are_the_same_somewhere(
    tmp_path: Path, names: tuple[str, ...], says: str
) -> None:
    refused(pack(tmp_path / "x.zip", dict.fromkeys(names, b"1")), says)


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_the_same_name_twice(tmp_path: Path) -> None:
    refused(pack(tmp_path / "x.zip", [("a.png", b"1"), ("a.png", b"2")]), "is there twice")


def test_decompression_bombs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    archive = pack(tmp_path / "x.zip", {"a": bytes(2**20), "b": bytes(2**20)})
    stage(archive, tmp_path / "harmless")  # a thousand to one, but only 2 MB
    (tmp_path / ".harmless.part" / "a").unlink()
    monkeypatch.setattr(unpack, "SMALL", 2**20)
    refused(archive, r"would unpack to 2,097,152, a decompression bomb")


def test_a_bomb_of_overlapping_files(tmp_path: Path) -> None:
    """Many entries of the directory that share one file's bytes (Fifield, WOOT 2019)."""
    data = random.Random(0).randbytes(10_000)
    archive = pack(tmp_path / "x.zip", {"a0": data})
    content = archive.read_bytes()
    start = content.index(b"PK\x01\x02")
    end = content.index(b"PK\x05\x06")
    entry = content[start:end]
    entries = b"".join(entry.replace(b"a0", f"a{i}".encode()) for i in range(10))
    tail = struct.pack("<4s4H2LH", b"PK\x05\x06", 0, 0, 10, 10, len(entries), start, 0)
    archive.write_bytes(content[:start] + entries + tail)
    refused(archive, "its files overlap, a decompression bomb")


def test_sizes_that_lie(tmp_path: Path) -> None:
    """A member that announces 10 bytes and holds 10,000 gives no more than it announced."""
    archive = pack(tmp_path / "x.zip", {"a": bytes(10_000)})
    content = archive.read_bytes().replace(struct.pack("<L", 10_000), struct.pack("<L", 10))
    archive.write_bytes(content)
    refused(archive, r"cannot be unpacked \(Bad CRC-32")


def test_too_many_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(unpack, "FILES", 2)
    refused(pack(tmp_path / "x.zip", dict.fromkeys("abc", b"")), "3 files are too many")


def test_no_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("shutil.disk_usage", lambda _: Usage(100, 91, 9))
    refused(pack(tmp_path / "x.zip", {"a": bytes(10)}), "unpacks to 10 bytes and 9 are free in")


def test_encrypted(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x03\x04") + 6] |= 1
    content[content.index(b"PK\x01\x02") + 8] |= 1
    archive.write_bytes(content)
    refused(archive, "'a' is encrypted")


def test_a_packing_that_python_lacks(tmp_path: Path) -> None:
    archive = pack(tmp_path / "x.zip", {"a": b"1"})
    content = bytearray(archive.read_bytes())
    content[content.index(b"PK\x03\x04") + 8] = 9  # deflate64
    content[content.index(b"PK\x01\x02") + 10] = 9
    archive.write_bytes(content)
    refused(archive, r"cannot be unpacked \(.*not supported\); remove it and download it again")


@pytest.mark.parametrize(
    "content", [b"", b"no zip", b"PK\x03\x04", b"<html>", b"PK\x05\x06" + bytes(18)]
)
def test_what_is_no_archive(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "x.zip").write_bytes(content)
    refused(tmp_path / "x.zip", "remove it and download it again")


def test_missing(tmp_path: Path) -> None:
    refused(tmp_path / "x.zip", "cannot be read .No such file")


@pytest.mark.parametrize("method", [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_damage_anywhere_is_told(tmp_path: Path, method: int) -> None:
    """A byte changed: the archive is refused, or the files are as they were packed."""
    wanted = {"a": b"abc" * 300, "sub/b": b"", "c": random.Random(1).randbytes(100)}
    archive = tmp_path / "x.zip"
    with zipfile.ZipFile(archive, "w", method) as file:
        for name, data in wanted.items():
            file.writestr(name, data)
    whole = archive.read_bytes()
    rng = random.Random(2)
    refusals = 0
    for _ in range(150):
        damaged = bytearray(whole)
        damaged[rng.randrange(len(whole))] ^= rng.randrange(1, 256)
        archive.write_bytes(damaged)
        try:
            partial = stage(archive, tmp_path / "out" / "images")
            assert contents(partial).items() <= wanted.items()  # it may list fewer
            shutil.rmtree(partial)
        except UserError:
            refusals += 1
            assert not list((tmp_path / "out").glob("*"))
    assert refusals > 50


def test_interrupted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whichever file is being written when Ctrl-C comes, nothing is left."""
    archive = pack(tmp_path / "x.zip", {name: b"1" for name in "abc"})
    copy = unpack.shutil.copyfileobj
    for stop in range(3):
        left = [stop]

        def interrupt(*files: object, left: list[int] = left) -> None:
            if left[0] == 0:
                raise KeyboardInterrupt
            left[0] -= 1
            copy(*files)  # type: ignore[arg-type]

        monkeypatch.setattr("shutil.copyfileobj", interrupt)
        with pytest.raises(KeyboardInterrupt):
            stage(archive, tmp_path / "out" / "images")
        assert not list((tmp_path / "out").iterdir())


def test_a_disk_that_fills_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("shutil.copyfileobj", full)
    archive = pack(tmp_path / "x.zip", {"a": b"1"})
    with pytest.raises(UserError, match=r"images: cannot be written \(No space left on device\)"):
        stage(archive, tmp_path / "out" / "images")
    assert not list((tmp_path / "out").iterdir())


def test_where_nobody_may_write(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    archive = pack(tmp_path / "x.zip", {"a": b"1"})
    with pytest.raises(UserError, match="cannot be written"):
        stage(archive, tmp_path / "file" / "images")
