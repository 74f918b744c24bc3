"""Seeded synthetic images and truth, written in the layouts the dataset readers expect.

The same seed gives the same bytes with the same versions of numpy and OpenCV. An image of nuclei
depends on nothing but the seed, its index and the size asked for.
"""

import csv
import hashlib
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from segmentation.datasets.encode import encode, encode_lzw
from segmentation.datasets.synthetic_cells import film
from segmentation.datasets.synthetic_nerve import subject
from segmentation.datasets.synthetic_nuclei import Kind, Shape, make_nuclei, quantise, render
from segmentation.errors import UserError

__all__ = [
    "Kind",
    "make_nuclei",
    "rle_encode",
    "write_bbbc039",
    "write_dic_hela",
    "write_dsb2018",
    "write_folder",
    "write_ultrasound_nerve",
]

# About the mix of the real stage 1 data (75 % / 8 % / 17 %), with every kind among the first six.
_KINDS: tuple[Kind, ...] = (
    *("fluorescence", "histology", "fluorescence", "fluorescence", "brightfield", "fluorescence"),
    *("fluorescence", "fluorescence", "histology", "fluorescence", "fluorescence", "fluorescence"),
)
_SIZES = ((256, 256), (256, 320), (200, 260), (256, 256))
_TRAIN, _TEST, _FOLDER, _FILM, _SCREEN, _NECK = range(6)

# The channels and bits a format can hold.
_FORMATS = {
    ".png": ((1, 2, 3, 4), (8, 16)),
    ".tif": ((1, 2, 3, 4), (8, 16)),
    ".bmp": ((1, 3, 4), (8,)),
    ".jpg": ((1, 3), (8,)),
}


