"""Applying trained networks to a folder of images."""

import math
import platform
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from tqdm.auto import tqdm

from segmentation import __version__
from segmentation.checkpoints import load_task
from segmentation.errors import Unwritten, UserError
from segmentation.io.files import sha256_of, write_table
from segmentation.io.images import IMAGE_SUFFIXES
from segmentation.io.stacks import open_planes
from segmentation.io.tree import file_stamp, is_junk
from segmentation.predict.outputs import Outputs, rle
from segmentation.predict.outputs.manifest import Manifest
from segmentation.predict.outputs.measurements import IMAGE_COLUMNS, OBJECT_COLUMNS
from segmentation.predict.prediction import STREAMED, predict_file, stream_file, write_prediction
from segmentation.task import SegmentationTask


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
    tasks = load_tasks(checkpoints, device, tta)
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
                planes = open_planes(path, min(task.preprocess.channels for task in tasks))
                if planes.size is not None and math.prod(planes.size) > STREAMED:
                    written, tables = stream_file(tasks, planes, outputs, name, stem)
                    prediction = None
                else:
                    prediction = predict_file(tasks, planes, outputs, name, stem)
                    tables = prediction.tables
            except Unwritten as error:  # a streamed image is written as it is predicted
                return _stopped(error, done, len(stems))
            except UserError as error:
                faults[name] = str(error)
                continue
            try:
                if prediction is not None:
                    written = write_prediction(prediction, outputs, stem)
                manifest.finish(name, stamp, written, stem=stem, tables=tables)
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


def load_tasks(checkpoints: Sequence[Path], device: str, tta: bool) -> list[SegmentationTask]:
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
        "checkpoint_sha256": [sha256_of(path) for path in checkpoints],
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
