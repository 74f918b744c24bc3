"""Objects as other programs take them: outlines for QuPath and ImageJ, run lengths for Kaggle.

ROIs and run lengths are written here because no maintained library writes whole label maps exactly:
those at hand smooth the outlines, or take one object at a time.
"""

import json
import zipfile
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from roifile import ROI_TYPE, ImagejRoi
from skimage.measure import label as label_regions

from segmentation.evaluation.overlays import class_colour

Ring = list[tuple[int, int]]


class Outline(NamedTuple):
    """The outline of one object, from which its pixels follow.

    Each 4-connected part is a polygon: its outer ring, clockwise on the screen, then its holes, the
    other way. Rings are corners (x, y) in pixels from the image's upper left; the first is not
    repeated. No ring touches itself, as OGC's simple features want it.
    """

    label: int
    polygons: list[list[Ring]]


def outlines(labels: np.ndarray, origin: tuple[int, int] = (0, 0)) -> list[Outline]:
    """Outlines of all objects of an (H, W) label map, in the order of their ids.

    ``origin`` is the row and column where it lies, if it is cut from a larger one.

    >>> outlines(np.array([[0, 0, 0], [0, 7, 7]]))
    [Outline(label=7, polygons=[[[(1, 1), (3, 1), (3, 2), (1, 2)]]])]
    """
    top, left = origin
    parts = label_regions(labels, connectivity=1)  # 4-connected parts of one value
    owner = np.zeros(parts.max(initial=0) + 1, np.int64)
    owner[parts] = labels
    found: dict[int, list[list[Ring]]] = {}
    for part, edges in _part_edges(parts):
        edges[:] += np.array([left, top, left, top])
        rings = sorted(_rings(edges), key=_doubled_area, reverse=True)  # the outer one is positive
        found.setdefault(int(owner[part]), []).append(rings)
    return [Outline(label, found[label]) for label in sorted(found)]


class FeatureWriter:
    """Writes GeoJSON (RFC 7946, in pixels instead of degrees) of objects; close it at the end.

    ``names`` are those of classes, where the objects have some.
    """

    def __init__(self, file: BinaryIO, names: Sequence[str] = ()) -> None:
        self._names = names
        self._file, self._before = file, '{"type":"FeatureCollection","features":['

    def add(
        self,
        objects: Iterable[Outline],
        position: Mapping[str, int],
        classes: np.ndarray | None = None,
    ) -> None:
        """Append objects of the plane at a position, axis ► index, as QuPath's detections.

        ``classes`` are those of all ids, (n + 1,).
        """
        # QuPath counts pages without a meaning ("I") as times.
        time = position.get("T", position.get("I", 0))
        for outline in objects:
            polygons = [[[*ring, ring[0]] for ring in rings] for rings in outline.polygons]
            single = len(polygons) == 1
            geometry: dict[str, Any] = {"type": "Polygon" if single else "MultiPolygon"}
            geometry["coordinates"] = polygons[0] if single else polygons
            if position:
                geometry["plane"] = {"c": -1, "z": position.get("Z", 0), "t": time}
            about: dict[str, Any] = {"objectType": "detection", "name": str(outline.label)}
            if classes is not None:
                number = int(classes[outline.label])
                kind = {"name": self._names[number - 1], "color": class_colour(number)}
                about["classification"] = kind
            feature = {"type": "Feature", "geometry": geometry, "properties": about}
            text = json.dumps(feature, separators=(",", ":"))
            self._file.write(f"{self._before}{text}".encode())
            self._before = ","

    def close(self) -> None:
        """Complete the file, which stays open."""
        self._file.write(f"{self._before.rstrip(',')}]}}".encode())


