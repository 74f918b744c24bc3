"""The synthetic data must be right before anything measured on it can be."""

import csv
import zipfile
from pathlib import Path
from typing import Any, Literal, get_args

import cv2
import numpy as np
import pytest
import tifffile

from segmentation.datasets.bbbc039 import label_values
from segmentation.datasets.synthetic import (
    Kind,
    make_nuclei,
    rle_encode,
    write_bbbc039,
    write_dic_hela,
    write_dsb2018,
    write_folder,
    write_ultrasound_nerve,
)
from segmentation.errors import UserError

KINDS: tuple[Kind, ...] = get_args(Kind)
SMALL = (48, 64)


def files(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(path: Path, lzw: bool = False) -> np.ndarray:
    if path.suffix == ".tif" and not lzw:
        return np.asarray(tifffile.imread(path))
    pixels = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
    assert pixels is not None
    return pixels


def slow_rle(mask: np.ndarray) -> str:
    """Pixel by pixel, down each column in turn."""
    height, width = mask.shape
    on = [x * height + y + 1 for x in range(width) for y in range(height) if mask[y, x]]
    words: list[int] = []
    for position in on:
        if words and words[-2] + words[-1] == position:
            words[-1] += 1
        else:
            words += [position, 1]
    return " ".join(map(str, words))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 90), (128, 120)])
def test_labels(kind: Kind, size: tuple[int, int]) -> None:
    for seed in range(6):
        image, labels = make_nuclei(np.random.default_rng(seed), *size, kind)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert labels.shape == size and labels.dtype == np.int32
        ids = np.unique(labels[labels > 0])
        assert ids.size > 0
        assert ids.tolist() == list(range(1, ids.size + 1))
        for label in ids:
            mask = (labels == label).astype(np.uint8)
            assert mask.sum() >= 20
            assert cv2.connectedComponents(mask, connectivity=4)[0] == 2


def test_colours() -> None:
    for kind in KINDS:
        image = make_nuclei(np.random.default_rng(0), 96, 96, kind)[0].astype(int)
        assert (np.ptp(image, axis=2).max() == 0) == (kind != "histology")
        assert image.max() - image.min() > 40
        assert (np.median(image) > 100) == (kind != "fluorescence")


def test_same_seed_same_image() -> None:
    for kind in KINDS:
        first = make_nuclei(np.random.default_rng(7), 64, 80, kind)
        again = make_nuclei(np.random.default_rng(7), 64, 80, kind)
        other = make_nuclei(np.random.default_rng(8), 64, 80, kind)
        np.testing.assert_array_equal(first[0], again[0])
        np.testing.assert_array_equal(first[1], again[1])
        assert (first[0] != other[0]).any()


def test_touching_and_very_different_nuclei() -> None:
    """What makes the data hard is there: nuclei in contact, sparse images, uneven brightness."""
    counts, contrasts, contacts = [], [], 0
    for seed in range(24):
        image, labels = make_nuclei(np.random.default_rng(seed), 160, 160, "fluorescence")
        counts.append(labels.max())
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            contacts += int(((a != b) & (a > 0) & (b > 0)).sum())
        if labels.max() >= 10:
            ids = range(1, labels.max() + 1)
            means = [image[labels == label].mean() - np.median(image) for label in ids]
            contrasts.append(np.quantile(means, 0.9) / max(np.quantile(means, 0.1), 1))
    assert min(counts) <= 4 and max(counts) > 40
    assert contacts > 500
    assert np.median(contrasts) > 3


def test_one_threshold_is_not_enough() -> None:
    """Otsu's threshold, told the polarity, must fail clearly, yet see more than noise."""
    parts: tuple[tuple[Kind, int], ...] = (
        ("fluorescence", 9),
        ("histology", 2),
        ("brightfield", 1),
    )
    mix = [kind for kind, count in parts for _ in range(count)]
    overlap = union = 0
    for index in range(24):
        kind = mix[index % len(mix)]
        image, labels = make_nuclei(np.random.default_rng([1, index]), 192, 192, kind)
        gray = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        bright = cv2.threshold(gray, 0, 1, cv2.THRESH_BINARY + cv2.THRESH_OTSU)[1] > 0
        guess = bright if kind == "fluorescence" else ~bright
        overlap += int((guess & (labels > 0)).sum())
        union += int((guess | (labels > 0)).sum())
    assert 0.4 < overlap / union < 0.75


def test_bad_arguments() -> None:
    with pytest.raises(ValueError, match="kind 'phase'"):
        make_nuclei(np.random.default_rng(0), 64, 64, "phase")  # type: ignore[arg-type]
    with pytest.raises(ValueError, match="at least 32"):
        make_nuclei(np.random.default_rng(0), 64, 31, "histology")


