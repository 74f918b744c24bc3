"""The synthetic data must be right before anything measured on it can be."""

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import Any, get_args

import cv2
import numpy as np
import pytest
import tifffile

from segmentation.__main__ import main
from segmentation.datasets import synthetic
from segmentation.datasets.folder import FolderDataset
from segmentation.datasets.synthetic_cells import film
from segmentation.datasets.synthetic_classes import NAMES, cells_of_classes
from segmentation.datasets.synthetic_nerve import subject
from segmentation.datasets.synthetic_nuclei import Kind, in_levels, make_nuclei
from segmentation.errors import UserError
from tests.helpers import refusal

KINDS: tuple[Kind, ...] = get_args(Kind)
SMALL = (48, 64)


def generator(*seed: int) -> np.random.Generator:
    return np.random.default_rng(seed)


def files(root: Path) -> dict[str, bytes]:
    return {p.relative_to(root).as_posix(): p.read_bytes() for p in root.rglob("*") if p.is_file()}


def read(path: Path) -> np.ndarray:
    if path.suffix == ".tif":
        return np.asarray(tifffile.imread(path))
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def contacts(labels: np.ndarray) -> int:
    """How many neighbours belong to two objects."""
    pairs = ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1]))
    return sum(int(((a != b) & (a > 0) & (b > 0)).sum()) for a, b in pairs)


def whole_objects(labels: np.ndarray) -> Iterable[int]:
    """The ids, each checked to be one 4-connected region of 20 pixels or more."""
    ids = np.unique(labels[labels > 0])
    for label in ids:
        mask = (labels == label).astype(np.uint8)
        assert mask.sum() >= 20 and cv2.connectedComponents(mask, connectivity=4)[0] == 2
    return [int(label) for label in ids]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("size", [(32, 32), (33, 90), (128, 120)])
def test_nuclei(kind: Kind, size: tuple[int, int]) -> None:
    for seed in range(6):
        image, labels = make_nuclei(generator(seed), *size, kind)
        assert image.shape == (*size, 3) and image.dtype == np.uint8
        assert labels.shape == size and labels.dtype == np.int32
        assert whole_objects(labels) == list(range(1, labels.max() + 1)) != []
    again, other = (make_nuclei(generator(seed), *size, kind)[0] for seed in (5, 6))
    assert (again == image).all() and (other != image).any()
    values = make_nuclei(generator(0), 96, 96, kind)[0].astype(int)
    assert (np.ptp(values, axis=2).max() == 0) == (kind != "histology")
    assert np.ptp(values) > 40 and (np.median(values) > 100) == (kind != "fluorescence")


