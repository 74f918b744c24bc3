"""Outlines of objects, one file an image: ImageJ's ROIs, QuPath's GeoJSON, labelme's JSON."""

import logging
import zipfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from roifile import ROI_OPTIONS, ROI_SUBTYPE, ROI_TYPE, ImagejRoi

from segmentation.errors import UserError
from segmentation.io.files import check_inflation, read_json
from segmentation.io.listing import TRUTH_SUFFIXES, is_junk
from segmentation.io.raster import check_inside, fill_ellipse, fill_rings
from segmentation.io.regions import Region
from segmentation.io.tiff import decoding, read_bytes


class _Damage(logging.Handler):
    """What roifile would merely log of a damaged file is an error."""

    def emit(self, record: logging.LogRecord) -> None:
        raise ValueError(record.getMessage())


logging.getLogger("roifile").addHandler(_Damage())
logging.getLogger("roifile").propagate = False

_PIXELS = "only areas have pixels: draw it as a polygon, or delete it"


def read_outlines(path: Path, shape: tuple[int, int]) -> list[Region]:
    """The objects of a file with outlines, for an image of (H, W) pixels, in the file's order.

    Corners are (x, y) from the image's upper left corner. What is not an area, lies outside the
    image, or belongs to an image of another size is a :class:`UserError`.
    """
    if path.suffix.lower() in (".roi", ".zip"):
        return list(_regions_of_rois(path, shape))
    with well_formed(path):
        content = read_json(path)
        if isinstance(content, dict) and "shapes" in content:
            return list(_labelme_regions(path, content, shape))
        if isinstance(content, dict) and "annotations" in content:
            raise UserError(f"{path}: COCO keeps many images in one file; give that as the masks")
        return list(_regions_of_geojson(path, content, shape))


def is_outlines(path: Path) -> bool:
    """Whether a file of truth holds outlines rather than pixels."""
    return path.suffix.lower() in TRUTH_SUFFIXES and path.suffix.lower() != ".npz"


def size_of_outlines(path: Path) -> tuple[int, int] | None:
    """The size (H, W) of the image that a file belongs to, where it says: labelme's does."""
    if path.suffix.lower() == ".json":
        with well_formed(path):
            content = read_json(path)
            if isinstance(content, dict) and content.get("imageHeight"):
                return int(content["imageHeight"]), int(content["imageWidth"])
    return None


def polygon(rings: Sequence[Any], shape: tuple[int, int], what: str) -> np.ndarray:
    """The pixels of an outer ring and its holes, checked; see :func:`fill_rings`."""
    corners = [np.array(ring, np.float64) for ring in rings]
    if not corners or any(ring.ndim != 2 or ring.shape[1] < 2 for ring in corners):
        raise UserError(f"{what} has no outline; draw it again or delete it")
    if any(len(ring) < 3 for ring in corners):
        raise UserError(f"{what} has an outline of fewer than 3 corners; {_PIXELS}")
    corners = [ring[:, :2] for ring in corners]  # GeoJSON allows a height
    check_inside(np.concatenate(corners), shape, what)
    return fill_rings(corners, shape)


def check_stated_size(path: object, found: tuple[Any, Any], shape: tuple[int, int]) -> None:
    """Raise :class:`UserError` where a file says another size (H, W) of its image."""
    if None not in found and found != shape:
        raise UserError(
            f"{path}: belongs to an image of {found[0]}×{found[1]} (H×W), this one is "
            f"{shape[0]}×{shape[1]}; export both at one size"
        )


def _regions_of_rois(path: Path, shape: tuple[int, int]) -> Iterator[Region]:
    data = read_bytes(path)
    with decoding(path, "file of ROIs"):
        found = [("the region", data)]
        if not data.startswith(b"Iout"):
            archive = zipfile.ZipFile(BytesIO(data))
            members = [one for one in archive.infolist() if not is_junk(one.filename)]
            check_inflation(path, sum(one.file_size for one in members), len(data))
            found = [(f"the region {one.filename}", archive.read(one)) for one in members]
        rois = [(f"{path}: {name}", ImagejRoi.frombytes(one)) for name, one in found]
    for axis in ("z_position", "t_position", "position"):
        places = sorted({getattr(roi, axis) for _, roi in rois} - {0})
        if len(places) > 1:
            where = f"{axis.replace('_', ' ')} {places[0]} and {places[1]}"
            raise UserError(f"{path}: regions of several planes ({where}); keep those of one plane")
    for what, roi in rois:
        yield Region(what, _pixels_of_roi(roi, shape, what), roi.group or None)