def test_rle_against_slow_one() -> None:
    rng = np.random.default_rng(0)
    for share in (0.0, 0.1, 0.5, 0.9, 1.0):
        for shape in ((1, 1), (1, 7), (7, 1), (9, 13)):
            mask = rng.random(shape) < share
            assert rle_encode(mask) == slow_rle(mask)
            assert rle_encode(mask.astype(np.uint8) * 255) == slow_rle(mask)
    assert rle_encode(np.array([[0, 1], [1, 1]])) == "2 3"  # a run goes on into the next column
    with pytest.raises(ValueError, match="shape"):
        rle_encode(np.zeros((2, 2, 1)))


def test_dsb2018_layout(tmp_path: Path) -> None:
    root = write_dsb2018(tmp_path / "dsb", images=6, size=SMALL, seed=3)
    assert root == tmp_path / "dsb"
    assert [p.name for p in root.iterdir()] == ["stage1_train"]
    folders = sorted((root / "stage1_train").iterdir())
    assert len(folders) == 6
    kinds = set()
    for folder in folders:
        assert len(folder.name) == 64 and set(folder.name) <= set("0123456789abcdef")
        assert sorted(p.name for p in folder.iterdir()) == ["images", "masks"]
        assert [p.name for p in (folder / "images").iterdir()] == [f"{folder.name}.png"]
        image = read(folder / "images" / f"{folder.name}.png")
        assert image.shape == (*SMALL, 4) and image.dtype == np.uint8
        assert (image[..., 3] == 255).all()
        coloured = bool(np.ptp(image[..., :3].astype(int), axis=2).any())
        kinds.add((coloured, bool(np.median(image[..., :3]) > 100)))
        masks = [read(path) for path in (folder / "masks").iterdir()]
        assert masks and all(m.shape == SMALL and m.dtype == np.uint8 for m in masks)
        assert all(np.unique(m).tolist() == [0, 255] for m in masks)
        assert np.sum([m > 0 for m in masks], axis=0).max() == 1  # no pixel has two nuclei
    assert kinds == {(False, False), (False, True), (True, True)}


def test_dsb2018_test_part(tmp_path: Path) -> None:
    root = write_dsb2018(tmp_path, images=1, size=SMALL, test_images=6)
    with open(root / "stage1_solution.csv", newline="") as file:
        rows = list(csv.reader(file))
    assert rows[0] == ["ImageId", "EncodedPixels", "Height", "Width", "Usage"]
    folders = list((root / "stage1_test").iterdir())
    assert {row[0] for row in rows[1:]} == {folder.name for folder in folders}
    shapes = []
    for folder in folders:
        assert [p.name for p in folder.iterdir()] == ["images"]
        shapes.append(read(folder / "images" / f"{folder.name}.png").shape[2:])
    assert sorted(shapes) == [(), (3,), (3,), (4,), (4,), (4,)]
    taken: dict[str, set[int]] = {}
    for image_id, code, height, width, _ in rows[1:]:
        assert (int(height), int(width)) == SMALL
        numbers = list(map(int, code.split()))
        for start, length in zip(numbers[::2], numbers[1::2], strict=True):
            pixels = set(range(start, start + length))
            assert not pixels & taken.setdefault(image_id, set())
            taken[image_id] |= pixels
    assert all(min(p) >= 1 and max(p) <= SMALL[0] * SMALL[1] for p in taken.values())


def test_dsb2018_is_deterministic(tmp_path: Path) -> None:
    def write(name: str, **options: Any) -> dict[str, bytes]:
        usual: dict[str, Any] = {"images": 3, "size": SMALL, "seed": 5, "test_images": 1}
        return files(write_dsb2018(tmp_path / name, **(usual | options)))

    first = write("first")
    assert write("again") == first
    assert not set(write("other", seed=6)) & {name for name in first if name.endswith(".png")}
    assert first.items() <= write("more", images=4).items()
    zipped = write("zipped", zipped=True)
    assert set(zipped) == {"stage1_train.zip", "stage1_test.zip", "stage1_solution.csv"}
    assert write("zipped again", zipped=True) == zipped
    unpacked = {"stage1_solution.csv": zipped["stage1_solution.csv"]}
    for stage in ("stage1_train", "stage1_test"):
        with zipfile.ZipFile(tmp_path / "zipped" / f"{stage}.zip") as archive:
            unpacked |= {f"{stage}/{name}": archive.read(name) for name in archive.namelist()}
    assert unpacked == first


