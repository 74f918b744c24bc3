"""Every layout of the Data Science Bowl's files gives the same samples."""

import csv
import shutil
import zipfile
from collections import Counter
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.sample import Record, Sample
from segmentation.data.splits import OfficialSplit, RandomSplit
from segmentation.datasets.dsb2018 import DSB2018, DSB2018DataModule, kind
from segmentation.datasets.kaggle import rle_decode, rle_encode
from segmentation.datasets.synthetic import write_dsb2018
from segmentation.errors import UserError
from segmentation.objects import label_components, renumber


def samples(root: Path) -> dict[str, Sample]:
    source = DSB2018(str(root))
    return {record.id: source.read(record) for record in source.index()}


def same(one: dict[str, Sample], other: dict[str, Sample]) -> None:
    assert list(one) == list(other) and one
    for first, second in zip(one.values(), other.values(), strict=True):
        np.testing.assert_array_equal(first.image, second.image)
        assert (first.labels is None) == (second.labels is None)
        if first.labels is not None and second.labels is not None:
            np.testing.assert_array_equal(first.labels, second.labels)
        assert (first.kind, first.subset) == (second.kind, second.subset)


@pytest.fixture
def small(tmp_path: Path) -> Path:
    """Two training images, to be spoilt."""
    return write_dsb2018(tmp_path / "small", images=2, size=(32, 40))


def zip_folder(folder: Path, archive: Path, prefix: str = "") -> None:
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{prefix}{path.relative_to(folder)}")
        file.writestr("__MACOSX/._junk.png", b"junk")


def test_samples(dsb_root: Path) -> None:
    found = samples(dsb_root)
    assert len(found) == 16 and list(found) == sorted(found)
    train = [sample for sample in found.values() if sample.subset == "train"]
    assert len(train) == 12 and {sample.subset for sample in found.values()} == {"train", "test"}
    for name, sample in found.items():
        assert sample.id == name and sample.group == ""
        assert sample.image.dtype == np.uint8 and sample.image.shape[:2] == (64, 80)
        assert sample.labels is not None and sample.labels.dtype == np.int32
        assert sample.labels.shape == (64, 80)
        ids = np.unique(sample.labels)
        assert ids.tolist() == list(range(len(ids))) and len(ids) > 1
    for sample in train:  # each object is what one of its files shows
        folder = dsb_root / "stage1_train" / sample.id
        image = cv2.imread(str(folder / "images" / f"{sample.id}.png"), cv2.IMREAD_COLOR)
        assert image is not None and sample.labels is not None
        np.testing.assert_array_equal(sample.image, image[..., ::-1])
        for label, path in enumerate(sorted((folder / "masks").iterdir()), start=1):
            mask = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            assert mask is not None
            np.testing.assert_array_equal(sample.labels == label, mask > 0)
    assert {"fluorescence", "histology"} <= {sample.kind for sample in train}


def test_archives_and_folders_are_the_same(dsb_root: Path, tmp_path: Path) -> None:
    wanted = samples(dsb_root)
    for place, prefix in (("plain", ""), ("topped", "stage1_{}/")):
        for subset in ("train", "test"):
            archive = tmp_path / place / f"stage1_{subset}.zip"
            zip_folder(dsb_root / f"stage1_{subset}", archive, prefix.format(subset))
        shutil.copy(dsb_root / "stage1_solution.csv", tmp_path / place)
        same(samples(tmp_path / place), wanted)
    written = tmp_path / "zipped"
    write_dsb2018(written, images=12, size=(64, 80), test_images=4, zipped=True)
    same(samples(written), wanted)


def test_root_may_be_the_unpacked_folder(dsb_root: Path) -> None:
    wanted = {k: v for k, v in samples(dsb_root).items() if v.subset == "train"}
    same(samples(dsb_root / "stage1_train"), wanted)