def add_rois(
    archive: zipfile.ZipFile,
    objects: Iterable[Outline],
    plane: int,
    position: Mapping[str, int],
    classes: np.ndarray | None = None,
) -> None:
    """Append one region of interest for each object of a plane to ImageJ's ROI Manager's zip file.

    A region of one ring holds exactly the object's pixels; holes and parts make it a composite one.
    ``position`` is the plane's index along each axis; empty: the image has one plane alone. The
    number of the class, of all ids (n + 1,), is the region's group.
    """
    for outline in objects:
        roi = _roi(outline, plane, position)
        roi.group = 0 if classes is None else int(classes[outline.label])
        archive.writestr(zipfile.ZipInfo(f"{roi.name}.roi"), roi.tobytes(), zipfile.ZIP_DEFLATED)


def _roi(outline: Outline, plane: int, position: Mapping[str, int]) -> ImagejRoi:
    rings = [ring for polygon in outline.polygons for ring in polygon]
    corners = np.array([corner for ring in rings for corner in ring])
    roi = ImagejRoi.frompoints(corners)
    roi.roitype = ROI_TYPE.TRACED
    roi.name = f"{plane:04d}-{outline.label:05d}" if position else f"{outline.label:05d}"
    if len(position) == 1:
        roi.position = plane + 1
    elif position:
        roi.c_position = 1
        roi.z_position, roi.t_position = position.get("Z", 0) + 1, position.get("T", 0) + 1
    if len(rings) > 1:
        path: list[float] = []  # of java.awt.geom: 0 move to, 1 line to, 4 close
        for ring in rings:
            path += [value for corner in ring for value in (1, *corner)] + [4]
            path[-3 * len(ring) - 1] = 0
        roi.roitype, roi.n_coordinates = ROI_TYPE.RECT, 0
        roi.integer_coordinates = roi.subpixel_coordinates = None
        roi.right, roi.bottom = int(corners[:, 0].max()), int(corners[:, 1].max())
        roi.multi_coordinates = np.array(path, np.float32)
        roi.shape_roi_size = len(path)
    return roi


def run_lengths(
    labels: np.ndarray, origin: tuple[int, int] = (0, 0), height: int | None = None
) -> list[str]:
    """Kaggle's run lengths of each object of an (H, W) label map, in the order of their ids.

    Pixels count from 1 down the columns, then right. ``origin`` and ``height`` say where it lies,
    and the height of the image, if it is cut from a larger one.

    >>> run_lengths(np.array([[0, 3], [3, 3]]))
    ['2 3']
    """
    column, start, stop, label = _runs(labels.T)
    if not len(label):
        return []
    above = (column + origin[1]) * (height or len(labels)) + origin[0]
    order = np.argsort(label, kind="stable")
    start, stop, label = (start + above)[order], (stop + above)[order], label[order]
    # What reaches the image's lower border may go on at the top of the next column.
    new = (start[1:] != stop[:-1]) | (label[1:] != label[:-1])
    first, last = np.append(True, new), np.append(new, True)
    start, stop, label = start[first], stop[last], label[first]
    pairs = np.stack([start + 1, stop - start], axis=1)
    ends = np.flatnonzero(np.diff(label)) + 1
    return [" ".join(map(str, o.reshape(-1).tolist())) for o in np.split(pairs, ends)]


def _runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Longest stretches of one value but 0 along the rows of an (H, W) array, in reading order:
    row, first column, column after the last, and value of each.
    """
    wide = np.pad(values, ((0, 0), (1, 1)))
    row, column = np.nonzero(wide[:, 1:] != wide[:, :-1])
    value = wide[row, column + 1]
    inside = np.flatnonzero(value)  # each ends at the next change, at the latest in the padding
    return row[inside], column[inside], column[inside + 1], value[inside]


def _part_edges(parts: np.ndarray) -> list[tuple[int, np.ndarray]]:
    """For each part its straight edges (from x, from y, to x, to y), the part on their right."""
    wide = np.pad(parts, 1)
    rows = wide[:-1, 1:-1], wide[1:, 1:-1]  # above and below each horizontal edge of a pixel
    columns = wide[1:-1, :-1].T, wide[1:-1, 1:].T  # left and right of each vertical one
    pieces, owners = [], []
    for (before, after), upright in ((rows, False), (columns, True)):
        for side, forward in ((after, not upright), (before, upright)):
            line, start, stop, part = _runs(np.where(before != after, side, 0))
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