def test_film() -> None:
    """Cells that touch, move a little, keep their ids, and are seen by their relief alone."""
    frames, again = (list(film(generator(0), 10, (96, 120))) for _ in range(2))
    for (image, labels), (same, _) in zip(frames, again, strict=True):
        assert image.dtype == np.uint8 and labels.dtype == np.int32
        assert (image == same).all() and 0.2 < (labels > 0).mean() < 0.8
        cells, ground = image[labels > 0].astype(float), image[labels == 0].astype(float)
        assert abs(cells.mean() - ground.mean()) < 8 and cells.std() > 1.3 * ground.std()
    assert sum(contacts(labels) for _, labels in frames) > 100
    for seed in range(6):
        assert all(whole_objects(labels) for _, labels in film(generator(seed), 8, SMALL))
    first, second, last = (frames[i][1] for i in (0, 1, -1))

    def iou(one: np.ndarray, other: np.ndarray) -> float:
        return float(((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum())

    assert iou(first, second) > 0.85 and iou(first, last) < iou(first, second)
    kept = [iou(first == n, second == n) for n in np.unique(first)[1:] if (second == n).any()]
    assert np.median(kept) > 0.8


def test_subject() -> None:
    """Near-duplicates within a subject, empty frames, a contradiction."""
    shown = 0
    for seed in range(4):
        frames, again = (list(subject(generator(seed), 8, (84, 116))) for _ in range(2))
        for (image, mask), (same, _) in zip(frames, again, strict=True):
            assert image.dtype == np.uint8 and mask.dtype == np.bool_ and (image == same).all()
            assert cv2.connectedComponents(mask.astype(np.uint8))[0] <= 2
            assert not mask.any() or 0.01 < mask.mean() < 0.1
        shown += sum(int(mask.any()) for _, mask in frames[2:])
        first, twin = (image.astype(float) for image, _ in frames[:2])
        assert np.abs(first - twin).mean() < 12  # the same picture, a contradicting mask
        assert frames[0][1].any() and not frames[1][1].any()
        other = next(subject(generator(seed + 9), 1, (84, 116)))[0].astype(float)
        assert np.abs(first - other).mean() > 25
    assert 6 <= shown <= 20


FORMATS = [
    *[(suffix, bits, c) for suffix in (".png", ".tif") for bits in (8, 16) for c in (1, 2, 3, 4)],
    *[(".bmp", 8, 1), (".bmp", 8, 3), (".jpg", 8, 1), (".jpg", 8, 3)],
]


@pytest.mark.parametrize(("suffix", "bits", "channels"), FORMATS)
def test_folder_formats(tmp_path: Path, suffix: str, bits: Any, channels: Any) -> None:
    root = synthetic.write_folder(
        tmp_path, 2, 0, "labels", suffix, bits, channels, size=SMALL, kind="histology"
    )
    image = read(root / "images" / f"field_0000{suffix}")
    if suffix == ".png" and channels == 2:  # which OpenCV reads as BGRA
        image = image[..., [0, 3]]
    assert image.shape == (SMALL if channels == 1 else (*SMALL, channels))
    assert image.dtype == (np.uint8 if bits == 8 else np.uint16)
    assert channels % 2 or (image[..., -1] == np.iinfo(image.dtype).max).all()
    assert bits == 8 or 1000 < image[..., :3].min(-1).max() <= 4095
    if channels >= 3:  # histology is redder than green, whatever order the format keeps
        red = image[..., 0 if suffix == ".tif" else 2]
        assert red.mean() > image[..., 1].mean()
    labels = read(root / "masks" / f"field_0000{'.tif' if suffix == '.tif' else '.png'}")
    assert labels.dtype == np.uint16 and labels.shape == SMALL
    assert np.unique(labels).tolist() == list(range(labels.max() + 1))


# SHA-256 of all pixels of three images of each layout, seed 5: published scores depend on them.
PIXELS = {
    synthetic.write_dsb2018: "5ec8f74232a151d4",
    synthetic.write_dsb2018_stardist: "5f1d4c681e98c750",
    synthetic.write_folder: "f3414c27974a3162",
    synthetic.write_dic_hela: "c0f489b785751d2e",
    synthetic.write_bbbc039: "749a1498f460943b",
    synthetic.write_ultrasound_nerve: "a406aba0717f6246",
}


@pytest.mark.parametrize("write", PIXELS)
def test_the_same_seed(tmp_path: Path, write: Any) -> None:
    first, again, other = (
        files(write(tmp_path / name, 3, seed=seed, size=SMALL))
        for name, seed in (("a", 5), ("b", 5), ("c", 6))
    )
    assert first == again != other
    pixels = hashlib.sha256()
    for path in sorted((tmp_path / "a").rglob("*.[pt][ni][gf]")):
        pixels.update(read(path).tobytes())
    assert pixels.hexdigest()[:16] == PIXELS[write]
    with pytest.raises(UserError, match="exists already; choose another folder or remove it"):
        write(tmp_path / "a", 3, size=SMALL)
    with pytest.raises(ValueError, match="at least 32"):
        write(tmp_path / "d", 3, size=(64, 31))
    with pytest.raises(ValueError, match="non-negative"):
        write(tmp_path / "e", 3, size=SMALL, seed=-1)


def test_the_command(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    arguments = ["synthetic", "--output", str(tmp_path / "a"), "--images", "5"]
    assert main([*arguments, "--layout", "folder"]) == 0
    assert capsys.readouterr().out == f"5 images in {tmp_path / 'a'}\n"
    assert main(["synthetic", "--output", str(tmp_path / "b"), "--images", "1"]) == 0
    sizes = {read(path).shape for path in (tmp_path / "a" / "images").iterdir()}
    assert len(sizes) > 1 and (tmp_path / "b" / "stage1_train").is_dir()
    assert "--images 0: must be at least 1" in refusal(capsys, [*arguments[:3], "--images", "0"])
    (tmp_path / "file").touch()
    line = refusal(capsys, ["synthetic", "--output", str(tmp_path / "file" / "x")])
    assert "cannot be written (Not a directory); choose a folder" in line


def test_cells_of_classes_are_read_as_they_were_drawn(tmp_path: Path) -> None:
    root = synthetic.write_classes(tmp_path, 2, size=(64, 80))
    data = FolderDataset(root, mask_type="classes", classes=NAMES)
    for index, sample in enumerate(data):
        image, labels, classes = cells_of_classes(np.random.default_rng([0, 6, index]), (64, 80))
        np.testing.assert_array_equal(sample.image[..., 0], in_levels(image, 8))
        assert sample.classes is not None and sample.labels is not None
        np.testing.assert_array_equal(sample.classes[sample.labels], classes[labels])
        assert sample.labels.max() == labels.max()  # no two of one kind became one
    with pytest.raises(ValueError, match="at least 32"):
        cells_of_classes(np.random.default_rng(0), (16, 80))