def rle_encode(mask: np.ndarray) -> str:
    """Run lengths of the nonzero pixels of an (H, W) mask of any dtype, as Kaggle writes them.

    Pixels count from 1 down the columns, then right: "1 3 10 5" are the pixels 1-3 and 10-14. An
    empty mask gives "".

    Raises:
        ValueError: The mask is not two-dimensional.
    """
    if mask.ndim != 2:
        raise ValueError(f"expected a mask of shape (H, W), got {mask.shape}")
    flat = np.pad((mask != 0).ravel(order="F").astype(np.int8), 1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return " ".join(f"{start} {end - start}" for start, end in pairs)


def write_dsb2018(
    root: Path,
    images: int = 40,
    size: Shape | None = None,
    seed: int = 0,
    test_images: int = 0,
    *,
    zipped: bool = False,
) -> Path:
    """Write a data set in the layout of the 2018 Data Science Bowl, stage 1, and return `root`.

    `stage1_train/<id>/images/<id>.png` is RGBA uint8 with alpha 255, `stage1_train/<id>/masks/` has
    one 0/255 single-channel PNG per nucleus. Test images (`stage1_test/<id>/images/<id>.png`) are
    in part RGB or gray, as the official ones; their truth is `stage1_solution.csv`.

    Args:
        root: Folder to write to, made if absent.
        images: Number of training images.
        size: (height, width) of every image in pixels; sizes of about 256 that differ if None.
        seed: The data set to write, >= 0.
        test_images: Number of test images; 0 writes neither a test folder nor a solution.
        zipped: Write `stage1_train.zip` and `stage1_test.zip`, with `<id>/` at their top level as
            in the official archives, in place of the folders.

    Raises:
        UserError: `root` holds something of that name: two data sets in one would look like one.
        ValueError: A side is under 32 pixels or the seed is negative.
    """
    suffix = ".zip" if zipped else ""
    parts = [(_TRAIN, root / f"stage1_train{suffix}", images)]
    if test_images > 0:
        parts.append((_TEST, root / f"stage1_test{suffix}", test_images))
    _check_absent(root / "stage1_solution.csv", *(path for _, path, _ in parts))
    root.mkdir(parents=True, exist_ok=True)
    rows: list[list[str | int]] = [["ImageId", "EncodedPixels", "Height", "Width", "Usage"]]
    for part, path, count in parts:
        with _store(path) as put:
            for index in range(count):
                kind = _KINDS[index % len(_KINDS)]
                drawn, labels = _image_at(seed, part, index, size, kind)
                image, image_id = quantise(drawn, 8), _hash(seed, part, index)
                if part == _TRAIN or index % 2 == 0:
                    image = _with_alpha(image)
                elif index % len(_KINDS) == 5:
                    image = image[..., :1]
                put(f"{image_id}/images/{image_id}.png", encode(image))
                for label in range(1, labels.max() + 1):
                    if part == _TRAIN:
                        name = f"{image_id}/masks/{_hash(image_id, label)}.png"
                        put(name, encode(_binary(labels == label)))
                    else:
                        code = rle_encode(labels == label)
                        rows.append([image_id, code, *labels.shape, "Public"])
    if test_images > 0:
        with open(root / "stage1_solution.csv", "w", newline="", encoding="utf-8") as file:
            csv.writer(file, lineterminator="\n").writerows(rows)
    return root


def write_folder(
    root: Path,
    images: int = 12,
    seed: int = 0,
    masks: Literal["binary", "labels", "objects"] = "binary",
    suffix: str = ".png",
    bits: Literal[8, 16] = 8,
    channels: Literal[1, 2, 3, 4] = 3,
    *,
    size: Shape | None = None,
    kind: Kind = "fluorescence",
) -> Path:
    """Write images and truth of the same names, `images/NAME.ext` and `masks/NAME.ext`.

    Args:
        root: Folder to write to, made if absent; it is returned.
        images: Number of images.
        seed: The data set to write, >= 0.
        masks: "binary" (one file per image, uint8 0/255), "labels" (one file per image, uint16
            instance ids) or "objects" (a folder `masks/NAME` with one 0/255 file per nucleus).
        suffix: Of the images: .png, .tif, .jpg or .bmp. Masks are .tif beside .tif, else .png.
        bits: 16 writes uint16 that uses 12 bits (<= 4095), as cameras do; .png and .tif only.
        channels: 1 gray, 2 gray and alpha (.png, .tif), 3 RGB, 4 RGB and alpha (not .jpg). Alpha
            is opaque: the largest value of the dtype.
        size: (height, width) of every image in pixels; sizes of about 256 that differ if None.
        kind: Of every image; one folder is most often one experiment.

    Raises:
        UserError: `root` holds images or masks already.
        ValueError: The format cannot hold this, a side is under 32 pixels, or seed is negative.
    """
    allowed_channels, allowed_bits = _FORMATS.get(suffix, ((), ()))
    if channels not in allowed_channels or bits not in allowed_bits:
        raise ValueError(f"{suffix!r} cannot hold {channels} channels of {bits} bits")
    _check_absent(root / "images", root / "masks")
    mask_suffix = ".tif" if suffix == ".tif" else ".png"
    with _store(root) as put:
        for index in range(images):
            drawn, labels = _image_at(seed, _FOLDER, index, size, kind)
            if channels < 3:
                drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)[..., None]
            image = quantise(drawn, bits)
            if channels in (2, 4):
                image = _with_alpha(image)
            name = f"field_{index:04d}"
            put(f"images/{name}{suffix}", encode(image, suffix))
            truth = {f"masks/{name}": _binary(labels > 0)}
            if masks == "labels":
                truth = {f"masks/{name}": labels.astype(np.uint16)}
            elif masks == "objects":
                ids = range(1, labels.max() + 1)
                truth = {f"masks/{name}/{label:03d}": _binary(labels == label) for label in ids}
            for stem, mask in truth.items():
                put(stem + mask_suffix, encode(mask, mask_suffix))
    return root


