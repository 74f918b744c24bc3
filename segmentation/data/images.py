"""Reading image and mask files: every format and every way in which a file can be broken."""

import contextlib
import csv
import hashlib
import io
import os
import re
import struct
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, BinaryIO

import cv2
import numpy as np

from segmentation.data.tiff import decode_tiff
from segmentation.errors import Unwritten, UserError

IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp")

_PNG = b"\x89PNG\r\n\x1a\n"
_TIFF = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
# The PNG chunks that make the pixels. The others (colour profiles, resolution, animation) are cut
# out before decoding: libpng prints warnings about many of them.
_PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_GRAY_ALPHA = 4
_JPEG_MARKER = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")  # one that ends entropy-coded data

# What OpenCV would print about a broken file is said by a UserError instead.
_opencv_log: Any = getattr(cv2.utils, "logging", cv2)  # its place depends on the version
_opencv_log.setLogLevel(0)


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, C), uint8 or uint16, C in {1, 3}, RGB; alpha is dropped.

    Raises:
        UserError: The file is missing, broken, not an image, or of an unsupported kind.
    """
    return decode_image(_read_bytes(path), str(path))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask file as (H, W), uint8 or uint16, its values untouched (one bit: 0 and 255).

    Raises:
        UserError: As :func:`read_image`, or the mask has colours that differ between channels.
    """
    return decode_mask(_read_bytes(path), str(path))


def decode_image(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_image`, from the file's bytes; ``name`` is for messages."""
    pixels = _decode(data, name, mask=False)
    return pixels[..., None] if pixels.ndim == 2 else pixels


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_mask`, from the file's bytes."""
    pixels = _decode(data, name, mask=True)
    if pixels.ndim == 2:
        return pixels
    if (pixels != pixels[..., :1]).any():
        raise UserError(
            f"{name}: a mask must be gray, this one has colours; save it as one channel"
        )
    return np.ascontiguousarray(pixels[..., 0])


def binary_mask(mask: np.ndarray, name: str, remedy: str = "") -> np.ndarray:
    """Check that an (H, W) mask holds at most two values, 0 and one other, and return it as bool.

    Args:
        mask: Integers.
        name: What to call it in messages.
        remedy: What else may help, told before saving it anew.

    Raises:
        UserError: There are other values (a label map, an interpolated or a JPEG mask).
    """
    foreground = mask > 0
    # Much faster than listing the values, and nearly always enough.
    if (mask[foreground] == mask.max(initial=0)).all():
        return foreground
    values = np.unique(mask)
    shown = ", ".join(str(v) for v in values[:6]) + (", …" if len(values) > 6 else "")
    raise UserError(
        f"{name}: a binary mask holds 0 and one other value, this one holds {shown}; "
        f"{remedy}save the mask without smoothing"
    )


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of an (H, W) bool mask: int32, 0 = background."""
    labels: np.ndarray = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    return labels.astype(np.int32, copy=False)


def distance_transform(mask: np.ndarray) -> np.ndarray:
    """Each pixel's Euclidean distance to the nearest pixel outside the mask.

    OpenCV's result differs in the last bit with the number of threads and with where in memory
    the array happens to lie. Distances are roots of whole numbers: rounding their squares makes
    the result the same everywhere (exact up to some 1,600 pixels).

    Args:
        mask: (H, W) bool.

    Returns:
        (H, W) float32 in pixels, 0 outside; the image's diagonal everywhere where nothing is
        outside.
    """
    if mask.all():
        return np.full(mask.shape, np.hypot(*mask.shape), np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    return np.asarray(np.sqrt(np.rint(np.square(distance))))


def merge_objects(masks: Iterable[tuple[str, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Merge one binary mask per object into an (H, W) int32 label map, ids in the order given.

    Where objects overlap the later one wins; an object that vanishes so keeps no id.

    Args:
        masks: Name, for messages, and (H, W) mask of each object.
        shape: (H, W) of the image.

    Raises:
        UserError: A mask's size is not ``shape``, or it is not binary.
    """
    labels = np.zeros(shape, np.int32)
    for number, (name, mask) in enumerate(masks, start=1):
        check_size(name, mask.shape, shape)
        labels[binary_mask(mask, name)] = number
    return consecutive(labels)


def overlap(masks: Iterable[tuple[str, np.ndarray]]) -> int:
    """Pixels that belong to more than one of some binary masks, each (H, W) with its name."""
    claims = sum((binary_mask(mask, name).astype(np.int32) for name, mask in masks), np.int32(0))
    return int(np.count_nonzero(claims > 1))


def consecutive(labels: np.ndarray) -> np.ndarray:
    """Renumber (H, W) instance ids to 1…n without gaps, keeping their order; int32."""
    present = np.union1d(0, labels)
    if present[-1] == len(present) - 1:
        return labels.astype(np.int32, copy=False)
    return np.searchsorted(present, labels).astype(np.int32)


def to_gray(image: np.ndarray) -> np.ndarray:
    """(H, W, 1 or 3) uint8 or uint16 ► (H, W) of the same type: colours by their luminance."""
    return image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)


