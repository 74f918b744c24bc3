"""Image files as planes of one size: one image, or a stack over time or depth."""

import math
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segmentation.errors import UserError
from segmentation.io import images, tiff
from segmentation.io.files import check_regular
from segmentation.io.images import MICROSCOPE_SUFFIXES, as_ids, is_zarr, sixteen_bits
from segmentation.io.layout import Layout, image_layout
from segmentation.io.metadata import Calibration, channel_names, read_calibration
from segmentation.io.windows import TiffWindows

_UNKNOWN, _NONE = Calibration(), Layout("", (), ())


class Windows(Protocol):
    """A plane that need not fit into memory, read in windows."""

    @property
    def name(self) -> str: ...  # of its file
    @property
    def shape(self) -> tuple[int, int, int]: ...  # (H, W, C)
    @property
    def dtype(self) -> Any: ...  # uint8 or uint16

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """A window within the plane: (rows, columns, C)."""


@dataclass(frozen=True)
class Planes:
    """The planes of one image file, each as :func:`read_image` gives images of one plane.

    Iterating reads them one after another, and raises the same errors. ``axes`` are what the planes
    run over, slowest first: "T", "Z", "TZ"; "I" where the file does not tell; "" of one plane.
    """

    path: Path
    axes: str = ""
    lengths: tuple[int, ...] = ()  # along each of ``axes``
    size: tuple[int, int] | None = None  # (height, width); ``None``: known after reading only
    channels: tuple[str, ...] = ()  # their names, where the file tells
    calibration: Calibration = _UNKNOWN  # how large the pixels are

    def __len__(self) -> int:
        return math.prod(self.lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.plane, range(len(self)))

    def plane(self, number: int) -> np.ndarray:
        """Read one plane, without decoding the others: (H, W, C) uint8 or uint16."""
        return images.read_image(self.path)

    def mask(self, number: int) -> np.ndarray:
        """The same of a mask: (H, W) as :func:`read_mask` gives it."""
        return images.read_mask(self.path)

    def windows(self, number: int, rows: int) -> AbstractContextManager[Windows]:
        """One plane in windows, of which the latest ``rows`` may be kept."""
        raise NotImplementedError(f"{type(self).__name__} are read as a whole")

    def position(self, plane: int) -> dict[str, int]:
        """Where the plane of that number lies: axis ► index from 0."""
        indices = np.unravel_index(plane, self.lengths) if self.lengths else ()
        return {axis: int(index) for axis, index in zip(self.axes, indices, strict=True)}


@dataclass(frozen=True)
class TiffPlanes(Planes):
    """The planes of a TIFF, whose pages ``layout`` knows."""

    layout: Layout = _NONE

    def __iter__(self) -> Iterator[np.ndarray]:
        with tiff.open_tiff(self.path, self.path) as file:
            for number in range(len(self)):
                yield self._read(file, number)

    def plane(self, number: int) -> np.ndarray:
        with tiff.open_tiff(self.path, self.path) as file:
            return self._read(file, number)

    def mask(self, number: int) -> np.ndarray:
        with tiff.open_tiff(self.path, self.path) as file:
            pixels = tiff.read_plane(file, self.layout, number, self.path, mask=True)
            return as_ids(pixels, self.path)

    def windows(self, number: int, rows: int) -> TiffWindows:
        return TiffWindows(self.path, rows, self.layout.planes[number])

    def _read(self, file: Any, number: int) -> np.ndarray:
        pixels = tiff.read_plane(file, self.layout, number, self.path, mask=False)
        return sixteen_bits(pixels, self.channels, self.path)


@dataclass(frozen=True)
class JoinedPlanes(Planes):
    """One image whose channels are ``files``, of one channel each; they are named by numbers."""

    files: tuple[Planes, ...] = ()

    def plane(self, number: int) -> np.ndarray:
        parts = [file.plane(number) for file in self.files]
        for file, part in zip(self.files, parts, strict=True):
            self._check(file, part.shape, parts[0].shape)
        return np.concatenate(parts, axis=2)

    @contextmanager
    def windows(self, number: int, rows: int) -> Iterator[Windows]:
        with ExitStack() as stack:
            parts = [stack.enter_context(f.windows(number, rows)) for f in self.files]
            for file, part in zip(self.files, parts, strict=True):
                self._check(file, part.shape, parts[0].shape)
            yield _JoinedWindows(parts)

    def _check(self, file: Planes, shape: tuple[int, ...], first: tuple[int, ...]) -> None:
        if shape[2] != 1 or shape != first or file.lengths != self.lengths:
            (h, w, c), (height, width, _) = shape, first
            raise UserError(
                f"{file.path}: {len(file)} plane(s) of {h}×{w} pixels and {c} channel(s), as a "
                f"channel beside {self.path.name} of {len(self)} × {height}×{width}; give files of "
                "one channel and one size"
            )


class _JoinedWindows:
    def __init__(self, parts: Sequence[Windows]) -> None:
        self.parts, self.name = parts, parts[0].name
        self.shape = (*parts[0].shape[:2], len(parts))
        self.dtype = np.result_type(*(part.dtype for part in parts))

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return np.concatenate([part.read(rows, columns) for part in self.parts], axis=2)


def open_planes(path: Path, *more: Path) -> Planes:
    """Look at an image file, or a TIFF with any number of planes, without reading its pixels.

    Three channels without names are red, green and blue; of ``more`` files each holds a further
    channel. A file whose planes differ, or that holds several images, is a :class:`UserError`.
    """
    if more:
        files = tuple(open_planes(one) for one in (path, *more))
        first, names = files[0], tuple(map(str, range(len(files))))
        sizes = [file.size for file in files]
        size = first.size if None not in sizes else None
        scale = first.calibration
        return JoinedPlanes(path, first.axes, first.lengths, size, names, scale, files)
    check_regular(path)
    if is_zarr(path):
        from segmentation.io.ome_zarr import open_zarr  # which imports this

        return open_zarr(path)
    if path.suffix.lower() in MICROSCOPE_SUFFIXES:
        from segmentation.io.microscopes import open_microscope

        return open_microscope(path)
    with tiff.decoding(path), path.open("rb") as some:
        is_tiff = some.read(4) in tiff.TIFF_MAGIC
    if not is_tiff:
        return Planes(path)
    with tiff.decoding(path), tiff.open_tiff(path, path) as file:
        layout = image_layout(file, path)
        pages = layout.planes[0]
        page = tiff.page_of(file, pages[0])
        size, count = (page.imagelength, page.imagewidth), len(pages)
        count *= len(tiff.shown_samples(page)[0])
        size = size[::-1] if tiff.orientation(page) > 4 else size
        if layout.by_rows:
            size, count = (len(pages), size[0]), size[1]
        names, scale = channel_names(file, count), read_calibration(file)
        return TiffPlanes(path, layout.axes, layout.lengths, size, names, scale, layout)


def open_stack(path: Path, *more: Path) -> Planes:
    """:func:`open_planes` that remembers some files, for whoever reads plane by plane."""
    about = [file.stat() for file in (path, *more)]
    return _remembered(path, *more, key=tuple((a.st_mtime_ns, a.st_size) for a in about))


@lru_cache(16)
def _remembered(*paths: Path, key: object) -> Planes:
    return open_planes(*paths)
