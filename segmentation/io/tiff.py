"""TIFF files by tifffile: the pixels of a page, and of a plane that some pages make."""

import logging
import math
import re
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
from PIL import Image
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF, TiffFile, TiffFileError, TiffPage

from segmentation.errors import UserError
from segmentation.io.files import check_inflation, check_regular
from segmentation.io.jpeg import decode_jpeg
from segmentation.io.layout import Layout

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 2**30  # of an image in memory: a broken or malicious header may ask for any size
_GRAY = PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE
_CHANNELS = dict.fromkeys(_GRAY, 1)
_CHANNELS |= {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3}  # the last in JPEG, decoded to RGB
# Compressions of bytes, and of whole pictures that tell their size before they are decoded.
_BYTES = {COMPRESSION.LZW, COMPRESSION.ADOBE_DEFLATE, COMPRESSION.DEFLATE, COMPRESSION.PACKBITS}
_BYTES |= {COMPRESSION.ZSTD, COMPRESSION.LZMA}
# JPEG (6, 7), JPEG 2000 (33003 …), PNG (34933), WebP (50001), …
_PICTURES = {6, 7, 33003, 33004, 33005, 33007, 34712, 34892, 34933, 50001}
_FAX = {2, 3, 4, 32771}  # one bit a pixel
_LARGEST_TILE = 2**22  # pixels, in an image that is smaller
# tifffile logs that pages or values lie beyond the file's end, and goes on with what is left. Here
# that is an error; its other messages are about metadata that nothing here needs.
_DAMAGE = re.compile(r"corrupted tag list|invalid (page|value|circular|offset)|could not read all")
_logged = threading.local()


def _keep_message(record: logging.LogRecord) -> bool:
    _logged.messages = [*getattr(_logged, "messages", []), record.getMessage()]
    return False  # broken files are reported once, by an exception


logging.getLogger("tifffile").addFilter(_keep_message)


@contextmanager
def decoding(name: object, kind: str = "TIFF") -> Iterator[None]:
    """Within, whatever a decoder raises becomes one line: the file, the reason, the remedy."""
    try:
        yield
    except UserError:
        raise
    except Exception as error:  # decoders raise many kinds on a broken file
        if isinstance(error, OSError) and error.strerror:
            raise UserError(f"{name}: cannot be read ({error.strerror}); check the path") from None
        reason = " ".join(str(error).split())
        reason = f" ({reason})" if " " in reason else ""  # not the bare key of a KeyError
        raise UserError(f"{name}: the {kind} is damaged{reason}; copy or export it again") from None


def read_bytes(path: str | Path) -> bytes:
    """The bytes of a file; one that cannot be read, or is none, is a :class:`UserError`."""
    check_regular(path)
    with decoding(path):
        return Path(path).read_bytes()


def open_tiff(file: Path | BytesIO, name: object) -> TiffFile:
    """Open a TIFF that has all its pages, others are a :class:`UserError`; the caller closes it."""
    _logged.messages = []
    with decoding(name):
        tiff = TiffFile(file, _multifile=False)  # each file gives its own planes, once
        try:
            len(tiff.pages)  # follows the chain of pages to its end
            for message in filter(_DAMAGE.search, _logged.messages):
                raise TiffFileError(re.sub(r"<.*?> ?", "", message))
        except BaseException:
            tiff.close()
            raise
    return tiff


def has_pages(path: Path) -> bool:
    """Whether a file is a TIFF of several pages, told by a few bytes of it."""
    with path.open("rb") as file:
        head = file.read(16)
        if head[:4] not in TIFF_MAGIC:
            return False
        order: Any = "little" if head[:2] == b"II" else "big"
        big = 43 in head[2:4]
        count, entry, place = (8, 20, 8) if big else (2, 12, 4)
        file.seek(int.from_bytes(head[8:16] if big else head[4:8], order))
        file.seek(entry * int.from_bytes(file.read(count), order), 1)
        return any(file.read(place))


def read_plane(tiff: TiffFile, layout: Layout, plane: int, name: object, mask: bool) -> np.ndarray:
    """Decode a plane from its pages: (H, W, C), upright, see :func:`as_meant`."""
    parts = []
    with decoding(name):
        for number in layout.planes[plane]:
            page = page_of(tiff, number)
            check_page(page, name)
            planes = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (separate, H, W, joint)
            pixels = planes[0] if len(planes) == 1 else planes[..., 0].transpose(1, 2, 0)
            if mask and (left_out := shown_samples(page, mask)[1]):
                check_alpha(pixels, left_out, name)
            parts.append(upright(as_meant(pixels, page, mask), orientation(page)))
    if layout.by_rows:
        return np.ascontiguousarray(np.stack(parts)[..., 0])
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def page_of(tiff: TiffFile, number: int) -> Any:
    """A page with all that its tags say: of OME-TIFF, tifffile takes the first one's for all."""
    page = tiff.pages[number]
    if isinstance(page, TiffPage):
        return page
    tiff.filehandle.seek(page.offset)
    return TiffPage(tiff, number)


