"""What is predicted of one image file, and how it is written."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.data.images import write_bytes
from segmentation.data.preprocess import Preprocess
from segmentation.data.stacks import Planes
from segmentation.errors import UserError
from segmentation.inference.large import predict_large, tiled
from segmentation.inference.tiles import GridTiles
from segmentation.outputs import Outputs, rle
from segmentation.outputs.geojson import encode_features, features
from segmentation.outputs.measurements import (
    count_areas,
    count_objects,
    measure_objects,
    rounded,
)
from segmentation.outputs.outlines import outlines
from segmentation.outputs.rasters import mask_suffix, smallest_ids, write_pixels
from segmentation.outputs.rois import encode_rois, rois
from segmentation.overlays import tint
from segmentation.task import SegmentationTask

WHOLE = 2**22  # pixels (2048²): more go through the network in tiles
STREAMED = 2**25  # pixels: more are streamed from disk to disk, with fewer kinds of output


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
            image_id = f"{stem}#{number}" if planes.axes else stem
            codes = rle.run_lengths(labels) or [""]  # an image without objects has a row as well
            found.tables["rle"] += [
                dict(zip(rle.COLUMNS, (image_id, c), strict=True)) for c in codes
            ]
    return found


def stream_file(
    tasks: Sequence[SegmentationTask], planes: Planes, outputs: Outputs, name: str, stem: str
) -> tuple[list[str], dict[str, list[dict[str, Any]]]]:
    """Predict an image from disk to disk: the files written, and rows of the tables.

    Raises:
        UserError: It cannot be read in windows, or something is wanted that needs it whole.
    """
    path, (height, width) = planes.path, planes.size or (0, 0)
    flags = [flag for flag in ("overlays", "geojson", "rle", "rois") if getattr(outputs, flag)]
    if flags or planes.axes:
        what = f"--{flags[0]}" if flags else "a stack"
        raise UserError(
            f"{path}: {height}×{width} pixels are predicted in tiles from disk, which "
            f"{what} is not made for; leave it out, or cut the image"
        )
    wanted = {"masks": True, "labels": outputs.labels, "probabilities": outputs.probabilities}
    files = {
        kind: f"{kind}/{stem}{path.suffix if kind == 'masks' else '.tif'}"
        for kind, on in wanted.items()
        if on
    }
    found = predict_large(
        tasks,
        path,
        mask=outputs.folder / files["masks"],
        labels=outputs.folder / files["labels"] if "labels" in files else None,
        probabilities=outputs.folder / files["probabilities"] if "probabilities" in files else None,
    )
    if not found.exact:
        print(f"approximate  {path}: the network sees farther than a quarter of a tile")
    where, pixel_size = {"image": name, "plane": 0}, planes.calibration.pixel_size
    counts = count_areas(found.areas, found.foreground_pixels, height * width, pixel_size)
    rows: list[dict[str, Any]] = [
        {**where, "object": i, "area": int(a)} for i, a in enumerate(found.areas, start=1)
    ]
    for row in rows if pixel_size is not None else ():
        row["area_um2"] = rounded(row["area"] * math.prod(pixel_size or ()))
    tables: dict[str, list[dict[str, Any]]] = {
        "images": [{**where, **counts}],
        "objects": rows,
        "rle": [],
    }
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