def test_merged_masks(dsb_root: Path, tmp_path: Path) -> None:
    wanted = samples(dsb_root / "stage1_train")
    shutil.copytree(dsb_root / "stage1_train", tmp_path / "stage1_train")
    for name, sample in wanted.items():
        assert sample.labels is not None
        folder = tmp_path / "stage1_train" / name
        shutil.rmtree(folder / "masks")
        cv2.imwrite(str(folder / "mask.png"), (sample.labels > 0).astype(np.uint8) * 255)
    for name, sample in samples(tmp_path).items():
        truth = wanted[name].labels
        assert truth is not None and sample.labels is not None
        np.testing.assert_array_equal(sample.labels, label_components(truth > 0))


def slow_rle_decode(runs: str, height: int, width: int) -> np.ndarray:
    """Pixel by pixel: number n, counted from 1, is row (n - 1) mod height."""
    mask = np.zeros((height, width), bool)
    numbers = runs.split()
    for place in range(0, len(numbers), 2):
        for pixel in range(int(numbers[place]), int(numbers[place]) + int(numbers[place + 1])):
            mask[(pixel - 1) % height, (pixel - 1) // height] = True
    return mask


def test_run_lengths() -> None:
    rng = np.random.default_rng(0)
    for height, width in ((1, 1), (7, 5), (5, 11)):
        for share in (0, 0.3, 0.8, 1):
            mask = rng.random((height, width)) < share
            runs = rle_encode(mask)
            decoded = rle_decode(runs, (height, width), "x")
            np.testing.assert_array_equal(decoded, mask)
            np.testing.assert_array_equal(decoded, slow_rle_decode(runs, height, width))


@pytest.mark.parametrize(
    ("runs", "says"),
    [
        ("1", "are not pairs of start and length"),
        ("1 2 3", "are not pairs"),
        ("1 x", "are not pairs"),
        ("0 2", "run 0 2 leaves an image of 3×4"),
        ("1 0", "run 1 0 leaves"),
        ("12 2", "run 12 2 leaves"),
        ("-3 2", "run -3 2 leaves"),
        ("1 4 4 2", "run 4 2 overlaps another"),
        ("6 2 1 6", "run 1 6 overlaps another"),
    ],
)
def test_bad_run_lengths(runs: str, says: str) -> None:
    with pytest.raises(UserError, match=f"^name: .*{says}.*; download it again$"):
        rle_decode(runs, (3, 4), "name")


def test_solution(dsb_root: Path) -> None:
    with open(dsb_root / "stage1_solution.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    tests = {k: v for k, v in samples(dsb_root).items() if v.subset == "test"}
    assert len(tests) == 4
    for name, sample in tests.items():
        wanted = np.zeros((64, 80), np.int32)
        mine = [row["EncodedPixels"] for row in rows if row["ImageId"] == name]
        for number, runs in enumerate(mine, start=1):
            wanted[slow_rle_decode(runs, 64, 80)] = number
        assert sample.labels is not None
        np.testing.assert_array_equal(sample.labels, renumber(wanted))
    assert {sample.image.shape[2] for sample in tests.values()} <= {1, 3}


def test_overlaps_in_the_solution_are_counted(dsb_root: Path, tmp_path: Path) -> None:
    shutil.copytree(dsb_root / "stage1_test", tmp_path / "stage1_test")
    first, second, *_ = sorted(p.name for p in (tmp_path / "stage1_test").iterdir())
    head = "ImageId,EncodedPixels,Height,Width\n"
    text = f"{head}{first},1 10,64,80\n{first},5 10,64,80\n"
    (tmp_path / "stage1_solution.csv").write_text(text)
    source = DSB2018(str(tmp_path))
    records = {record.id: record for record in source.index()}
    assert (source.overlaps(records[first]), source.overlaps(records[second])) == (6, 0)
    labels = source.read(records[first]).labels
    assert labels is not None and np.bincount(labels.ravel())[1:].tolist() == [4, 10]
    (tmp_path / "stage1_solution.csv").write_text(text + "gone,1 1,64,80\n")
    with pytest.raises(UserError, match=r"solution\.csv: gone has no image in stage1_test; add it"):
        source.index()


def test_test_images_without_solution(dsb_root: Path, tmp_path: Path) -> None:
    for subset in ("train", "test"):
        shutil.copytree(dsb_root / f"stage1_{subset}", tmp_path / f"stage1_{subset}")
    found = samples(tmp_path)
    assert {s.labels is None for s in found.values() if s.subset == "test"} == {True}
    split = RandomSplit(val=2, test=2)
    settings = {"crop": 32, "num_workers": 0}
    plain = DSB2018DataModule(str(tmp_path), split, **settings)
    plain.setup("fit")  # a random split leaves them alone
    only_train = DSB2018DataModule(str(tmp_path / "stage1_train"), split, **settings)
    only_train.setup("fit")
    assert plain.split == only_train.split
    with pytest.raises(UserError, match="is in test but has no mask"):
        DSB2018DataModule(str(tmp_path), OfficialSplit(val=2), **settings).setup("fit")


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"ImageId,Height,Width\n", "lacks the column EncodedPixels; download it again"),
        (b"", "lacks the column"),
        (b"\xff\xfe\x00", "not a CSV file"),
        (b"ImageId,EncodedPixels,Height,Width\n{id},1 2,64\n", "line 2 is cut off; download"),
        (b"ImageId,EncodedPixels,Height,Width\n{id},1 2,x,80\n", "'x×80' is no size; download"),
        (b"ImageId,EncodedPixels,Height,Width\n{id},1 2,80,64\n", "the mask is 80×64 .*64×80"),
        (b"ImageId,EncodedPixels,Height,Width\n{id},1,64,80\n", "not pairs of start and length"),
    ],
)
def test_bad_solution(dsb_root: Path, tmp_path: Path, content: bytes, says: str) -> None:
    shutil.copytree(dsb_root / "stage1_test", tmp_path / "stage1_test")
    first = next((tmp_path / "stage1_test").iterdir()).name
    (tmp_path / "stage1_solution.csv").write_bytes(content.replace(b"{id}", first.encode()))
    with pytest.raises(UserError, match=rf"stage1_solution\.csv.*{says}"):
        samples(tmp_path)


