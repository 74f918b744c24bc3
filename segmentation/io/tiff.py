"""Decoding TIFF files: the pixels as they were saved, or a refusal that says why.

OpenCV alone would misread several common layouts without a word: 16-bit gray with alpha becomes 8
bit, 8-bit colours are multiplied by their alpha, planes stored one after another get mixed, white
is zero in some depths only, of a stack only the first plane is returned. So tifffile decodes what
it can by itself, and OpenCV the other compressions, in those layouts alone that it reads rightly.
"""

import logging
from io import BytesIO
from typing import Any, Literal

import cv2
import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from segmentation.errors import UserError

# What tifffile decodes without the imagecodecs package.
PLAIN = (
    COMPRESSION.NONE,
    COMPRESSION.ADOBE_DEFLATE,
    COMPRESSION.DEFLATE,
    COMPRESSION.PACKBITS,
    COMPRESSION.LZMA,
)
_COLOURS: dict[int, int] = {
    PHOTOMETRIC.MINISWHITE: 1,
    PHOTOMETRIC.MINISBLACK: 1,
    PHOTOMETRIC.PALETTE: 1,
    PHOTOMETRIC.RGB: 3,
    PHOTOMETRIC.YCBCR: 3,
}
TRUNCATED = "the TIFF is truncated; copy or export it again"
_DESCRIPTION = 270  # the number of TIFF's tag
_MOST_PIXELS = 2**30  # OpenCV's own limit; a broken or malicious header may ask for any size

logging.getLogger("tifffile").disabled = True  # broken files are reported once, by an exception


def decode_tiff(data: bytes, name: str, mask: bool) -> np.ndarray:
    """Decode a TIFF file's bytes; ``name`` is for messages.

    Alpha is dropped, never multiplied in. One bit becomes 0 and 255. Where the file says that 0 is
    white an image is inverted, but a mask is not: ImageJ says so of masks that it shows in black on
    white, tifffile of every mask of one bit, and both leave the objects' values as they are. A
    palette colours an image; of a mask the values themselves are taken.

    Args:
        data: The file.
        name: What to call it.
        mask: Whether it is a mask rather than an image.

    Returns:
        (H, W) or (H, W, 3) RGB, uint8 or uint16.

    Raises:
        UserError: The file is broken, a stack, or holds pixels of another kind.
    """
    try:
        with tifffile.TiffFile(BytesIO(data)) as tiff:
            page = tiff.pages.first
            planes = len(tiff.pages) * page.imagedepth
            ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
            whole = ends and max(ends) <= len(data) and is_whole(tiff)
            why = refusal(page, planes) or (None if whole else TRUNCATED)
            if why is None and is_plain(page):
                return dress(samples(page), page, mask)
    except Exception as error:  # tifffile raises many kinds on a broken file
        raise broken(name, error) from None
    if why is not None:
        raise UserError(f"{name}: {why}")
    return by_opencv(data, page, name, mask)


def broken(name: object, error: Exception) -> UserError:
    """One line for what tifffile raises on a broken file, of many kinds."""
    told = " ".join(str(error).split())
    why = f" ({told})" if " " in told else ""  # not the bare key of a KeyError
    return UserError(f"{name}: the TIFF is broken{why}; copy or export it again")


def is_whole(tiff: tifffile.TiffFile) -> bool:
    """Whether the file holds all its pages: tifffile gives what is left of one that ends early.

    Each page names the place of the next, the last one 0; and the first names the place of the
    description, which holds the scale and may be the end of the file.
    """
    file, kind, order = tiff.filehandle, tiff.tiff, byte_order(tiff)

    def entries(page: Any) -> bytes:
        file.seek(page.offset)
        count = int.from_bytes(file.read(kind.tagnosize), order)
        return file.read(count * kind.tagsize)

    first, size = entries(tiff.pages.first), kind.offsetsize
    ends = [0]
    for start in range(0, len(first), kind.tagsize):
        entry = first[start : start + kind.tagsize]
        if int.from_bytes(entry[:2], order) == _DESCRIPTION:
            length, offset = (int.from_bytes(entry[i : i + size], order) for i in (4, 4 + size))
            ends.append(offset + length if length > size else 0)
    entries(tiff.pages[len(tiff.pages) - 1])
    following = file.read(size)
    return len(following) == size and not any(following) and max(ends) <= file.size


def byte_order(tiff: tifffile.TiffFile) -> Literal["little", "big"]:
    """As ``int.from_bytes`` names it."""
    return "little" if tiff.byteorder == "<" else "big"


