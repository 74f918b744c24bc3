"""Folders of label maps and predictions to be scored."""

import json
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.evaluation.evaluate import evaluate
from segmentation.io.images import write_image


def grid(shift: int = 0, skip: int = 0) -> np.ndarray:
    """Nine squares of 6×6 in 48×60, moved down by some pixels, without the first so many."""
    labels = np.zeros((48, 60), np.uint16)
    for k in range(skip, 9):
        y, x = 4 + 14 * (k // 3) + shift, 4 + 18 * (k % 3)
        labels[y : y + 6, x : x + 6] = k + 1
    return labels


def write(folder: Path, maps: dict[str, np.ndarray], suffix: str = ".tif") -> Path:
    """One file a map."""
    for name, pixels in maps.items():
        write_image(folder / f"{name}{suffix}", pixels)
    return folder


def truth(folder: Path, names: str = "abcdef") -> Path:
    """The same squares for each letter."""
    return write(folder, {name: grid() for name in names})


def shifted(folder: Path, shifts: dict[str, int]) -> Path:
    """The squares moved; by s pixels their IoU is (6 - s) / (6 + s)."""
    return write(folder, {name: grid(shift) for name, shift in shifts.items()})


def scored(truth: Path | list[Path], prediction: Path, output: Path, **more: Any) -> dict[str, Any]:
    """What ``scores.json`` holds of an evaluation."""
    evaluate(truth if isinstance(truth, list) else [truth], prediction, output, **more)
    report: dict[str, Any] = json.loads((output / "scores.json").read_text())
    return report
