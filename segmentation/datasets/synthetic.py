"""Seeded synthetic images and truth, written in the layouts that the readers expect.

The same seed gives the same bytes with the same versions of numpy and OpenCV. An image of nuclei
depends on nothing but the seed, its index and the size asked for. Writers make the folder and
return it. A side under 32 pixels or a negative seed is a ``ValueError``.
"""

import hashlib
import shutil
from pathlib import Path
from typing import Literal

import cv2
import imagecodecs
import numpy as np
import tifffile

from segmentation.datasets.synthetic_cells import film
from segmentation.datasets.synthetic_classes import cells_of_classes
from segmentation.datasets.synthetic_nerve import subject
from segmentation.datasets.synthetic_nuclei import Kind, Shape, in_levels, render_nuclei
from segmentation.errors import UserError
from segmentation.io.files import unwritten
from segmentation.io.run_lengths import rle_encode
from segmentation.progress import progress

# About the mix of the real stage 1 data (75 % / 8 % / 17 %), with every kind among the first six.
_KINDS: tuple[Kind, ...] = (
    *("fluorescence", "histology", "fluorescence", "fluorescence", "brightfield", "fluorescence"),
    *("fluorescence", "fluorescence", "histology", "fluorescence", "fluorescence", "fluorescence"),
)
_SIZES = ((256, 256), (256, 320), (200, 260), (256, 256))
Layout = Literal[
    "dsb2018", "dsb2018_stardist", "folder", "classes", "dic_hela", "bbbc039", "ultrasound_nerve"
]
_TRAIN, _TEST, _FOLDER, _FILM, _SCREEN, _NECK, _CLASSES, _STARDIST = range(8)


