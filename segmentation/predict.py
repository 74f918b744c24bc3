"""Applying trained networks to a folder of images."""

import platform
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from segmentation import __version__
from segmentation.checkpoint import load_task
from segmentation.data.images import IMAGE_SUFFIXES, write_bytes, write_table
from segmentation.data.preprocess import Preprocess
from segmentation.data.stacks import Planes, open_planes
from segmentation.data.tree import file_stamp, is_junk
from segmentation.errors import UserError
from segmentation.outputs import Outputs, rle
from segmentation.outputs.geojson import encode_features, features
from segmentation.outputs.manifest import Manifest, sha256
from segmentation.outputs.measurements import (
    IMAGE_COLUMNS,
    OBJECT_COLUMNS,
    count_objects,
    measure_objects,
)
from segmentation.outputs.outlines import outlines
from segmentation.outputs.rasters import mask_suffix, smallest_ids, write_pixels
from segmentation.outputs.rois import encode_rois, rois
from segmentation.overlays import tint
from segmentation.task import SegmentationTask


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


def predict_folder(
    checkpoints: Sequence[Path],
    images: Path,
    outputs: Outputs,
    device: str = "auto",
    tta: bool = False,
) -> int:
    """Predict every image below ``images``.

    What is done already, by the same settings and of unchanged images, is not done again. A file
    that cannot be read is reported at the end and does not stop the others.

    Args:
        checkpoints: Written by fit or prune. The probabilities of several are averaged; objects are
            told apart by the first one's target.
        images: Folder of images; subfolders are kept.
        outputs: What to write, and where.
        device: "auto" or as PyTorch names it.
        tta: Average over eight symmetries.

    Returns:
        0, or 1 when a file was left out, or when the output could no longer be written.

    Raises:
        UserError: Checkpoints, folders or device are at fault; the checkpoints do not fit together;
            other settings made what the output folder holds; or it cannot be written at all.
    """
    stems = _find_images(images, outputs.folder)
    tasks = _load(checkpoints, device, tta)
    manifest = Manifest(
        outputs.folder,
        _settings(tasks, checkpoints, images, outputs),
        {
            "checkpoints": [str(path) for path in checkpoints],
            "device": str(tasks[0].device),
            "versions": {
                "python": platform.python_version(),
                "torch": torch.__version__,
                "numpy": np.__version__,
                "opencv": cv2.__version__,
            },
        },
    )
    manifest.sweep()
    faults: dict[str, str] = {}
    done = 0
    try:
        for name, stem in tqdm(stems.items(), "predicting", disable=None):
            path = images / name
            try:
                stamp = _stamp(path)
                told = manifest.record(name)
                if told is not None and (told["stamp"], told["stem"]) == (stamp, stem):
                    done += 1
                    continue
                manifest.forget(name)
                prediction = predict_file(tasks, path, outputs, name, stem)
            except UserError as error:
                faults[name] = str(error)
                continue
            try:
                written = _write(prediction, outputs, stem)
                manifest.finish(name, stamp, written, stem=stem, tables=prediction.tables)
            except UserError as error:
                return _stopped(error, done, len(stems))
            done += 1
        try:
            _write_tables(manifest, list(stems), outputs)
            manifest.write(list(stems), faults, complete=True)
        except UserError as error:
            return _stopped(error, done, len(stems))
    finally:
        manifest.sweep()
    print(f"masks     {outputs.folder / 'masks'} ({done} images)")
    print(f"tables    {outputs.folder / 'objects.csv'}, {outputs.folder / 'images.csv'}")
    for fault in faults.values():
        print(f"left out  {fault}", file=sys.stderr)
    return 1 if faults else 0