def test_stamps_follow_the_files(dsb_root: Path, tmp_path: Path) -> None:
    shutil.copytree(dsb_root, tmp_path, dirs_exist_ok=True)

    def stamps() -> dict[str, Record]:
        return {record.id: record for record in DSB2018(str(tmp_path)).index()}

    before = stamps()
    source = DSB2018(str(tmp_path))
    assert [*source.index()] == [*source.index()] == [*before.values()]  # asked twice, the same
    train = next(name for name, record in before.items() if record.subset == "train")
    mask = next((tmp_path / "stage1_train" / train / "masks").iterdir())
    mask.unlink()
    lines = (tmp_path / "stage1_solution.csv").read_text().splitlines()
    test = lines.pop().split(",")[0]
    (tmp_path / "stage1_solution.csv").write_text("\n".join(lines))
    after = stamps()
    assert {name for name in before if before[name].stamp != after[name].stamp} == {train, test}


def test_what_is_missing(small: Path, tmp_path: Path) -> None:
    folder = next((small / "stage1_train").iterdir())
    masks = folder / "masks"
    masks.rename(tmp_path / "masks")
    with pytest.raises(UserError, match=rf"{folder.name}\.png: no masks; add .*/masks/\*\.png or"):
        DSB2018(str(small)).index()
    (tmp_path / "masks").rename(masks)
    second = folder / "images" / "second.png"
    shutil.copy(folder / "images" / f"{folder.name}.png", second)
    with pytest.raises(UserError, match=rf"second\.png: a second image of {folder.name}; keep one"):
        DSB2018(str(small)).index()
    shutil.rmtree(folder / "images")
    with pytest.raises(UserError, match=r"\.png: masks without an image; add"):
        DSB2018(str(small)).index()
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "readme.txt").touch()
    with pytest.raises(UserError, match=r"other: holds no DSB2018 images; put stage1_train\.zip"):
        DSB2018(str(tmp_path / "other")).index()


