"""The Data Science Bowl's own ways: merged masks, the solution of the test images, kinds."""

import csv
import hashlib
import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import yaml

from segmentation.data.datamodule import DataFiles
from segmentation.data.sample import PARTS
from segmentation.data.sources import SourceSplit
from segmentation.data.splits import ListSplit, OfficialSplit, RandomSplit
from segmentation.datasets.dsb2018 import DSB2018, ID, TABLE, DSB2018DataModule, kind
from segmentation.datasets.synthetic import write_dsb2018
from segmentation.errors import UserError
from segmentation.io.run_lengths import rle_decode, rle_encode
from segmentation.objects import label_components, renumber
from tests.datasets.test_readers import refusal
from tests.errors import refuses

HEAD = "ImageId,EncodedPixels,Height,Width\n"


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two training images, to be spoilt."""
    return write_dsb2018(tmp_path / "small", images=2, size=(32, 40))


@pytest.fixture
def tests_alone(dsb_root: Path, tmp_path: Path) -> tuple[Path, str, str]:
    """A root with test images alone, and the ids of two of them."""
    shutil.copytree(dsb_root / "stage1_test", tmp_path / "stage1_test")
    first, second, *_ = sorted(p.name for p in (tmp_path / "stage1_test").iterdir())
    return tmp_path, first, second


def test_each_object_is_what_one_file_shows(dsb_root: Path) -> None:
    found = list(DSB2018(str(dsb_root)))
    assert Counter(sample.subset for sample in found) == {"train": 12, "test": 4}
    for sample in (sample for sample in found if sample.subset == "train"):
        folder = dsb_root / "stage1_train" / sample.id
        image = cv2.imread(str(folder / "images" / f"{sample.id}.png"), cv2.IMREAD_COLOR)
        np.testing.assert_array_equal(sample.image, image[..., ::-1])  # type: ignore[index]
        for label, path in enumerate(sorted((folder / "masks").iterdir()), start=1):
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            np.testing.assert_array_equal(sample.labels == label, mask > 0)  # type: ignore[operator]
    assert {"fluorescence", "histology"} <= {sample.kind for sample in found}


def test_the_table_of_sources_is_frozen() -> None:
    table = yaml.load(TABLE.read_text(encoding="utf-8"), yaml.BaseLoader)
    sizes = {source: len(ids.split()) for source, ids in table.items()}
    assert len(sizes) == 17 and sum(sizes.values()) == 670
    assert sizes["pink-tissue"] == 4 and sizes["small-fluorescence-gray-background"] == 144
    starts = [start for ids in table.values() for start in ids.split()]
    assert len({*starts}) == len(starts) and {len(start) for start in starts} == {ID}
    digest = hashlib.sha256(repr(sorted((k, sorted(v.split())) for k, v in table.items())).encode())
    assert digest.hexdigest()[:16] == "6adcd610e673176a"
    assert DSB2018.source_of(starts[0] + "f" * 57) == next(iter(table))
    assert DSB2018.source_of("no such id") == ""


def test_sources_are_not_in_the_cache(
    dsb_root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The table may change, the data stay; groups are told where no source was trained on."""

    def groups(**settings: Any) -> tuple[str, set[str]]:
        data = DSB2018DataModule(str(dsb_root), files=DataFiles(cache=str(tmp_path)), **settings)
        data.setup("test")
        found = data.evaluation_set("test")
        return data.content, {found[i]["group"] for i in range(len(found))}

    before = groups(split=RandomSplit(val=2, test=4))
    monkeypatch.setattr(DSB2018, "source_of", staticmethod(lambda name: f"s{ord(name[0]) % 4}"))
    assert DSB2018(dsb_root)[0].group.startswith("s")
    assert groups(split=RandomSplit(val=2, test=4)) == before == (before[0], {""})
    content, apart = groups(split=SourceSplit(val=1, test=1))
    assert content == before[0] and len(apart) == 1 and "" not in apart
    ids = [r.id for r in DSB2018(dsb_root).index() if r.subset == "train"]
    lists = {part: tmp_path / f"{part}.txt" for part in PARTS}
    for place, path in enumerate(lists.values()):
        path.write_text("\n".join(ids[place::3]))
    with pytest.warns(UserWarning, match="source.s. lie in several parts, such as s. in train and"):
        groups(split=ListSplit(**{part: str(path) for part, path in lists.items()}))