def test_sizes_differ(tmp_path: Path) -> None:
    root = write_folder(tmp_path, images=5)
    shapes = {read(path).shape for path in (root / "images").iterdir()}
    assert len(shapes) > 1


def test_writes_once(tmp_path: Path) -> None:
    write_dsb2018(tmp_path, images=1, size=SMALL)
    with pytest.raises(UserError, match="stage1_train: exists already"):
        write_dsb2018(tmp_path, images=1, size=SMALL)
    write_folder(tmp_path, images=1, size=SMALL)
    with pytest.raises(UserError, match="images: exists already"):
        write_folder(tmp_path, images=1, size=SMALL)


FORMATS = [
    *[(suffix, bits, c) for suffix in (".png", ".tif") for bits in (8, 16) for c in (1, 2, 3, 4)],
    *[(".bmp", 8, channels) for channels in (1, 3, 4)],
    *[(".jpg", 8, channels) for channels in (1, 3)],
]


@pytest.mark.parametrize(("suffix", "bits", "channels"), FORMATS)
def test_folder_formats(tmp_path: Path, suffix: str, bits: Any, channels: Any) -> None:
    root = write_folder(
        tmp_path, 2, 0, "labels", suffix, bits, channels, size=SMALL, kind="histology"
    )
    mask_suffix = ".tif" if suffix == ".tif" else ".png"
    names = ["field_0000", "field_0001"]
    assert sorted(p.name for p in (root / "images").iterdir()) == [n + suffix for n in names]
    assert sorted(p.name for p in (root / "masks").iterdir()) == [n + mask_suffix for n in names]
    image = read(root / "images" / f"field_0000{suffix}")
    # OpenCV turns gray and alpha into BGRA on reading.
    read_channels = 4 if (suffix, channels) == (".png", 2) else channels
    if suffix == ".bmp":  # OpenCV 4.10 reads no alpha, so the header must tell of it
        header = (root / "images/field_0000.bmp").read_bytes()[:32]
        assert int.from_bytes(header[28:30], "little") == 8 * channels
        channels = read_channels = image.shape[2] if channels == 4 else channels
    assert image.shape == (SMALL if channels == 1 else (*SMALL, read_channels))
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    if channels in (2, 4):
        assert (image[..., -1] == np.iinfo(image.dtype).max).all()
        image = image[..., :-1]
    if bits == 16:
        assert 1000 < image.max() <= 4095
        assert np.unique(image).size > 256  # not 8 bits in a wider type
    # Histology is redder than green, whatever order the format keeps.
    if channels >= 3:
        red, green = image[..., 0 if suffix == ".tif" else 2], image[..., 1]
        assert red.mean() > green.mean()
    labels = read(root / "masks" / f"field_0000{mask_suffix}")
    assert labels.dtype == np.uint16 and labels.shape == SMALL
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_folder_masks_agree(tmp_path: Path, suffix: str) -> None:
    kinds: tuple[Literal["binary", "labels", "objects"], ...] = ("binary", "labels", "objects")
    for masks in kinds:
        write_folder(tmp_path / masks, 1, 0, masks, suffix, size=SMALL)
    labels = read(tmp_path / "labels" / "masks" / f"field_0000{suffix}")
    binary = read(tmp_path / "binary" / "masks" / f"field_0000{suffix}")
    objects = sorted((tmp_path / "objects" / "masks" / "field_0000").iterdir())
    assert binary.dtype == np.uint8
    np.testing.assert_array_equal(binary, (labels > 0) * 255)
    assert len(objects) == labels.max()
    for label, path in enumerate(objects, start=1):
        np.testing.assert_array_equal(read(path), (labels == label) * 255)
    assert files(tmp_path / "labels" / "images") == files(tmp_path / "binary" / "images")


@pytest.mark.parametrize(
    ("suffix", "bits", "channels"),
    [(".gif", 8, 3), (".jpg", 16, 3), (".bmp", 16, 1), (".jpg", 8, 4), (".bmp", 8, 2)],
)
def test_folder_refuses(tmp_path: Path, suffix: str, bits: Any, channels: Any) -> None:
    with pytest.raises(ValueError, match="cannot hold"):
        write_folder(tmp_path, suffix=suffix, bits=bits, channels=channels)
    assert not any(tmp_path.iterdir())


def test_negative_seed(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="non-negative"):
        write_dsb2018(tmp_path, images=1, seed=-1)


