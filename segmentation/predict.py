"""Applying a trained network to a folder of images."""

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from segmentation.checkpoint import load_task
from segmentation.data.folder import find_images
from segmentation.data.images import read_image, write_image, write_table
from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.overlays import tint
from segmentation.task import SegmentationTask

COLUMNS = (
    "image", "objects", "foreground_pixels", "foreground_share", "mean_area", "median_area"
)  # fmt: skip
LOSSLESS = (".png", ".tif", ".tiff", ".bmp")


@dataclass(frozen=True)
class Outputs:
    """What is written for each image, below ``folder``.

    Attributes:
        folder: Gets ``masks/`` and ``objects.csv`` in any case.
        probabilities: Foreground probability as 16-bit TIFF, 65535 = 1.
        labels: Instance ids as TIFF: 16 bits, or 32 (float) beyond 65,535 objects.
        overlays: The image with its objects tinted.
    """

    folder: Path
    probabilities: bool = False
    labels: bool = False
    overlays: bool = False


def predict_folder(
    checkpoint: Path, images: Path, outputs: Outputs, device: str = "auto", tta: bool = False
) -> int:
    """Predict every image below ``images``; ``tta`` averages over eight symmetries.

    A file that cannot be read is reported at the end and does not stop the others.

    Returns:
        0, or 1 when a file was left out.

    Raises:
        UserError: Checkpoint, folder or device are at fault, or the output cannot be written.
    """
    if not images.is_dir():
        raise UserError(f"{images}: no such folder of images; check --data.images")
    paths = find_images(images)
    task = load_task(checkpoint).to(_device(device))
    task.tta = task.tta or tta
    rows, faults = [], []
    for name, path in tqdm(paths.items(), "predicting", disable=None):
        try:
            image = read_image(path)
        except UserError as error:
            faults.append(str(error))
            continue
        probs = probabilities(task, image)
        relative = Path(name).parent / path.name
        rows.append({"image": relative.as_posix(), **_write(outputs, relative, task, image, probs)})
    if rows:
        write_table(outputs.folder / "objects.csv", COLUMNS, rows)
        print(f"masks     {outputs.folder / 'masks'} ({len(rows)} images)")
        print(f"counts    {outputs.folder / 'objects.csv'}")
    for fault in faults:
        print(f"left out  {fault}", file=sys.stderr)
    return 1 if faults else 0


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


def _write(
    outputs: Outputs, name: Path, task: SegmentationTask, image: np.ndarray, probs: np.ndarray
) -> dict[str, Any]:
    """Write one image's files and return its row of the table."""
    foreground = task.target.foreground(torch.from_numpy(probs)[None])[0].numpy()
    mask = foreground > task.target.threshold
    labels = task.target.decode(probs)
    suffix = name.suffix if name.suffix.lower() in LOSSLESS else ".png"
    write_image(outputs.folder / "masks" / name.with_suffix(suffix), mask.astype(np.uint8) * 255)
    tiff = name.with_suffix(".tif")
    if outputs.probabilities:
        pixels = (foreground * 65535).round().astype(np.uint16)
        write_image(outputs.folder / "probabilities" / tiff, pixels)
    if outputs.labels:
        wide = labels.max(initial=0) > np.iinfo(np.uint16).max
        write_image(
            outputs.folder / "labels" / tiff, labels.astype(np.float32 if wide else np.uint16)
        )
    if outputs.overlays:
        rgb = Preprocess(channels=3).prepare(image)
        picture = tint(rgb, mask, mask, opacity=0.4)
        write_image(outputs.folder / "overlays" / name.with_suffix(".png"), picture)
    areas = np.bincount(labels.reshape(-1))[1:]
    return {
        "objects": len(areas),
        "foreground_pixels": int(mask.sum()),
        "foreground_share": round(float(mask.mean()), 6),
        "mean_area": round(float(areas.mean()), 2) if len(areas) else "",
        "median_area": float(np.median(areas)) if len(areas) else "",
    }


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