def test_merged_masks(dsb_root: Path, tmp_path: Path) -> None:
    shutil.copytree(dsb_root / "stage1_train", tmp_path / "stage1_train")
    wanted = {s.id: s.labels > 0 for s in DSB2018(str(tmp_path)) if s.labels is not None}
    for name, mask in wanted.items():
        shutil.rmtree(tmp_path / "stage1_train" / name / "masks")
        path = tmp_path / "stage1_train" / name / "mask.png"
        cv2.imwrite(str(path), mask.astype(np.uint8) * 255)
    for sample in DSB2018(str(tmp_path)):
        np.testing.assert_array_equal(sample.labels, label_components(wanted[sample.id]))  # type: ignore[arg-type]


def slow_rle_decode(runs: str, height: int, width: int) -> np.ndarray:
    """Pixel by pixel: number n, counted from 1, is row (n - 1) mod height."""
    mask = np.zeros((height, width), bool)
    numbers = list(map(int, runs.split()))
    for start, length in zip(numbers[::2], numbers[1::2], strict=True):
        for pixel in range(start - 1, start - 1 + length):
            mask[pixel % height, pixel // height] = True
    return mask


def test_run_lengths() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (1, 7), (7, 5), (5, 11)):
        for share in (0, 0.3, 0.8, 1):
            mask = rng.random((height, width)) < share
            runs = rle_encode(mask)
            assert runs == rle_encode(mask * np.uint8(255))
            np.testing.assert_array_equal(rle_decode(runs, (height, width), "x"), mask)
            np.testing.assert_array_equal(slow_rle_decode(runs, height, width), mask)


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ("1", "are not pairs of start and length"),
        ("1 x", "are not pairs"),
        ("0 2", "run 0 2 leaves an image of 3×4"),
        ("1 0", "run 1 0 leaves"),
        ("12 2", "run 12 2 leaves"),
        ("6 2 1 6", "run 1 6 overlaps another"),
    ],
)
def test_bad_run_lengths(runs: str, says: str) -> None:
    refuses(f"^name: .*{says}.*; download it again$", rle_decode, runs, (3, 4), "name")