def _pixels_of_roi(roi: ImagejRoi, shape: tuple[int, int], what: str) -> np.ndarray:
    if roi.options & ROI_OPTIONS.SPLINE_FIT or (roi.rounded_rect_arc_size and not roi.composite):
        remedy = "in ImageJ choose Edit ► Selection ► Interpolate"
        raise UserError(f"{what} has rounded lines; {remedy}")
    if roi.composite and roi.multi_coordinates is not None:
        with decoding(what, "path"):  # curves have no corners
            return polygon(ImagejRoi.path2coords(roi.multi_coordinates), shape, what)
    drawn = roi.subtype not in (ROI_SUBTYPE.TEXT, ROI_SUBTYPE.IMAGE, ROI_SUBTYPE.ARROW)
    if drawn and roi.roitype in (ROI_TYPE.POLYGON, ROI_TYPE.FREEHAND, ROI_TYPE.TRACED):
        return polygon([roi.coordinates()], shape, what)
    if not drawn or roi.roitype not in (ROI_TYPE.RECT, ROI_TYPE.OVAL):
        raise _no_area(what, (roi.roitype if drawn else roi.subtype).name.lower())
    box: tuple[float, ...] = roi.left, roi.top, roi.right, roi.bottom
    if roi.subpixelrect:
        box = roi.xd, roi.yd, roi.xd + roi.widthd, roi.yd + roi.heightd
    corners = np.array(box, np.float64).reshape(2, 2)
    check_inside(corners, shape, what)
    if roi.roitype == ROI_TYPE.OVAL:
        return fill_ellipse(box, shape)
    return fill_rings([_rectangle(corners)], shape)


def _regions_of_geojson(path: Path, content: Any, shape: tuple[int, int]) -> Iterator[Region]:
    features = content
    if isinstance(content, dict):
        features = content["features"] if content["type"] == "FeatureCollection" else [content]
    planes = set()
    for number, feature in enumerate(features, start=1):
        what, about = f"{path}: feature {number}", feature.get("properties") or {}
        geometry = feature["geometry"] if feature["type"] == "Feature" else feature
        if geometry is None or geometry["type"] not in ("Polygon", "MultiPolygon"):
            raise _no_area(what, "nothing" if geometry is None else geometry["type"])
        plane = geometry.get("plane") or {}
        planes.add((plane.get("z", 0), plane.get("t", 0)))
        if len(planes) > 1:
            raise UserError(f"{what} lies in another plane than those before; keep one plane")
        parts = geometry["coordinates"]
        parts = [parts] if geometry["type"] == "Polygon" else parts
        pixels = [polygon(rings, shape, what) for rings in parts]
        kind = about.get("classification") or {}
        name = kind.get("name") or ": ".join(kind.get("names", ())) or None
        yield Region(what, np.concatenate(pixels) if pixels else np.zeros(0, np.int64), name)


def _labelme_regions(path: Path, found: dict[str, Any], shape: tuple[int, int]) -> Iterator[Region]:
    check_stated_size(path, (found.get("imageHeight"), found.get("imageWidth")), shape)
    grouped: dict[object, list[Region]] = {}
    for number, drawn in enumerate(found["shapes"], start=1):
        what, name = f"{path}: shape {number} ({drawn['label']})", drawn["label"]
        pixels = _pixels_of_labelme(drawn, shape, what)
        group = drawn.get("group_id")  # parts of one object
        key = number if group is None else (group, name)
        grouped.setdefault(key, []).append(Region(what, pixels, name))
    for parts in grouped.values():
        yield parts[0]._replace(pixels=np.concatenate([part.pixels for part in parts]))


def _pixels_of_labelme(drawn: dict[str, Any], shape: tuple[int, int], what: str) -> np.ndarray:
    kind = drawn.get("shape_type") or "polygon"
    corners = np.array(drawn["points"], np.float64)
    if kind == "polygon" or (kind == "rectangle" and len(corners) == 4):
        return polygon([corners], shape, what)
    if kind not in ("rectangle", "circle"):
        raise _no_area(what, kind)
    first, second = corners
    if kind == "rectangle":
        check_inside(corners, shape, what)
        return fill_rings([_rectangle(corners)], shape)
    radius = np.hypot(*(second - first))
    box = np.concatenate([first - radius, first + radius])
    check_inside(box.reshape(2, 2), shape, what)
    return fill_ellipse(box.tolist(), shape)


def _no_area(what: str, kind: object) -> UserError:
    return UserError(f"{what} is of type {kind}; {_PIXELS}")


def _rectangle(corners: np.ndarray) -> np.ndarray:
    """The four corners of a rectangle from two opposite ones."""
    (left, top), (right, bottom) = corners
    return np.array([[left, top], [right, top], [right, bottom], [left, bottom]])


@contextmanager
def well_formed(path: Path, kind: str = "GeoJSON or labelme's JSON") -> Iterator[None]:
    """Within, content that is not as its format wants it becomes one line."""
    try:
        yield
    except UserError:
        raise
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (ValueError, KeyError, TypeError, AttributeError, IndexError) as error:
        reason = f"lacks {error}" if isinstance(error, KeyError) else str(error)
        raise UserError(f"{path}: not {kind} as it should be ({reason}); export it again") from None