def test_masks_that_do_not_fit(small: Path) -> None:
    folder = next((small / "stage1_train").iterdir())
    mask = sorted((folder / "masks").iterdir())[0]
    cv2.imwrite(str(mask), np.full((40, 32), 255, np.uint8))
    with pytest.raises(UserError, match=rf"{mask.name}: the mask is 40×32 .* its image is 32×40"):
        samples(small)
    cv2.imwrite(str(mask), np.arange(32 * 40, dtype=np.uint16).reshape(32, 40))
    with pytest.raises(UserError, match=rf"{mask.name}: a binary mask holds 0 and one other value"):
        samples(small)
    mask.write_bytes(mask.read_bytes()[:60])
    with pytest.raises(UserError, match=rf"{mask.name}: the PNG is damaged"):
        samples(small)


def test_broken_archive(small: Path, tmp_path: Path) -> None:
    zip_folder(small / "stage1_train", tmp_path / "zip" / "stage1_train.zip")
    archive = tmp_path / "zip" / "stage1_train.zip"
    archive.write_bytes(archive.read_bytes()[:5000])
    with pytest.raises(UserError, match=r"stage1_train\.zip: cannot be read as zip"):
        DSB2018(str(tmp_path / "zip")).index()


def test_kinds() -> None:
    noise = np.random.default_rng(0).integers(0, 40, (64, 64, 1)).astype(np.uint8)
    gray = np.repeat(noise, 3, axis=2)
    assert kind(gray) == kind(noise) == "fluorescence-dim"
    assert kind(255 - gray) == "brightfield"
    bright = gray.copy()
    bright[:8, :8] = 250
    assert kind(bright) == "fluorescence"
    coloured = gray.copy()
    coloured[0, 0] = (1, 2, 3)
    assert kind(coloured) == "histology"


def test_real_data(real_data: Path) -> None:
    """What is known of the official archive; one image in seventeen is decoded."""
    if not (real_data / "dsb2018").is_dir():
        pytest.skip("no DSB2018 among the real data")
    source = DSB2018(str(real_data / "dsb2018"))
    records = [record for record in source.index() if record.subset == "train"]
    assert len(records) == 670
    assert sum(len(record.masks) for record in records) == 29_461
    counts = sorted(len(record.masks) for record in records)
    assert (counts[0], counts[-1]) == (1, 375)
    assert (counts[334] + counts[335]) / 2 == 27
    known = {
        *[(256, 256), (256, 320), (520, 696), (360, 360), (1024, 1024)],
        *[(512, 640), (603, 1272), (260, 347), (1040, 1388)],
    }
    found = [source.read(record) for record in records[::17]]
    assert len(found) == 40
    sizes = Counter((s.image.shape[0], s.image.shape[1]) for s in found)
    assert set(sizes) <= known and 14 <= sizes[256, 256] <= 26  # 334 of 670
    kinds = Counter(sample.kind for sample in found)
    assert 2 <= kinds["histology"] <= 12  # 108 of 670
    assert kinds["fluorescence"] + kinds["fluorescence-dim"] >= 26  # 546 of 670
    for record, sample in zip(records[::17], found, strict=True):
        assert sample.image.shape[2] == 3 and sample.image.dtype == np.uint8
        assert sample.labels is not None
        areas = np.bincount(sample.labels.ravel())[1:]
        assert len(areas) == len(record.masks)  # no two masks overlap, so none vanishes
        assert areas.min() >= 21 and areas.max() <= 11_037


def test_real_sizes_and_channels(real_data: Path) -> None:
    """The size of every image, from its header alone: all are RGBA."""
    if not (real_data / "dsb2018").is_dir():
        pytest.skip("no DSB2018 among the real data")
    sizes: Counter[tuple[int, int]] = Counter()
    with zipfile.ZipFile(real_data / "dsb2018" / "stage1_train.zip") as archive:
        for name in archive.namelist():
            if "/images/" in name and name.endswith(".png"):
                with archive.open(name) as file:
                    head = file.read(26)
                sizes[int.from_bytes(head[20:24], "big"), int.from_bytes(head[16:20], "big")] += 1
                assert head[24:] == bytes([8, 6])
    assert sizes == {
        **{(256, 256): 334, (256, 320): 112, (520, 696): 92, (360, 360): 91, (1024, 1024): 16},
        **{(512, 640): 13, (603, 1272): 6, (260, 347): 5, (1040, 1388): 1},
    }