def refusal(page: tifffile.TiffPage, planes: int, most: int = _MOST_PIXELS) -> str | None:
    """Why a TIFF of this kind or size is not read, and what to do; ``None`` if it is."""
    if planes > 1:
        return f"a stack of {planes} planes; save each plane as its own file"
    if page.dtype not in (np.uint8, np.uint16, np.bool_) or 1 < page.bitspersample < 8:
        kind = page.dtype if page.bitspersample >= 8 else f"of {page.bitspersample} bit"
        return f"pixels are {kind}; save them as 8 or 16 bit integers"
    if page.imagewidth * page.imagelength > most:
        return f"{page.imagelength}×{page.imagewidth} pixels are too many; cut it into tiles"
    colours = _COLOURS.get(page.photometric)
    if colours is None:
        return f"colours are stored as {named(page.photometric)}; convert it to gray or RGB first"
    extra = page.samplesperpixel - colours
    # A second channel beside gray is dropped only if the file says that it is alpha.
    alpha = extra == 1 and (colours == 3 or tuple(page.extrasamples) in ((1,), (2,)))
    if extra != 0 and not alpha:
        return f"{page.samplesperpixel} channels; convert it to gray (1) or RGB (3) first"
    return None


def is_plain(page: tifffile.TiffPage) -> bool:
    return (
        page.compression in PLAIN
        and page.bitspersample in (1, 8, 16)
        and page.photometric != PHOTOMETRIC.YCBCR
    )


def samples(page: tifffile.TiffPage) -> np.ndarray:
    """(H, W, samples) in native byte order, whether stored by pixel or by plane."""
    planes = page.asarray(squeeze=False)[:, 0]  # (separate planes, H, W, samples of a pixel)
    pixels = planes[0] if planes.shape[0] == 1 else planes[..., 0].transpose(1, 2, 0)
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def dress(pixels: np.ndarray, page: tifffile.TiffPage, mask: bool) -> np.ndarray:
    """Apply what the file says its values mean, and drop alpha."""
    if page.photometric == PHOTOMETRIC.RGB:
        return np.ascontiguousarray(pixels[..., :3])
    pixels = np.ascontiguousarray(pixels[..., 0])
    if pixels.dtype == np.bool_:
        pixels = np.where(pixels, np.uint8(255), np.uint8(0))
    if page.photometric == PHOTOMETRIC.MINISWHITE and not mask:
        return np.iinfo(pixels.dtype).max - pixels
    if page.photometric == PHOTOMETRIC.PALETTE and not mask:
        assert page.colormap is not None
        return (page.colormap[:, pixels] >> 8).astype(np.uint8).transpose(1, 2, 0).copy()
    return pixels


def by_opencv(data: bytes, page: tifffile.TiffPage, name: str, mask: bool) -> np.ndarray:
    """LZW, JPEG, CCITT and the like, where OpenCV is known to read the layout rightly."""
    compression = named(page.compression)
    unsupported = UserError(
        f"{name}: this layout of pixels is not read with {compression} compression; save it "
        "without compression, or as PNG"
    )
    bilevel = page.bitspersample == 1
    orientation = page.tags.valueof("Orientation", 1)  # OpenCV turns the image, tifffile does not
    if (
        orientation != 1
        or (page.planarconfig == 2 and page.samplesperpixel > 1)
        or (page.photometric == PHOTOMETRIC.MINISWHITE and not bilevel)
        or (page.photometric == PHOTOMETRIC.MINISBLACK and page.samplesperpixel > 1)
    ):
        raise unsupported
    try:
        pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_UNCHANGED)
    except cv2.error:
        pixels = None
    if pixels is None:
        raise UserError(
            f"{name}: the TIFF ({compression}) is broken or its compression not supported; export "
            "it again, without compression"
        )
    colours = 1 if page.photometric in (PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.MINISWHITE) else 3
    found = 1 if pixels.ndim == 2 else pixels.shape[2]
    if (
        pixels.shape[:2] != (page.imagelength, page.imagewidth)
        or pixels.dtype != (np.uint8 if bilevel else page.dtype)
        or found not in (colours, 4 if colours == 3 else colours)
    ):
        raise unsupported
    multiplied = found == 4 and pixels.dtype == np.uint8 and tuple(page.extrasamples) == (2,)
    if multiplied and pixels[..., 3].min() < 255:  # by alpha, which cannot be undone
        raise unsupported
    if page.photometric == PHOTOMETRIC.MINISWHITE and mask:
        return 255 - pixels  # OpenCV has inverted it
    return pixels if found == 1 else np.ascontiguousarray(pixels[..., 2::-1])


def named(value: object) -> str:
    return str(getattr(value, "name", value))
