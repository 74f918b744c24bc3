"""Seeded synthetic images and truth, written in the layouts that the readers expect.

The same seed gives the same bytes with the same versions of numpy and OpenCV. An image of nuclei
depends on nothing but the seed, its index and the size asked for. Writers make the folder and
return it; with ``zipped`` they write the official archives in place of their folders. A side under
32 pixels or a negative seed is a ``ValueError``.
"""

import hashlib
import io
import zipfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Literal

import cv2
import imagecodecs
import numpy as np

from segmentation.datasets.kaggle import rle_encode
from segmentation.datasets.synthetic_cells import film
from segmentation.datasets.synthetic_nerve import subject
from segmentation.datasets.synthetic_nuclei import Kind, Shape, quantise, render
from segmentation.errors import UserError

Put = Callable[[str, np.ndarray | str], None]

# About the mix of the real stage 1 data (75 % / 8 % / 17 %), with every kind among the first six.
_KINDS: tuple[Kind, ...] = (
    *("fluorescence", "histology", "fluorescence", "fluorescence", "brightfield", "fluorescence"),
    *("fluorescence", "fluorescence", "histology", "fluorescence", "fluorescence", "fluorescence"),
)
_SIZES = ((256, 256), (256, 320), (200, 260), (256, 256))
_TRAIN, _TEST, _FOLDER, _FILM, _SCREEN, _NECK = range(6)


def synthetic(
    output: Path,
    layout: Literal["dsb2018", "folder", "dic_hela", "bbbc039", "ultrasound_nerve"] = "dsb2018",
    images: int = 60,
    seed: int = 0,
) -> None:
    """Make synthetic images (nuclei, cells, ultrasound) with truth to try everything with.

    Args:
        output: Folder; must not hold such data yet.
        layout: Whose files they look like; folder: images/ and masks/.
        images: How many.
        seed: Another seed gives other images.

    Raises:
        UserError: The folder holds data already or cannot be written, or a number is out of range.
    """
    for name, value, least in (("images", images, 1), ("seed", seed, 0)):
        if value < least:
            raise UserError(f"--{name} {value}: must be at least {least}")
    writers: dict[str, Callable[..., Path]] = {
        "dsb2018": write_dsb2018,
        "folder": write_folder,
        "dic_hela": write_dic_hela,
        "bbbc039": write_bbbc039,
        "ultrasound_nerve": write_ultrasound_nerve,
    }
    try:
        writers[layout](output, images, seed=seed)
    except OSError as error:
        raise UserError(
            f"{output}: cannot be written ({error.strerror}); choose another folder"
        ) from None
    print(f"{images} images in {output}")


def write_dsb2018(
    root: Path, images: int = 40, size: Shape | None = None, seed: int = 0, test_images: int = 0,
    *, zipped: bool = False,
) -> Path:  # fmt: skip
    """Write a data set in the layout of the 2018 Data Science Bowl, stage 1.

    Images are RGBA; test images are in part RGB or gray, as the official ones; their truth is
    ``stage1_solution.csv``. ``size`` ``None`` gives sizes of about 256 that differ.
    """
    rows = ["ImageId,EncodedPixels,Height,Width,Usage\n"]
    _check_absent(root / "stage1_solution.csv")
    for part, name, count in ((_TRAIN, "train", images), (_TEST, "test", test_images)):
        if part == _TEST and not test_images:
            return root
        with _writer(root / f"stage1_{name}{'.zip' if zipped else ''}") as put:
            for index in range(count):
                drawn, labels = _image_at(seed, part, index, size, _KINDS[index % len(_KINDS)])
                image, image_id = quantise(drawn, 8), _hash(seed, part, index)
                if part == _TRAIN or index % 2 == 0:
                    image = _with_alpha(image)
                elif index % len(_KINDS) == 5:
                    image = image[..., :1]
                put(f"{image_id}/images/{image_id}.png", image)
                for label in range(1, labels.max() + 1):
                    if part == _TRAIN:
                        mask = _binary(labels == label)
                        put(f"{image_id}/masks/{_hash(image_id, label)}.png", mask)
                    else:
                        code, (height, width) = rle_encode(labels == label), labels.shape
                        rows.append(f"{image_id},{code},{height},{width},Public\n")
    (root / "stage1_solution.csv").write_text("".join(rows), encoding="utf-8", newline="\n")
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
    with _writer(root, new=False) as put:
        for index in range(images):
            drawn, labels = _image_at(seed, _FOLDER, index, size, kind)
            if channels < 3:
                drawn = cv2.cvtColor(drawn, cv2.COLOR_RGB2GRAY)[..., None]
            image, name = quantise(drawn, bits), f"field_{index:04d}"
            put(f"images/{name}{suffix}", image if channels % 2 else _with_alpha(image))
            if masks == "labels":
                put(f"masks/{name}{end}", labels.astype(np.uint16))
            elif masks == "binary":
                put(f"masks/{name}{end}", _binary(labels > 0))
            else:
                for label in range(1, labels.max() + 1):
                    put(f"masks/{name}/{label:03d}{end}", _binary(labels == label))
    return root


