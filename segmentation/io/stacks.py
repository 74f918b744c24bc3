"""Image files as planes of one size: stacks over time or depth, and how large their pixels are."""

import io
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal
from xml.etree import ElementTree

import numpy as np
import tifffile
from tifffile import TIFF, TiffFile, TiffPage

from segmentation.errors import UserError
from segmentation.io.images import read_image
from segmentation.io.tiff import (
    TRUNCATED,
    broken,
    by_opencv,
    byte_order,
    dress,
    is_plain,
    is_whole,
    refusal,
    samples,
)

_MAGIC = (b"II*\x00", b"MM\x00*", b"II+\x00", b"MM\x00+")
_MICROMETRES = {
    "µm": 1.0, "μm": 1.0, "um": 1.0, "micron": 1.0, "microns": 1.0, "micrometer": 1.0,
    "micrometre": 1.0, "pm": 1e-6, "Å": 1e-4, "nm": 1e-3, "mm": 1e3, "cm": 1e4, "m": 1e6,
    "inch": 25400.0, "in": 25400.0,
}  # fmt: skip
_RESOLUTION_UNITS = {2: "inch", 3: "cm"}
# Programs write 72 or 300 dpi into any file, for printers. Finer than this it was a microscope.
_COARSEST = 10.0  # µm; 2540 dpi
# Narrower planes are (H, W, C) that a writer stored as H planes of W×C, for nobody told it better.
_NARROWEST = 10  # pixels


@dataclass(frozen=True)
class Calibration:
    """What a file says of its scale, for measurements and to be written into its results.

    Attributes:
        layout: Whose metadata the file holds.
        pixel_size: (height, width) of a pixel in µm, or ``None`` where the file does not tell.
        metadata: Of a TIFF as tifffile writes it: ``PhysicalSizeX``, …, or ImageJ's ``unit``, ….
        resolution: Pixels along x and y a unit of the resolution tags, as stored.
        resolution_unit: TIFF's number: 1 none, 2 inch, 3 centimetre.
    """

    layout: Literal["plain", "ome", "imagej"] = "plain"
    pixel_size: tuple[float, float] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    resolution: tuple[tuple[int, int], tuple[int, int]] | None = None
    resolution_unit: int = 1


