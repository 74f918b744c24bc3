"""Which pages of a TIFF make its planes, and which of them are channels of one plane."""

import math
from typing import Any, NamedTuple
from xml.etree import ElementTree

import numpy as np
from tifffile import TiffFile

from segmentation.errors import UserError

# Narrower planes are (H, W, C) that a writer stored as H pages of W×C, for nobody told it better.
_NARROWEST = 10  # pixels


class Layout(NamedTuple):
    """The planes of the one image in a file."""

    axes: str  # what they run over, slowest first
    lengths: tuple[int, ...]  # along each axis
    planes: tuple[tuple[int, ...], ...]  # the pages of each plane: one, or one a channel
    by_rows: bool = False  # the one plane's pages are its rows instead, W×C each


def image_layout(tiff: TiffFile, name: object) -> Layout:
    """Find the planes of the one image in a file; thumbnails and a pyramid's levels are left out.

    Channels that are stored as planes of their own come together. Of an image in several files it
    is what this one holds.
    """
    series = [s for s in tiff.series if not s.keyframe.is_reduced]
    first = series[0].keyframe
    height, width = first.imagelength, first.imagewidth
    part = _ome_part(tiff) if tiff.is_ome and series[0].kind != "ome" else None
    axes, lengths, pages = part or _of_series(tiff, series, name)
    if None in pages:
        axes, lengths, pages = _box(axes, lengths, pages, name)
    if len(pages) != math.prod(lengths) or first.imagedepth > 1:
        what = f"a stack of {math.prod(lengths)} planes in one piece"
        raise UserError(f"{name}: {what}; save it as a TIFF of as many pages")
    order = np.array(pages).reshape(*lengths, 1)
    if (at := axes.find("C")) >= 0:
        order = np.moveaxis(order[..., 0], at, -1)
        axes, lengths = axes.replace("C", ""), (*lengths[:at], *lengths[at + 1 :])
    planes = tuple(tuple(map(int, row)) for row in order.reshape(-1, order.shape[-1]))
    if len(pages) > 1 and width <= _NARROWEST < height:
        if axes in ("I", "Q") and order.shape[-1] == 1:
            return Layout("", (), (tuple(row[0] for row in planes),), by_rows=True)
        raise UserError(
            f"{name}: {len(pages)} planes of {height}×{width} pixels (H×W): {width} channels that "
            "were stored as columns? Save it with the axes C, Y, X"
        )
    return Layout(axes, lengths, planes)


def one_plane(tiff: TiffFile, name: object) -> Layout:
    """The layout of a file that holds one plane; others are refused."""
    layout = image_layout(tiff, name)
    if (count := len(layout.planes)) > 1:
        raise UserError(
            f"{name}: a stack of {count} planes; save each plane as its own file, of images and "
            "masks alike (in Fiji: File ► Save As ► Image Sequence), or channels with the axes "
            "C, Y, X"
        )
    return layout


_Pages = tuple[str, tuple[int, ...], list[int | None]]


def _of_series(tiff: TiffFile, series: Any, name: object) -> _Pages:
    """Axes, lengths and pages as tifffile tells them; ``None`` for pages of other files."""
    leading = [(a, n) for a, n in zip(series[0].axes, series[0].shape, strict=True)]
    leading = [(axis, length) for axis, length in leading if axis not in "YXS"]
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
    if series[0].kind == "mmstack":  # Micro-Manager's: numbered as the stack, not as the file
        places = {page.offset: number for number, page in enumerate(tiff.pages)}
        numbers = [page and places.get(page.offset) for page in pages]
    else:
        numbers = [page and page.index for page in pages]
    own = [page is not None and page.parent is tiff for page in pages]
    numbers = [number if mine else None for number, mine in zip(numbers, own, strict=True)]
    return "".join(a for a, _ in leading), tuple(n for _, n in leading), numbers


def _ome_part(tiff: TiffFile) -> _Pages | None:
    """The same of one file of several that OME-XML lists, where it tells which planes it holds."""
    try:
        root = ElementTree.fromstring(tiff.ome_metadata or "")
        for pixels in root.iterfind("{*}Image/{*}Pixels"):
            axes = pixels.attrib["DimensionOrder"][:1:-1]
            lengths = tuple(int(pixels.attrib[f"Size{axis}"]) for axis in axes)
            colours = [int(c.get("SamplesPerPixel", 1)) for c in pixels.iterfind("{*}Channel")]
            if max(colours, default=1) > 1:
                return None
            pages: list[int | None] = [None] * math.prod(lengths)
            for data in pixels.iterfind("{*}TiffData"):
                file = data.find("{*}UUID")
                if file is None or file.text != root.get("UUID"):
                    continue
                start = int(data.get("IFD", 0))
                count = int(data.get("PlaneCount", 1 if "IFD" in data.attrib else len(tiff.pages)))
                at = tuple(int(data.get(f"First{axis}", 0)) for axis in axes)
                place = int(np.ravel_multi_index(at, lengths))
                for step in range(min(count, len(pages) - place, len(tiff.pages) - start)):
                    pages[place + step] = start + step
            if any(page is not None for page in pages):
                return axes, lengths, pages
    except (ElementTree.ParseError, KeyError, ValueError):
        pass
    return None


def _box(axes: str, lengths: tuple[int, ...], pages: list[int | None], name: object) -> _Pages:
    """The part of a stack that is there: along its axes if it is a block of it."""
    there = np.array([page is not None for page in pages])
    own = [page for page in pages if page is not None]
    if len(pages) == math.prod(lengths) and own:
        places = np.stack(np.unravel_index(np.flatnonzero(there), lengths))
        sizes = (places.max(axis=1) - places.min(axis=1) + 1).tolist()
        if math.prod(sizes) == len(own):
            kept = [(axis, size) for axis, size in zip(axes, sizes, strict=True) if size > 1]
            return "".join(a for a, _ in kept), tuple(n for _, n in kept), list(own)
    if "C" in axes:
        what = f"{len(own)} planes of a stack, not all channels of each"
        raise UserError(f"{name}: holds {what}; export it again as one file")
    return ("I", (len(own),), list(own)) if len(own) != 1 else ("", (), list(own))
