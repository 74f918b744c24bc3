"""Ultrasound: subjects, empty frames, masks as files or as run lengths."""

import shutil
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.sample import Sample
from segmentation.datasets.synthetic import write_ultrasound_nerve
from segmentation.datasets.ultrasound_nerve import UltrasoundNerve, UltrasoundNerveDataModule
from segmentation.errors import UserError

SIZE = (42, 58)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """24 frames of 6 subjects. Do not change it."""
    return write_ultrasound_nerve(tmp_path_factory.mktemp("nerve"), 24, SIZE)


@pytest.fixture
def broken(root: Path, tmp_path: Path) -> Path:
    """A copy, to be spoilt."""
    return Path(shutil.copytree(root, tmp_path / "copy"))


def without_masks(root: Path) -> Path:
    """The root, with run lengths alone as truth."""
    for path in (root / "train").glob("*_mask.tif"):
        path.unlink()
    return root


def samples(root: Path) -> dict[str, Sample]:
    source = UltrasoundNerve(str(root))
    return {record.id: source.read(record) for record in source.index()}


def same(one: dict[str, Sample], other: dict[str, Sample]) -> None:
    assert list(one) == list(other) and one
    for first, second in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        np.testing.assert_array_equal(first.labels, second.labels)  # type: ignore[arg-type]
        assert (first.group, first.kind) == (second.group, second.kind)


def refusal(root: Path) -> str:
    with pytest.raises(UserError) as caught:
        samples(root)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_samples(root: Path) -> None:
    found = samples(root)
    assert list(found) == [f"{s}_{i}" for s in range(1, 7) for i in range(1, 5)]
    for name, sample in found.items():
        assert (sample.id, sample.group, sample.subset) == (name, name[0], "")
        image = cv2.imread(str(root / "train" / f"{name}.tif"), cv2.IMREAD_UNCHANGED)
        mask = cv2.imread(str(root / "train" / f"{name}_mask.tif"), cv2.IMREAD_UNCHANGED)
        assert image is not None and mask is not None and sample.labels is not None
        np.testing.assert_array_equal(sample.image, image[..., None])
        np.testing.assert_array_equal(sample.labels > 0, mask == 255)
        assert sample.labels.dtype == np.int32
        assert sample.kind == ("nerve" if mask.any() else "empty")
    assert set(Counter(s.kind for s in found.values())) == {"nerve", "empty"}


def test_every_place_is_the_same(root: Path, tmp_path: Path) -> None:
    wanted = samples(root)
    write_ultrasound_nerve(tmp_path / "zip", 24, SIZE, zipped=True)
    same(samples(tmp_path / "zip"), wanted)
    same(samples(root / "train"), wanted)
    whole = tmp_path / "all" / "ultrasound-nerve-segmentation"  # as Kaggle packs everything
    shutil.copytree(root, whole)
    (whole / "test").mkdir()
    shutil.copy(root / "train" / "1_1.tif", whole / "test" / "1.tif")
    same(samples(whole), wanted)
    shutil.make_archive(str(whole), "zip", whole)
    shutil.rmtree(whole)
    same(samples(tmp_path / "all"), wanted)


def test_run_lengths(root: Path, broken: Path, tmp_path: Path) -> None:
    same(samples(without_masks(broken)), samples(root))
    source = UltrasoundNerve(str(broken))
    (frame,) = [record for record in source.index() if record.id == "1_1"]
    assert source.read(frame).kind == "nerve"
    for name in samples(root):  # masks come back, and are the truth of the next index
        cv2.imwrite(str(broken / "train" / f"{name}_mask.tif"), np.zeros(SIZE, np.uint8))
    assert {source.read(record).kind for record in source.index()} == {"empty"}
    without_masks(broken)
    whole = tmp_path / "all" / "ultrasound-nerve-segmentation"
    shutil.copytree(broken, whole)
    shutil.make_archive(str(whole), "zip", whole)
    shutil.rmtree(whole)
    same(samples(tmp_path / "all"), samples(root))
    before = {record.id: record.stamp for record in UltrasoundNerve(str(broken)).index()}
    table = broken / "train_masks.csv"
    table.write_text(table.read_text().replace("3,2,", "3,2,5 7"))
    after = {record.id: record.stamp for record in UltrasoundNerve(str(broken)).index()}
    assert {name for name in before if before[name] != after[name]} == {"3_2"}


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ("5 7 9", "'5 7 9' are not pairs of start and length; download it again"),
        ("5 7 9 x", "are not pairs"),
        ("2430 7 2436 2", "run 2436 2 leaves an image of 42×58; download it again"),
        ("0 3", "run 0 3 leaves an image"),
        ("5 7 11 1", "run 11 1 overlaps another; download it again"),
    ],
)
def test_bad_run_lengths(broken: Path, runs: str, says: str) -> None:
    table = without_masks(broken) / "train_masks.csv"
    table.write_text(table.read_text().replace("3,2,", f"3,2,{runs}"))
    line = refusal(broken)
    assert line.startswith(f"{table}, 3_2: ") and says in line


