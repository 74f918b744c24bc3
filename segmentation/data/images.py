"""Reading image and mask files: every format and every way in which a file can be broken."""

import os
import struct
import zlib
from collections.abc import Iterable
from io import BytesIO
from pathlib import Path

os.environ.setdefault("OPENCV_LOG_LEVEL", "ERROR")  # read by OpenCV when it is imported

import cv2
import numpy as np
import tifffile

from segmentation.errors import UserError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, C), uint8 or uint16, C in {1, 3}, RGB; alpha is dropped.

    Raises:
        UserError: The file is missing, broken, not an image, or of an unsupported kind.
    """
    return decode_image(_read_bytes(path), str(path))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file as (H, W), uint8 or uint16, its values untouched.

    Raises:
        UserError: As :func:`read_image`, or the mask has colours that differ between channels.
    """
    return decode_mask(_read_bytes(path), str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_image`, from the file's bytes; ``name`` is for messages."""
    pixels = _decode(data, name)
    if pixels.ndim == 2:
        return pixels[..., None]
    channels = pixels.shape[2]
    if channels == 2:  # gray and alpha
        return np.ascontiguousarray(pixels[..., :1])
    if channels in (3, 4):
        return np.ascontiguousarray(pixels[..., 2::-1])  # OpenCV decodes to BGR(A)
    raise UserError(f"{name}: {channels} channels; convert it to gray (1) or RGB (3) first")


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_mask`, from the file's bytes."""
    pixels = _decode(data, name)
    if pixels.ndim == 2:
        return pixels
    colours = pixels[..., : min(3, pixels.shape[2])] if pixels.shape[2] != 2 else pixels[..., :1]
    if (colours != colours[..., :1]).any():
        raise UserError(f"{name}: a mask must be gray, this one has colours; save it as one channel")
    return np.ascontiguousarray(colours[..., 0])


def binary_mask(mask: np.ndarray, name: str) -> np.ndarray:
    """Check that a mask holds at most two values, 0 and one other, and return it as bool.

    Raises:
        UserError: There are other values (a label map, an interpolated or a JPEG mask).
    """
    values = np.unique(mask)
    if len(values) > 2 or (len(values) == 2 and values[0] != 0):
        shown = ", ".join(str(v) for v in values[:6]) + (", …" if len(values) > 6 else "")
        raise UserError(
            f"{name}: a binary mask holds 0 and one other value, this one holds {shown}; "
            "say masks: labels if these are instance ids, or save the mask without smoothing"
        )
    return mask > 0


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of an (H, W) bool mask: int32, 0 = background."""
    return cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1].astype(np.int32)


def merge_objects(masks: Iterable[tuple[str, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Merge one binary mask per object into an (H, W) int32 label map, ids in the order given.

    Where objects overlap the later one wins; an object that vanishes so keeps no id.

    Raises:
        UserError: A mask's size is not ``shape``, or it is not binary.
    """
    labels = np.zeros(shape, np.int32)
    for number, (name, mask) in enumerate(masks, start=1):
        check_size(name, mask.shape, shape)
        labels[binary_mask(mask, name)] = number
    return consecutive(labels)


def consecutive(labels: np.ndarray) -> np.ndarray:
    """Renumber instance ids to 1…n without gaps, keeping their order; int32."""
    present = np.unique(labels)
    if present[0] != 0:
        present = np.insert(present, 0, 0)
    if present[-1] == len(present) - 1:
        return labels.astype(np.int32, copy=False)
    return np.searchsorted(present, labels).astype(np.int32)


def check_size(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise :class:`UserError` when a mask's height and width are not its image's."""
    if tuple(found[:2]) != tuple(wanted[:2]):
        raise UserError(
            f"{name}: the mask is {found[0]}×{found[1]} (H×W) but its image is "
            f"{wanted[0]}×{wanted[1]}; export both at one size"
        )


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) RGB pixels, whole or not at all.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    done, data = cv2.imencode(path.suffix, pixels)
    if not done:
        raise UserError(f"{path}: cannot encode an image as {path.suffix}; use .png or .tif")
    write_bytes(path, data.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial.write_bytes(data)
        partial.replace(path)
    except OSError as error:
        try:
            partial.unlink(missing_ok=True)
        except OSError:
            pass  # the folder itself is unreachable: the first error says so
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose a folder with write access "
            "and free space"
        ) from None


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _decode(data: bytes, name: str) -> np.ndarray:
    """Decode to (H, W) or (H, W, C) in OpenCV's channel order; every fault becomes one line."""
    if data.startswith(_PNG):
        _check_png(data, name)
    elif data.startswith(_TIFF):
        _check_tiff(data, name)
    elif data.startswith(b"\xff\xd8"):
        if data.rstrip(b"\x00")[-2:] != b"\xff\xd9":
            raise UserError(f"{name}: the JPEG is truncated; copy or export it again")
    elif data.startswith(b"BM"):
        if len(data) < 6 or len(data) < struct.unpack("<I", data[2:6])[0]:
            raise UserError(f"{name}: the BMP is truncated; copy or export it again")
    else:
        raise UserError(
            f"{name}: not a PNG, TIFF, JPEG or BMP image (it starts with {data[:8]!r}); "
            "remove it or convert it"
        )
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(f"{name}: the image data is broken; copy or export it again")
    if pixels.dtype not in (np.uint8, np.uint16):
        raise UserError(f"{name}: pixels are {pixels.dtype}; save them as 8 or 16 bit integers")
    return pixels


def _check_png(data: bytes, name: str) -> None:
    """Walk the chunks: OpenCV fills what a truncated file lacks with zeros and says nothing."""
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(data[position + 4 : end - 4]) != checksum:
            raise UserError(f"{name}: the PNG is corrupt (chunk checksum); copy or export it again")
        if kind == b"IEND":
            return
        position = end
    raise UserError(f"{name}: the PNG is truncated; copy or export it again")


def _check_tiff(data: bytes, name: str) -> None:
    """Refuse what OpenCV would misread in silence: stacks, and more channels than it knows."""
    try:
        with tifffile.TiffFile(BytesIO(data)) as tiff:
            pages = len(tiff.pages)
            page = tiff.pages.first
            samples, dtype = page.samplesperpixel, page.dtype
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    except Exception as error:  # tifffile raises many kinds on a broken file
        raise UserError(f"{name}: the TIFF is broken ({error}); copy or export it again") from None
    if pages > 1:
        raise UserError(f"{name}: a stack of {pages} planes; save each plane as its own file")
    if samples > 4:
        raise UserError(f"{name}: {samples} channels; convert it to gray (1) or RGB (3) first")
    if dtype not in (np.uint8, np.uint16, np.bool_):
        raise UserError(f"{name}: pixels are {dtype}; save them as 8 or 16 bit integers")
    if max(ends, default=0) > len(data):
        raise UserError(f"{name}: the TIFF is truncated; copy or export it again")