def test_solution(dsb_root: Path) -> None:
    with open(dsb_root / "stage1_solution.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    for sample in (s for s in DSB2018(str(dsb_root)) if s.subset == "test"):
        wanted = np.zeros((64, 80), np.int32)
        mine = [row["EncodedPixels"] for row in rows if row["ImageId"] == sample.id]
        for number, runs in enumerate(mine, start=1):
            wanted[slow_rle_decode(runs, 64, 80)] = number
        np.testing.assert_array_equal(sample.labels, renumber(wanted))  # type: ignore[arg-type]


def test_overlaps_in_the_solution_are_counted(tests_alone: tuple[Path, str, str]) -> None:
    root, first, second = tests_alone
    text = f"{HEAD}{first},1 10,64,80\n{first},5 10,64,80\n"
    (root / "stage1_solution.csv").write_text(text)
    data = DSB2018(str(root))
    records = {record.id: record for record in data.records}
    assert (data.overlaps(records[first]), data.overlaps(records[second])) == (6, 0)
    labels = data.read(records[first]).labels
    assert labels is not None and np.bincount(labels.ravel())[1:].tolist() == [4, 10]
    (root / "stage1_solution.csv").write_text(text + "gone,1 1,64,80\n")
    assert "solution.csv: gone has no image in stage1_test; add it" in refusal(DSB2018(str(root)))
    (root / "stage1_solution.csv").write_text(HEAD)
    assert {r.id for r, s in zip(data.index(), records.values(), strict=True) if r != s} == {first}


@pytest.mark.parametrize(
    ("content", "says"),
    [
        ("ImageId,Height,Width\n", "lacks the column EncodedPixels; download it again"),
        ("", "lacks the column"),
        ("\udcff", "not a CSV file"),
        (f"{HEAD}ID,1 2,64\n", "line 2 is cut off; download"),
        (f"{HEAD}ID,1 2,x,80\n", "'x×80' is no size; download"),
        (f"{HEAD}ID,1 2,80,64\n", "the mask is 80×64 (H×W) but its image is 64×80"),
        (f"{HEAD}ID,1,64,80\n", "not pairs of start and length"),
    ],
)
def test_bad_solution(tests_alone: tuple[Path, str, str], content: str, says: str) -> None:
    root, first, _ = tests_alone
    data = content.replace("ID,1", f"{first},1").encode(errors="surrogateescape")
    (root / "stage1_solution.csv").write_bytes(data)
    line = refusal(DSB2018(str(root)))
    assert "stage1_solution.csv" in line and says in line


def test_test_images_without_solution(dsb_root: Path, tmp_path: Path) -> None:
    for subset in ("train", "test"):
        shutil.copytree(dsb_root / f"stage1_{subset}", tmp_path / f"stage1_{subset}")
    assert {s.labels is None for s in DSB2018(str(tmp_path)) if s.subset == "test"} == {True}
    split, settings = RandomSplit(val=2, test=2), {"crop": 32, "num_workers": 0}
    plain = DSB2018DataModule(str(tmp_path), split, **settings)
    plain.setup("fit")  # a random split leaves them alone
    only_train = DSB2018DataModule(str(tmp_path / "stage1_train"), split, **settings)
    only_train.setup("fit")
    assert plain.split == only_train.split
    with pytest.raises(UserError, match="is in test but has no mask"):
        DSB2018DataModule(str(tmp_path), OfficialSplit(val=2), **settings).setup("fit")


def test_what_is_missing(small: Path, tmp_path: Path) -> None:
    data, folder = DSB2018(str(small)), next((small / "stage1_train").iterdir())
    (folder / "masks").rename(tmp_path / "masks")
    assert f"{folder.name}.png: no masks; add {folder.name}/masks/*.png or" in refusal(data)
    (tmp_path / "masks").rename(folder / "masks")
    shutil.copy(folder / "images" / f"{folder.name}.png", folder / "images" / "second.png")
    assert f"second.png: is there again as {folder.name}" in refusal(data)
    shutil.rmtree(folder / "images")
    assert ".png: masks without an image; add" in refusal(data)


def test_kinds() -> None:
    noise = np.random.default_rng(0).integers(0, 40, (64, 64, 1)).astype(np.uint8)
    gray = np.repeat(noise, 3, axis=2)
    assert kind(gray) == kind(noise) == "fluorescence-dim"
    assert kind(255 - gray) == "brightfield"
    bright, coloured = gray.copy(), gray.copy()
    bright[:8, :8], coloured[0, 0] = 250, (1, 2, 3)
    assert (kind(bright), kind(coloured)) == ("fluorescence", "histology")


def test_real_data(real_data: Path) -> None:
    """What is known of the official archive; one image in seventeen is decoded."""
    if not (real_data / "dsb2018").is_dir():
        pytest.skip("no DSB2018 among the real data")
    data = DSB2018(str(real_data / "dsb2018"))
    records = [record for record in data.records if record.subset == "train"]
    counts = sorted(len(record.masks) for record in records)
    assert (len(records), sum(counts), counts[0], counts[-1]) == (670, 29_461, 1, 375)
    found = [data.read(record) for record in records[::17]]
    sizes = Counter(s.image.shape[:2] for s in found)
    assert 14 <= sizes[256, 256] <= 26 and sizes.keys() <= {
        *[(256, 256), (256, 320), (520, 696), (360, 360), (1024, 1024)],
        *[(512, 640), (603, 1272), (260, 347), (1040, 1388)],
    }
    kinds = Counter(sample.kind for sample in found)
    assert 2 <= kinds["histology"] <= 12  # 108 of 670
    for record, sample in zip(records[::17], found, strict=True):
        assert sample.image.shape[2] == 3 and sample.image.dtype == np.uint8
        areas = np.bincount(np.ravel(sample.labels))[1:]  # type: ignore[arg-type]
        assert len(areas) == len(record.masks)  # no two masks overlap, so none vanishes
        assert areas.min() >= 21 and areas.max() <= 11_037