def test_bad_tables(broken: Path) -> None:
    table = without_masks(broken) / "train_masks.csv"
    text = table.read_text()
    for content, says in (
        (text + "3,2,\n", "train_masks.csv: a second row for 3_2; keep one"),
        (text + "3,9,\n", "train_masks.csv, 3_9: a mask with no image; add 3_9.tif or remove it"),
        (text.replace("3,2,\n", ""), "3_2.tif: no mask; add 3_2_mask.tif or remove the image"),
        (text.replace("img", "image"), "train_masks.csv: lacks the column img"),
        (text + "7\n", "train_masks.csv: line 26 is cut off"),
        ("", "lacks the column"),
    ):
        table.write_text(content)
        assert says in refusal(broken)
    table.write_bytes(b"\xff\xfe\x00")
    assert "train_masks.csv: not a CSV file" in refusal(broken)
    table.unlink()
    assert "1_1.tif: no mask; add 1_1_mask.tif or remove the image" in refusal(broken)


def test_what_is_missing(broken: Path, tmp_path: Path) -> None:
    train = broken / "train"
    (train / "2_3_mask.tif").rename(broken / "kept")  # the table is no substitute for one mask
    assert "train/2_3.tif: no mask; add 2_3_mask.tif or remove the image" in refusal(broken)
    (broken / "kept").rename(train / "2_3_mask.tif")
    (train / "2_3.tif").unlink()
    assert "2_3_mask.tif: a mask with no image; add 2_3.tif or remove it" in refusal(broken)
    (train / "2_3_mask.tif").unlink()
    assert len(samples(broken)) == 23
    (train / "more").mkdir()
    shutil.copy(train / "1_1.tif", train / "more" / "1_1.tif")
    assert "train/more/1_1.tif: is there again as 1_1.tif; keep one" in refusal(broken)
    assert "the data root is empty; put Kaggle's train.zip" in refusal_of_new(tmp_path / "empty")
    (tmp_path / "empty" / "1.tif").touch()
    assert "holds no frames S_I.tif; put Kaggle's train.zip" in refusal(tmp_path / "empty")


def refusal_of_new(root: Path) -> str:
    root.mkdir()
    return refusal(root)


def test_broken_files(broken: Path) -> None:
    mask, frame = broken / "train" / "4_3_mask.tif", broken / "train" / "4_3.tif"
    whole = mask.read_bytes()
    cv2.imwrite(str(mask), np.zeros(SIZE[::-1], np.uint8))
    assert "4_3_mask.tif: the mask is 58×42 (H×W) but its image is 42×58" in refusal(broken)
    cv2.imwrite(str(mask), np.arange(42 * 58, dtype=np.uint16).reshape(SIZE))
    assert "4_3_mask.tif: a binary mask holds 0 and one other value" in refusal(broken)
    mask.write_bytes(whole)
    frame.write_bytes(frame.read_bytes()[:300])
    with pytest.raises(UserError, match=r"train/4_3\.tif: the TIFF"):
        decoded(UltrasoundNerve(str(broken)))


def test_default_split(root: Path) -> None:
    module = UltrasoundNerveDataModule(str(root), crop=32, num_workers=0)
    module.setup("fit")
    parts = [{name[0] for name in getattr(module.split, p)} for p in ("train", "val", "test")]
    assert [len(subjects) for subjects in parts] == [4, 1, 1]
    assert len(set().union(*parts)) == 6


def test_real_data(real_data: Path) -> None:
    """What is known of the frames that are here; one in six is decoded."""
    if not (real_data / "ultrasound_nerve").is_dir():
        pytest.skip("no ultrasound among the real data")
    source = UltrasoundNerve(str(real_data / "ultrasound_nerve"))
    records = source.index()
    if len(records) == 96:
        assert set(Counter(record.group for record in records).values()) == {12}
    for record in records[:: len(records) // 16]:
        sample = source.read(record)
        assert sample.image.shape == (420, 580, 1) and sample.image.dtype == np.uint8
        assert sample.labels is not None and (sample.labels.max() > 0) == (sample.kind == "nerve")
        assert len(records) != 96 or sample.kind == "nerve"