def check_size(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise :class:`UserError` when a mask's height and width are not its image's."""
    if tuple(found[:2]) != tuple(wanted[:2]):
        raise UserError(
            f"{name}: the mask is {found[0]}×{found[1]} (H×W) but its image is "
            f"{wanted[0]}×{wanted[1]}; export both at one size"
        )


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) RGB pixels, whole or not at all.

    Pixels are uint8 or uint16, in TIFF also float32. TIFF is compressed by deflate (floats not at
    all), which every reader knows; OpenCV's own choice, LZW, is not read by tifffile alone.

    Raises:
        UserError: The format is unknown or cannot hold the pixels, the folder cannot be written, or
            the disk is full.
    """
    if pixels.ndim == 3:
        pixels = pixels[..., ::-1]
    try:
        scheme = 1 if pixels.dtype == np.float32 else 8  # TIFF's numbers for none and deflate
        options = [cv2.IMWRITE_TIFF_COMPRESSION, scheme] if path.suffix.startswith(".tif") else []
        done, data = cv2.imencode(path.suffix, np.ascontiguousarray(pixels), options)
    except cv2.error:
        done = False
    if not done:
        raise UserError(
            f"{path}: cannot encode {pixels.dtype} pixels as {path.suffix or 'nothing'}; use .png "
            "or .tif"
        )
    write_bytes(path, data.tobytes())


def write_bytes(path: Path, data: bytes) -> None:
    """Write a file under a temporary name and rename it, so that it is whole or absent.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    with writing(path) as file:
        file.write(data)


@contextlib.contextmanager
def writing(path: Path) -> Iterator[BinaryIO]:
    """A file that is written bit by bit, under a temporary name until all is: whole or absent.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    partial = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with unwritten(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            with partial.open("wb") as file:
                yield file
            partial.replace(path)
    finally:
        with contextlib.suppress(OSError):  # where the folder itself is unreachable
            partial.unlink(missing_ok=True)


@contextlib.contextmanager
def unwritten(path: Path) -> Iterator[None]:
    """Within, what the system says against writing is told in one line, as :class:`Unwritten`."""
    try:
        yield
    except OSError as error:
        raise Unwritten(
            f"{path}: cannot be written ({error.strerror}); choose a folder with write access and "
            "free space"
        ) from None


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, in hexadecimal.

    Raises:
        OSError: It cannot be read.
    """
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_table(path: Path, fields: Sequence[str], rows: Iterable[Mapping[str, Any]]) -> None:
    """Write a CSV file in UTF-8, whole or not at all.

    Args:
        path: Its folders are made.
        fields: Names of the columns, in order.
        rows: Values by field. A missing one is left empty; a field that has no column is a
            ``ValueError``.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    text = io.StringIO()
    table = csv.DictWriter(text, fields, lineterminator="\n")
    table.writeheader()
    table.writerows(rows)
    write_bytes(path, text.getvalue().encode())


def _read_bytes(path: str | Path) -> bytes:
    try:
        return Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _decode(data: bytes, name: str, mask: bool) -> np.ndarray:
    """Decode to (H, W) or (H, W, 3) RGB, uint8 or uint16; every fault becomes one line."""
    if data.startswith(_TIFF):
        return decode_tiff(data, name, mask)
    if data.startswith(_PNG):
        data = _checked_png(data, name)
    elif data.startswith(b"\xff\xd8"):
        _check_jpeg(data, name)
    elif data.startswith(b"BM"):
        if len(data) < 6 or len(data) < struct.unpack("<I", data[2:6])[0]:
            raise UserError(f"{name}: the BMP is truncated; copy or export it again")
    elif not data:
        raise UserError(f"{name}: the file is empty; copy or export it again")
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
    if pixels.ndim == 2:
        return pixels
    if data.startswith(_PNG) and data[25] == _PNG_GRAY_ALPHA:
        return np.ascontiguousarray(pixels[..., 0])
    return np.ascontiguousarray(pixels[..., 2::-1])  # OpenCV decodes to BGR or BGRA


def _checked_png(data: bytes, name: str) -> bytes:
    """Walk the chunks: OpenCV fills what a truncated file lacks with zeros and says nothing.

    Returns:
        The same image with the chunks alone that make its pixels.
    """
    kept = [_PNG]
    position = len(_PNG)
    while position + 12 <= len(data):
        length, kind = struct.unpack(">I4s", data[position : position + 8])
        end = position + 12 + length
        if end > len(data):
            break
        (checksum,) = struct.unpack(">I", data[end - 4 : end])
        if zlib.crc32(data[position + 4 : end - 4]) != checksum:
            raise UserError(f"{name}: the PNG is corrupt (chunk checksum); copy or export it again")
        if kind in _PNG_PIXELS:
            kept.append(data[position:end])
        if kind == b"IEND":
            return b"".join(kept)
        position = end
    raise UserError(f"{name}: the PNG is truncated; copy or export it again")


def _check_jpeg(data: bytes, name: str) -> None:
    """Walk the markers to the end of the image: OpenCV fills what is missing with gray."""
    position = 2
    while position + 2 <= len(data) and data[position] == 0xFF:
        marker = data[position + 1]
        if marker == 0xD9:  # end of image; cameras may append what they like
            return
        if marker == 0xFF:  # padding
            position += 1
            continue
        position += 2 + int.from_bytes(data[position + 2 : position + 4], "big")
        if marker == 0xDA:  # start of a scan: coded data follows, up to the next marker
            found = _JPEG_MARKER.search(data, position)
            position = len(data) if found is None else found.start()
    raise UserError(f"{name}: the JPEG is truncated or corrupt; copy or export it again")
