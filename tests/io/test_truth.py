"""Truth of all kinds, read as label maps with classes and pixels that are not annotated."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.datamodule import DataFiles
from segmentation.datasets.folder import FolderDataModule, FolderDataset
from segmentation.errors import UserError
from segmentation.io.images import write_image
from segmentation.io.truth import TruthReader
from tests.errors import refuses

CLASSES = ("tumour", "stroma", "lymphocyte")
CLASS_MAP = np.uint8(
    [[1, 1, 0, 0, 2], [0, 0, 1, 2, 2], [3, 0, 0, 0, 0], [3, 0, 3, 1, 0], [0, 0, 0, 1, 1]]
)


def folder(root: Path, maps: dict[str, np.ndarray], masks: str = "masks") -> Path:
    """Images of noise with these masks."""
    for name, values in maps.items():
        noise = np.random.default_rng(len(name)).integers(0, 256, values.shape, np.uint8)
        write_image(root / f"images/{name}.png", noise)
        write_image(root / f"{masks}/{name}.png", values)
    return root


def test_objects_of_a_class_map_are_the_components_of_each_class(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": CLASS_MAP, "b": np.zeros_like(CLASS_MAP)})
    data = FolderDataset(root, mask_type="classes", classes=CLASSES)
    assert data.class_names == CLASSES
    a, b = data
    assert a.labels is not None and a.classes is not None and b.classes is not None
    assert a.labels.dtype == np.int32 and a.classes.dtype == np.uint8 and a.facts is None
    # 1: two regions, of which one meets its like at a corner; touching classes stay apart.
    assert a.classes.tolist() == [0, 1, 1, 2, 3, 3] and b.classes.tolist() == [0]
    np.testing.assert_array_equal(a.classes[a.labels], CLASS_MAP)
    assert a.labels[0, 1] == a.labels[1, 2] != a.labels[3, 3]
    (stored, _) = decoded(data, tmp_path / "cache")
    assert stored.classes is not None
    np.testing.assert_array_equal(stored.classes, a.classes)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"mask_type": "classes"}, "classes needs the names of the values 1, 2, …: set data.cla"),
        ({"mask_type": "classes", "class_names": ("a", "b", "a")}, "'a' is named twice"),
        ({"mask_type": "classes", "class_names": tuple(map(str, range(256)))}, "256 are more"),
    ],
)
def test_settings_that_contradict(settings: dict[str, Any], says: str) -> None:
    refuses(says, TruthReader, **settings)


def test_a_class_that_nobody_named(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": CLASS_MAP})
    data = FolderDataset(root, mask_type="classes", classes=CLASSES[:2])
    says = r"a\.png: holds the value\(s\) 3, but data\.classes names 1 tumour, 2 stroma; name all"
    refuses(says, lambda: data[0])


def test_class_maps_without_background_train(tmp_path: Path) -> None:
    """Tissue fills the image: what is doubtful of ids is no doubt about classes."""
    maps = {f"i{n}": np.repeat(np.uint8([1, 2, 1, 3]), 8)[None].repeat(32, 0) for n in range(4)}
    root = folder(tmp_path, maps)
    settings: dict[str, Any] = {"mask_type": "classes", "classes": list(CLASSES), "crop": 16}
    files = DataFiles(allow=["duplicates"], cache=str(tmp_path / "cache"))
    data = FolderDataModule(str(root), **settings, num_workers=0, files=files)
    with pytest.warns(UserWarning, match="identical images"):
        data.setup("fit")
    assert {len(entry.classes[1]) for entry in data.raw.entries if entry.classes} == {1}


def write_masks(root: Path, masks: dict[str, np.ndarray], shape: tuple[int, ...]) -> Path:
    """An image a.png, and files of its truth."""
    write_image(root / "images/a.png", np.zeros(shape, np.uint8))
    for name, values in masks.items():
        write_image(root / name, values)
    return root


IDS = np.uint8([[1, 1, 0, 0, 0, 7], [0, 0, 0, 4, 0, 7], [0, 0, 0, 4, 0, 0], [9, 9, 0, 0, 0, 0]])
KNOWN = np.uint8([[0, 255, 255, 255, 0, 0]] * 4)


@pytest.mark.parametrize(
    ("masks", "settings", "wanted"),
    [
        ({"masks/a.png": IDS}, {"mask_type": "labels", "ignore": 7}, np.int32([1, 2, -1, 3])),
        ({"masks/a.png": 50 * (IDS > 0) + (IDS == 7)}, {"ignore": 51}, np.int32([1, 2, -1, 3])),
        (
            {"masks/a/1.png": IDS == 1, "masks/a/2.png": (IDS == 9) + 2 * (IDS == 7)},
            {"mask_type": "objects", "ignore": 2},
            np.int32([1, 0, -1, 2]),
        ),
        (
            {"masks/a.png": np.uint8([0, 3, 0, 0, 1, 0, 0, 2, 0, 1])[IDS]},
            {"mask_type": "classes", "classes": CLASSES, "ignore": 2},
            np.int32([3, 1, -1, 2]),
        ),
    ],
)
def test_a_value_that_is_not_annotated(
    masks: dict[str, np.ndarray], settings: dict[str, Any], wanted: np.ndarray, tmp_path: Path
) -> None:
    masks = {name: values.astype(np.uint8) for name, values in masks.items()}
    (sample,) = FolderDataset(write_masks(tmp_path, masks, IDS.shape), **settings)
    table = np.zeros(10, np.int32)
    table[[1, 4, 7, 9]] = wanted
    np.testing.assert_array_equal(sample.labels, table[IDS])  # type: ignore[arg-type]
    (stored,) = decoded(FolderDataset(tmp_path, **settings), tmp_path / "cache")
    np.testing.assert_array_equal(stored.labels, table[IDS])  # type: ignore[arg-type]


def test_scribbles_whose_unlabelled_pixels_are_zero(tmp_path: Path) -> None:
    """As ilastik exports them: 0 unlabelled, 1 background, and so on."""
    root = write_masks(tmp_path, {"masks/a.png": CLASS_MAP}, CLASS_MAP.shape)
    settings: dict[str, Any] = {"mask_type": "classes", "classes": CLASSES, "ignore": 0}
    (sample,) = FolderDataset(root, **settings)
    assert sample.labels is not None and sample.classes is not None
    kinds = np.where(sample.labels < 0, 0, sample.classes[sample.labels])
    np.testing.assert_array_equal(kinds, CLASS_MAP)
    assert sample.labels.min() == -1 and (sample.labels != 0).all()


def test_a_mask_of_what_is_annotated(tmp_path: Path) -> None:
    masks = {"masks/a.png": np.uint8(255 * (IDS > 0)), "known/a.png": KNOWN}
    root = write_masks(tmp_path, masks, IDS.shape)
    (sample,) = FolderDataset(root, annotated="known")
    # Objects are cut at the border of the region, and those outside it are none.
    wanted = np.int32([0, 1, 0, 0, 2, 0, 0, 0, 0, 3])[IDS]
    wanted = np.where(KNOWN == 0, -1, wanted)
    np.testing.assert_array_equal(sample.labels, wanted)  # type: ignore[arg-type]
    assert sample.facts is not None and sample.facts.values == 1


def test_one_folder_a_class(tmp_path: Path) -> None:
    first = np.uint8(255 * np.isin(IDS, [1, 4]))
    root = write_masks(tmp_path, {"masks/red/a.png": first, "masks/blue/a.png": IDS}, IDS.shape)
    data = FolderDataset(root, classes=["red", "blue"], mask_type="labels")
    (sample,) = data
    assert sample.labels is not None and sample.classes is not None
    # blue, read last, takes the pixels of red, whose one id covers two regions
    assert sample.classes.tolist() == [0, 2, 2, 2, 2] and sample.facts is None
    np.testing.assert_array_equal(sample.labels, np.uint8([0, 1, 0, 0, 2, 0, 0, 3, 0, 4])[IDS])
    assert data.overlaps(data.records[0]) == 4
    write_image(root / "masks/blue/a.png", np.uint8(9 * (IDS > 4)))
    (sample,) = FolderDataset(root, classes=["red", "blue"])
    assert sample.classes is not None and sample.classes.tolist() == [0, 1, 1, 2, 2]
    with pytest.raises(UserError, match=r"red: a class that data\.classes does not name"):
        FolderDataset(root, classes=["blue"]).index()
    with pytest.raises(UserError, match="masks/green: the folder of this class is missing; add it"):
        FolderDataset(root, classes=["red", "green", "blue"]).index()
    (root / "masks/blue/a.png").unlink()
    write_image(root / "masks/blue/b.png", IDS)
    with pytest.raises(UserError, match=r"blue/a\.\*: no mask of class blue; add it, all 0 where"):
        FolderDataset(root, classes=["red", "blue"]).index()


def test_classes_of_label_maps_by_a_table(tmp_path: Path) -> None:
    root = write_masks(tmp_path, {"masks/a.png": IDS}, IDS.shape)
    settings: dict[str, Any] = {"classes": ["red", "blue"], "mask_type": "labels"}
    with pytest.raises(UserError, match=r"nothing tells the classes .* add objects\.csv with imag"):
        FolderDataset(root, **settings).index()
    rows = {1: "blue", 4: "red", 7: "2", 9: "red"}

    def read(rows: dict[int, str]) -> Any:
        lines = [f"a.png,0,{number},{kind}" for number, kind in rows.items()]
        (root / "objects.csv").write_text("\n".join(["image,plane,object,class", *lines]))
        return FolderDataset(root, **settings)[0]

    sample = read(rows)
    assert sample.classes.tolist() == [0, 2, 1, 2, 1]
    np.testing.assert_array_equal(sample.labels, np.uint8([0, 1, 0, 0, 2, 0, 0, 3, 0, 4])[IDS])
    for odd, says in (
        ({1: "blue"}, r"objects\.csv: has no row for object 4 of .*a\.png \(image 'a'\); add it"),
        (rows | {2: "red"}, r"a\.png: holds no object 2, of which .*objects\.csv has a row"),
        (rows | {9: "green"}, r"object 9 of a is of class 'green', but data\.classes names 1 red"),
        (rows | {9: "3"}, r"object 9 of a is of class 3, but data\.classes names 1 red, 2 blue"),
    ):
        refuses(says, read, odd)


def test_a_region_for_each_image(tmp_path: Path) -> None:
    root = write_masks(tmp_path, {"masks/a.png": IDS, "known/b.png": IDS}, IDS.shape)
    with pytest.raises(UserError, match=r"known/a\.\*: no mask of what is annotated \(of 1 such\)"):
        FolderDataset(root, mask_type="labels", annotated="known").index()
    write_image(root / "known/a.png", IDS[1:])
    with pytest.raises(UserError, match=r"known/a\.png: the mask is 3×6 .* its image is 4×6"):
        FolderDataset(root, mask_type="labels", annotated="known")[0]
    write_image(root / "known/a.png", np.zeros_like(IDS))
    with pytest.raises(UserError, match=r"a\.png: no pixel is annotated; remove the image, or cor"):
        FolderDataset(root, mask_type="labels", annotated="known")[0]


@pytest.mark.parametrize("ignore", [-1, 0])
def test_values_that_cannot_be_ignored(ignore: int) -> None:
    refuses(f"data.ignore: {ignore} must be the value of pixels that", TruthReader, ignore=ignore)
