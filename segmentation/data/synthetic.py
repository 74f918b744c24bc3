"""Seeded synthetic nuclei, written in the layouts the dataset readers expect.

The same seed gives the same bytes with the same versions of numpy and OpenCV. The image at an
index depends on nothing but the seed, that index and the size asked for.
"""

import csv
import hashlib
import io
import struct
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Literal

import cv2
import numpy as np

from segmentation.data.nuclei import Kind, Shape, make_nuclei, quantise, render
from segmentation.errors import UserError

__all__ = ["Kind", "make_nuclei", "rle_encode", "write_dsb2018", "write_folder"]

# About the mix of the real stage 1 data (75 % / 8 % / 17 %), with every kind among the first six.
_KINDS: tuple[Kind, ...] = (
    *("fluorescence", "histology", "fluorescence", "fluorescence", "brightfield", "fluorescence"),
    *("fluorescence", "fluorescence", "histology", "fluorescence", "fluorescence", "fluorescence"),
)
_SIZES = ((256, 256), (256, 320), (200, 260), (256, 256))
_TRAIN, _TEST, _FOLDER = range(3)

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
                put(f"{image_id}/images/{image_id}.png", _encode(image))
                for label in range(1, labels.max() + 1):
                    if part == _TRAIN:
                        name = f"{image_id}/masks/{_hash(image_id, label)}.png"
                        put(name, _encode(_binary(labels == label)))
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
            put(f"images/{name}{suffix}", _encode(image, suffix))
            truth = {f"masks/{name}": _binary(labels > 0)}
            if masks == "labels":
                truth = {f"masks/{name}": labels.astype(np.uint16)}
            elif masks == "objects":
                ids = range(1, labels.max() + 1)
                truth = {f"masks/{name}/{label:03d}": _binary(labels == label) for label in ids}
            for stem, mask in truth.items():
                put(stem + mask_suffix, _encode(mask, mask_suffix))
    return root


def _check_absent(*paths: Path) -> None:
    for path in paths:
        if path.exists():
            raise UserError(f"{path}: exists already; choose another folder or remove it")


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


def _encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    """Encode (H, W) or (H, W, C): C = 1 gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha."""
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if suffix == ".tif":
        return _encode_tiff(pixels, channels)
    if channels == 2:
        return _encode_gray_alpha(pixels)
    if channels == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif channels == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def _encode_tiff(pixels: np.ndarray, channels: int) -> bytes:
    """Uncompressed TIFF. OpenCV writes no gray and alpha, and cannot name the alpha of RGBA."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels if channels > 1 else pixels.reshape(pixels.shape[:2]),
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
    )
    return file.getvalue()


def _encode_gray_alpha(pixels: np.ndarray) -> bytes:
    """PNG of (H, W, 2), chunk by chunk because OpenCV has no such image."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)  # filter 0: bytes as they are
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 4, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")):
        checksum = zlib.crc32(name + body)
        data += struct.pack(">I4s", len(body), name) + body + struct.pack(">I", checksum)
    return data
