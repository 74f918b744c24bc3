"""Shapes of all objects of a label map at once: ellipses, outlines, convex hulls.

As scikit-image's ``regionprops`` defines them, which takes one object after another.
"""

import math

import cv2
import numpy as np

# What a pixel of an outline adds to its length, by 1 and what the outline's pixels around it sum up
# to: 2 for each beside it, 10 for each across a corner (Benkrid & Crookes 2000).
_LENGTHS = np.array([0, 1, math.sqrt(2), (1 + math.sqrt(2)) / 2])
_KINDS = np.zeros(50, np.int64)
_KINDS[[5, 7, 15, 17, 25, 27]], _KINDS[[21, 33]], _KINDS[[13, 23]] = 1, 2, 3


def eccentricities(ids: np.ndarray, rows: np.ndarray, columns: np.ndarray) -> np.ndarray:
    """Of the ellipses that have the objects' second moments: 0 of a disc, 1 of a line.

    ``ids`` are (pixels,) numbers 0…n - 1, each of which occurs; ``rows`` and ``columns`` where the
    pixels lie.

    >>> eccentricities(np.array([0, 0]), np.array([5, 6]), np.array([5, 6])).tolist()
    [1.0]
    """
    areas = np.bincount(ids)
    # From a whole number near the centre, so that little is lost by the difference.
    y, x = (
        place - np.rint(np.bincount(ids, place) / areas).astype(np.int64)[ids]
        for place in (rows, columns)
    )
    down, right = np.bincount(ids, y) / areas, np.bincount(ids, x) / areas
    inertia = np.empty((len(areas), 2, 2))
    inertia[:, 0, 0] = np.bincount(ids, x * x) / areas - right**2
    inertia[:, 1, 1] = np.bincount(ids, y * y) / areas - down**2
    inertia[:, 0, 1] = inertia[:, 1, 0] = down * right - np.bincount(ids, x * y) / areas
    least, most = np.linalg.eigvalsh(inertia).clip(0).T
    return np.asarray(np.sqrt(1 - np.divide(least, most, np.ones(len(areas)), where=most > 0)))


def perimeters(labels: np.ndarray) -> np.ndarray:
    """(H, W) ids ► (n + 1,) lengths of the objects' outlines, through their outer pixels.

    >>> perimeters(np.int32([[1, 1, 1], [1, 1, 1], [1, 1, 1]])).tolist()
    [0.0, 8.0]
    """
    height, width = labels.shape
    wide = np.pad(labels, 1)
    outer = np.zeros(labels.shape, bool)
    for top, left in ((0, 1), (1, 0), (1, 2), (2, 1)):
        outer |= labels != wide[top : top + height, left : left + width]
    here, side = np.flatnonzero(outer & (labels > 0)), width + 2
    ids, places = labels.reshape(-1)[here], here + here // width * 2 + side + 1
    outline = np.zeros(wide.size, labels.dtype)
    outline[places] = ids
    sums = np.ones(len(ids), np.int64)
    for weight, shifts in ((2, (1, side)), (10, (side - 1, side + 1))):
        for shift in shifts:
            before, after = outline[places - shift] == ids, outline[places + shift] == ids
            sums += weight * (before.astype(np.int64) + after)
    count = int(labels.max(initial=0)) + 1
    found = np.bincount(4 * ids.astype(np.int64) + _KINDS[sums], minlength=4 * count)
    return np.asarray(found.reshape(count, 4) @ _LENGTHS)


def convex_areas(labels: np.ndarray) -> np.ndarray:
    """(H, W) ids ► (n + 1,) pixels whose centres lie in the objects' convex hulls.

    A pixel counts as the square between the middles of its sides, standing on a corner.

    >>> convex_areas(np.int32([[1, 0, 0], [1, 0, 0], [1, 1, 1]])).tolist()
    [0, 6]
    """
    # Runs of an object along the rows; in halves of a pixel, so that all numbers are whole.
    starts, ends = labels > 0, labels > 0
    changes = labels[:, 1:] != labels[:, :-1]
    starts[:, 1:] &= changes
    ends[:, :-1] &= changes
    first, last = np.flatnonzero(starts), np.flatnonzero(ends)
    ids = labels.reshape(-1)[first]
    order = np.argsort(ids, kind="stable")
    rows, left = np.divmod(first[order], labels.shape[1])
    right = last[order] - rows * labels.shape[1]
    y, left, right = (2 * some.astype(np.int32) for some in (rows, left, right))
    x = np.stack([left - 1, left, left, right + 1, right, right], axis=1)
    points = np.stack([x, np.stack(2 * [y, y - 1, y + 1], axis=1)], axis=2).reshape(-1, 2)
    count = int(labels.max(initial=0)) + 1
    bounds = 6 * np.searchsorted(ids[order], np.arange(count + 1))
    numbers = np.flatnonzero(np.diff(bounds))
    hulls = [
        cv2.convexHull(points[first:stop])[:, 0]
        for first, stop in zip(bounds[numbers].tolist(), bounds[numbers + 1].tolist(), strict=True)
    ]
    if not hulls:
        return np.zeros(count, np.int64)
    corners, lengths = np.concatenate(hulls).astype(np.int64), np.array([*map(len, hulls)])
    stops = lengths.cumsum()
    following = np.arange(1, len(corners) + 1)
    following[stops - 1] = stops - lengths
    return _pixels_within(corners, corners[following], np.repeat(numbers, lengths), count)


def _pixels_within(
    corners: np.ndarray, following: np.ndarray, owners: np.ndarray, count: int
) -> np.ndarray:
    """(``count``,) pixels whose centres lie in convex polygons or on their edges.

    An edge leads from one of the ``corners`` to the ``following`` one, (edges, 2) x and y in halves
    of a pixel. Edges lead down on the right, and a polygon's highest and lowest corner are between
    rows of pixels.
    """
    (x, y), (dx, dy) = corners.T, (following - corners).T
    first = np.minimum(y, y + dy) // 2 + 1  # row that an edge crosses; a corner's is the upper's
    crossed = np.maximum(y, y + dy) // 2 + 1 - first
    edge = np.repeat(np.arange(len(x)), crossed)
    row = first[edge] + np.arange(len(edge)) - np.repeat(crossed.cumsum() - crossed, crossed)
    where = x[edge] * dy[edge] + dx[edge] * (2 * row - y[edge])  # over dy, in halves of a pixel
    whole = 2 * dy[edge]
    right = whole > 0
    # The last pixel on the left of an edge, and the first one on the right of it.
    pixels = np.where(right, where // whole + 1, where // -whole)
    return np.bincount(owners[edge], pixels, count).astype(np.int64)
