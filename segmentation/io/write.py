"""TIFFs of results, with the planes and the scale of the image: in memory, or row by row."""

import io
import math
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import tifffile

from segmentation.io.files import writing
from segmentation.io.metadata import ome_scale
from segmentation.io.stacks import Planes

_TILE = 256  # pixels, in the files that are written
_CLASSIC = 2**32 - 2**25  # bytes of pixels beyond which a TIFF needs 64-bit offsets


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
            layout, scale = "ome", ome_scale(about.pixel_size)
        axes = planes.axes + ("YXS" if rgb else "YX")
        settings |= {layout: True, "metadata": {"axes": axes, **scale}}
    if about.resolution is not None:
        settings |= {"resolution": about.resolution, "resolutionunit": about.resolution_unit}
    return settings


def write_tiff(
    path: Path,
    shape: tuple[int, ...],
    dtype: np.dtype[Any],
    bands: Iterable[np.ndarray],
    planes: Planes | None = None,
    rgb: bool = False,
) -> None:
    """Write an image of which only some rows are in memory at a time, whole or not at all.

    It is tiled and deflated, and a BigTIFF where it might be larger than 4 GiB. ``shape`` is
    (H, W), or (H, W, 3) where ``rgb``, after the lengths of a stack; ``bands`` are rows from top to
    bottom, of one plane after another; the file gets the axes and the scale of ``planes``.
    """
    leading, page = (shape[:-3], shape[-3:]) if rgb else (shape[:-2], shape[-2:])
    settings = tiff_settings(planes, dtype, rgb, tiled=True)
    rows = iter(bands)
    tiles = (tile for _ in range(math.prod(leading)) for tile in _tiles(rows, page, dtype))
    big, ome = math.prod(shape) * dtype.itemsize > _CLASSIC, settings.pop("ome", False)
    with writing(path) as file, tifffile.TiffWriter(file, bigtiff=big, ome=ome) as tiff:
        tiff.write(tiles, shape=shape, dtype=dtype, tile=(_TILE, _TILE), maxworkers=1, **settings)


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