def write_dic_hela(
    root: Path,
    images: int = 24,
    size: Shape = (256, 256),
    seed: int = 0,
    *,
    zipped: bool = False,
) -> Path:
    """Write two films in the layout of the Cell Tracking Challenge, `DIC-C2DH-HeLa`.

    `01/t000.tif` is uint8 gray, truth is uint16 ids that last over time (so a frame's have gaps):
    gold, `01_GT/SEG`, for every third frame from the second on, of which the last leaves cells out;
    silver, `01_ST/SEG`, for all, its outlines slightly smoothed; markers, `01_GT/TRA`. TIFF is LZW.

    Args:
        root: Folder to write to, made if absent; it is returned.
        images: Number of frames of both sequences.
        size: (height, width) in pixels.
        seed: The data set to write, >= 0.
        zipped: Write the official archive in place of its folder.

    Raises:
        UserError: `root` holds the data set already.
        ValueError: A side is under 32 pixels or the seed is negative.
    """
    name = "DIC-C2DH-HeLa"
    with _distribution(root, [name], zipped) as (put,):
        for number in (1, 2):
            frames = (images + 2 - number) // 2
            rng = np.random.default_rng([seed, _FILM, number])
            for time, (image, labels) in enumerate(film(rng, frames, size)):
                place, ids = f"{name}/{number:02}", np.where(labels, 3 * labels + 1, 0)
                truth = ids.astype(np.uint16)
                put(f"{place}/t{time:03}.tif", encode_lzw(image))
                silver = cv2.medianBlur(truth, 5)
                put(f"{place}_ST/SEG/man_seg{time:03}.tif", encode_lzw(silver))
                marks = truth * cv2.erode((labels > 0).astype(np.uint8), np.ones((5, 5)))
                put(f"{place}_GT/TRA/man_track{time:03}.tif", encode_lzw(marks))
                if time % 3 == 1:
                    if time + 3 >= frames:
                        truth[truth > np.median(np.unique(truth)[1:])] = 0
                    put(f"{place}_GT/SEG/man_seg{time:03}.tif", encode_lzw(truth))
    return root


def write_bbbc039(
    root: Path,
    images: int = 16,
    size: Shape = (260, 348),
    seed: int = 0,
    *,
    zipped: bool = False,
) -> Path:
    """Write a screen in the layout of BBBC039: `images`, `masks` and `metadata`.

    Images are uint16 TIFF that uses 12 bits; masks RGBA PNG with the instance id in red, ids reused
    for nuclei that do not touch. The second field is empty. Of four fields the lists give two to
    training and one each to validation and test. Each well has two fields.

    Args:
        root: Folder to write to, made if absent; it is returned.
        images: Number of fields, at least four for every list to have one.
        size: (height, width) in pixels.
        seed: The data set to write, >= 0.
        zipped: Write the three official archives in place of their folders.

    Raises:
        UserError: `root` holds one of the parts already.
        ValueError: A side is under 32 pixels or the seed is negative.
    """
    lists: dict[str, list[str]] = {"training": [], "validation": [], "test": []}
    parts = ["images", "masks", "metadata"]
    with _distribution(root, parts, zipped) as (put_image, put_mask, put_list):
        for index in range(images):
            drawn, labels = _image_at(seed, _SCREEN, index, size, "fluorescence")
            image = quantise(drawn[..., 0], 16)
            if index == 1:  # all but the noise of its background
                ground = image[labels == 0]
                image = np.random.default_rng([seed, index]).choice(ground, labels.shape)
                labels = np.zeros_like(labels)
            well, code = f"{chr(65 + index // 48)}{1 + index // 2 % 24:02}", _hash(seed, index)
            name = f"IXMtest_{well}_s{1 + index % 2}_w1{code[:8].upper()}"
            red = _reused(labels)
            mask = np.dstack([red, np.zeros_like(red), np.zeros_like(red)])
            put_image(f"images/{name}.tif", encode(image, ".tif"))
            put_mask(f"masks/{name}.png", encode(_with_alpha(mask)))
            part = ("training", "training", "validation", "test")[index % 4]
            lists[part].append(f"{name}.png\n")
        for part, names in lists.items():
            put_list(f"metadata/{part}.txt", "".join(names).encode())
    return root


