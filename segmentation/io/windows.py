"""Images too large for memory: windows of a TIFF on disk, and TIFFs written row by row."""

import importlib.util
import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import tifffile
from tifffile import COMPRESSION, PHOTOMETRIC

from segmentation.errors import UserError
from segmentation.io.files import unwritten, writing
from segmentation.io.stacks import Planes, tiff_settings
from segmentation.io.tiff import PLAIN, broken, dress, named, refusal

_LARGEST = 2**30  # bytes of one segment, which is decoded as a whole
_TILE = 256  # pixels, in the files that are written
_CLASSIC = 2**32 - 2**25  # bytes of pixels beyond which a TIFF needs 64-bit offsets
_DEFLATE = COMPRESSION.ADOBE_DEFLATE


class TiffWindows:
    """Windows of a TIFF that stays on disk. Close it, or use it in a ``with`` block.

    The pixels are those of ``segmentation.io.images.read_image``. A window of an uncompressed
    file is read alone; otherwise the tiles or strips it touches are decoded, and the latest of them
    are kept. Of a pyramid it is the full resolution.

    Args:
        path: 8 or 16 bits (or one); gray, RGB or RGBA, palette; tiles or strips; also BigTIFF.
        rows: As many of the image are kept decoded: the height of the windows, if they are read row
            by row.
        page: Its number in the file, of a stack; by default the file's only one.

    Attributes:
        shape: (H, W, C) with C in {1, 3}.
        dtype: uint8 or uint16.

    Raises:
        UserError: The file is missing, broken or of a kind that cannot be read in windows.
    """

    def __init__(self, path: str | Path, rows: int = 1024, page: int | None = None) -> None:
        self.name = str(path)
        try:
            self._tiff = tifffile.TiffFile(path)
        except OSError as error:
            raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
        except Exception as error:  # tifffile raises many kinds on a broken file
            raise broken(self.name, error) from None
        try:
            self._open(rows, page)
        except BaseException:
            self.close()
            raise

    def _open(self, rows: int, number: int | None) -> None:
        try:
            if number is None:
                first = self._tiff.series[0]
                planes = len(first.pages) if first.is_pyramidal else len(self._tiff.pages)
            else:
                planes = 1
            page = self._tiff.pages[number or 0]
            assert isinstance(page, tifffile.TiffPage)
            self._page = page
            why = refusal(page, planes * page.imagedepth, most=2**48) or self._unreadable()
        except Exception as error:
            raise broken(self.name, error) from None
        if why is not None:
            raise UserError(f"{self.name}: {why}")
        # A segment spans these rows, columns and samples; planes that are stored one after another
        # have their own.
        self._height, self._width = (
            (page.tilelength, page.tilewidth)
            if page.is_tiled
            else (min(page.rowsperstrip, page.imagelength), page.imagewidth)
        )
        self._planes = page.samplesperpixel if page.planarconfig == 2 else 1
        self._samples = page.samplesperpixel // self._planes
        self._whole = bool(page.is_memmappable)
        self._dtype = np.dtype(page.dtype)
        segment = self._height * self._width * self._samples * self._dtype.itemsize
        if segment > _LARGEST and not self._whole:
            raise UserError(
                f"{self.name}: is compressed in strips of {segment / 2**30:.1f} GiB, which cannot "
                "be read in windows; save it in tiles"
            )
        self._across = -(-page.imagewidth // self._width)
        kept = (-(-rows // self._height) + 1) * self._across * self._planes
        self._segment = lru_cache(kept)(self._decode)
        example = self.read(slice(0, 1), slice(0, 1))
        self.shape = (page.imagelength, page.imagewidth, example.shape[2])
        self.dtype = example.dtype

    def _unreadable(self) -> str | None:
        page = self._page
        # JPEG is decoded to RGB; elsewhere brightness and colours would be taken for it.
        if page.photometric == PHOTOMETRIC.YCBCR and page.compression != COMPRESSION.JPEG:
            return "colours are stored as YCBCR; convert it to RGB first"
        if page.compression not in PLAIN and importlib.util.find_spec("imagecodecs") is None:
            return (
                f"reading windows of {named(page.compression)} compression needs the package "
                "imagecodecs; install it, or save the file with deflate or uncompressed"
            )
        size = os.path.getsize(self.name)
        ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
        if not ends or max(ends) > size:
            return "the TIFF is truncated; copy or export it again"
        return None

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window within the image: (rows, columns, C) uint8 or uint16, RGB.

        Raises:
            UserError: The file is broken there.
        """
        try:
            samples = self._mapped(rows, columns) if self._whole else self._joined(rows, columns)
            colours = self._page.photometric == PHOTOMETRIC.YCBCR
            pixels = samples if colours else dress(samples, self._page, mask=False)
        except Exception as error:
            raise broken(self.name, error) from None
        return pixels[..., None] if pixels.ndim == 2 else pixels

    def close(self) -> None:
        """Close the file."""
        self._tiff.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mapped(self, rows: slice, columns: slice) -> np.ndarray:
        """A window of pixels that lie one after another in the file: (h, w, samples)."""
        page = self._page
        shape = (self._planes, page.imagelength, page.imagewidth, self._samples)
        dtype = self._dtype.newbyteorder(self._tiff.byteorder)
        # Mapped anew each time: pages that stay mapped would add up to the whole file.
        pixels = np.memmap(self.name, dtype, "r", page.dataoffsets[0], shape)
        window = np.moveaxis(pixels[:, rows, columns], 0, 2).astype(self._dtype)
        return window.reshape(*window.shape[:2], -1)

    def _joined(self, rows: slice, columns: slice) -> np.ndarray:
        """A window out of the segments it touches: (h, w, samples)."""
        page = self._page
        high, wide = self._height, self._width
        size = (rows.stop - rows.start, columns.stop - columns.start)
        window = np.zeros((*size, self._planes, self._samples), self._dtype)
        down = -(-page.imagelength // high)
        for plane in range(self._planes):
            for y in range(rows.start // high, -(-rows.stop // high)):
                for x in range(columns.start // wide, -(-columns.stop // wide)):
                    segment = self._segment((plane * down + y) * self._across + x)
                    if segment is None:
                        continue
                    top, bottom = max(rows.start, y * high), min(rows.stop, (y + 1) * high)
                    left, right = max(columns.start, x * wide), min(columns.stop, (x + 1) * wide)
                    window[
                        top - rows.start : bottom - rows.start,
                        left - columns.start : right - columns.start,
                        plane,
                    ] = segment[
                        top - y * high : bottom - y * high, left - x * wide : right - x * wide
                    ]
        return window.reshape(*size, -1)

    def _decode(self, index: int) -> np.ndarray | None:
        """One tile or strip, (h, w, samples) in native byte order; ``None`` if it is not stored."""
        page, file = self._page, self._tiff.filehandle
        count = page.databytecounts[index]
        if not count:
            return None
        file.seek(page.dataoffsets[index])
        data = file.read(count)  # at once: looking up tags moves the file's position
        segment = page.decode(data, index, jpegtables=page.jpegtables)[0]
        assert segment is not None
        pixels: np.ndarray = segment[0]
        return pixels.astype(self._dtype, copy=False)


class BandStore:
    """Rows of an image, put aside on disk, compressed, until they are asked for again.

    The file has no name (where the system can do that) and is gone when it is closed.

    Args:
        folder: Where there is room for it.
        beside: Use the file of this one, which is closed with it: a stack of many planes would
            otherwise meet the limit of open files.

    Raises:
        UserError: In any method, where the folder cannot be written or the disk is full.
    """

    def __init__(self, folder: Path, beside: "BandStore | None" = None) -> None:
        if beside is None:
            with unwritten(folder):
                folder.mkdir(parents=True, exist_ok=True)
                self._file = tempfile.TemporaryFile(dir=folder)  # noqa: SIM115  __exit__ closes it
        else:
            self._file = beside._file
        self._folder = folder
        self._parts: list[tuple[int, int, tuple[int, ...], np.dtype[Any]]] = []

    def append(self, rows: np.ndarray) -> None:
        """Add rows, an array of any kind, at the end."""
        data = zlib.compress(np.ascontiguousarray(rows).data, level=1)
        with unwritten(self._folder):
            start = self._file.seek(0, os.SEEK_END)
            self._file.write(data)
        self._parts.append((start, len(data), rows.shape, rows.dtype))

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self._decode, range(len(self._parts)))

    def reader(self) -> Callable[[slice, slice], np.ndarray]:
        """A function that reads some rows, at least one, and columns of parts of one kind.

        It keeps the latest four parts decoded.
        """
        decode = lru_cache(4)(self._decode)

        def read(rows: slice, columns: slice) -> np.ndarray:
            found, top = [], 0
            for index, (_, _, (height, *_), _) in enumerate(self._parts):
                if top < rows.stop and top + height > rows.start:
                    own = slice(max(rows.start - top, 0), rows.stop - top)
                    found.append(decode(index)[own, columns].copy())  # not all of the part
                top += height
            return found[0] if len(found) == 1 else np.concatenate(found)

        return read

    def _decode(self, index: int) -> np.ndarray:
        start, length, shape, dtype = self._parts[index]
        with unwritten(self._folder):  # what was appended may be in a buffer still
            self._file.seek(start)
        return np.frombuffer(zlib.decompress(self._file.read(length)), dtype).reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: object, trace: TracebackType | None
    ) -> None:
        self._file.close()


def write_tiff(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bands: Iterable[np.ndarray],
    planes: Planes | None = None,
    rgb: bool = False,
) -> None:
    """Write an image of which only some rows are in memory at a time, whole or not at all.

    It is tiled and deflated, and a BigTIFF where it might be larger than 4 GiB.

    Args:
        path: Its folders are made; a file of that name is replaced once all is written.
        shape: (H, W), (H, W, 3), or one of these after the lengths of a stack.
        dtype: uint8, uint16, uint32 or float32.
        bands: (rows, W) or (rows, W, 3) arrays of that dtype, from top to bottom, of one plane
            after another.
        planes: Of the image whose axes and scale the file gets.
        rgb: Whether the last axis are colours.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    leading, page = (shape[:-3], shape[-3:]) if rgb else (shape[:-2], shape[-2:])
    settings = (
        {"metadata": None} if planes is None else tiff_settings(planes, dtype, rgb, tiled=True)
    )
    rows = iter(bands)
    tiles = (tile for _ in range(math.prod(leading)) for tile in _tiles(rows, page, dtype))
    large = math.prod(shape) * dtype.itemsize > _CLASSIC
    with (
        writing(path) as file,
        tifffile.TiffWriter(file, bigtiff=large, ome=settings.pop("ome", False)) as tiff,
    ):
        tiff.write(
            tiles,
            shape=shape,
            dtype=dtype,
            tile=(_TILE, _TILE),
            compression=_DEFLATE,
            photometric="rgb" if rgb else "minisblack",
            maxworkers=1,
            **settings,
        )


def _tiles(
    bands: Iterator[np.ndarray], shape: tuple[int, ...], dtype: np.dtype[Any]
) -> Iterator[np.ndarray]:
    """Cut bands of any height into whole tiles, row by row, up to one plane; 0 beyond it."""
    height, width, *more = shape
    wide = -(-width // _TILE) * _TILE
    row, filled, seen = np.zeros((_TILE, wide, *more), dtype), 0, 0
    for band in bands:
        taken = 0
        while taken < len(band):
            count = min(len(band) - taken, _TILE - filled)
            row[filled : filled + count, :width] = band[taken : taken + count]
            taken, filled, seen = taken + count, filled + count, seen + count
            if filled == _TILE or seen == height:
                row[filled:] = 0
                for left in range(0, wide, _TILE):
                    yield np.ascontiguousarray(row[:, left : left + _TILE])
                filled = 0
        if seen >= height:
            break
    if seen != height:
        raise ValueError(f"{seen} rows for an image of {height}")
