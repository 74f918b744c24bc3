"""What is written of an image file: maps of pixels, outlines and tables, plane by plane."""

import math
import zipfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack, closing
from dataclasses import dataclass, replace
from functools import partial
from itertools import chain
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np

from segmentation.data.preprocess import Preprocess
from segmentation.errors import printable
from segmentation.evaluation.overlays import composite, tint, tint_classes
from segmentation.io.files import fitting, write_bytes, writing
from segmentation.io.images import write_image
from segmentation.io.metadata import Calibration
from segmentation.io.ome_zarr import write_labels
from segmentation.io.run_lengths import RLE_COLUMNS
from segmentation.io.stacks import Planes
from segmentation.io.windows import BandStore
from segmentation.io.write import write_stack, write_tiff
from segmentation.measurements import (
    channel_labels,
    check_objects,
    derived_measures,
    image_measures,
    intensity_column,
    measure_objects,
)
from segmentation.predict.formats import (
    FeatureWriter,
    add_rois,
    outlines,
    run_lengths,
)
from segmentation.predict.large import (
    Plane,
    Rows,
    plane_in_memory,
    plane_on_disk,
    view_of,
    window_reader,
)
from segmentation.predict.manifest import AddRows
from segmentation.predictor import TILE, Prediction, Predictor

STREAMED = 2**25  # pixels: more are predicted from disk to disk
OVERLAY = 4096  # pixels: the overlay of a larger image, if that is streamed, is made smaller
_LOSSLESS = (".tif", ".tiff", ".png", ".bmp")  # the first two hold stacks
_BAND = 64  # rows that are tinted at once


@dataclass(frozen=True)
class Outputs:
    """What is written for each image beside its mask, below ``folder``: options of ``predict``.

    Labels are PNG, TIFF, or within an OME-Zarr; TIFF all the same where PNG cannot hold them: a
    stack, more than 65,535 objects, or what is streamed. Overlays are PNG, or TIFF of a stack.
    """

    folder: Path
    labels: Literal["tiff", "png", "zarr"] | None = None
    probabilities: bool = False
    overlays: bool = False
    geojson: bool = False
    rle: bool = False
    rois: bool = False


def is_streamed(planes: Planes) -> bool:
    """Whether a file's planes are predicted from disk to disk."""
    return planes.size is not None and math.prod(planes.size) > STREAMED


