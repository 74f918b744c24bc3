"""Objects as a zip file of regions of interest, for ImageJ's ROI Manager."""

import io
import zipfile
from collections.abc import Iterable, Mapping, Sequence

import numpy as np
from roifile import ROI_TYPE, ImagejRoi

from segmentation.predict.outputs.outlines import Outline


def rois(
    objects: Sequence[Outline], plane: int, position: Mapping[str, int]
) -> list[tuple[str, bytes]]:
    """Name and bytes of one region for each object of a plane.

    A region of one ring holds exactly the object's pixels; holes and parts make it a composite one.

    Args:
        objects: Their outlines.
        plane: Its number.
        position: The plane's index along each axis, from 0; empty: the image has one plane alone.
    """
    return [
        (roi.name, roi.tobytes()) for roi in (_roi(outline, plane, position) for outline in objects)
    ]


def encode_rois(found: Sequence[tuple[str, bytes]]) -> bytes:
    """The zip file's bytes."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        add_rois(archive, found)
    return file.getvalue()


def add_rois(archive: zipfile.ZipFile, found: Iterable[tuple[str, bytes]]) -> None:
    """Append regions to a zip file; equal ones give equal bytes."""
    for name, data in found:
        archive.writestr(zipfile.ZipInfo(f"{name}.roi"), data, zipfile.ZIP_DEFLATED)


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