def synthetic(output: Path, layout: Layout = "dsb2018", images: int = 60, seed: int = 0) -> None:
    """Make synthetic images (nuclei, cells, ultrasound) with truth to try everything with.

    Args:
        output: Folder; must not hold such data yet.
        layout: Whose files they look like; folder: images/ and masks/; classes: the same with three
            kinds of cells, 1 round, 2 long, 3 large.
        images: How many.
        seed: Another seed gives other images.
    """
    for name, value, least in (("images", images, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    before = {*output.glob("*")}
    try:
        with unwritten(output):
            globals()[f"write_{layout}"](output, images, seed=seed)
    except BaseException:  # half a data set would be taken for one
        for path in {*output.glob("*")} - before:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
        raise
    print(f"{images} images in {output}")


def write_dsb2018(
    root: Path, images: int = 40, size: Shape | None = None, seed: int = 0, test_images: int = 0
) -> Path:
    """Write the layout of the 2018 Data Science Bowl, stage 1; by default sizes differ, about 256.

    Images are RGBA; test images are in part RGB or gray, as the official ones; their truth is
    ``stage1_solution.csv``.
    """
    solution, rows = root / "stage1_solution.csv", ["ImageId,EncodedPixels,Height,Width,Usage\n"]
    folders = {_TRAIN: root / "stage1_train", _TEST: root / "stage1_test"}
    _check_absent(solution, *folders.values())
    numbers = [(_TRAIN, index) for index in range(images)]
    numbers += [(_TEST, index) for index in range(test_images)]
    for part, index in progress(numbers, "drawing"):
        drawn, labels = _image_at(seed, part, index, size, _KINDS[index % len(_KINDS)])
        image, image_id = in_levels(drawn, 8), _hash(seed, part, index)
        if part == _TRAIN or index % 2 == 0:
            image = _with_alpha(image)
        elif index % len(_KINDS) == 5:
            image = image[..., :1]
        folder, (height, width) = folders[part] / image_id, labels.shape
        _write_file(folder / f"images/{image_id}.png", image)
        for label in range(1, labels.max() + 1):
            if part == _TRAIN:
                path = folder / f"masks/{_hash(image_id, label)}.png"
                _write_file(path, _binary(labels == label))
            else:
                code = rle_encode(labels == label)
                rows.append(f"{image_id},{code},{height},{width},Public\n")
    if test_images:
        _write_file(solution, "".join(rows))
    return root


def write_dsb2018_stardist(
    root: Path, images: int = 40, size: Shape | None = None, seed: int = 0
) -> Path:
    """Write StarDist's part of DSB2018: gray fluorescence, label maps; a quarter are test images.

    Ids have gaps.
    """
    _check_absent(root / "dsb2018")
    for index in progress(range(images), "drawing"):
        drawn, labels = _image_at(seed, _STARDIST, index, size, "fluorescence")
        part = "test" if index >= images - images // 4 else "train"
        image, truth = in_levels(drawn[..., 0], 8), (2 * labels).astype(np.uint16)
        for kind, pixels in (("images", image), ("masks", truth)):
            _write_file(root / "dsb2018" / part / kind / f"{_hash(seed, index)}.tif", pixels)
    return root


def write_folder(
    root: Path, images: int = 12, seed: int = 0,
    masks: Literal["binary", "labels", "objects"] = "binary", suffix: str = ".png",
    bits: Literal[8, 16] = 8, channels: Literal[1, 2, 3, 4] = 3,
    *, size: Shape | None = None, kind: Kind = "fluorescence",
) -> Path:  # fmt: skip
    """Write images and truth of the same names, ``images/NAME.ext`` and ``masks/NAME.ext``.

    Args:
        masks: "binary" (one file per image, uint8 0/255), "labels" (one file per image, uint16
            instance ids) or "objects" (a folder ``masks/NAME`` with one 0/255 file per nucleus).
        suffix: Of the images: .png, .tif, .jpg or .bmp. Masks are .tif beside .tif, else .png.
        bits: 16 writes uint16 that uses 12 bits, as cameras do; .png and .tif only.
        channels: 1 gray, 2 gray and alpha (.png, .tif), 3 RGB, 4 RGB and alpha (not .jpg).
        kind: Of every image; one folder is most often one experiment.
    """
    _check_absent(root / "images", root / "masks")
    end = ".tif" if suffix == ".tif" else ".png"
    for index in progress(range(images), "drawing"):
        drawn, labels = _image_at(seed, _FOLDER, index, size, kind)
        if channels < 3:
            drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)[..., None]
        image, name = in_levels(drawn, bits), f"field_{index:04d}"
        _write_file(root / f"images/{name}{suffix}", image if channels % 2 else _with_alpha(image))
        if masks == "objects":
            for label in range(1, labels.max() + 1):
                _write_file(root / f"masks/{name}/{label:03d}{end}", _binary(labels == label))
        else:
            truth = _binary(labels > 0) if masks == "binary" else labels.astype(np.uint16)
            _write_file(root / f"masks/{name}{end}", truth)
    return root


def write_classes(root: Path, images: int = 40, seed: int = 0, size: Shape = (192, 192)) -> Path:
    """Write three kinds of cells, 8-bit gray images and maps of their classes 1…3 as masks."""
    _check_absent(root / "images", root / "masks")
    for index in progress(range(images), "drawing"):
        rng = np.random.default_rng([seed, _CLASSES, index])
        image, labels, classes = cells_of_classes(rng, size)
        name = f"field_{index:04d}.png"
        _write_file(root / "images" / name, in_levels(image, 8))
        _write_file(root / "masks" / name, classes[labels])
    return root


def write_dic_hela(root: Path, images: int = 24, size: Shape = (256, 256), seed: int = 0) -> Path:
    """Write two films in the layout of the Cell Tracking Challenge, ``DIC-C2DH-HeLa``.

    Ids last over time (so a frame's have gaps). Gold truth is of every third frame, and leaves
    cells out of the last; silver is of all, its outlines slightly smoothed; markers are in ``TRA``.
    """
    _check_absent(root / "DIC-C2DH-HeLa")
    for number in (1, 2):
        frames, place = (images + 2 - number) // 2, root / f"DIC-C2DH-HeLa/{number:02}"
        gold, silver = Path(f"{place}_GT"), Path(f"{place}_ST")
        rng = np.random.default_rng([seed, _FILM, number])
        drawn = progress(film(rng, frames, size), "drawing", frames)
        for time, (image, labels) in enumerate(drawn):
            truth = np.where(labels, 3 * labels + 1, 0).astype(np.uint16)
            _write_file(place / f"t{time:03}.tif", image, lzw=True)
            _write_file(silver / f"SEG/man_seg{time:03}.tif", cv2.medianBlur(truth, 5), lzw=True)
            marks = truth * cv2.erode((labels > 0).astype(np.uint8), np.ones((5, 5)))
            _write_file(gold / f"TRA/man_track{time:03}.tif", marks, lzw=True)
            if time % 3 == 1:
                if time + 3 >= frames:
                    truth[truth > np.median(np.unique(truth)[1:])] = 0
                _write_file(gold / f"SEG/man_seg{time:03}.tif", truth, lzw=True)
    return root


def write_bbbc039(root: Path, images: int = 16, size: Shape = (260, 348), seed: int = 0) -> Path:
    """Write a screen in the layout of BBBC039: ``images``, ``masks`` and ``metadata``.

    Images use 12 of 16 bits; masks have the instance id in red, reused for nuclei that do not
    touch. The second field is empty; each well has two fields.
    """
    _check_absent(*(root / name for name in ("images", "masks", "metadata")))
    lists = {"training": "", "validation": "", "test": ""}
    for index in progress(range(images), "drawing"):
        drawn, labels = _image_at(seed, _SCREEN, index, size, "fluorescence")
        image = in_levels(drawn[..., 0], 16)
        if index == 1:  # all but the noise of its background
            ground = image[labels == 0]
            image = np.random.default_rng([seed, index]).choice(ground, labels.shape)
            labels = np.zeros_like(labels)
        well, code = f"{chr(65 + index // 48)}{1 + index // 2 % 24:02}", _hash(seed, index)
        name = f"IXMtest_{well}_s{1 + index % 2}_w1{code[:8].upper()}"
        mask = np.pad(_reused(labels)[..., None], ((0, 0), (0, 0), (0, 2)))
        _write_file(root / f"images/{name}.tif", image)
        _write_file(root / f"masks/{name}.png", _with_alpha(mask))
        lists[("training", "training", "validation", "test")[index % 4]] += f"{name}.png\n"
    for part, names in lists.items():
        _write_file(root / f"metadata/{part}.txt", names)
    return root


def write_ultrasound_nerve(
    root: Path, images: int = 48, size: Shape = (420, 580), seed: int = 0, subjects: int = 6
) -> Path:
    """Write ultrasound in the layout of Kaggle's competition: ``train`` and ``train_masks.csv``.

    Frames of a subject are nearly the same; ``S_2`` repeats ``S_1`` with a contradicting, empty
    mask.
    """
    rows = ["subject,img,pixels\n"]
    _check_absent(root / "train", root / "train_masks.csv")
    for person in progress(range(1, subjects + 1), "drawing"):
        frames = (images + subjects - person) // subjects
        rng = np.random.default_rng([seed, _NECK, person])
        for number, (image, mask) in enumerate(subject(rng, frames, size), start=1):
            _write_file(root / f"train/{person}_{number}.tif", image, lzw=True)
            _write_file(root / f"train/{person}_{number}_mask.tif", _binary(mask), lzw=True)
            rows.append(f"{person},{number},{rle_encode(mask)}\n")
    _write_file(root / "train_masks.csv", "".join(rows))
    return root


def _check_absent(*paths: Path) -> None:
    """Two data sets in one would look like one."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; choose another folder or remove it")


def _write_file(path: Path, content: np.ndarray | str, lzw: bool = False) -> None:
    """Write text, or (H, W) or (H, W, C) uint8 or uint16 pixels: C = 2 is gray and alpha, 4 RGBA.

    TIFF is not compressed, or by LZW as most microscopes do it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    if isinstance(content, str):
        path.write_text(content, encoding="utf-8", newline="\n")
        return
    channels = 1 if content.ndim == 2 else content.shape[2]
    if path.suffix == ".tif" and not lzw:  # OpenCV writes no gray and alpha, nor names the alpha
        tifffile.imwrite(
            path,
            content if channels > 1 else content.reshape(content.shape[:2]),
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
        )
    elif channels == 2:
        path.write_bytes(imagecodecs.png_encode(content))
    else:
        order = [2, 1, 0, 3][:channels] if channels > 2 else [0]  # OpenCV's: BGR or BGRA
        pixels = np.ascontiguousarray(np.atleast_3d(content)[..., order])
        options = [cv2.IMWRITE_TIFF_COMPRESSION, 5] if lzw else []
        path.write_bytes(cv2.imencode(path.suffix, pixels, options)[1].tobytes())


def _image_at(
    seed: int, part: int, index: int, size: Shape | None, kind: Kind
) -> tuple[np.ndarray, np.ndarray]:
    rng = np.random.default_rng([seed, part, index])
    usual = _SIZES[rng.integers(len(_SIZES))]  # drawn in any case
    return render_nuclei(rng, size or usual, kind)


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