def write_dic_hela(
    root: Path, images: int = 24, size: Shape = (256, 256), seed: int = 0, *, zipped: bool = False
) -> Path:
    """Write two films in the layout of the Cell Tracking Challenge, ``DIC-C2DH-HeLa``.

    Truth is uint16 ids that last over time (so a frame's have gaps): gold for every third frame
    from the second on, of which the last leaves cells out; silver for all, its outlines slightly
    smoothed; markers (``TRA``).
    """
    with _distribution(root, zipped, "DIC-C2DH-HeLa") as (put,):
        for number in (1, 2):
            frames, place = (images + 2 - number) // 2, f"DIC-C2DH-HeLa/{number:02}"
            rng = np.random.default_rng([seed, _FILM, number])
            for time, (image, labels) in enumerate(film(rng, frames, size)):
                truth = np.where(labels, 3 * labels + 1, 0).astype(np.uint16)
                put(f"{place}/t{time:03}.lzw", image)
                put(f"{place}_ST/SEG/man_seg{time:03}.lzw", cv2.medianBlur(truth, 5))
                marks = truth * cv2.erode((labels > 0).astype(np.uint8), np.ones((5, 5)))
                put(f"{place}_GT/TRA/man_track{time:03}.lzw", marks)
                if time % 3 == 1:
                    if time + 3 >= frames:
                        truth[truth > np.median(np.unique(truth)[1:])] = 0
                    put(f"{place}_GT/SEG/man_seg{time:03}.lzw", truth)
    return root


def write_bbbc039(
    root: Path, images: int = 16, size: Shape = (260, 348), seed: int = 0, *, zipped: bool = False
) -> Path:
    """Write a screen in the layout of BBBC039: ``images``, ``masks`` and ``metadata``.

    Images use 12 of 16 bits; masks have the instance id in red, ids reused for nuclei that do not
    touch. The second field is empty. Of four fields the lists give two to training and one each to
    validation and test. Each well has two fields.
    """
    lists: dict[str, str] = {"training": "", "validation": "", "test": ""}
    parts = ("images", "masks", "metadata")
    with _distribution(root, zipped, *parts) as (put_image, put_mask, put_list):
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
            put_image(f"images/{name}.tif", image)
            mask = np.dstack([red, np.zeros_like(red), np.zeros_like(red)])
            put_mask(f"masks/{name}.png", _with_alpha(mask))
            lists[("training", "training", "validation", "test")[index % 4]] += f"{name}.png\n"
        for part, names in lists.items():
            put_list(f"metadata/{part}.txt", names)
    return root


