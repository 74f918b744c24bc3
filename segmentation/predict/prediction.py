"""What is predicted of one image file, and how it is written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field, replace
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.evaluation.overlays import tint
from segmentation.experiments.grid_tiles import GridTiles
from segmentation.io.files import write_bytes
from segmentation.io.images import write_image
from segmentation.io.stacks import Calibration, Planes
from segmentation.io.windows import BandStore, TiffWindows, write_tiff
from segmentation.predict.large import TILE, predict_large, tiled
from segmentation.predict.outputs import Outputs, rle
from segmentation.predict.outputs.geojson import encode_features, features
from segmentation.predict.outputs.measurements import (
    count_areas,
    count_objects,
    measure_objects,
)
from segmentation.predict.outputs.outlines import outlines
from segmentation.predict.outputs.rasters import mask_suffix, smallest_ids, write_pixels
from segmentation.predict.outputs.rois import encode_rois, rois
from segmentation.predict.outputs.rows import Rows
from segmentation.predict.outputs.streamed import ObjectFiles, add_overlay, smaller
from segmentation.task import SegmentationTask

WHOLE = 2**22  # pixels (2048²): more go through the network in tiles
STREAMED = 2**25  # pixels: more are streamed from disk to disk


@dataclass
class Prediction:
    """What was found in one image file. Lists of maps have one entry for each plane.

    Attributes:
        planes: The file.
        masks: (H, W) uint8, 0 or 255.
        labels: (H, W) int32 instance ids.
        probabilities: (H, W) uint16, 65535 = 1; empty where not wanted, as are the following.
        overlays: (H, W, 3) uint8.
        features: GeoJSON features of all planes.
        rois: Name and bytes of the ROIs of all planes.
        tables: Rows of ``images.csv``, ``objects.csv`` and ``rle.csv``.
    """

    planes: Planes
    masks: list[np.ndarray] = field(default_factory=list)
    labels: list[np.ndarray] = field(default_factory=list)
    probabilities: list[np.ndarray] = field(default_factory=list)
    overlays: list[np.ndarray] = field(default_factory=list)
    features: list[dict[str, Any]] = field(default_factory=list)
    rois: list[tuple[str, bytes]] = field(default_factory=list)
    tables: dict[str, list[dict[str, Any]]] = field(
        default_factory=lambda: {"images": [], "objects": [], "rle": []}
    )


def predict_file(
    tasks: Sequence[SegmentationTask], planes: Planes, outputs: Outputs, name: str, stem: str
) -> Prediction:
    """Predict one image file, plane by plane; nothing is written.

    Args:
        tasks: An ensemble, or one.
        planes: The file.
        outputs: What is wanted of it.
        name: The image's name in the tables.
        stem: The same without a suffix, where that is unique: Kaggle's ImageId.

    Raises:
        UserError: The file cannot be read, or not be prepared as the networks want it.
    """
    found = Prediction(planes)
    target = tasks[0].target
    pixel_size = planes.calibration.pixel_size
    for number, image in enumerate(planes):
        try:
            probs = mean_probabilities(tasks, image)
        except UserError as error:
            raise UserError(f"{planes.path}: {error}") from None
        foreground = target.foreground(torch.from_numpy(probs)[None])[0].numpy()
        mask = foreground > target.threshold
        labels = target.decode(probs)
        found.masks.append(mask.astype(np.uint8) * 255)
        found.labels.append(labels)
        if outputs.probabilities:
            found.probabilities.append((foreground * 65535).round().astype(np.uint16))
        if outputs.overlays:
            rgb = Preprocess(channels=3).prepare(image)
            found.overlays.append(tint(rgb, mask, mask, opacity=0.4))
        if outputs.geojson or outputs.rois:
            objects, position = outlines(labels), planes.position(number)
            if outputs.geojson:
                found.features += features(objects, position)
            if outputs.rois:
                found.rois += rois(objects, number, position)
        where = {"image": name, "plane": number}
        counts = count_objects(labels, mask, pixel_size)
        measured = measure_objects(labels, image, pixel_size)
        found.tables["images"].append({**where, **counts})
        found.tables["objects"] += [{**where, **row} for row in measured]
        if outputs.rle:
            codes = rle.run_lengths(labels) or [""]  # an image without objects has a row as well
            found.tables["rle"] += rle.rows(stem, number if planes.axes else None, codes)
    return found


def stream_file(
    tasks: Sequence[SegmentationTask], planes: Planes, outputs: Outputs, name: str, stem: str
) -> tuple[list[str], Mapping[str, Iterable[dict[str, Any]]]]:
    """Predict an image from disk to disk, plane by plane.

    What is written is what :func:`write_prediction` writes of the same objects, except that large
    overlays are made smaller, and ImageJ's files become OME-TIFF.

    Returns:
        The files written, below the output folder, and rows of the tables.

    Raises:
        UserError: It cannot be read in windows, or the output not be written.
    """
    path, size, pixel_size = planes.path, planes.size, planes.calibration.pixel_size
    assert size is not None
    if planes.axes and len(planes.pages[0]) > 1:
        raise UserError(
            f"{path}: {size[0]}×{size[1]} pixels are read in windows, which is not made for a "
            "stack whose colours are planes; save it as RGB"
        )
    suffixes = {"masks": path.suffix, "labels": ".tif", "probabilities": ".tif"}
    suffixes |= {"overlays": ".tif" if planes.axes else ".png", "geojson": ".geojson"}
    suffixes["rois"] = ".zip"
    files = {
        kind: f"{kind}/{stem}{suffix}"
        for kind, suffix in suffixes.items()
        if kind == "masks" or getattr(outputs, kind)
    }
    targets = {kind: outputs.folder / file for kind, file in files.items()}
    counts = Rows()
    with ExitStack() as stack:
        overlays = stack.enter_context(BandStore(outputs.folder / "masks"))

        def spool() -> BandStore:
            return BandStore(outputs.folder / "masks", beside=overlays)

        places = {kind: targets.get(kind) for kind in ("geojson", "rois")}
        objects = ObjectFiles(planes, name, stem, stack, codes=outputs.rle, **places)
        found = []
        for number in range(len(planes)):
            page = planes.pages[number][0] if planes.axes else None
            with TiffWindows(path, TILE, page) as image:
                plane = predict_large(tasks, image, spool, probabilities=outputs.probabilities)
                objects.add(plane.labels, image, number)
                if outputs.overlays:
                    add_overlay(overlays, image, plane.mask)
            found.append(plane)
            row = count_areas(
                plane.labels.areas, plane.foreground_pixels, math.prod(size), pixel_size
            )
            counts.add([{"image": name, "plane": number, **row}])
        if not all(plane.exact for plane in found):
            print(f"approximate  {path}: the network sees farther than a quarter of a tile")
        most = max(len(plane.labels.areas) for plane in found)
        wide = np.dtype(np.uint16 if most <= 65535 else np.uint32)
        bands: dict[str, Iterable[np.ndarray]] = {
            "masks": chain.from_iterable(plane.mask for plane in found),
            "labels": (ids.astype(wide) for plane in found for ids in plane.labels),
            "probabilities": chain.from_iterable(plane.probabilities for plane in found),
        }
        dtypes = {"masks": np.dtype(np.uint8), "labels": wide, "probabilities": np.dtype(np.uint16)}
        shape = (*planes.lengths, *size)
        for kind in bands:
            if kind in targets:
                write_tiff(targets[kind], shape, dtypes[kind], bands[kind], planes)
        if outputs.overlays and planes.axes:
            unscaled = replace(planes, calibration=Calibration(planes.calibration.layout))
            shape = (*planes.lengths, *smaller(size), 3)
            write_tiff(targets["overlays"], shape, np.dtype(np.uint8), overlays, unscaled, rgb=True)
        elif outputs.overlays:
            write_image(targets["overlays"], np.concatenate(list(overlays)))
    tables = {"images": counts, "objects": objects.objects, "rle": objects.codes or Rows()}
    return list(files.values()), tables


def mean_probabilities(tasks: Sequence[SegmentationTask], image: np.ndarray) -> np.ndarray:
    """The mean of what several networks say, each of the image as it was trained to see it.

    Args:
        tasks: At least one; their targets have the same classes.
        image: As :func:`probabilities`, which this equals for one task.
    """
    total = probabilities(tasks[0], image)
    for task in tasks[1:]:
        total += probabilities(task, image)
    total /= len(tasks)
    return total


@torch.inference_mode()
def probabilities(task: SegmentationTask, image: np.ndarray) -> np.ndarray:
    """Probabilities of one image as read, (H, W, C) uint8 or uint16 ► (K, H, W) float32.

    The image is prepared as in training; the result has its own size, whatever the network's. A
    large one goes through the network in tiles.
    """
    prepared = task.preprocess.prepare(image).transpose(2, 0, 1)
    batch = torch.from_numpy(np.ascontiguousarray(prepared))[None]
    if math.prod(prepared.shape[1:]) > WHOLE and not isinstance(task.net, GridTiles):
        answer = tiled(task, batch[0])
    else:
        answer = task(batch.to(task.device))
    probs = task.preprocess.restore(answer, (image.shape[0], image.shape[1]))
    result: np.ndarray = probs[0].cpu().numpy()
    return result


def write_prediction(found: Prediction, outputs: Outputs, stem: str) -> list[str]:
    """Write one image's files and return their names below the output folder."""
    written = []

    def path(kind: str, suffix: str) -> Path:
        written.append(f"{kind}/{stem}{suffix}")
        return outputs.folder / written[-1]

    planes, stack = found.planes, bool(found.planes.axes)
    write_pixels(path("masks", mask_suffix(planes)), np.stack(found.masks), planes)
    if outputs.labels:
        ids = smallest_ids(found.labels)
        fits = outputs.labels == "png" and not stack and ids.dtype == np.uint16
        write_pixels(path("labels", ".png" if fits else ".tif"), ids, planes)
    if outputs.probabilities:
        write_pixels(path("probabilities", ".tif"), np.stack(found.probabilities), planes)
    if outputs.overlays:
        suffix = ".tif" if stack else ".png"
        write_pixels(path("overlays", suffix), np.stack(found.overlays), planes)
    if outputs.geojson:
        write_bytes(path("geojson", ".geojson"), encode_features(found.features))
    if outputs.rois:
        write_bytes(path("rois", ".zip"), encode_rois(found.rois))
    return written