def shown_samples(page: Any, mask: bool = False) -> tuple[list[int], list[int]]:
    """Which samples of a page's pixels are channels, and which are alpha.

    What follows colours is alpha if the file says so, or says nothing; of a ``mask`` in any case.
    """
    base = _CHANNELS.get(page.photometric, 1)
    extra, count = tuple(page.extrasamples), page.samplesperpixel
    if count == base + 1 and base == 3 and (mask or not extra):
        return [0, 1, 2], [3]
    alpha = [i for i, kind in enumerate(extra, count - len(extra)) if kind in (1, 2) and i >= base]
    return [i for i in range(count) if i not in alpha], alpha


def check_page(page: Any, name: object, most: int = MOST_PIXELS) -> None:
    """Raise :class:`UserError` where a page ends early, is too large, or of an odd kind.

    Its compressed bytes are unpacked with care from then on.
    """
    dtype, bits, kind = page.dtype, page.bitspersample, page.photometric
    channels = _CHANNELS.get(kind, 0)
    if kind == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
        channels = 0
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    area = page.imagewidth * page.imagelength
    wanted = 1 if page.compression == COMPRESSION.NONE else math.prod(page.chunked)
    if bits in range(2, 8) or dtype is None or dtype.kind not in "buif":
        kind = dtype if bits >= 8 else f"of {bits} bit"
        why = f"pixels are {kind}; save them as 8 or 16 bit integers"
    elif area > most:
        why = f"{page.imagelength}×{page.imagewidth} pixels are too many; cut it into tiles"
    elif page.compression not in {*_BYTES, *_PICTURES, *_FAX, COMPRESSION.NONE}:
        scheme = getattr(page.compression, "name", page.compression)
        why = f"is compressed as {scheme}; save it by LZW or deflate"
    elif page.tilewidth * page.tilelength > max(2 * area, _LARGEST_TILE):
        why = f"tiles of {page.tilelength}×{page.tilewidth} pixels; export it again"
    elif not channels:
        colours = getattr(kind, "name", kind)
        why = f"colours are stored as {colours}; convert it to gray or RGB first"
    elif not ends or max(ends) > page.parent.filehandle.size or len(ends) < wanted:
        why = "the TIFF is truncated; copy or export it again"
    else:
        if most == MOST_PIXELS:  # the whole page in memory
            check_inflation(name, page.nbytes, page.parent.filehandle.size)
        keyframe = page.keyframe
        if keyframe.compression != 1 and "decode" not in vars(keyframe):  # which is made when used
            keyframe.decode = _Unpacker(keyframe)
        return
    raise UserError(f"{name}: {why}")


