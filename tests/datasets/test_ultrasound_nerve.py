"""Ultrasound: subjects, empty frames, masks as files or as run lengths."""

import shutil
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.datasets.synthetic import write_ultrasound_nerve
from segmentation.datasets.ultrasound_nerve import UltrasoundNerve
from tests.datasets.test_readers import refusal, same
from tests.helpers import zip_folder

SIZE = (42, 58)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """24 frames of 6 subjects."""
    return write_ultrasound_nerve(tmp_path / "data", 24, SIZE)


@pytest.fixture
def table(root: Path) -> Path:
    """Run lengths alone as truth."""
    for path in (root / "train").glob("*_mask.tif"):
        path.unlink()
    return root / "train_masks.csv"


def test_samples(root: Path) -> None:
    found = list(UltrasoundNerve(str(root)))
    assert [s.id for s in found] == [f"{s}_{i}" for s in range(1, 7) for i in range(1, 5)]
    for sample in found:
        assert (sample.group, sample.subset) == (sample.id[0], "")
        paths = (root / "train" / f"{sample.id}{end}.tif" for end in ("", "_mask"))
        image, mask = (cv2.imread(str(path), cv2.IMREAD_UNCHANGED) for path in paths)
        assert image is not None and mask is not None and sample.labels is not None
        np.testing.assert_array_equal(sample.image, image[..., None])
        np.testing.assert_array_equal(sample.labels > 0, mask == 255)
        assert sample.kind == ("nerve" if mask.any() else "empty")
    assert {s.kind for s in found} == {"nerve", "empty"}


def test_run_lengths(root: Path, tmp_path: Path) -> None:
    data = UltrasoundNerve(str(root))
    wanted = list(data)
    masks = {path: path.read_bytes() for path in (root / "train").glob("*_mask.tif")}
    for path in masks:
        path.unlink()
    same(list(UltrasoundNerve(str(root))), wanted)
    name = "ultrasound-nerve-segmentation"  # as Kaggle packs everything
    (root / "test").mkdir()
    shutil.copy(root / "train" / "1_1.tif", root / "test" / "1.tif")
    zip_folder(root, tmp_path / "zip" / f"{name}.zip")
    shutil.copytree(root, tmp_path / "all" / name)
    for place in ("zip", "all", f"all/{name}"):
        same(list(UltrasoundNerve(str(tmp_path / place))), wanted)
    for path in masks:  # masks come back, and are the truth of the next index
        cv2.imwrite(str(path), np.zeros(SIZE, np.uint8))
    assert {data.read(record).kind for record in data.index()} == {"empty"}


def test_bad_run_lengths(table: Path) -> None:
    before = {record.id: record.stamp for record in UltrasoundNerve(str(table.parent)).index()}
    table.write_text(table.read_text().replace("3,2,", "3,2,5 7 11 1"))
    data = UltrasoundNerve(str(table.parent))
    assert {record.id for record in data.index() if record.stamp != before[record.id]} == {"3_2"}
    assert f"{table}, 3_2: run 11 1 overlaps another; download it again" in refusal(data)


def test_bad_tables(table: Path) -> None:
    text, data = table.read_text(), UltrasoundNerve(str(table.parent))
    for content, says in (
        (text + "3,2,\n", "train_masks.csv: a second row for 3_2; keep one"),
        (text + "3,9,\n", "train_masks.csv, 3_9: a mask with no image; add 3_9.tif or remove it"),
        (text.replace("3,2,\n", ""), "3_2.tif: no mask; add 3_2_mask.tif or remove the image"),
        (text.replace("img", "image"), "train_masks.csv: lacks the column img"),
        (text + "7\n", "train_masks.csv: line 26 is cut off"),
    ):
        table.write_text(content)
        assert says in refusal(data)
    table.unlink()
    assert "1_1.tif: no mask; add 1_1_mask.tif or remove the image" in refusal(data)


def test_what_is_missing(root: Path) -> None:
    train, data = root / "train", UltrasoundNerve(str(root))
    (train / "2_3_mask.tif").rename(root / "kept")  # the table is no substitute for one mask
    assert "train/2_3.tif: no mask; add 2_3_mask.tif or remove the image" in refusal(data)
    (root / "kept").rename(train / "2_3_mask.tif")
    (train / "2_3.tif").unlink()
    assert "2_3_mask.tif: a mask with no image; add 2_3.tif or remove it" in refusal(data)
    (train / "2_3_mask.tif").unlink()
    assert len(UltrasoundNerve(str(root))) == 23
    (train / "more").mkdir()
    shutil.copy(train / "1_1.tif", train / "more" / "1_1.tif")
    assert "train/more/1_1.tif: is there again as 1_1.tif; keep one" in refusal(data)


def test_real_data(real_data: Path) -> None:
    """What is known of the frames that are here; one in six is decoded."""
    if not (real_data / "ultrasound_nerve").is_dir():
        pytest.skip("no ultrasound among the real data")
    data = UltrasoundNerve(str(real_data / "ultrasound_nerve"))
    for record in data.records[:: len(data) // 16]:
        sample = data.read(record)
        assert sample.image.shape == (420, 580, 1) and sample.image.dtype == np.uint8
        assert sample.labels is not None and (sample.labels.max() > 0) == (sample.kind == "nerve")
        assert len(data) != 96 or sample.kind == "nerve"