def write_ultrasound_nerve(
    root: Path,
    images: int = 48,
    size: Shape = (420, 580),
    seed: int = 0,
    subjects: int = 6,
    *,
    zipped: bool = False,
) -> Path:
    """Write ultrasound in the layout of Kaggle's competition: `train` and `train_masks.csv`.

    `train/S_I.tif` (uint8 gray, LZW) shows subject S, `train/S_I_mask.tif` is 0/255, in part empty.
    Frames of a subject are nearly the same; `S_2` repeats `S_1` with a contradicting, empty mask.

    Args:
        root: Folder to write to, made if absent; it is returned.
        images: Number of frames of all subjects.
        size: (height, width) in pixels.
        seed: The data set to write, >= 0.
        subjects: Number of subjects.
        zipped: Write `train.zip` in place of the folder.

    Raises:
        UserError: `root` holds one of the two already.
        ValueError: A side is under 32 pixels or the seed is negative.
    """
    rows = ["subject,img,pixels\n"]
    _check_absent(root / "train_masks.csv")
    with _distribution(root, ["train"], zipped) as (put,):
        for person in range(1, subjects + 1):
            frames = (images + subjects - person) // subjects
            rng = np.random.default_rng([seed, _NECK, person])
            for number, (image, mask) in enumerate(subject(rng, frames, size), start=1):
                put(f"train/{person}_{number}.tif", encode_lzw(image))
                put(f"train/{person}_{number}_mask.tif", encode_lzw(_binary(mask)))
                rows.append(f"{person},{number},{rle_encode(mask)}\n")
    (root / "train_masks.csv").write_text("".join(rows), encoding="utf-8")
    return root


def _check_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; choose another folder or remove it")


@contextmanager
def _distribution(
    root: Path, names: Sequence[str], zipped: bool
) -> Iterator[list[Callable[[str, bytes], None]]]:
    """A writer for each folder of a distribution, or for its archive, with that folder inside."""
    _check_absent(*(root / f"{name}{'.zip' if zipped else ''}" for name in names))
    root.mkdir(parents=True, exist_ok=True)
    with ExitStack() as stack:
        paths = [root / f"{name}.zip" if zipped else root for name in names]
        yield [stack.enter_context(_store(path)) for path in paths]


@contextmanager
def _store(path: Path) -> Iterator[Callable[[str, bytes], None]]:
    """Give a function that writes named files into a folder, or into an archive if it is a .zip."""

    def put_file(name: str, data: bytes) -> None:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_bytes(data)

    def put_member(name: str, data: bytes) -> None:
        member = zipfile.ZipInfo(name)  # dated 1980: the archive's bytes depend on the seed alone
        member.create_system = 3
        member.external_attr = 0o100644 << 16  # without it `unzip` makes files nobody may read
        archive.writestr(member, data)

    if path.suffix == ".zip":
        with zipfile.ZipFile(path, "w") as archive:
            yield put_member
    else:
        path.mkdir(parents=True, exist_ok=True)
        yield put_file


def _image_at(
    seed: int, part: int, index: int, size: Shape | None, kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, part, index])
    drawn_size = _SIZES[rng.integers(len(_SIZES))]
    return render(rng, size or drawn_size, kind)


def _hash(*parts: object) -> str:
    return hashlib.sha256("/".join(map(str, parts)).encode()).hexdigest()


def _binary(mask: np.ndarray) -> np.ndarray:
    return np.where(mask, 255, 0).astype(np.uint8)


def _with_alpha(image: np.ndarray) -> np.ndarray:
    return np.pad(image, ((0, 0), (0, 0), (0, 1)), constant_values=np.iinfo(image.dtype).max)


def _reused(labels: np.ndarray) -> np.ndarray:
    """(H, W) uint8: as few values as keep nuclei apart that touch (8-connected)."""
    red = np.zeros(labels.shape, np.uint8)
    for label in range(1, labels.max() + 1):
        mask = (labels == label).astype(np.uint8)
        beside = set(np.unique(red[cv2.dilate(mask, np.ones((3, 3))) > 0]).tolist())
        red[mask > 0] = next(value for value in range(1, 256) if value not in beside)
    return red
