"""TIFF files by tifffile: which of their pages make the image, and the pixels of a page."""

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
from tifffile import COMPRESSION, PHOTOMETRIC, TIFF, TiffFile, TiffFileError

from segmentation.errors import UserError
from segmentation.io.files import check_inflation
from segmentation.io.jpeg import decode_jpeg

TIFF_MAGIC = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MOST_PIXELS = 2**30  # of an image in memory: a broken or malicious header may ask for any size
ONE_CHANNEL = "channels; save the one that matters, or RGB, as its own file"
_GRAY = PHOTOMETRIC.MINISWHITE, PHOTOMETRIC.MINISBLACK, PHOTOMETRIC.PALETTE
_CHANNELS = dict.fromkeys(_GRAY, 1)
_CHANNELS |= {PHOTOMETRIC.RGB: 3, PHOTOMETRIC.YCBCR: 3}  # the last in JPEG, decoded to RGB
# Narrower planes are (H, W, C) that a writer stored as H planes of W×C, for nobody told it better.
_NARROWEST = 10  # pixels
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


def image_pages(
    tiff: TiffFile, name: object
) -> tuple[str, tuple[int, ...], tuple[tuple[int, ...], ...]]:
    """Find the planes of the one image in a file; thumbnails and a pyramid's levels are left out.

    It returns the axes that they run over, slowest first; their lengths; and each plane's pages:
    its red, green and blue one where three channels are stored as planes.
    """
    series = [s for s in tiff.series if not s.keyframe.is_reduced]
    first = series[0].keyframe
    height, width = first.imagelength, first.imagewidth
    named = zip(series[0].axes, series[0].shape, strict=True)
    leading = [(axis, length) for axis, length in named if axis not in "YXS"]
    if len(series) > 1:
        leading = [("I", len(series))]  # written page by page
        sizes = sorted({f"{s.keyframe.imagelength}×{s.keyframe.imagewidth}" for s in series})
        if len(sizes) > 1:
            raise UserError(
                f"{name}: a stack of mixed sizes ({', '.join(sizes)}, H×W); save the planes of "
                "each size as their own file"
            )
        if any(len(s.pages) > 1 or s.dtype != series[0].dtype for s in series):
            raise UserError(f"{name}: holds {len(series)} images; save each as its own file")
    pages = [page for s in series for page in s.pages]
    if any(page is None or page.parent is not tiff for page in pages):  # others are in other files
        own = {page.index: page for page in pages if page is not None and page.parent is tiff}
        pages, leading = list(own.values()), [("I", len(own))] if len(own) > 1 else []
    axes, lengths = "".join(a for a, _ in leading), tuple(n for _, n in leading)
    if len(pages) != math.prod(lengths) or first.imagedepth > 1:
        raise UserError(
            f"{name}: a stack of {math.prod(lengths)} planes in one piece; save it as a TIFF of "
            "as many pages"
        )
    order = np.array([page.index for page in pages if page is not None]).reshape(*lengths, 1)
    if (at := axes.find("C")) >= 0:
        if lengths[at] != 3 or first.samplesperpixel > 1:
            raise UserError(f"{name}: {lengths[at]} {ONE_CHANNEL}")
        order = np.moveaxis(order[..., 0], at, -1)
        axes, lengths = axes.replace("C", ""), (*lengths[:at], *lengths[at + 1 :])
    planes = tuple(tuple(map(int, row)) for row in order.reshape(-1, order.shape[-1]))
    if len(planes) > 1 and width <= _NARROWEST < height:
        raise UserError(
            f"{name}: {len(planes)} planes of {height}×{width} pixels (H×W): {width} channels "
            "that were stored as columns? Save the one that matters, or RGB, as its own file"
        )
    return axes, lengths, planes


def one_plane(tiff: TiffFile, name: object) -> tuple[int, ...]:
    """The pages of a file that holds one plane; others are refused."""
    planes = image_pages(tiff, name)[2]
    if len(planes) > 1:
        raise UserError(
            f"{name}: a stack of {len(planes)} planes; save each plane as its own file, of images "
            "and masks alike (in Fiji: File ► Save As ► Image Sequence)"
        )
    return planes[0]


def read_plane(tiff: TiffFile, pages: tuple[int, ...], name: object, mask: bool) -> np.ndarray:
    """Decode a plane from its pages: (H, W, C), upright, see :func:`as_meant`."""
    channels = []
    with decoding(name):
        for number in pages:
            page: Any = tiff.pages[number]
            check_page(page, name)
            planes = page.asarray(squeeze=False, maxworkers=1)[:, 0]  # (separate, H, W, joint)
            pixels = planes[0] if len(planes) == 1 else planes[..., 0].transpose(1, 2, 0)
            if mask:
                check_alpha(pixels, _CHANNELS[page.photometric], name)
            channels.append(upright(as_meant(pixels, page, mask), orientation(page)))
    return channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)


def check_page(page: Any, name: object, most: int = MOST_PIXELS) -> None:
    """Raise :class:`UserError` where a page ends early, is too large, or of an odd kind.

    Its compressed bytes are unpacked with care from then on.
    """
    dtype, bits, kind = page.dtype, page.bitspersample, page.photometric
    channels = _CHANNELS.get(kind, 0)
    if kind == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
        channels = 0
    extra = page.samplesperpixel - channels
    # A second channel beside gray is dropped only if the file says that it is alpha.
    alpha = extra == 1 and (channels == 3 or tuple(page.extrasamples) in ((1,), (2,)))
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
    elif extra and not alpha:
        why = f"{page.samplesperpixel} {ONE_CHANNEL}"
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


def check_alpha(mask: np.ndarray, channels: int, name: object) -> None:
    """Raise :class:`UserError` for a mask (H, W, samples) of which alpha says what is shown."""
    colours, alpha = mask[..., :channels], mask[..., channels:]
    if not alpha.size or (alpha == alpha[:1, :1]).all():
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
    pixels = pixels[..., : _CHANNELS[page.photometric]]
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