def write_ultrasound_nerve(
    root: Path, images: int = 48, size: Shape = (420, 580), seed: int = 0, subjects: int = 6,
    *, zipped: bool = False,
) -> Path:  # fmt: skip
    """Write ultrasound in the layout of Kaggle's competition: ``train`` and ``train_masks.csv``.

    Frames of a subject are nearly the same; ``S_2`` repeats ``S_1`` with a contradicting, empty
    mask.
    """
    rows = ["subject,img,pixels\n"]
    _check_absent(root / "train_masks.csv")
    with _distribution(root, zipped, "train") as (put,):
        for person in range(1, subjects + 1):
            frames = (images + subjects - person) // subjects
            rng = np.random.default_rng([seed, _NECK, person])
            for number, (image, mask) in enumerate(subject(rng, frames, size), start=1):
                put(f"train/{person}_{number}.lzw", image)
                put(f"train/{person}_{number}_mask.lzw", _binary(mask))
                rows.append(f"{person},{number},{rle_encode(mask)}\n")
    (root / "train_masks.csv").write_text("".join(rows), encoding="utf-8", newline="\n")
    return root


def _check_absent(*paths: Path) -> None:
    """Two data sets in one would look like one."""
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; choose another folder or remove it")


@contextmanager
def _distribution(root: Path, zipped: bool, *names: str) -> Iterator[list[Put]]:
    """A writer for each folder of a distribution, or for its archive, with that folder inside."""
    _check_absent(*(root / f"{name}{'.zip' if zipped else ''}" for name in names))
    with ExitStack() as stack:
        paths = [root / f"{name}.zip" if zipped else root for name in names]
        yield [stack.enter_context(_writer(path, new=False)) for path in paths]


@contextmanager
def _writer(path: Path, new: bool = True) -> Iterator[Put]:
    """Give a function that writes named files into a folder, or into an archive if it is a .zip."""
    if new:
        _check_absent(path)
    (path.parent if path.suffix == ".zip" else path).mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") if path.suffix == ".zip" else ExitStack() as archive:

        def put(name: str, content: np.ndarray | str) -> None:
            stem, _, suffix = name.rpartition(".")
            data = content.encode() if isinstance(content, str) else _encode(content, suffix)
            name = f"{stem}.tif" if suffix == "lzw" else name
            if isinstance(archive, zipfile.ZipFile):
                member = zipfile.ZipInfo(name)  # dated 1980: the bytes depend on the seed alone
                member.create_system = 3
                member.external_attr = 0o100644 << 16  # or `unzip` makes files nobody may read
                archive.writestr(member, data)
            else:
                (path / name).parent.mkdir(parents=True, exist_ok=True)
                (path / name).write_bytes(data)

        yield put


def _encode(pixels: np.ndarray, suffix: str) -> bytes:
    """An image file's bytes, from (H, W) or (H, W, C) uint8 or uint16 pixels.

    C = 2 is gray and alpha, 4 RGB and alpha. ``tif`` is not compressed, ``lzw`` is TIFF as most
    microscopes write it.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if suffix == "tif":  # OpenCV writes no gray and alpha, and cannot name the alpha of RGBA
        import tifffile

        tifffile.imwrite(
            file := io.BytesIO(),
            pixels if channels > 1 else pixels.reshape(pixels.shape[:2]),
            photometric="rgb" if channels > 2 else "minisblack",
            planarconfig="contig" if channels > 1 else None,
            extrasamples=["unassalpha"] if channels in (2, 4) else None,
        )
        return file.getvalue()
    if channels == 2:
        return bytes(imagecodecs.png_encode(pixels))
    if channels > 2:
        pixels = np.ascontiguousarray(pixels[..., [2, 1, 0, 3][:channels]])  # BGR or BGRA
    options = [cv2.IMWRITE_TIFF_COMPRESSION, 5] if suffix == "lzw" else []
    done, data = cv2.imencode(".tif" if suffix == "lzw" else f".{suffix}", pixels, options)
    assert done
    return data.tobytes()


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