def predict_file(
    tasks: Sequence[SegmentationTask], path: Path, outputs: Outputs, name: str, stem: str
) -> Prediction:
    """Predict one image file, plane by plane; nothing is written.

    Args:
        tasks: An ensemble, or one.
        path: The file.
        outputs: What is wanted of it.
        name: The image's name in the tables.
        stem: The same without a suffix, where that is unique: Kaggle's ImageId.

    Raises:
        UserError: The file cannot be read, or not be prepared as the networks want it.
    """
    planes = open_planes(path, min(task.preprocess.channels for task in tasks))
    # Images too large for one piece belong here: by planes.size to
    # segmentation.inference.large.predict_large, before any pixel is read.
    found = Prediction(planes)
    target = tasks[0].target
    pixel_size = planes.calibration.pixel_size
    for number, image in enumerate(planes):
        try:
            probs = mean_probabilities(tasks, image)
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
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

    The image is prepared as in training; the result has its own size, whatever the network's.
    """
    prepared = task.preprocess.prepare(image).transpose(2, 0, 1)
    batch = torch.from_numpy(np.ascontiguousarray(prepared))[None].to(task.device)
    probs = task.preprocess.restore(task(batch), (image.shape[0], image.shape[1]))
    result: np.ndarray = probs[0].cpu().numpy()
    return result


def _find_images(folder: Path, output: Path) -> dict[str, str]:
    """Every image below a folder: its relative path ► the name of its results, without suffix."""
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder of images; check --data.images")
    if output.resolve().is_relative_to(folder.resolve()):
        raise UserError(
            f"{output}: lies in the images' folder, where masks would be taken for images; use "
            "another --output"
        )
    relative = (path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file())
    paths = [p for p in relative if p.suffix.lower() in IMAGE_SUFFIXES and not is_junk(str(p))]
    if not paths:
        raise UserError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); check the path")
    # Some file systems do not tell upper from lower case.
    full = {path.as_posix().casefold() for path in paths}
    stems = Counter(path.with_suffix("").as_posix().casefold() for path in paths)
    names = {}
    for path in paths:
        stem = path.with_suffix("").as_posix()
        alone = stems[stem.casefold()] == 1 and stem.casefold() not in full
        names[path.as_posix()] = stem if alone else path.as_posix()
    return names


def _load(checkpoints: Sequence[Path], device: str, tta: bool) -> list[SegmentationTask]:
    """The tasks of checkpoints that can be averaged, on their device."""
    tasks = [load_task(path) for path in checkpoints]
    first = tasks[0].target
    for path, task in zip(checkpoints, tasks, strict=True):
        mine, theirs = (f"{type(t).__name__} ({t.classes} classes)" for t in (task.target, first))
        if mine != theirs:
            raise UserError(
                f"{path}: its target is {mine}, that of {checkpoints[0]} {theirs}; average "
                "checkpoints of one target"
            )
        task.to(_device(device))
        task.tta = task.tta or tta
    if len(tasks) > 1:
        print(f"ensemble  of {len(tasks)} checkpoints")
    return tasks


def _settings(
    tasks: Sequence[SegmentationTask], checkpoints: Sequence[Path], images: Path, outputs: Outputs
) -> dict[str, Any]:
    """All that decides the results, as plain values."""
    target = tasks[0].target
    decoding = {k: v for k, v in vars(target).items() if not k.startswith("_")}
    return {
        "version": __version__,
        "checkpoint_sha256": [sha256(path) for path in checkpoints],
        "images": str(images.resolve()),
        "target": {"class": type(target).__name__, **decoding},
        "tta": [task.tta for task in tasks],
        "outputs": {k: v for k, v in vars(outputs).items() if k != "folder"},
    }


def _stamp(path: Path) -> str:
    try:
        return file_stamp(path)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None


def _write(found: Prediction, outputs: Outputs, stem: str) -> list[str]:
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


def _write_tables(manifest: Manifest, images: Sequence[str], outputs: Outputs) -> None:
    """Write the tables of all images that are done, whenever that was."""
    wanted = {"objects": OBJECT_COLUMNS, "images": IMAGE_COLUMNS}
    if outputs.rle:
        wanted["rle"] = rle.COLUMNS
    for table, columns in wanted.items():
        rows = (row for told in manifest.records(images) for row in told["tables"][table])
        write_table(outputs.folder / f"{table}.csv", columns, rows)


def _stopped(error: UserError, done: int, total: int) -> int:
    """Say in one line how far it went, and return the exit status."""
    print(
        f"stopped   {error}; {done} of {total} images are done, and the same command goes on there",
        file=sys.stderr,
    )
    return 1


def _device(name: str) -> torch.device:
    if name == "auto":
        name = (
            "cuda"
            if torch.cuda.is_available()
            else "mps"
            if torch.backends.mps.is_available()
            else "cpu"
        )
    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        raise UserError(
            f"--device {name}: not available here ({str(error).splitlines()[0]}); use cpu"
        ) from None
    return device
