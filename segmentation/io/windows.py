"""Images too large for memory: windows of a TIFF on disk, and rows that are put aside."""

import math
import os
import tempfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

import numpy as np

from segmentation.errors import UserError
from segmentation.io.files import unwritten
from segmentation.io.layout import one_plane
from segmentation.io.tiff import as_meant, check_page, decoding, open_tiff, orientation, page_of

_LARGEST = 2**30  # bytes of one tile or strip, which is decoded as a whole
_LEAST = 64  # rows that are decoded at once, of the whole width


class TiffWindows:
    """Windows of a TIFF that stays on disk, for a ``with`` block: pixels as of ``read_image``.

    A window of an uncompressed file is read alone; otherwise all tiles or strips of its rows are
    decoded, by tifffile's zarr store, and the latest ``rows`` of the image are kept: the height of
    windows that are read in rows. Of a stack, ``pages`` are those of a plane in the file, one or
    one a channel. A file that is broken or cannot be read in windows is a :class:`UserError`.
    ``shape`` is (H, W, C).
    """

    def __init__(
        self, path: str | Path, rows: int = 1024, pages: tuple[int, ...] | None = None
    ) -> None:
        self.name = str(path)
        with decoding(path), ExitStack() as stack:
            tiff = stack.enter_context(open_tiff(Path(path), path))
            if pages is None:
                layout = one_plane(tiff, path)
                pages = layout.planes[0][: 1 if layout.by_rows else None]
            self._pages = [_PageWindows(page_of(tiff, number), path, rows) for number in pages]
            example = self.read(slice(0, 1), slice(0, 1))
            self.shape = (*self._pages[0].size, example.shape[2])
            self.dtype = example.dtype
            self._open = stack.pop_all()

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Read a window within the image: (rows, columns, C) uint8 or uint16."""
        with decoding(self.name):
            parts = [page.read(rows, columns) for page in self._pages]
        return np.ascontiguousarray(parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2))

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._open.close()


def unfit_for_windows(path: object, dtype: object) -> UserError:
    """The error for pixels of another type than integers of 8 or 16 bits."""
    why = f"pixels are {dtype}, which cannot be read in windows"
    return UserError(f"{path}: {why}; save them as 8 or 16 bit integers")


class Strips:
    """Whole rows of chunks, decoded as they are asked for; the latest ``rows`` are kept."""

    def __init__(self, decode: Callable[[slice], np.ndarray], chunk: int, rows: int) -> None:
        self._step = chunk * -(-_LEAST // chunk)
        self._strip = lru_cache(-(-rows // self._step) + 1)(
            lambda i: decode(slice(i * self._step, (i + 1) * self._step))
        )

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """Some rows and columns."""
        first, last = rows.start // self._step, -(-rows.stop // self._step)
        window = np.concatenate([self._strip(i)[:, columns] for i in range(first, last)])
        return window[rows.start - first * self._step :][: rows.stop - rows.start]


class _PageWindows:
    """Windows of one page."""

    def __init__(self, page: Any, path: str | Path, rows: int) -> None:
        self._page, self.size = page, (page.imagelength, page.imagewidth)
        check_page(page, path, most=2**48)
        if page.dtype not in (np.uint8, np.uint16, np.bool_):
            raise unfit_for_windows(path, page.dtype)
        if orientation(page) != 1:
            raise UserError(f"{path}: lies on its side (tag Orientation); save it upright")
        if not page.is_memmappable:
            size = math.prod(page.chunks) * page.dtype.itemsize
            if size > _LARGEST:
                raise UserError(
                    f"{path}: is compressed in strips of {size / 2**30:.1f} GiB, which cannot be "
                    "read in windows; save it in tiles"
                )
            import zarr  # takes half a second

            self._zarr: Any = zarr.open_array(page.aszarr(), mode="r")
        chunk = page.chunks[page.axes.index("Y")]
        self._strips = Strips(lambda some: self._crop(self._zarr, some, np.s_[:]), chunk, rows)

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        if self._page.is_memmappable:
            # Mapped anew each time: pages that stay mapped would add up to the whole file.
            window = self._crop(self._page.asarray(out="memmap"), rows, columns)
        else:
            window = self._strips.read(rows, columns)
        return as_meant(window, self._page, mask=False)

    def _crop(self, pixels: Any, rows: slice, columns: slice) -> np.ndarray:
        axes = self._page.axes  # YX, YXS, or SYX: samples that are stored one after another
        by_axis = {"Y": rows, "X": columns, "S": slice(None)}
        window = np.asarray(pixels[tuple(by_axis[axis] for axis in axes)])
        return np.moveaxis(window, axes.index("S"), 2) if "S" in axes else window[..., None]


class BandStore:
    """Rows of an image, put aside on disk, compressed, until they are asked for again.

    The file has no name (where the system can do that) and is gone when it is closed. ``beside``
    shares the file of another store, which closes it: planes may be more than files can be open.

    >>> with BandStore(Path(tempfile.gettempdir())) as store:
    ...     store.append(np.zeros((2, 3)))
    ...     store.append(np.ones((2, 3)))
    ...     store.reader()(slice(1, 4), slice(0, 1)).tolist()
    [[0.0], [1.0], [1.0]]
    """

    def __init__(self, folder: Path, beside: "BandStore | None" = None) -> None:
        self._folder = folder
        self._parts: list[tuple[int, int, tuple[int, ...], np.dtype[Any]]] = []
        with unwritten(folder):
            folder.mkdir(parents=True, exist_ok=True)
            new = None if beside else tempfile.TemporaryFile(dir=folder)  # noqa: SIM115
            self._file: Any = beside._file if beside else new

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
        """A function that reads some rows, at least one, and columns; it keeps four parts."""
        decode = lru_cache(4)(self._decode)

        def read(rows: slice, columns: slice) -> np.ndarray:
            found, top = [], 0
            for index, (_, _, (height, *_), _) in enumerate(self._parts):
                if top < rows.stop and top + height > rows.start:
                    inside = slice(max(rows.start - top, 0), rows.stop - top)
                    found.append(decode(index)[inside, columns])
                top += height
            return np.concatenate(found)  # a copy: not all of the parts stay in memory

        return read

    def _decode(self, index: int) -> np.ndarray:
        start, length, shape, dtype = self._parts[index]
        with unwritten(self._folder):  # what was appended may be in a buffer still
            self._file.seek(start)
        return np.frombuffer(zlib.decompress(self._file.read(length)), dtype).reshape(shape)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._file.close()
