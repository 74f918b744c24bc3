"""Image and mask files, decoded by libraries: one reader for training, prediction and scores.

PNG by imagecodecs (Pillow makes 8 bits of 16-bit colours), TIFF by tifffile, JPEG by simplejpeg
(others take damaged ones for whole), BMP and odd JPEGs by Pillow, NPY by numpy.
"""

import math
import zlib
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import imagecodecs
import numpy as np
from PIL import Image

from segmentation.errors import UserError
from segmentation.io import tiff
from segmentation.io.files import check_inflation, write_bytes
from segmentation.io.jpeg import decode_jpeg
from segmentation.io.layout import one_plane
from segmentation.io.metadata import channel_names

# What bioio reads, where it is installed: the microscopes' own files.
MICROSCOPE_SUFFIXES = (".czi", ".nd2", ".lif")
IMAGE_SUFFIXES = (".png", ".tif", ".tiff", ".jpg", ".jpeg", ".bmp", ".npy")

_KINDS = {b"\x89PNG": "PNG", b"\xff\xd8": "JPEG", b"BM": "BMP", b"\x93NUMPY": "NPY"}
_KINDS |= dict.fromkeys(tiff.TIFF_MAGIC, "TIFF")
# The chunks of a PNG that its pixels depend on: libpng prints warnings about many of the others.
_PNG_CHUNKS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
_PNG_PALETTE = b"\3"
_ORIENTATION = 0x0112  # EXIF's tag
Image.MAX_IMAGE_PIXELS = tiff.MOST_PIXELS // 2  # Pillow warns beyond, and raises at twice as many
getattr(cv2.utils, "logging", cv2).setLogLevel(0)  # what it would print is said by a UserError


def is_zarr(path: str | Path) -> bool:
    """Whether a path is that of an OME-Zarr, which is a folder."""
    return Path(path).suffix.lower() == ".zarr" and Path(path).is_dir()


def read_image(path: str | Path) -> np.ndarray:
    """Read an image file as (H, W, C), uint8 or uint16; what the file calls alpha is dropped.

    Other types of pixels become 16 bits, see :func:`sixteen_bits`. It is turned upright as EXIF
    says. Of a pyramid it is the full resolution; three channels without names are red, green and
    blue. What is not read is a :class:`UserError`.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "image.png")
    >>> write_image(path, np.full((2, 3), 7, np.uint8))
    >>> read_image(path).shape, int(read_mask(path).max())
    ((2, 3, 1), 7)
    """
    if is_zarr(path) or Path(path).suffix.lower() in MICROSCOPE_SUFFIXES:
        return np.asarray(_only_plane(path).plane(0))
    return decode_image(tiff.read_bytes(path), str(path))


def read_mask(path: str | Path) -> np.ndarray:
    """Read a mask or label map as (H, W) uint8, uint16 or int32, its values untouched.

    Of a palette the values are the indices; one bit is read as 0 and 255. A JPEG, which changes
    values, colours, fractions, and ids that are negative or beyond 2^31 - 1 are refused.
    """
    if is_zarr(path):
        return np.asarray(_only_plane(path).mask(0))
    return decode_mask(tiff.read_bytes(path), str(path))


def read_values(path: str | Path) -> np.ndarray:
    """Read the values of a file of one channel, of any type, floats as well: (H, W)."""
    return _one_channel(_decode(tiff.read_bytes(path), str(path), mask=True)[0], path)


