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
    with pytest.raises(UserError, match=says):
        TruthReader(**settings)


def test_a_class_that_nobody_named(tmp_path: Path) -> None:
    root = folder(tmp_path, {"a": CLASS_MAP})
    data = FolderDataset(root, mask_type="classes", classes=CLASSES[:2])
    says = r"a\.png: holds the value\(s\) 3, but data\.classes names 1 tumour, 2 stroma; name all"
    with pytest.raises(UserError, match=says):
        data[0]


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
