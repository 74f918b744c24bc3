"""What a TIFF says of its image beside the pixels: how large they are, and what channels are."""

import math
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Literal
from xml.etree import ElementTree

import tifffile

_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25400.0, "in": 25400.0, "angstrom": 1e-4, "picometer": 1e-6, "nanometer": 1e-3,
    "millimeter": 1e3, "centimeter": 1e4, "meter": 1e6,
}  # fmt: skip
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
# Programs write 72 or 300 dpi into any file, for printers. Finer than this it was a microscope.
_COARSEST = 10.0  # µm; 2540 dpi
_PLACE = re.compile(r"\b[czt]:\d+/\d+")  # of a plane, in a label that Fiji's importer wrote
_COLOURS = ["red", "green", "blue"]


@dataclass(frozen=True)
class Calibration:
    """What a file says of its scale, for measurements and to be written into its results."""

    layout: Literal["plain", "ome", "imagej"] = "plain"  # whose metadata the file holds
    pixel_size: tuple[float, float] | None = None  # (height, width) in µm where the file tells it
    metadata: dict[str, Any] = field(default_factory=dict)  # as tifffile writes it
    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None  # as stored, of x and y
    resolution_unit: int = 1  # TIFF's number: 1 none, 2 inch, 3 centimetre


def micrometres(steps: Sequence[Any], units: Sequence[str]) -> tuple[float, float] | None:
    """(height, width) of a pixel in µm, from numbers and their units; ``None`` if one is unknown.

    >>> micrometres([250, 0.5], ["nm", "micrometer"])
    (0.25, 0.5)
    """
    height, width = (float(s) * _MICROMETRES.get(u, 0.0) for s, u in zip(steps, units, strict=True))
    known = all(math.isfinite(side) and side > 0 for side in (height, width))
    return (height, width) if known else None


def ome_scale(size: tuple[float, float] | None) -> dict[str, Any]:
    """What OME's metadata say of a pixel's (height, width) in µm; nothing where it is unknown."""
    about: dict[str, Any] = {}
    for axis, side in zip("YX", size or (), strict=False):
        about |= {f"PhysicalSize{axis}": side, f"PhysicalSize{axis}Unit": "µm"}
    return about


def clean_names(found: Sequence[object], count: int) -> tuple[str, ...]:
    """Names of ``count`` channels from what a file tells; none if it tells of another number.

    Those that are called red, green and blue are an RGB image, whose channels have no names. One
    that is absent or there twice is called by its number, from 0.

    >>> clean_names(["DAPI", "", "GFP", "GFP"], 4), clean_names(["R", "G", "B"], 3)
    (('DAPI', '1', '2', '3'), ())
    """
    names = [str(name or "").strip() for name in found]
    lower = [name.lower() for name in names]
    if len(names) != count or not any(names) or lower in (_COLOURS, [c[0] for c in _COLOURS]):
        return ()
    unclear = ("", *(name for name in names if names.count(name) > 1))
    return tuple(str(i) if name in unclear else name for i, name in enumerate(names))


def channel_names(tiff: tifffile.TiffFile, count: int) -> tuple[str, ...]:
    """Names of a file's ``count`` channels: of OME, Micro-Manager or ImageJ; empty without."""
    found: Sequence[object] = ()
    if tiff.is_ome and (pixels := _ome_pixels(tiff.ome_metadata or "")) is not None:
        found = [channel.get("Name") for channel in pixels.iterfind("{*}Channel")]
    if len(found) != count or not any(found):
        found = _summary(tiff).get("ChNames", ())
    if len(found) != count and tiff.is_imagej:
        # One label a plane, channels fastest: a name is what all planes of a channel have.
        labels = (tiff.imagej_metadata or {}).get("Labels", ())
        labels = [labels] if isinstance(labels, str) else list(labels)
        alike = all(len({*labels[i::count]}) == 1 for i in range(count))
        if labels and len(labels) % count == 0 and alike and not any(map(_PLACE.search, labels)):
            found = labels[:count] if count > 1 and len({*labels[:count]}) == count else ()
    return clean_names(found, count)


def read_calibration(tiff: tifffile.TiffFile) -> Calibration:
    """The scale of a file's first image."""
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
    size = micrometres(steps, units)
    if size is not None and layout == "plain" and max(size) >= _COARSEST:
        size = None
    if size is None and isinstance(side := _summary(tiff).get("PixelSize_um"), int | float):
        size = micrometres([side, side], ["µm", "µm"])
    return Calibration(layout, size, metadata, resolution, unit)


def _summary(tiff: tifffile.TiffFile) -> dict[str, Any]:
    """What Micro-Manager says of an acquisition; empty of other files."""
    if not tiff.is_micromanager:
        return {}
    found = (tiff.micromanager_metadata or {}).get("Summary")
    return found if isinstance(found, dict) else {}


def _ome_pixels(xml: str) -> Any:
    """What OME-XML says of the first image's pixels; ``None`` if it is broken."""
    try:
        return ElementTree.fromstring(xml).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return None


def _ome_scale(xml: str) -> dict[str, Any]:
    """The scale that OME-XML gives the first image; empty where it gives none or is broken."""
    try:
        return {
            key: value if key.endswith("Unit") else float(value)
            for key, value in _ome_pixels(xml).attrib.items()
            if key.startswith(("PhysicalSize", "TimeIncrement"))
        }
    except (AttributeError, ValueError):
        return {}
