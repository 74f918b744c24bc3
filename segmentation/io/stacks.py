"""Image files as planes of one size: one image, or a stack over time or depth."""

import math
from collections.abc import Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from segmentation.io.files import check_regular
from segmentation.io.images import read_image, sixteen_bits
from segmentation.io.layout import Layout, image_layout
from segmentation.io.metadata import Calibration, channel_names, read_calibration
from segmentation.io.tiff import (
    TIFF_MAGIC,
    decoding,
    open_tiff,
    orientation,
    page_of,
    read_plane,
    shown_samples,
)
from segmentation.io.windows import TiffWindows

_UNKNOWN, _NONE = Calibration(), Layout("", (), ())


class Windows(Protocol):
    """A plane that need not fit into memory, read in windows."""

    @property
    def name(self) -> str:
        """Of its file."""

    @property
    def shape(self) -> tuple[int, int, int]:
        """(H, W, C)."""

    @property
    def dtype(self) -> Any:
        """uint8 or uint16."""

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        """A window within the plane: (rows, columns, C)."""


@dataclass(frozen=True)
class Planes:
    """The planes of one image file, each as :func:`read_image` gives images of one plane.

    Iterating reads them one after another, and raises the same errors.

    Attributes:
        axes: What the planes run over, slowest first: "T", "Z", "TZ"; "I" where the file does not
            tell; "" for an image of one plane.
        lengths: Along each of ``axes``.
        size: (height, width) in pixels; ``None`` where that is known after reading only.
        channels: Their names, where the file tells.
        calibration: How large the pixels are.
    """

    path: Path
    axes: str = ""
    lengths: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    channels: tuple[str, ...] = ()
    calibration: Calibration = _UNKNOWN

    def __len__(self) -> int:
        return math.prod(self.lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        return map(self.plane, range(len(self)))

    def plane(self, number: int) -> np.ndarray:
        """Read one plane, without decoding the others: (H, W, C) uint8 or uint16."""
        return read_image(self.path)

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
        with open_tiff(self.path, self.path) as tiff:
            for number in range(len(self)):
                yield self._read(tiff, number)

    def plane(self, number: int) -> np.ndarray:
        with open_tiff(self.path, self.path) as tiff:
            return self._read(tiff, number)

    def windows(self, number: int, rows: int) -> TiffWindows:
        return TiffWindows(self.path, rows, self.layout.planes[number])

    def _read(self, tiff: Any, number: int) -> np.ndarray:
        pixels = read_plane(tiff, self.layout, number, self.path, mask=False)
        return sixteen_bits(pixels, self.channels, self.path)


def open_planes(path: Path) -> Planes:
    """Look at an image file, or a TIFF with any number of planes, without reading its pixels.

    Three channels without names are red, green and blue. A file whose planes differ, or that holds
    several images, is a :class:`UserError`.
    """
    check_regular(path)
    with decoding(path), path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGIC
    if not is_tiff:
        return Planes(path)
    with decoding(path), open_tiff(path, path) as tiff:
        layout = image_layout(tiff, path)
        pages = layout.planes[0]
        page = page_of(tiff, pages[0])
        size, count = (page.imagelength, page.imagewidth), len(pages) * len(shown_samples(page)[0])
        size = size[::-1] if orientation(page) > 4 else size
        if layout.by_rows:
            size, count = (len(pages), size[0]), size[1]
        about = size, channel_names(tiff, count), read_calibration(tiff)
        return TiffPlanes(path, layout.axes, layout.lengths, *about, layout)
