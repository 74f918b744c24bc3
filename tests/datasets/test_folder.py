"""Anybody's folders: formats, kinds of masks, names, groups, and what may be wrong with them."""

import shutil
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest

from segmentation.data.datamodule import DataFiles
from segmentation.data.sample import Sample
from segmentation.data.splits import GroupSplit
from segmentation.datasets.folder import FolderDataModule, FolderDataset
from segmentation.datasets.synthetic import write_folder
from segmentation.errors import UserError
from segmentation.io.images import write_image
from segmentation.io.listing import MASK_ENDINGS
from segmentation.io.pairs import find_images, find_maps
from segmentation.objects import label_components
from tests.errors import refuses

SIZE = (40, 56)


def read(root: Path, **settings: Any) -> dict[str, Sample]:
    source = FolderDataset(str(root), **settings)
    return {record.id: source.read(record) for record in source.index()}


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Four images with binary masks, to be spoilt."""
    return write_folder(tmp_path / "mine", 4, size=SIZE)


def test_masks_of_all_kinds_are_the_same_truth(tmp_path: Path) -> None:
    kinds = ("binary", "labels", "objects")
    found = {}
    for kind in kinds:
        write_folder(tmp_path / kind, 3, 0, kind, size=SIZE)
        found[kind] = read(tmp_path / kind, mask_type=kind)
    assert list(found["binary"]) == list(found["labels"]) == list(found["objects"])
    for name, sample in found["labels"].items():
        assert sample.labels is not None and sample.labels.max() > 1
        np.testing.assert_array_equal(sample.labels, found["objects"][name].labels)
        parts = label_components(sample.labels > 0)
        np.testing.assert_array_equal(parts, found["binary"][name].labels)


def test_an_empty_folder_of_objects_is_an_image_without_any(tmp_path: Path) -> None:
    root = write_folder(tmp_path, 2, 0, "objects", size=SIZE)
    shutil.rmtree(root / "masks" / "field_0000")
    with pytest.raises(UserError, match=r"field_0000\.png: no mask .*masks/field_0000\.\*; add it"):
        read(root, mask_type="objects")
    (root / "masks" / "field_0000").mkdir()
    empty = read(root, mask_type="objects")["field_0000"].labels
    assert empty is not None and not empty.any()


def test_subfolders_are_groups(root: Path) -> None:
    for number in range(4):
        for folder in ("images", "masks"):
            name = f"field_{number:04d}.png"
            (root / folder / f"patient{number // 2}").mkdir(exist_ok=True)
            (root / folder / name).rename(root / folder / f"patient{number // 2}" / name)
    for number in range(2, 4):
        for folder in ("images", "masks"):
            shutil.copytree(root / folder / "patient0", root / folder / f"patient{number}")
    source = FolderDataset(str(root))
    groups = {record.id: record.group for record in source.index()}
    assert len(groups) == 8 and set(groups.values()) == {f"patient{n}" for n in range(4)}
    assert groups["patient1/field_0002"] == "patient1"
    settings: dict[str, Any] = {"split": GroupSplit(1, 1), "crop": 32, "num_workers": 0}
    data = FolderDataModule(str(root), **settings, files=DataFiles(allow=["duplicates"]))
    with pytest.warns(UserWarning, match="identical images"):  # patients 2 and 3 are copies
        data.setup("fit")
    assert [len(part) for part in data.parts.values()] == [4, 2, 2]
    assert len({groups[name] for name in data.split.test}) == 1


def test_what_is_missing(root: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="mask_type: 'Binary' must be one of binary, labels, obj"):
        FolderDataset(root, mask_type="Binary")  # type: ignore[arg-type]
    refuses("raw: the data root does not exist; check the names", read, root, images="raw")
    refuses(r"gone: the data root does not exist; .* images/ and masks/", read, tmp_path / "gone")
    (root / "masks" / "field_0002.png").unlink()
    refuses(r"field_0002\.png: no mask .*masks/field_0002\.\*; add it", read, root)
    image = root / "images" / "field_0002.png"
    image.rename(root / "images" / "moved.png")
    (root / "masks" / "field_0003.png").rename(root / "masks" / "moved.png")
    (root / "images" / "field_0003.png").unlink()
    assert len(read(root)) == 3
    (root / "images" / "moved.png").unlink()
    refuses(r"masks/moved: a mask without an image below .*images", read, root)
    shutil.rmtree(root / "masks")
    (root / "masks").mkdir()
    refuses("masks: the data root is empty", read, root)


def test_masks_that_do_not_fit(root: Path) -> None:
    mask = root / "masks" / "field_0001.png"
    cv2.imwrite(str(mask), np.zeros((SIZE[0], SIZE[1] - 1), np.uint8))
    refuses(r"field_0001\.png: the mask is 40×55 .* its image is 40×56", read, root)
    cv2.imwrite(str(mask), np.arange(SIZE[0] * SIZE[1], dtype=np.uint16).reshape(SIZE))
    refuses(r"field_0001\.png: a binary mask holds .* change from pixel to pixel", read, root)
    ids = np.repeat(np.arange(SIZE[1], dtype=np.uint8)[None] // 20, SIZE[0], 0)
    cv2.imwrite(str(mask), ids)
    refuses(r"holds 2 \(1, 2\); set mask_type: labels if each is one", read, root)


def test_overlapping_objects_are_counted_where_they_can_be_told(tmp_path: Path) -> None:
    for name in ("images", "masks/a"):
        (tmp_path / name).mkdir(parents=True)
    write_image(tmp_path / "images/a.png", np.zeros((6, 8), np.uint8))
    for i in range(2):
        mask = np.zeros((6, 8), np.uint8)
        mask[2 * i : 2 * i + 3] = 255
        write_image(tmp_path / f"masks/a/{i}.png", mask)
    source = FolderDataset(str(tmp_path), mask_type="objects")
    (record,) = source.index()
    assert source.overlaps(record) == 8


@pytest.mark.parametrize("ending", ["", *MASK_ENDINGS])
def test_endings_of_mask_names(root: Path, ending: str) -> None:
    wanted = read(root)
    for path in (root / "masks").iterdir():
        path.rename(path.with_stem(path.stem + ending))
    for name, sample in read(root).items():
        np.testing.assert_array_equal(sample.labels, wanted[name].labels)  # type: ignore[arg-type]


def test_find_images_and_maps(tmp_path: Path) -> None:
    names = ["b.png", "a.TIF", "sub/c.v2.jpeg", ".hidden.png", "__MACOSX/._b.png", "notes.txt"]
    for name in names:
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "folder.png").mkdir()
    found = find_images(tmp_path)
    assert list(found) == ["a", "b", "sub/c.v2"]
    assert found["a"] == tmp_path / "a.TIF"
    (tmp_path / "b_mask.npy").touch()
    for name in ("e_cp_masks.npy", "e_seg.npy"):  # the second is Cellpose's own, beside the first
        (tmp_path / name).touch()
    assert list(find_maps(tmp_path, ["b", "b_mask"])) == ["a", "b", "b_mask", "e", "sub/c.v2"]
    refuses(r"b_mask\.npy: belongs to b as b\.png does; keep one", find_maps, tmp_path)
    (tmp_path / "b.bmp").touch()
    refuses(r"b\.png: differs from b\.bmp in its suffix alone; keep one", find_images, tmp_path)
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty: holds no images \(\.png, \.tif, .*\); check the"):
        find_images(tmp_path / "empty")
