"""What is written of an image that is not in memory: its objects as they come, and its overlay."""

from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from zipfile import ZipFile

import cv2

from segmentation.data.preprocess import Preprocess
from segmentation.evaluation.overlays import tint
from segmentation.io.files import writing
from segmentation.io.stacks import Planes
from segmentation.io.windows import BandStore, TiffWindows
from segmentation.predict.label_map import LabelMap
from segmentation.predict.large import prepared
from segmentation.predict.outputs import rle
from segmentation.predict.outputs.geojson import FeatureWriter, features
from segmentation.predict.outputs.measurements import follow, measure_objects
from segmentation.predict.outputs.outlines import outlines
from segmentation.predict.outputs.rois import add_rois, rois
from segmentation.predict.outputs.rows import Rows

OVERLAY = 4096  # pixels: a larger image's overlay is made smaller
_BAND = 64  # rows that are tinted at once


class ObjectFiles:
    """Tables, GeoJSON and ROIs of objects that are cut out of a large image block by block.

    Memory: some 50 bytes an object for each table, and for ROIs 400, which are the zip's directory.

    Args:
        planes: The file.
        name: The image's name in the tables.
        stem: The same without a suffix, where that is unique: Kaggle's ImageId.
        stack: On leaving it without an exception, the files get their names.
        geojson: File to write, if any.
        rois: File to write, if any.
        codes: Whether run lengths are wanted.

    Attributes:
        objects: Rows of ``objects.csv``.
        codes: Rows of ``rle.csv``; ``None`` where not wanted.

    Raises:
        UserError: A file cannot be written; so does :meth:`add`, also where the image is broken.
    """

    def __init__(
        self,
        planes: Planes,
        name: str,
        stem: str,
        stack: ExitStack,
        *,
        geojson: Path | None,
        rois: Path | None,
        codes: bool,
    ) -> None:
        self._planes, self._name, self._stem = planes, name, stem
        self.objects, self.codes = Rows(), Rows() if codes else None
        self._features = self._rois = None
        if geojson is not None:
            file = stack.enter_context(writing(geojson))
            self._features = stack.enter_context(closing(FeatureWriter(file)))
        if rois is not None:
            self._rois = stack.enter_context(ZipFile(stack.enter_context(writing(rois)), "w"))

    def add(self, labels: LabelMap, image: TiffWindows, plane: int) -> None:
        """Add all objects of the plane of that number."""
        about, where = self._planes.calibration, {"image": self._name, "plane": plane}
        position = self._planes.position(plane)
        for crop in labels.crops():
            ids, origin = crop.labels, (crop.rows.start, crop.columns.start)
            window = image.read(crop.rows, crop.columns)
            measured = measure_objects(ids, window, about.pixel_size, origin, labels.size)
            self.objects.add([{**where, **row} for row in measured])
            if self.codes is not None:
                self._add_codes(plane, rle.run_lengths(ids, origin, labels.size[0]))
            found = outlines(ids, origin) if self._features or self._rois else []
            if self._features is not None:
                self._features.add(features(found, position))
            if self._rois is not None:
                add_rois(self._rois, rois(found, plane, position))
        if self.codes is not None and not len(labels.areas):
            self._add_codes(plane, [""])  # an image without objects has a row as well
        for number in labels.too_large.tolist():
            top, left, bottom, right = labels.boxes[number - 1].tolist()
            row: dict[str, Any] = {"object": number, "area": int(labels.areas[number - 1])}
            row |= {"top": top, "left": left, "bottom": bottom, "right": right}
            self.objects.add([{**where, **row, **follow(row, about.pixel_size, labels.size)}])
            print(
                f"unmeasured   {self._planes.path}: object {number} spans {bottom - top}×"
                f"{right - left} pixels, too many to be outlined; objects.csv has its area and box"
            )

    def _add_codes(self, plane: int, codes: list[str]) -> None:
        assert self.codes is not None
        self.codes.add(rle.rows(self._stem, plane if self._planes.axes else None, codes))


def smaller(size: tuple[int, int]) -> tuple[int, int]:
    """Height and width of the overlay of an image of that size."""
    factor = _factor(size)
    return -(-size[0] // factor), -(-size[1] // factor)


def add_overlay(overlay: BandStore, image: TiffWindows, mask: BandStore) -> None:
    """Append the image with its mask tinted, (rows, W, 3) uint8, as small as :func:`smaller` says.

    Raises:
        UserError: The image is broken, or the disk is full.
    """
    size = height, width = image.shape[:2]
    factor, read_mask = _factor(size), mask.reader()
    read = prepared(Preprocess(channels=3), image)
    step = factor * max(1, _BAND // factor)
    for top in range(0, height, step):
        rows = slice(top, min(top + step, height))
        rgb = read(rows, slice(0, width)).numpy().transpose(1, 2, 0)
        inside = read_mask(rows, slice(0, width)) > 0
        small = (-(-width // factor), -(-len(rgb) // factor))
        tinted = tint(rgb, inside, inside, opacity=0.4)
        overlay.append(cv2.resize(tinted, small, interpolation=cv2.INTER_AREA))


def _factor(size: tuple[int, int]) -> int:
    return -(-max(size) // OVERLAY)
