"""What lies in a folder: links, junk, other kinds, and which names belong together."""

import os
from pathlib import Path

import pytest

from segmentation.errors import UserError
from segmentation.io.listing import key_of, list_files, partner_of
from segmentation.io.pairs import find_images
from segmentation.io.tree import Tree
from tests.errors import refuses


def touch(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()


def test_links_are_followed_and_loops_end(tmp_path: Path) -> None:
    touch(tmp_path, "in/a.png", "out/b.png", "out/deep/c.png")
    (tmp_path / "in/far").symlink_to(tmp_path / "out")
    (tmp_path / "out/deep/up").symlink_to(tmp_path / "in")
    (tmp_path / "in/gone.png").symlink_to("/nowhere/gone.png")
    (tmp_path / "in/self").symlink_to(tmp_path / "in/self")
    listing = list_files(tmp_path / "in")
    wanted = ["a.png", "far/b.png", "far/deep/c.png", "gone.png"]
    assert listing.images() == wanted
    assert listing.folders == ["far", "far/deep"]
    passed = {"links to a folder above them": ["far/deep/up"], "other files": ["self"]}
    assert listing.passed_over == passed and not listing.missed


def test_what_is_no_image_is_counted_and_named(tmp_path: Path) -> None:
    touch(tmp_path, "a.png", "A.TIF", "a.czi", "b.LIF", "c.svg", "notes.txt", "d.zarr/0/0")
    touch(tmp_path, ".DS_Store", "Thumbs.db", "sub/@eaDir/a.png/x.jpg", "._a.png", "desktop.ini")
    touch(tmp_path, "a_cp_masks.png", "a_seg.npy", "e_seg.npy", "sub/f_mask.png")
    listing = list_files(tmp_path)
    assert listing.images() == ["A.TIF", "a.png", "d.zarr", "sub/f_mask.png"]
    assert listing.missed
    assert listing.tell(tmp_path) == (
        f"{tmp_path}: hidden or system files: 5 (.DS_Store, ._a.png, Thumbs.db and 2 more); "
        "images of kinds that are not read: 2 (b.LIF, c.svg: save them as TIFF or PNG, or pip "
        "install 'biomedical-segmentation[bioio]'); "
        "masks beside their images: 3 (a_cp_masks.png, a_seg.npy, e_seg.npy); "
        "other files: 2 (a.czi, notes.txt)"
    )


@pytest.mark.skipif(os.name == "nt", reason="Windows has no such names")
def test_names_of_any_bytes(tmp_path: Path) -> None:
    names = [b"\xff\xfe.png", b"a\x1b[31m\nb.png", b"x" * 246 + b".png", b"\xff.txt"]
    for name in names:
        Path(os.fsdecode(os.path.join(os.fsencode(tmp_path), name))).touch()
    listing = list_files(tmp_path)
    assert sorted(map(os.fsencode, listing.images())) == sorted(names[:3])
    assert listing.tell(tmp_path).endswith("other files: 1 (\\xff.txt)")


@pytest.mark.parametrize(
    ("name", "partner"),
    [
        ("im_mask", "im"),
        ("im_cp_masks", "im"),
        ("im_0000", "im"),
        ("case", "case_0000"),
        ("case_masks", "case_0000"),
        ("odd_mask", "odd_mask"),
        ("new_labels", "new"),
        ("im_0001", "im_0001"),
    ],
)
def test_partners(name: str, partner: str) -> None:
    assert partner_of(name, {"im", "case_0000", "odd_mask"}) == partner


def test_keys() -> None:
    assert key_of("a/b.v2.ome.TIFF") == "a/b.v2" and key_of("x.png") == "x"
    assert key_of("a\u0308.png") == key_of("\u00e4.tif") == "\u00e4"


def test_a_folder_that_cannot_be_read_is_missed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    touch(tmp_path, "a.png", "locked/b.png")
    scandir = os.scandir

    def refuse(path: Path) -> object:
        if path.name == "locked":
            raise PermissionError(13, "Permission denied")
        return scandir(path)

    monkeypatch.setattr(os, "scandir", refuse)
    listing = list_files(tmp_path)
    assert listing.images() == ["a.png"] and listing.missed
    assert listing.tell(tmp_path) == f"{tmp_path}: unreadable folders: 1 (locked)"
    refuses("locked: the folder cannot be read; allow it, or move it", find_images, tmp_path)
    with pytest.raises(UserError, match="locked: the folder cannot be read; allow it"):
        Tree(tmp_path).files  # noqa: B018