class FileWriter:
    """Writes what is found in one image file, and tells the rows of its tables.

    The tables know the image by ``name``, files and Kaggle's ImageId by ``stem``. ``found`` are its
    pixels and what was found; a stack or a large image is predicted plane by plane. Afterwards
    ``names`` holds for each kind of output its file below the output folder.
    """

    def __init__(
        self,
        planes: Planes,
        outputs: Outputs,
        name: str,
        stem: str,
        found: tuple[np.ndarray, Prediction] | None = None,
    ) -> None:
        self.planes, self.outputs, self.found = planes, outputs, found
        self.name, self.stem, self.streamed = name, stem, is_streamed(planes)
        suffix, usual = planes.path.suffix, ".tif" if planes.axes else ".png"
        lossless = suffix.lower() in (_LOSSLESS[:2] if planes.axes else _LOSSLESS)
        few = found is not None and int(found[1].labels.max(initial=0)) <= 65535
        png = outputs.labels == "png" and few
        suffixes = {
            "masks": suffix if lossless else ".tif" if self.streamed else usual,
            "labels": ".zarr" if outputs.labels == "zarr" else ".png" if png else ".tif",
            "probabilities": ".tif",
            "overlays": usual,
            "geojson": ".geojson",
            "rois": ".zip",
        }
        wanted = (kind for kind in suffixes if getattr(outputs, kind, True))  # masks always
        self.names = {kind: fitting(f"{kind}/{stem}{suffixes[kind]}") for kind in wanted}

    def write(self, predictor: Predictor, add: AddRows) -> None:
        """Predict what was not found so far, write all, and give rows of tables to ``add``."""
        self.classes = predictor.target.class_names
        chosen = predictor.preprocess.channels
        self._shown = Preprocess(chosen if isinstance(chosen, tuple) else "rgb")
        ways = (one.preprocess for one in (predictor, *predictor.members))
        self._decided = next((way for way in ways if way.decided), None)
        self._pixel_size = self.planes.calibration.pixel_size or predictor.pixel_size
        with ExitStack() as stack:
            place = self.outputs.folder / "masks"
            store = stack.enter_context(BandStore(place)) if self.streamed else None
            self._overlay: BandStore | Rows = store or Rows()
            self._geojson = self._rois = None
            if "geojson" in self.names:
                file = stack.enter_context(writing(self.outputs.folder / self.names["geojson"]))
                self._geojson = stack.enter_context(closing(FeatureWriter(file, self.classes)))
            if "rois" in self.names:
                file = stack.enter_context(writing(self.outputs.folder / self.names["rois"]))
                self._rois = stack.enter_context(zipfile.ZipFile(file, "w"))
            masks, labels, probabilities, exact, most = [], [], [], True, 0
            for number, plane in enumerate(self._predicted(predictor, store)):
                self._add(plane, number, add)
                masks.append(_mask_rows(plane))
                labels.append(plane.labels)
                probabilities.append(plane.probabilities)
                exact, most = exact and plane.exact, max(most, len(plane.labels.areas))
                size = plane.image.shape[:2]
            if not exact:
                why = "the network sees farther than a quarter of a tile"
                print(printable(f"approximate  {self.planes.path}: {why}"))
            wide = np.uint16 if most <= 65535 else np.uint32
            ids = (rows.astype(wide) for rows in chain.from_iterable(labels))
            self._write_map("masks", chain.from_iterable(masks), size, np.uint8)
            self._write_map("labels", ids, size, wide)
            self._write_map("probabilities", chain.from_iterable(probabilities), size, np.uint16)
            factor = self._factor(size)
            small = (-(-size[0] // factor), -(-size[1] // factor), 3)
            self._write_map("overlays", self._overlay, small, np.uint8)

    def _predicted(self, predictor: Predictor, store: BandStore | None) -> Iterator[Plane]:
        planes, wanted = self.planes, self.outputs.probabilities
        if self.found is not None:
            image, found = self.found
            yield plane_in_memory(found, image, wanted)
        elif store is None:
            size = planes.calibration.pixel_size
            for image in planes:
                yield plane_in_memory(predictor.find(image, planes.channels, size), image, wanted)
        else:
            for number in range(len(planes)):
                with planes.windows(number, TILE) as windows:
                    # One file for all: many planes would meet the limit of open files.
                    place = partial(BandStore, self.outputs.folder / "masks", beside=store)
                    yield plane_on_disk(predictor, windows, place, planes, probabilities=wanted)

    def _add(self, plane: Plane, number: int, add: AddRows) -> None:
        """Measure, outline, encode and tint a plane."""
        pixel_size, labels = self._pixel_size, plane.labels
        check_objects(labels.areas)
        kinds = labels.classes
        channels = channel_labels(plane.image.shape[2], self.planes.channels)
        if channels and number == 0:
            add("columns", [{"names": [intensity_column(name) for name in channels]}])
        size, position = plane.image.shape[:2], self.planes.position(number)
        where = {"image": printable(self.name), "plane": number}
        image_id = f"{self.stem}#{number}" if self.planes.axes else self.stem
        counts = image_measures(labels.areas, plane.foreground_pixels, math.prod(size), pixel_size)
        if kinds is not None:
            numbers = np.bincount(kinds[1:], minlength=len(self.classes) + 1)[1:].tolist()
            named = zip(self.classes, numbers, strict=True)
            counts |= {f"objects/{name}": number for name, number in named}
        if self._decided and (view := view_of(self._decided, plane.image)):
            counts["shown"] = view.says
        add("images", [{**where, **counts, **plane.about}])
        if self.outputs.rle and not len(labels.areas):  # that has a row as well
            add("rle", [dict(zip(RLE_COLUMNS, (image_id, ""), strict=True))])
        for crop in labels.crops():
            origin = (crop.rows.start, crop.columns.start)
            window = plane.image.read(crop.rows, crop.columns)
            measured = measure_objects(crop.labels, window, pixel_size, origin, size, channels)
            add("objects", [{**where, **row, **self._kind(kinds, row)} for row in measured])
            found = outlines(crop.labels, origin) if self._geojson or self._rois else []
            if self._geojson:
                self._geojson.add(found, position, kinds)
            if self._rois:
                add_rois(self._rois, found, number, position, kinds)
            if self.outputs.rle:
                codes = run_lengths(crop.labels, origin, size[0])
                add("rle", (dict(zip(RLE_COLUMNS, (image_id, c), strict=True)) for c in codes))
        for label in labels.too_large:
            top, left, bottom, right = labels.boxes[label - 1].tolist()
            row: dict[str, Any] = {"object": label, "area": int(labels.areas[label - 1])}
            row |= {"top": top, "left": left, "bottom": bottom, "right": right}
            row |= self._kind(kinds, row)
            add("objects", [{**where, **row, **derived_measures(row, pixel_size, size)}])
            spans = f"object {label} spans {bottom - top}×{right - left} pixels"
            remedy = "too many to be outlined; objects.csv has its area and box"
            print(printable(f"unmeasured   {self.planes.path}: {spans}, {remedy}"))
        if self.outputs.overlays:
            self._tint(plane)

    def _kind(self, kinds: np.ndarray | None, row: Mapping[str, Any]) -> dict[str, str]:
        """The class of the object of a row, where it has one."""
        return {} if kinds is None else {"class": self.classes[kinds[row["object"]] - 1]}

    def _tint(self, plane: Plane) -> None:
        """Append the image with its mask tinted, or its objects in the colours of their classes."""
        height, width = size = plane.image.shape[:2]
        kinds = plane.labels.classes
        read_mask = (plane.mask if kinds is None else plane.labels).reader()
        factor = self._factor(size)
        read = window_reader(self._shown, plane.image, self.planes.channels)
        step = factor * max(1, _BAND // factor)
        for top in range(0, height, step):
            rows = slice(top, min(top + step, height))
            rgb = composite(read(rows, slice(0, width)).numpy().transpose(1, 2, 0))
            inside = read_mask(rows, slice(0, width))
            if kinds is None:
                tinted = tint(rgb, inside > 0, inside > 0, opacity=0.4)
            else:
                tinted = tint_classes(rgb, kinds[inside], opacity=0.5)
            small = (-(-width // factor), -(-len(rgb) // factor))
            self._overlay.append(cv2.resize(tinted, small, interpolation=cv2.INTER_AREA))

    def _factor(self, size: tuple[int, ...]) -> int:
        """By which the overlay is smaller."""
        return -(-max(size) // OVERLAY) if self.streamed else 1

    def _write_map(
        self, kind: str, bands: Iterable[np.ndarray], shape: tuple[int, ...], dtype: Any
    ) -> None:
        """Write the pixels of all planes, (H, W) or (H, W, 3) each, which come in bands of rows.

        TIFF holds all planes and the scale of the image; the other formats the first plane alone.
        """
        if kind not in self.names:
            return
        path, planes, rgb = self.outputs.folder / self.names[kind], self.planes, len(shape) == 3
        if rgb and self.streamed:  # its pixels may be larger
            planes = replace(planes, calibration=Calibration(planes.calibration.layout))
        if path.suffix == ".zarr":
            write_labels(path, (*planes.lengths, *shape), np.dtype(dtype), bands, planes)
            return
        tiff = path.suffix.lower() in (".tif", ".tiff")
        if tiff and self.streamed:
            write_tiff(path, (*planes.lengths, *shape), np.dtype(dtype), bands, planes, rgb)
            return
        pixels = np.concatenate(list(bands)).reshape(-1, *shape)
        if tiff:
            write_bytes(path, write_stack(pixels, planes))
        else:
            write_image(path, pixels[0])


def _mask_rows(plane: Plane) -> Iterable[np.ndarray]:
    """A plane's mask in bands of rows, uint8: 0 or 255, or the classes of its objects."""
    if (kinds := plane.labels.classes) is None:
        return plane.mask
    return (kinds[ids] for ids in plane.labels)
