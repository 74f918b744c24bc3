"""BBBC039: three archives that must agree, ids in red that serve several nuclei, empty fields."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.datamodule import DataFiles
from segmentation.data.sources import SHARED, SourceSplit, about_test
from segmentation.data.splits import GroupSplit
from segmentation.datasets.bbbc039 import BBBC039, BBBC039DataModule
from segmentation.datasets.synthetic import write_bbbc039
from segmentation.errors import UserError
from segmentation.objects import components_of_values
from tests.datasets.test_readers import refusal


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """8 fields of 48×64, the second one empty."""
    return write_bbbc039(tmp_path / "data", 8, (48, 64))


def slow_label_values(values: np.ndarray) -> np.ndarray:
    """Flood fill from each pixel in turn, over the eight neighbours of the same value."""
    labels = np.zeros(values.shape, np.int32)
    for start in zip(*np.nonzero(values), strict=True):
        if labels[start]:
            continue
        labels[start], front = labels.max() + 1, [start]
        while front:
            y, x = front.pop()
            for v in range(max(0, y - 1), min(values.shape[0], y + 2)):
                for u in range(max(0, x - 1), min(values.shape[1], x + 2)):
                    if not labels[v, u] and values[v, u] == values[start]:
                        labels[v, u] = labels[start]
                        front.append((v, u))
    return labels


@pytest.mark.parametrize("most", [0, 1, 3])
def test_reused_values(most: int) -> None:
    rng = np.random.default_rng(0)
    values = (rng.integers(0, 2, (13, 17)) * rng.integers(0, most + 1, (13, 17))).astype("u1")
    found, wanted = components_of_values(values)[0], slow_label_values(values)
    pairs = {(int(a), int(b)) for a, b in zip(found.flat, wanted.flat, strict=True)}
    assert len(pairs) == found.max() + 1 == wanted.max() + 1  # one to one
    assert found.dtype == np.int32 and ((found > 0) == (values > 0)).all()


def test_samples(root: Path) -> None:
    found = list(BBBC039(str(root)))
    for sample in found:
        assert sample.kind == "" and sample.group == sample.id.split("_")[1]
        image = cv2.imread(str(root / "images" / f"{sample.id}.tif"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(root / "masks" / f"{sample.id}.png"), cv2.IMREAD_UNCHANGED)
        assert mask is not None and sample.labels is not None and sample.image.dtype == np.uint16
        np.testing.assert_array_equal(sample.image[..., 0], image)  # type: ignore[arg-type]
        np.testing.assert_array_equal(sample.labels, components_of_values(mask[..., 2])[0])  # BGRA
    assert [s.subset for s in found if not np.any(s.labels)] == ["train"]  # type: ignore[arg-type]
    for subset, name in {"train": "training", "val": "validation", "test": "test"}.items():
        listed = (root / "metadata" / f"{name}.txt").read_text().replace(".png", "").split()
        assert listed == [s.id for s in found if s.subset == subset]


def test_other_wells_are_more_of_the_same(root: Path, tmp_path: Path) -> None:
    """Intervals are drawn by well, and groups are wells; all are of one source."""
    data = BBBC039DataModule(str(root), GroupSplit(), files=DataFiles(cache=str(tmp_path)))
    data.setup("test")
    about = about_test(data.sources, data.split.train, data.split.test)
    assert about == f"test images {SHARED}"
    assert {*data.groups.values()} == {sample.group for sample in BBBC039(root)}
    with pytest.raises(UserError, match=r"1 source\(s\) \(plate\) cannot make 3 parts; use Random"):
        BBBC039DataModule(str(root), SourceSplit(), files=DataFiles(cache=str(tmp_path))).setup()


def test_parts_are_missing(root: Path) -> None:
    data = BBBC039(str(root))
    for name in ("images", "masks", "metadata"):
        (root / name).rename(root / "away")
        assert f"holds neither {name}/ nor {name}.zip; put images.zip, masks.zip" in refusal(data)
        (root / name).mkdir()
        assert f"{name}: holds no ." in refusal(data)
        (root / name).rmdir()
        (root / "away").rename(root / name)
    (root / "metadata" / "validation.txt").rename(root / "metadata" / "val.txt")
    assert "metadata: holds no validation.txt; download metadata.zip again" in refusal(data)


def test_images_masks_and_lists_disagree(root: Path) -> None:
    data, image = BBBC039(str(root)), sorted((root / "images").iterdir())[2]
    name, mask = image.stem, root / "masks" / f"{image.stem}.png"
    image.rename(root / "image")
    assert f"{name}.png: a mask with no image; add images/{name}.tif or remove" in refusal(data)
    mask.rename(root / "mask")
    says = f"metadata/validation.txt: no image images/{name}.tif; add it or remove"
    assert says in refusal(data)
    (root / "image").rename(image)
    assert f"{name}.tif: no mask masks/{name}.png; add it or remove the image" in refusal(data)
    (root / "mask").rename(mask)
    path, test = (root / "metadata" / f"{part}.txt" for part in ("validation", "test"))
    text = path.read_text()
    path.write_text(text.replace(f"{name}.png\n", ""))
    assert f"{name}.tif: none of the lists in metadata names it; add it or" in refusal(data)
    path.write_text(f"\ufeff{name}.tif\r\n\r\n" + text.replace(f"{name}.png", ""))
    assert len(BBBC039(str(root))) == 8  # other suffixes and line ends
    test.write_text(test.read_text() + f"{name}.png")
    assert f"metadata/test.txt: {name} is listed here and in " in refusal(data)
    test.write_bytes(b"\xff\xfe\x00\x01")
    assert "metadata/test.txt: not a text file in UTF-8" in refusal(data)
    shutil.copy(image, image.with_suffix(".tiff"))
    assert f"{name}.tiff: is there again as {name}.tif; keep one" in refusal(data)


def test_real_data(real_data: Path) -> None:
    """What is known of the subset that is here, all its empty fields among it."""
    if not (real_data / "bbbc039").is_dir():
        pytest.skip("no BBBC039 among the real data")
    data = BBBC039(str(real_data / "bbbc039"))
    counts = Counter(r.subset for r in data.records)
    assert counts in ({"train": 30, "val": 15, "test": 15}, {"train": 100, "val": 50, "test": 50})
    empty = {"F13_s7": "train", "L01_s2": "train", "L10_s6": "val"}
    for record in data.records:
        place = record.id.removeprefix("IXMtest_")[:6]
        assert record.group == place[:3]
        if record.subset == "test" or place in empty:
            sample = data.read(record)
            assert sample.image.shape == (520, 696, 1) and sample.image.max() <= 4095
            assert sample.labels is not None and (sample.labels.max() == 0) == (place in empty)
            assert empty.get(place, record.subset) == record.subset
