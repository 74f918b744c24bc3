"""Image files as planes of one size: stacks over time or depth, and how large their pixels are."""

import io
import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import tifffile

from segmentation.io.files import check_regular
from segmentation.io.images import read_image, sixteen_bits
from segmentation.io.tiff import (
    TIFF_MAGIC,
    decoding,
    image_pages,
    open_tiff,
    orientation,
    read_plane,
)

_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
# Programs write 72 or 300 dpi into any file, for printers. Finer than this it was a microscope.
_COARSEST = 10.0  # µm; 2540 dpi


@dataclass(frozen=True)
class Calibration:
    """What a file says of its scale, for measurements and to be written into its results."""

    layout: Literal["plain", "ome", "imagej"] = "plain"  # whose metadata the file holds
    pixel_size: tuple[float, float] | None = None  # (height, width) in µm where the file tells it
    metadata: dict[str, Any] = field(default_factory=dict)  # as tifffile writes it
    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None  # as stored, of x and y
    resolution_unit: int = 1  # TIFF's number: 1 none, 2 inch, 3 centimetre


@dataclass(frozen=True)
class Planes:
    """The planes of one image file; iterating reads them one after another.

    Each is as :func:`read_image` gives images of one plane; iterating raises the same errors.

    Attributes:
        axes: What the planes run over, slowest first: "T", "Z", "TZ"; "I" where the file does not
            tell; "" for an image of one plane.
        lengths: Along each of ``axes``.
        size: (height, width) in pixels; of other formats than TIFF ``None`` before reading.
        pages: (planes, channels) of the TIFF's pages; no rows: another format.
    """

    path: Path
    axes: str = ""
    lengths: tuple[int, ...] = ()
    size: tuple[int, int] | None = None
    calibration: Calibration = Calibration()
    pages: tuple[tuple[int, ...], ...] = ()

    def __len__(self) -> int:
        return math.prod(self.lengths)

    def __iter__(self) -> Iterator[np.ndarray]:
        if not self.pages:
            yield read_image(self.path)
            return
        with open_tiff(self.path, self.path) as tiff:
            for pages in self.pages:
                pixels = read_plane(tiff, pages, self.path, mask=False)
                yield sixteen_bits(pixels, self.path)

    def position(self, plane: int) -> dict[str, int]:
        """Where the plane of that number lies: axis ► index from 0."""
        indices = np.unravel_index(plane, self.lengths) if self.lengths else ()
        return {axis: int(index) for axis, index in zip(self.axes, indices, strict=True)}


def open_planes(path: Path) -> Planes:
    """Look at an image file, or a TIFF with any number of planes, without reading its pixels.

    Three channels that are stored as planes are red, green and blue. A file whose planes differ, or
    that holds several images or other channels, is a :class:`UserError`.
    """
    check_regular(path)
    with decoding(path), path.open("rb") as file:
        is_tiff = file.read(4) in TIFF_MAGIC
    if not is_tiff:
        return Planes(path)
    with decoding(path), open_tiff(path, path) as tiff:
        axes, lengths, pages = image_pages(tiff, path)
        page: Any = tiff.pages[pages[0][0]]
        size = (page.imagelength, page.imagewidth)
        size = size[::-1] if orientation(page) > 4 else size
        return Planes(path, axes, lengths, size, _calibration(tiff), pages)


def _calibration(tiff: tifffile.TiffFile) -> Calibration:
    layout: Literal["plain", "ome", "imagej"] = "plain"
    metadata: dict[str, Any] = {}
    tags = tiff.pages.first.tags
    stored: Any = [tags.valueof(f"{axis}Resolution") for axis in "XY"]
    usable = all(isinstance(v, tuple) and len(v) == 2 and min(v) > 0 for v in stored)
    unit = int(tags.valueof("ResolutionUnit", 2))  # TIFF's default is inch
    resolution = (stored[0], stored[1]) if usable else None
    steps = [v[1] / v[0] for v in stored[::-1]] if usable else [0.0, 0.0]  # units a pixel
    units = [_RESOLUTION_UNITS.get(unit, "")] * 2
    if tiff.is_ome:
        layout, metadata = "ome", _ome_scale(tiff.ome_metadata or "")
        steps = [metadata.get(f"PhysicalSize{axis}", 0.0) for axis in "YX"]
        units = [metadata.get(f"PhysicalSize{axis}Unit", "µm") for axis in "YX"]
    elif tiff.is_imagej:
        layout, about = "imagej", tiff.imagej_metadata or {}
        metadata = {k: about[k] for k in ("unit", "spacing", "finterval") if k in about}
        if "unit" in metadata:
            units = [str(metadata["unit"]).replace("\\u00B5", "µ")] * 2
            metadata["unit"] = units[0].replace("µ", "u").replace("μ", "u")  # the file is ASCII
    height, width = (s * _MICROMETRES.get(u, 0.0) for s, u in zip(steps, units, strict=True))
    known = all(math.isfinite(side) and side > 0 for side in (height, width))
    known &= layout != "plain" or max(height, width) < _COARSEST
    return Calibration(layout, (height, width) if known else None, metadata, resolution, unit)


def _ome_scale(xml: str) -> dict[str, Any]:
    """The scale that OME-XML gives the first image; empty where it gives none or is broken."""
    try:
        pixels: Any = ElementTree.fromstring(xml).find(".//{*}Pixels")
        return {
            key: value if key.endswith("Unit") else float(value)
            for key, value in pixels.attrib.items()
            if key.startswith(("PhysicalSize", "TimeIncrement"))
        }
    except (ElementTree.ParseError, AttributeError, ValueError):
        return {}


def write_stack(pixels: np.ndarray, planes: Planes) -> bytes:
    """A TIFF file's bytes, deflated, with the planes and the scale that ``planes`` describes.

    ``pixels`` are unsigned integers, (planes, H, W) or (planes, H, W, 3) RGB. OME-TIFF stays
    OME-TIFF, and ImageJ's ImageJ's, but for 32 bits, which ImageJ lacks: those become OME-TIFF.
    """
    rgb, file = pixels.ndim == 4, io.BytesIO()
    settings = tiff_settings(planes, pixels.dtype, rgb)
    tifffile.imwrite(file, pixels.reshape(*planes.lengths, *pixels.shape[1:]), **settings)
    return file.getvalue()


def tiff_settings(
    planes: Planes | None, dtype: np.dtype[Any], rgb: bool, tiled: bool = False
) -> dict[str, Any]:
    """Settings for ``tifffile.imwrite`` of a result: kind, metadata, and resolution.

    ImageJ itself does not open ``tiled`` files: they become OME-TIFF instead, for Bio-Formats.
    """
    kind = "rgb" if rgb else "minisblack"
    settings: dict[str, Any] = {"metadata": None, "photometric": kind, "compression": "zlib"}
    if planes is None:
        return settings
    about, layout = planes.calibration, planes.calibration.layout
    if set(planes.axes) <= {"T", "Z"} and layout != "plain":
        scale = about.metadata
        if layout == "imagej" and (tiled or dtype not in (np.uint8, np.uint16)):
            layout, scale = "ome", {}
            for axis, side in zip("YX", about.pixel_size or (), strict=False):
                scale |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": "µm"}
        axes = planes.axes + ("YXS" if rgb else "YX")
        settings |= {layout: True, "metadata": {"axes": axes, **scale}}
    if about.resolution is not None:
        settings |= {"resolution": about.resolution, "resolutionunit": about.resolution_unit}
    return settings
