"""Outlines ► pixels, by one exact rule: a pixel belongs to a shape if its centre lies inside.

Inside is what a line to the left crosses an odd number of times (even-odd), and an outline that
meets a centre has it on its right, so that of two shapes with a common outline one has the pixel.
OpenCV, Pillow and scikit-image draw the pixels that the outline passes as well.
"""

from collections.abc import Sequence

import numpy as np

from segmentation.errors import UserError
from segmentation.io.run_lengths import ranges

_FARTHEST = 1e9  # a coordinate


def fill_rings(rings: Sequence[np.ndarray], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside some rings, as int64 places in the rows of an (H, W) image.

    Args:
        rings: (n, 2) corners (x, y) each, whose first need not be repeated; the upper left corner
            of the image is (0, 0), and its first pixel's centre (0.5, 0.5).
        shape: Of the image; what lies outside is cut off.

    >>> fill_rings([np.array([[1, 0], [3, 0], [3, 1], [1, 1]])], (2, 4)).tolist()
    [1, 2]
    """
    start = np.concatenate([np.asarray(ring, np.float64) for ring in rings])
    end = np.concatenate([np.roll(np.asarray(ring, np.float64), -1, axis=0) for ring in rings])
    up = (start[:, 1] > end[:, 1])[:, None]  # each edge downwards, whichever shape it belongs to
    (x, y), (to_x, to_y) = np.where(up, end, start).T, np.where(up, start, end).T
    first, stop = (np.ceil(some - 0.5).clip(0, shape[0]).astype(np.int64) for some in (y, to_y))
    counts = stop - first
    rows, edge = ranges(first, counts), np.repeat(np.arange(len(x)), counts)
    with np.errstate(divide="ignore", invalid="ignore"):  # level edges are on no row
        slope = (to_x - x) / (to_y - y)
    return _between(rows, x[edge] + (rows + 0.5 - y[edge]) * slope[edge], shape)


def fill_ellipse(box: Sequence[float], shape: tuple[int, int]) -> np.ndarray:
    """The pixels inside the ellipse in a box (left, top, right, bottom), as :func:`fill_rings`."""
    left, top, right, bottom = box
    rows = np.arange(*np.ceil(np.clip((top - 0.5, bottom - 0.5), 0, shape[0])).astype(int))
    height = (2 * rows + 1 - top - bottom) / (bottom - top)
    reach = (right - left) / 2 * np.sqrt(np.clip(1 - height**2, 0, None))
    middle = (left + right) / 2
    return _between(np.tile(rows, 2), np.concatenate([middle - reach, middle + reach]), shape)


def check_inside(points: np.ndarray, shape: tuple[int, int], what: str) -> None:
    """Raise :class:`UserError` unless the (n, 2) points (x, y) of ``what`` fit an (H, W) image.

    They must be finite, and the middle of their box must lie within the image: what is drawn by
    hand may reach beyond its border.
    """
    if not (np.abs(points) < _FARTHEST).all():
        raise UserError(f"{what} has coordinates that are no numbers of pixels; draw it again")
    low, high = points.min(axis=0), points.max(axis=0)
    if ((low + high < 0) | (low + high > 2 * np.array(shape[::-1]))).any():
        pairs = zip("xy", low, high, strict=True)
        spans = " and ".join(f"{axis} {a:g} … {b:g}" for axis, a, b in pairs)
        raise UserError(
            f"{what} spans {spans} and lies outside its image of {shape[0]}×{shape[1]} (H×W); "
            "coordinates are pixels of this very image, not of a larger one and not µm"
        )


def _between(rows: np.ndarray, crossings: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """The pixels with an odd number of crossings (x, on the row of that number) to their left."""
    if not len(rows):
        return np.zeros(0, np.int64)
    columns = np.ceil(crossings - 0.5).clip(0, shape[1]).astype(np.int64)
    top, left = int(rows.min()), int(columns.min())
    size = int(rows.max()) - top + 1, int(columns.max()) - left + 1
    places = (rows - top) * size[1] + columns - left
    counts = np.bincount(places, minlength=size[0] * size[1]).reshape(size)
    inside = (np.cumsum(counts, axis=1) & 1).astype(bool)
    row, column = np.nonzero(inside)
    return np.asarray((row + top) * shape[1] + column + left)
