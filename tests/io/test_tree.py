"""A dataset's files look the same in a folder and in an archive."""

import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from segmentation.errors import UserError
from segmentation.io import tree
from segmentation.io.tree import Tree, check_root, find_tree
from tests.errors import refuses

FILES = {"b/images/b.png": b"bb", "a/images/a.png": b"a", "top.txt": b"top"}
JUNK = ("__MACOSX/a/._a.png", "a/.DS_Store", ".hidden/x.png", "a/Thumbs.db")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, data in {**FILES, **dict.fromkeys(JUNK, b"junk")}.items():
        (tmp_path / "set" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "set" / name).write_bytes(data)
    return tmp_path / "set"


@pytest.fixture
def archive(folder: Path) -> Path:
    path = folder.parent / "other" / "set.zip"
    path.parent.mkdir()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as file:
        for member in sorted(folder.rglob("*")):
            file.write(member, member.relative_to(folder))  # folders are members too
    return path


def test_folder_and_archive_hold_the_same(folder: Path, archive: Path) -> None:
    for path in (folder, archive):
        files = Tree(path)
        assert list(files.files) == sorted(FILES)
        assert {name: files.read(name) for name in files.files} == FILES
        assert files.name("top.txt") == f"{path}/top.txt"


def test_archive_is_read_from_threads(tmp_path: Path) -> None:
    contents = {f"{i:03}": bytes([i]) * 5000 for i in range(100)}
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        for name, data in contents.items():
            file.writestr(name, data)
    files = Tree(tmp_path / "x.zip")
    with ThreadPoolExecutor(8) as pool:
        assert list(pool.map(files.read, contents)) == list(contents.values())


def test_broken_archives(archive: Path, tmp_path: Path) -> None:
    data = bytearray(archive.read_bytes())
    (tmp_path / "cut.zip").write_bytes(data[: len(data) // 2])
    refuses(r"cut\.zip: the zip archive is damaged .*; copy", Tree, tmp_path / "cut.zip")
    with zipfile.ZipFile(tmp_path / "flip.zip", "w") as file:
        file.writestr("x.png", b"0123456789")
    flipped = (tmp_path / "flip.zip").read_bytes().replace(b"01234", b"01x34")
    (tmp_path / "flip.zip").write_bytes(flipped)
    with pytest.raises(UserError, match=r"flip\.zip/x\.png: the file .* damaged \(Bad CRC-32"):
        Tree(tmp_path / "flip.zip").read("x.png")


def test_bombs_are_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tree, "_LARGEST", 10**6)
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as file:
        file.writestr("x.png", bytes(2 * 10**6))
    refuses(r"x\.zip/x\.png: 2000000 bytes are too many", Tree(tmp_path / "x.zip").read, "x.png")


def test_find_tree(folder: Path, archive: Path) -> None:
    for root in (folder.parent, archive.parent):
        found = find_tree(root, "absent", "set")
        assert found is not None and len(found.files) == 3
    assert find_tree(folder, "absent") is None


def test_check_root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("x")
    refuses("file: the data root is not a folder; do", check_root, tmp_path / "file", "do that")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert check_root("~", "do that") == tmp_path