def test_dic_hela_layout(tmp_path: Path) -> None:
    root = write_dic_hela(tmp_path, 13, SMALL)
    assert [path.name for path in root.iterdir()] == ["DIC-C2DH-HeLa"]
    found = {name.split("/", 1)[1]: root / name for name in files(root)}
    counts = {"01": 7, "02": 6}
    wanted = {f"{s}/t{t:03}.tif" for s in counts for t in range(counts[s])}
    wanted |= {f"{s}_ST/SEG/man_seg{t:03}.tif" for s in counts for t in range(counts[s])}
    wanted |= {f"{s}_GT/TRA/man_track{t:03}.tif" for s in counts for t in range(counts[s])}
    gold = {f"{s}_GT/SEG/man_seg{t:03}.tif" for s in counts for t in (1, 4)}
    assert set(found) == wanted | gold
    for name in gold:
        drawn = read(found[name], True)
        silver = read(found[name.replace("GT", "ST")], True)
        marks = read(found[name.replace("SEG/man_seg", "TRA/man_track")], True)
        assert drawn.dtype == silver.dtype == marks.dtype == np.uint16
        ids, others = set(np.unique(drawn).tolist()), set(np.unique(silver).tolist())
        assert ids < others if name.endswith("4.tif") else ids == others
        assert max(others) >= len(others)  # with gaps
        assert (drawn[(drawn > 0) & (marks > 0)] == marks[(drawn > 0) & (marks > 0)]).all()
        outlines = drawn[np.isin(silver, list(ids)) & (silver > 0)]
        assert 0.9 < (outlines > 0).mean() < 1  # nearly the same, not the same
    assert {read(path, True).dtype for name, path in found.items() if "/t" in name} == {
        np.dtype("u1")
    }


def test_bbbc039_layout(tmp_path: Path) -> None:
    root = write_bbbc039(tmp_path, 8, (64, 80))
    images, masks = (sorted((root / name).iterdir()) for name in ("images", "masks"))
    assert [p.stem for p in images] == [p.stem for p in masks] and len(images) == 8
    most, apart = [], 0
    for image, mask in zip(map(read, images), map(read, masks), strict=True):
        assert image.dtype == np.uint16 and 500 < image.max() <= 4095
        assert mask.shape == (64, 80, 4) and mask.dtype == np.uint8
        assert not mask[..., :2].any() and (mask[..., 3] == 255).all()
        red = mask[..., 2]
        most.append(int(red.max()))
        apart += label_values(red).max() - label_values((red > 0).astype(np.uint8)).max()
    assert apart > 10  # nuclei that touch differ in their values
    assert most[1] == 0 and all(1 <= value <= 9 for value in most[:1] + most[2:])
    counts = {p.stem: p.read_text().count(".png\n") for p in (root / "metadata").iterdir()}
    assert counts == {"training": 4, "validation": 2, "test": 2}


def test_nerve_layout(tmp_path: Path) -> None:
    root = write_ultrasound_nerve(tmp_path, 7, SMALL, subjects=3)
    frames = {(1, 1), (1, 2), (1, 3), (2, 1), (2, 2), (3, 1), (3, 2)}
    wanted = {f"train/{s}_{i}{end}.tif" for s, i in frames for end in ("", "_mask")}
    assert set(files(root)) == wanted | {"train_masks.csv"}
    with open(root / "train_masks.csv", newline="") as file:
        rows = list(csv.DictReader(file))
    assert {(int(row["subject"]), int(row["img"])) for row in rows} == frames
    for row in rows:
        mask = read(root / "train" / f"{row['subject']}_{row['img']}_mask.tif", True)
        assert mask.dtype == np.uint8 and set(np.unique(mask)) <= {0, 255}
        assert row["pixels"] == slow_rle(mask)
        assert mask.any() or row["img"] != "1"


@pytest.mark.parametrize("write", [write_dic_hela, write_bbbc039, write_ultrasound_nerve])
def test_archives_hold_the_same(tmp_path: Path, write: Any) -> None:
    write(tmp_path / "a", 6, SMALL, 5)
    write(tmp_path / "b", 6, SMALL, 5, zipped=True)
    write(tmp_path / "c", 6, SMALL, 6)
    first, other = files(tmp_path / "a"), files(tmp_path / "c")
    unpacked: dict[str, bytes] = {}
    for path in (tmp_path / "b").iterdir():
        if path.suffix != ".zip":
            unpacked[path.name] = path.read_bytes()
            continue
        with zipfile.ZipFile(path) as archive:
            unpacked |= {name: archive.read(name) for name in archive.namelist()}
    assert unpacked == first != other
    with pytest.raises(UserError, match="exists already; choose another folder or remove it"):
        write(tmp_path / "a", 6, SMALL)
    with pytest.raises(ValueError, match="at least 32"):
        write(tmp_path / "d", 6, (64, 31))
    with pytest.raises(ValueError, match="non-negative"):
        write(tmp_path / "e", 6, SMALL, -1)
