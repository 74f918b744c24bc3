"""Exact outlines of objects: polygons along the edges of pixels, from which the pixels follow."""

from dataclasses import dataclass

import numpy as np
from skimage.measure import label as label_regions

from segmentation.predict.outputs.rle import runs

Ring = list[tuple[int, int]]


@dataclass(frozen=True)
class Outline:
    """One object.

    Attributes:
        label: Its id.
        polygons: One for each 4-connected part of it. Each is its outer ring, followed by its
            holes. Rings are corners (x, y) in pixels, (0, 0) being the upper left corner of the
            image; the first is not repeated. Outer rings turn clockwise on the screen, holes the
            other way. No ring touches itself, as OGC's simple features want it.
    """

    label: int
    polygons: list[list[Ring]]


def outlines(labels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[Outline]:
    """Outlines of all objects of an (H, W) integer label map, in the order of their ids.

    Area and pixels of an object are exactly those of its polygons.

    Args:
        labels: The label map.
        origin: Row and column where it lies, if it is cut from a larger one.
    """
    top, left = origin
    parts = label_regions(labels, connectivity=1)  # 4-connected parts of one value
    owner = np.zeros(parts.max(initial=0) + 1, np.int64)
    owner[parts] = labels
    found: dict[int, list[list[Ring]]] = {}
    for part, edges in _edges(parts):
        edges[:] += np.array([left, top, left, top])
        rings = sorted(_rings(edges), key=_doubled_area, reverse=True)  # the outer one is positive
        found.setdefault(int(owner[part]), []).append(rings)
    return [Outline(label, found[label]) for label in sorted(found)]


def _edges(parts: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """For each part its straight edges (from x, from y, to x, to y), the part on their right."""
    wide = np.pad(parts, 1)
    rows = wide[:-1, 1:-1], wide[1:, 1:-1]  # above and below each horizontal edge of a pixel
    columns = wide[1:-1, :-1].T, wide[1:-1, 1:].T  # left and right of each vertical one
    pieces, owners = [], []
    for (before, after), upright in ((rows, False), (columns, True)):
        for side, forward in ((after, not upright), (before, upright)):
            line, start, stop, part = runs(np.where(before != after, side, 0))
            if not forward:
                start, stop = stop, start
            ends = (line, start, line, stop) if upright else (start, line, stop, line)
            pieces.append(np.stack(ends, axis=1))
            owners.append(part)
    edges, part = np.concatenate(pieces), np.concatenate(owners)
    order = np.argsort(part, kind="stable")
    edges, part = edges[order], part[order]
    if not len(part):
        return []
    bounds = np.flatnonzero(np.diff(part)) + 1
    numbers = part[np.concatenate([[0], bounds])]
    return list(zip(numbers.tolist(), np.split(edges, bounds), strict=True))


def _rings(edges: np.ndarray) -> list[Ring]:
    """Join a part's edges to rings, closing one as soon as it comes back to any of its corners."""
    after: dict[tuple[int, int], Ring] = {}
    for x, y, to_x, to_y in edges.tolist():
        after.setdefault((x, y), []).append((to_x, to_y))
    rings = []
    while after:
        point = next(iter(after))
        path, place = [point], {point: 0}
        while point in after:
            following = after[point]
            if len(following) == 1:
                del after[point]
            point = following.pop()
            if point in place:
                start = place[point]
                rings.append(path[start:])
                for corner in path[start + 1 :]:
                    del place[corner]
                del path[start + 1 :]
            else:
                place[point] = len(path)
                path.append(point)
    return rings


def _doubled_area(ring: Ring) -> int:
    """Twice the signed area (the shoelace formula), positive clockwise on the screen."""
    following = [*ring[1:], ring[0]]
    return sum(x * v - u * y for (x, y), (u, v) in zip(ring, following, strict=True))
