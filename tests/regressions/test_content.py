"""Data are known by what their files hold, whatever names, sizes and times say."""

import os
import shutil
import zipfile
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import tifffile

from segmentation.data.cache import decoded
from segmentation.datasets.folder import FolderDataset
from segmentation.io.files import sha256_of, stamps_of
from segmentation.io.tree import Tree
from segmentation.predict.manifest import Manifest
from tests.regressions.conftest import Result, picture, write_pairs, write_png

OLD = 315532800  # 1980: what unzip restores from archives that scripts wrote


def write(root: Path, masks: str, objects: int) -> None:
    """Pictures of eight discs of which the masks, all of one size and time, show some."""
    for seed in range(3):
        image, labels = picture(seed)
        write_png(root / f"images/im{seed}.png", image)
        path = root / masks / f"im{seed}.tif"
        path.parent.mkdir(exist_ok=True)
        tifffile.imwrite(path, ((labels > 0) & (labels <= objects)).astype(np.uint8))
        os.utime(path, (OLD, OLD))


def true_objects(root: Path, masks: str = "masks", cache: str = "cache") -> list[int | None]:
    store = decoded(FolderDataset(root, masks=masks), root.parent / cache)
    return [entry.objects for entry in store.entries]


@pytest.mark.parametrize("folders", [("expert1", "expert2"), ("masks", "masks")])
def test_other_masks_of_the_same_size_and_time(folders: tuple[str, str], tmp_path: Path) -> None:
    """Another annotator's, or such as take the place of others."""
    for folder, count in zip(folders, (8, 4), strict=True):
        write(tmp_path / "data", folder, count)
        assert true_objects(tmp_path / "data", folder) == [count] * 3


def test_a_touched_or_moved_file_is_the_same(tmp_path: Path) -> None:
    write(tmp_path / "data", "masks", 8)
    first = decoded(FolderDataset(tmp_path / "data"), tmp_path / "cache").folder
    os.utime(tmp_path / "data/masks/im0.tif")
    (tmp_path / "elsewhere").mkdir()
    shutil.move(tmp_path / "data", tmp_path / "elsewhere/data")
    again = FolderDataset(tmp_path / "elsewhere/data")
    assert decoded(again, tmp_path / "cache").folder == first


def test_archives_are_known_by_their_checksums(tmp_path: Path) -> None:
    stamps = []
    for content in (b"first", b"other", b"first"):
        with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
            archive.writestr(zipfile.ZipInfo("a/1.png"), content)  # the time is that of all
        stamps.append(Tree(tmp_path / "x.zip").stamp("a/1.png"))
    assert stamps[0] == stamps[2] != stamps[1]


def test_what_cannot_be_read_is_never_the_same(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"hello" * 300_000)
    absent = [tmp_path / "absent"] * 40
    stamps = stamps_of([tmp_path / "a", *absent, tmp_path / "a"])
    assert stamps[0] == stamps[-1] == sha256_of(tmp_path / "a") and len({*stamps}) == 41


def test_a_predicted_image_replaced_by_one_of_its_size_and_time(tmp_path: Path) -> None:
    image = tmp_path / "in.tif"
    image.write_bytes(b"first")
    manifest = Manifest(tmp_path / "out", {}, {})
    with manifest.recording("in.tif", "in", sha256_of(image), []):
        pass
    again = Manifest(tmp_path / "out", {}, {})
    assert again.is_done("in.tif", "in", lambda: sha256_of(image))
    before = image.stat()
    image.write_bytes(b"other")
    os.utime(image, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert not again.is_done("in.tif", "in", lambda: sha256_of(image))


def test_images_of_the_training_are_known_by_their_pixels(
    fit: Callable[..., Result], tmp_path: Path
) -> None:
    write_pairs(tmp_path / "a/data")
    for seed in range(8):  # another laboratory's, of the same names
        image, labels = picture(seed + 100)
        write_png(tmp_path / f"b/data/images/im{seed}.png", image)
        write_png(tmp_path / f"b/data/masks/im{seed}.png", (labels > 0).astype(np.uint8))
        image, labels = picture(7 - seed)  # those of the training, of other names and format
        for name, pixels in (("images", image), ("masks", (labels > 0).astype(np.uint8))):
            path = tmp_path / f"c/{name}/x{seed}.tif"
            path.parent.mkdir(parents=True, exist_ok=True)
            tifffile.imwrite(path, pixels)
    assert fit("a/data").status == 0
    (path,) = tmp_path.glob("runs/t/*/checkpoints/best.ckpt")
    scored = ("--data.split.seed=7", f"--ckpt_path={path}")
    assert fit("b/data", *scored, what="test").status == 0
    for root, what in (("a/data", "test"), ("c", "test"), ("c", "tune")):
        split = ("--data.split.val=3", "--data.split.test=3")
        told = fit(root, *scored, *split, what=what)
        assert (
            told.status == 2 and "images were trained on by this checkpoint (such as " in told.line
        )
    assert ", called im" in told.line
