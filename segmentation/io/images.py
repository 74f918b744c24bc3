"""Reading image and mask files: every format and every way in which a file can be broken."""

import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from segmentation.errors import UserError
from segmentation.io.files import write_bytes
from segmentation.io.tiff import decode_tiff

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