def decode_image(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_image`, from the file's bytes; ``name`` is for messages."""
    return sixteen_bits(*_decode(data, name, mask=False), name)


def sixteen_bits(pixels: np.ndarray, channels: Sequence[str], name: object) -> np.ndarray:
    """(H, W, C) pixels of any type as uint8 or uint16, as images are taken everywhere.

    Integers that fit into 16 bits are kept, shifted to start at 0 where some are negative. Others,
    and floats, are scaled to 0 … 65535: colours alike, ``channels`` that have names or are not
    three each by itself. One hot pixel must not take all levels: what lies farther outside the
    percentiles 0.1 and 99.9 than 8 times their distance is cut off.
    """
    if pixels.dtype in (np.uint8, np.uint16):
        return pixels
    if pixels.shape[2] == 1 or (pixels.shape[2] == 3 and not channels):
        return _scaled(pixels, name)
    return np.stack([_scaled(one, name) for one in np.moveaxis(pixels, 2, 0)], axis=2)


def _scaled(pixels: np.ndarray, name: object) -> np.ndarray:
    low, high = pixels.min().item(), pixels.max().item()
    if not math.isfinite(high - low):
        what = f"{pixels.dtype} pixels from {low:g} to {high:g}"
        remedy = "replace those that are no finite numbers, or save it as 16 bit integers"
        raise UserError(f"{name}: {what}; {remedy}")
    if pixels.dtype.kind != "f" and high - min(low, 0) < 65536:
        return np.asarray((pixels.astype(np.int64) - min(low, 0)).astype(np.uint16))
    first, last = np.percentile(pixels, (0.1, 99.9)).tolist()
    if last > first:
        low, high = max(low, 9 * first - 8 * last), min(high, 9 * last - 8 * first)
    scale = 65535 / (high - low) if high > low else 0.0
    scaled = (pixels.clip(low, high).astype(np.float64) - low) * scale
    return np.asarray(scaled.round().astype(np.uint16))


def decode_mask(data: bytes, name: str) -> np.ndarray:
    """As :func:`read_mask`, from the file's bytes."""
    return as_ids(_decode(data, name, mask=True)[0], name)


def as_ids(pixels: np.ndarray, name: object) -> np.ndarray:
    """(H, W, C) of a mask as stored ► (H, W) as :func:`read_mask` gives it."""
    values = _one_channel(pixels, name)
    if values.dtype in (np.uint8, np.uint16):
        return values
    if values.dtype.kind == "f" and (odd := values[np.rint(values) != values]).size:
        raise UserError(
            f"{name}: holds {values.dtype} values that are no whole numbers, such as {odd[0]:g}: "
            "probabilities? Save a mask of 0 and 255, or ids as integers"
        )
    most = 2**31 - 1
    if values.dtype.kind == "f":  # float32 holds all whole numbers up to 2^24 only
        most = min(most, 2 ** (np.finfo(values.dtype).nmant + 1))
    for odd in (values.min(), values.max()):
        if not 0 <= odd <= most:
            remedy = "renumber the objects from 1, background 0"
            raise UserError(f"{name}: id {odd:.0f} is not within 0 … {most}; {remedy}")
    return values.astype(np.int32)


def write_image(path: Path, pixels: np.ndarray) -> None:
    """Write (H, W) or (H, W, 3) RGB pixels, whole or not at all.

    Pixels are uint8 or uint16, in TIFF also float32. TIFF is compressed by deflate (floats not at
    all), which every reader knows.
    """
    bgr = np.ascontiguousarray(pixels[..., ::-1] if pixels.ndim == 3 else pixels)
    scheme = 1 if pixels.dtype == np.float32 else 8  # TIFF's numbers for none and deflate
    options = [cv2.IMWRITE_TIFF_COMPRESSION, scheme] if path.suffix.startswith(".tif") else []
    try:
        done, data = cv2.imencode(path.suffix, bgr, options)
    except cv2.error:
        done = False
    if not done:
        what = f"{pixels.dtype} as {path.suffix or 'nothing'}"
        raise UserError(f"{path}: cannot encode {what}; use .png or .tif")
    write_bytes(path, data.tobytes())


def _only_plane(path: str | Path) -> Any:
    """An OME-Zarr or a microscope's file of one plane; others are refused."""
    from segmentation.io.stacks import open_planes  # which imports this

    planes = open_planes(Path(path))
    if (count := len(planes)) > 1:
        raise UserError(f"{path}: a stack of {count} planes; give images of one plane")
    return planes


def _one_channel(pixels: np.ndarray, name: object) -> np.ndarray:
    if (pixels[..., 1:] != pixels[..., :1]).any():
        why = "a mask must be gray, this one has colours"
        raise UserError(f"{name}: {why}; save its ids, or 0 and 255, as one channel")
    return np.ascontiguousarray(pixels[..., 0])


def _decode(data: bytes, name: str, mask: bool) -> tuple[np.ndarray, tuple[str, ...]]:
    """Decode to (H, W, C), and the channels' names; every fault becomes one line."""
    kind = next((kind for magic, kind in _KINDS.items() if data.startswith(magic)), None)
    if kind is None:
        found = f"not a PNG, TIFF, JPEG, BMP or NPY file (it starts with {data[:8]!r})"
        found = found if data else "the file is empty"
        raise UserError(f"{name}: {found}; remove it, convert it or copy it again")
    if kind == "JPEG" and mask:
        raise UserError(f"{name}: JPEG changes the values of a mask; save it as PNG or TIFF")
    with tiff.decoding(name, kind):
        if kind == "TIFF":
            with tiff.open_tiff(BytesIO(data), name) as file:
                pixels = tiff.read_plane(file, one_plane(file, name), 0, name, mask)
                return pixels, channel_names(file, pixels.shape[2])
        if kind == "NPY":
            return np.ascontiguousarray(np.atleast_3d(_decode_npy(data, name))), ()
        decode = _decode_png if kind == "PNG" else _decode_by_pillow
        pixels = np.atleast_3d(decode(data, name, mask))
    if pixels.shape[2] in (2, 4):  # the last is alpha
        if mask:
            tiff.check_alpha(pixels, [pixels.shape[2] - 1], name)
        rgb = pixels.shape[2] == 4  # OpenCV copies 25 times as fast
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2RGB) if rgb else pixels[..., :-1]
    return np.ascontiguousarray(pixels), ()


def _decode_npy(data: bytes, name: str) -> np.ndarray:
    file = BytesIO(data)
    first = np.lib.format.read_magic(file) == (1, 0)
    header = np.lib.format.read_array_header_1_0 if first else np.lib.format.read_array_header_2_0
    shape, by_columns, dtype = header(file)
    if dtype.hasobject:
        what, remedy = "Python objects", "save one (H, W) array of numbers"
        if name.endswith("_seg.npy"):
            what = "Cellpose's own file"
            remedy = "in Cellpose choose File ► Save masks as PNG/tif, and use NAME_cp_masks"
        raise UserError(f"{name}: {what}, a pickle, which may run code, is never opened; {remedy}")
    # A longer last axis is probably no channel's: an array (C, H, W).
    shaped = len(shape) == 2 or (len(shape) == 3 and shape[2] <= max(4, min(shape[:2]) - 1))
    count = math.prod(shape)
    if not shaped or min(shape) < 1 or dtype.kind not in "buif":
        remedy = "save one (H, W) or (H, W, C) array of numbers"
        raise UserError(f"{name}: an array of shape {shape} and type {dtype}; {remedy}")
    if count * dtype.itemsize > len(data) - file.tell():
        raise ValueError(f"it ends before the last of its {count} numbers")
    pixels = np.frombuffer(data, dtype, count, file.tell())
    pixels = pixels.reshape(shape, order="F" if by_columns else "C")
    return pixels.astype(np.uint8 if dtype.kind == "b" else dtype.newbyteorder("="))


def _decode_png(data: bytes, name: str, mask: bool) -> np.ndarray:
    kept, at, exif = [data[:8]], 8, Image.Exif()
    while at + 8 <= len(data):
        end = at + 12 + int.from_bytes(data[at : at + 4])
        if data[at + 4 : at + 8] in _PNG_CHUNKS:
            kept.append(data[at:end])
        elif data[at + 4 : at + 8] == b"eXIf":
            exif.load(b"Exif\0\0" + data[at + 8 : end - 4])
        at = end
    stored, data = len(data), b"".join(kept)
    width, height = int.from_bytes(data[16:20]), int.from_bytes(data[20:24])
    if width * height > tiff.MOST_PIXELS:
        raise UserError(f"{name}: {height}×{width} pixels are too many; cut it into tiles")
    channels = {2: 3, 4: 2, 6: 4}.get(data[25], 1)
    check_inflation(name, width * height * channels * max(1, data[24] // 8), stored)
    indices = mask and data[25:26] == _PNG_PALETTE  # which only Pillow gives
    if indices and any(zlib.crc32(c[4:-4]) != int.from_bytes(c[-4:]) for c in kept[1:]):
        raise ValueError("a wrong checksum")  # Pillow does not look
    pixels = _decode_by_pillow(data, name, mask) if indices else imagecodecs.png_decode(data)
    return tiff.upright(pixels, exif.get(_ORIENTATION, 1))


def _decode_by_pillow(data: bytes, name: str, mask: bool) -> np.ndarray:
    if data.startswith(b"\xff\xd8") and data.rfind(b"\xff\xd9") < data.rfind(b"\xff\xda"):
        raise ValueError("no end of image")  # Pillow takes what follows for pixels
    with Image.open(BytesIO(data), formats=("JPEG", "BMP", "PNG")) as image:
        check_inflation(name, math.prod(image.size) * len(image.getbands()), len(data))
        turned = image.getexif().get(_ORIENTATION, 1)
        if data.startswith(b"\xff\xd8"):
            pixels = decode_jpeg(data, "GRAY" if image.mode == "L" else "RGB")
            if pixels is not None and image.mode in ("L", "RGB"):
                return tiff.upright(pixels, turned)
        kept = image.mode in ("L", "RGB") or (mask and image.mode in ("P", "RGBA"))
        shown = image if kept else image.convert("L" if image.mode == "1" else "RGB")
        return tiff.upright(np.asarray(shown), turned)