class _Unpacker:
    """Decodes the strips or tiles of a page, in place of tifffile's own function ``page.decode``.

    They may unpack to any size: no more is taken than they should hold. LZW and PackBits have no
    checksum; what is damaged there mostly unpacks to another size, and is refused.
    """

    def __init__(self, page: Any) -> None:
        self._packed, plain = page.compression in _BYTES, page
        if self._packed:
            plain = object.__new__(type(page))  # a copy, faster than copy.copy
            about = {k: v for k, v in vars(page).items() if k not in ("decode", "hash")}
            vars(plain).update(about, compression=COMPRESSION.NONE, fillorder=1)
            self._decompress = TIFF.DECOMPRESSORS[page.compression]
        self._decode = plain.decode
        self._picture = page.compression in _PICTURES
        self._reversed = page.fillorder == 2
        self._exact = page.compression in (COMPRESSION.LZW, COMPRESSION.PACKBITS)
        rows, self._width = page.tilelength, page.tilewidth
        self._rows, self._left = range(0, page.imagelength, rows or 1), rows
        if not page.is_tiled:
            rows, self._width = min(page.rowsperstrip, page.imagelength), page.imagewidth
            self._rows = range(0, page.imagelength, rows)
            self._left = page.imagelength - self._rows[-1]
        samples = page.samplesperpixel if page.planarconfig == 1 else 1
        self._row = -(-self._width * samples * page.bitspersample // 8)  # bytes
        self._size = rows * self._row

    def __call__(self, data: Any, index: int, **options: Any) -> Any:
        if data is not None and self._packed:
            if self._reversed:
                data = imagecodecs.bitorder_decode(data)
            packed, data = data, self._decompress(data, out=self._size + self._exact)
            last = index % len(self._rows) == len(self._rows) - 1
            sizes = self._size, self._left * self._row if last else self._size
            if self._exact and len(data) not in sizes and not self._ends_late(packed, sizes):
                raise TiffFileError(f"{len(data)} bytes in a strip of {sizes[1]}")
            data = data[: self._size]
        elif data is not None and self._picture:
            head = options.get("jpegheader") or b""  # of a JPEG as TIFF once had it
            with Image.open(BytesIO(head + data)) as picture:  # its header alone
                if math.prod(picture.size) > max(2 * self._size, _LARGEST_TILE):
                    raise TiffFileError("a tile is larger than the image")
            if data.startswith(b"\xff\xd8"):
                tables = options.get("jpegtables")
                decode_jpeg(tables[:-2] + data[2:] if tables else data, "GRAY")  # damage raises
        return self._decode(data, index, **options)

    def _ends_late(self, packed: bytes, sizes: tuple[int, ...]) -> bool:
        """Whether a strip is whole but for its end: some encoders of LZW, as of DIC-C2DH-HeLa,
        write the code that ends it one bit too short, so that it is read as some bytes more.

        Then nothing ends it, and what is put behind it is read, too; a damaged strip ends.
        """
        out = 2 * self._size + 64
        lengths = [len(self._decompress(packed[:-cut], out=out)) for cut in (1, 2)]
        more = [len(self._decompress(packed + end, out=out)) for end in (b"", bytes(8))]
        return more[0] < more[1] and not {*lengths}.isdisjoint(sizes)


def check_alpha(mask: np.ndarray, left_out: list[int], name: object) -> None:
    """Raise :class:`UserError` for a mask (H, W, samples) of which alpha says what is shown.

    Alpha are the samples that are ``left_out``.
    """
    colours, alpha = np.delete(mask, left_out, axis=2), mask[..., left_out]
    if (alpha == alpha[:1, :1]).all():
        return
    what = "transparent pixels have a value" if colours[alpha[..., 0] == 0].any() else ""
    if (colours == colours[:1, :1]).all():
        what = "all its pixels have one colour, and alpha varies"
    if what:
        raise UserError(f"{name}: {what}: is the mask in alpha? Save it as one gray channel")


def as_meant(pixels: np.ndarray, page: Any, mask: bool) -> np.ndarray:
    """Turn (H, W, samples) as stored into (H, W, C) as the file means them.

    Alpha is dropped, never multiplied in. One bit becomes 0 and 255. Where the file says that 0 is
    white an image is inverted, but a mask is not: ImageJ says so of masks that it shows in black on
    white, tifffile of every mask of one bit, and both leave the objects' values as they are. A
    palette colours an image; of a mask the values themselves are taken.
    """
    kept = shown_samples(page, mask)[0]
    pixels = pixels[..., kept] if len(kept) < pixels.shape[2] else pixels
    pixels = pixels.astype(pixels.dtype.newbyteorder("="), copy=False)
    if pixels.dtype == np.bool_:
        pixels = np.where(pixels, np.uint8(255), np.uint8(0))
    if page.photometric == PHOTOMETRIC.MINISWHITE and not mask:
        whole = pixels.dtype.kind != "f"
        return np.asarray(np.iinfo(pixels.dtype).max - pixels if whole else -pixels)
    if page.photometric == PHOTOMETRIC.PALETTE and not mask:
        return np.asarray((page.colormap.T >> 8).astype(np.uint8)[pixels[..., 0]])
    return pixels


def orientation(page: Any) -> int:
    """How a page lies, as EXIF numbers it; 1 is upright."""
    return int(page.tags.valueof("Orientation", 1))


def upright(pixels: np.ndarray, orientation: int) -> np.ndarray:
    """Turn and mirror (H, W, …) pixels as EXIF's orientation, 1 to 8, says."""
    if orientation > 4:
        pixels = pixels.swapaxes(0, 1)
    if orientation in (2, 3, 6, 7):
        pixels = pixels[:, ::-1]
    if orientation in (3, 4, 7, 8):
        pixels = pixels[::-1]
    return np.ascontiguousarray(pixels)