@dataclass(frozen=True)
class Planes:
    """The planes of one image file; iterating reads them one after another.

    Each is (H, W, C), uint8 or uint16, C in {1, 3}, exactly as :func:`read_image` gives images of
    one plane; iterating raises the same :class:`UserError`.

    Attributes:
        path: The file.
        axes: What the planes run over, slowest first: "T", "Z", "TZ"; "I" where the file does not
            tell; "" for an image of one plane.
        lengths: Along each of ``axes``.
        size: (height, width) in pixels; of other formats than TIFF ``None`` before reading.
        calibration: Its scale.
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
        data = bytearray()  # of the whole file, where OpenCV must decode it
        with _one_line(self.path), TiffFile(self.path) as tiff:
            for pages in self.pages:
                channels = []
                for number in pages:
                    page = tiff.pages[number]
                    assert isinstance(page, TiffPage)
                    if not data and not is_plain(page):
                        data = bytearray(self.path.read_bytes())
                    channels.append(_decode(tiff, page, data, str(self.path)))
                yield channels[0] if len(channels) == 1 else np.concatenate(channels, axis=2)

    def position(self, plane: int) -> dict[str, int]:
        """Where the plane of that number lies: axis ► index from 0."""
        indices = np.unravel_index(plane, self.lengths) if self.lengths else ()
        return {axis: int(index) for axis, index in zip(self.axes, indices, strict=True)}


def open_planes(path: Path, channels: int = 1) -> Planes:
    """Look at an image file without reading its pixels.

    Args:
        path: PNG, JPEG, BMP, or TIFF with any number of planes.
        channels: 3: three channels that are stored as planes are taken as red, green and blue.

    Raises:
        UserError: The file is missing or broken; its planes differ in size or kind; it holds
            several images, or channels that are no colours.
    """
    try:
        with path.open("rb") as file:
            is_tiff = file.read(4) in _MAGIC
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    if not is_tiff:
        return Planes(path)
    with _one_line(path), TiffFile(path) as tiff:
        return _examine(tiff, path, channels)


@contextmanager
def _one_line(path: Path) -> Iterator[None]:
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise broken(path, error) from None


def _examine(tiff: TiffFile, path: Path, channels: int) -> Planes:
    if not is_whole(tiff):
        raise UserError(f"{path}: {TRUNCATED}")
    series = [s for s in tiff.series if not s.keyframe.is_reduced]  # leave thumbnails out
    first = series[0].keyframe
    size = (first.imagelength, first.imagewidth)
    if len(series) > 1:
        found = sorted({f"{s.keyframe.imagelength}×{s.keyframe.imagewidth}" for s in series})
        if len(found) > 1:
            raise UserError(
                f"{path}: a stack of mixed sizes ({', '.join(found)}, H×W); save the planes of "
                "each size as their own file"
            )
        if any(len(s.pages) > 1 or s.dtype != series[0].dtype for s in series):
            raise UserError(f"{path}: holds {len(series)} images; save each as its own file")
        leading = [("I", len(series))]  # written page by page
    else:
        named = zip(series[0].axes, series[0].shape, strict=True)
        leading = [(axis, length) for axis, length in named if axis not in "YXS"]
    axes, lengths = "".join(a for a, _ in leading), tuple(n for _, n in leading)
    frames = [page for s in series for page in s.pages if page is not None]
    if len(frames) < sum(len(s.pages) for s in series):
        raise UserError(f"{path}: some of its planes are in other files, or missing; export it")
    if len(frames) != math.prod(lengths) or first.imagedepth > 1:
        raise UserError(
            f"{path}: a stack of {math.prod(lengths)} planes in one piece; save it as a TIFF of "
            "as many pages"
        )
    order = np.array([page.index for page in frames]).reshape(*lengths, 1)
    if "C" in axes:
        at, count = axes.index("C"), lengths[axes.index("C")]
        if count != 3 or channels != 3 or first.samplesperpixel > 1:
            raise UserError(
                f"{path}: {count} channels; save the one that matters, or RGB, as its own file"
            )
        order = np.moveaxis(order[..., 0], at, -1)
        axes, lengths = axes.replace("C", ""), (*lengths[:at], *lengths[at + 1 :])
    pages = tuple(tuple(map(int, row)) for row in order.reshape(-1, order.shape[-1]))
    if len(pages) > 1 and size[1] <= _NARROWEST < size[0]:
        raise UserError(
            f"{path}: {len(pages)} planes of {size[0]}×{size[1]} pixels (H×W): {size[1]} channels "
            "that were stored as columns? Save the one that matters, or RGB, as its own file"
        )
    return Planes(path, axes, lengths, size, _calibration(tiff), pages)


def _decode(tiff: TiffFile, page: TiffPage, data: bytearray, name: str) -> np.ndarray:
    """One page as (H, W, C), by the rules of :func:`segmentation.io.tiff.decode_tiff`."""
    why = refusal(page, page.imagedepth)
    ends = [o + n for o, n in zip(page.dataoffsets, page.databytecounts, strict=True)]
    if why is None and (not ends or max(ends) > tiff.filehandle.size):
        why = TRUNCATED
    if why is not None:
        raise UserError(f"{name}: {why}")
    if is_plain(page):
        pixels = dress(samples(page), page, mask=False)
    else:
        # OpenCV reads the first page: let the header name this one as the first.
        classic = tiff.tiff in (TIFF.CLASSIC_LE, TIFF.CLASSIC_BE)
        place = slice(4, 8) if classic else slice(8, 16)
        data[place] = int(page.offset).to_bytes(place.stop - place.start, byte_order(tiff))
        pixels = by_opencv(data, page, name, mask=False)  # type: ignore[arg-type]
    return pixels[..., None] if pixels.ndim == 2 else pixels


def _calibration(tiff: TiffFile) -> Calibration:
    tags = tiff.pages.first.tags
    stored = [tags.valueof(f"{axis}Resolution") for axis in "XY"]
    usable = all(isinstance(v, tuple) and len(v) == 2 and min(v) > 0 for v in stored)
    resolution = (stored[0], stored[1]) if usable else None
    unit = int(tags.valueof("ResolutionUnit", 2))  # TIFF's default is inch
    common: dict[str, Any] = {"resolution": resolution, "resolution_unit": unit}
    if tiff.is_ome:
        told = _ome(tiff.ome_metadata or "")
        sizes = [
            told.get(f"PhysicalSize{axis}", 0.0)
            * _MICROMETRES.get(told.get(f"PhysicalSize{axis}Unit", "µm"), 0.0)
            for axis in "YX"
        ]
        return Calibration("ome", _valid(*sizes), told, **common)
    steps = [v[1] / v[0] for v in reversed(stored)] if usable else [0.0, 0.0]  # units a pixel
    if tiff.is_imagej:
        about = tiff.imagej_metadata or {}
        told = {k: about[k] for k in ("unit", "spacing", "finterval") if k in about}
        named = str(told.get("unit", _RESOLUTION_UNITS.get(unit, ""))).replace("\\u00B5", "µ")
        if "unit" in told:
            told["unit"] = named.replace("µ", "u").replace("μ", "u")  # the file is ASCII
        scale = _MICROMETRES.get(named, 0.0)
        return Calibration("imagej", _valid(*(s * scale for s in steps)), told, **common)
    scale = _MICROMETRES.get(_RESOLUTION_UNITS.get(unit, ""), 0.0)
    size = _valid(*(s * scale for s in steps))
    return Calibration("plain", size if size and max(size) < _COARSEST else None, **common)


def _ome(xml: str) -> dict[str, Any]:
    """The scale that OME-XML gives the first image; empty where it gives none or is broken."""
    try:
        pixels = ElementTree.fromstring(xml).find(".//{*}Pixels")
    except ElementTree.ParseError:
        return {}
    told: dict[str, Any] = {}
    for key, value in (pixels.attrib if pixels is not None else {}).items():
        if key.startswith(("PhysicalSize", "TimeIncrement")):
            try:
                told[key] = value if key.endswith("Unit") else float(value)
            except ValueError:
                continue
    return told


def _valid(height: float, width: float) -> tuple[float, float] | None:
    good = all(math.isfinite(side) and side > 0 for side in (height, width))
    return (height, width) if good else None


def write_stack(pixels: np.ndarray, planes: Planes) -> bytes:
    """A TIFF file's bytes with the planes and the scale of the file that ``planes`` describes.

    OME-TIFF stays OME-TIFF, and ImageJ's ImageJ's, except that ImageJ has no 32-bit integers: those
    become OME-TIFF. Compressed by deflate.

    Args:
        pixels: (planes, H, W), or (planes, H, W, 3) RGB; unsigned integers.
        planes: Of the source.
    """
    rgb = pixels.ndim == 4
    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels.reshape(*planes.lengths, *pixels.shape[1:]),
        photometric="rgb" if rgb else "minisblack",
        compression="zlib",
        **tiff_settings(planes, pixels.dtype, rgb),
    )
    return file.getvalue()


def tiff_settings(
    planes: Planes, dtype: np.dtype[Any], rgb: bool, tiled: bool = False
) -> dict[str, Any]:
    """Settings for ``tifffile.imwrite`` of a result: its metadata, and its resolution.

    Args:
        planes: Of the source.
        dtype: Of the result.
        rgb: Whether the result is one.
        tiled: It is stored in tiles, which ImageJ itself does not open: OME-TIFF instead, for
            Bio-Formats.
    """
    about, kind = planes.calibration, planes.calibration.layout
    settings: dict[str, Any] = {"metadata": None}
    if set(planes.axes) <= {"T", "Z"}:
        axes = planes.axes + ("YXS" if rgb else "YX")
        if kind == "imagej" and dtype in (np.uint8, np.uint16) and not tiled:
            settings = {"imagej": True, "metadata": {"axes": axes, **about.metadata}}
        elif kind != "plain":
            told = about.metadata if kind == "ome" else _as_ome(about)
            settings = {"ome": True, "metadata": {"axes": axes, **told}}
    if about.resolution is not None:
        settings |= {"resolution": about.resolution, "resolutionunit": about.resolution_unit}
    return settings


def _as_ome(about: Calibration) -> dict[str, Any]:
    sizes = zip("YX", about.pixel_size or (), strict=False)
    return {
        key: value
        for axis, size in sizes
        for key, value in (
            (f"PhysicalSize{axis}", size),
            (f"PhysicalSize{axis}Unit", "µm"),
        )
    }
