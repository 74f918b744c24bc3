"""A dataset that is a list of samples."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from segmentation.data.cache import SampleStore, decoded
from segmentation.data.sample import Record, Sample
from segmentation.errors import UserError


class Listed:
    """Samples by id; ``faults`` cannot be read. ``stamps`` counts how often they were changed."""

    name, version = "listed", 1

    def __init__(self, *samples: Sample, faults: Sequence[str] = ()) -> None:
        self.samples, self.faults = {one.id: one for one in samples}, faults

    def index(self) -> Sequence[Record]:
        return [
            Record(i, f"{i}.png", (f"{i}_mask.png",), str(hash(one.image.tobytes())), one.group)
            for i, one in sorted(self.samples.items())
        ]

    def read(self, record: Record) -> Sample:
        if record.id in self.faults:
            raise UserError(f"{record.image}: broken; copy it again")
        return replace(self.samples[record.id])


def sample(name: str, image: np.ndarray, labels: np.ndarray | None, group: str = "") -> Sample:
    """A sample; an (H, W) image gets its channel axis."""
    labels = None if labels is None else labels.astype(np.int32)
    return Sample(name, image[..., None] if image.ndim == 2 else image, labels, group)


def noise(seed: int, size: tuple[int, ...] = (48, 64)) -> np.ndarray:
    """Pixels that are like no others."""
    return np.random.default_rng(seed).integers(20, 200, size).astype(np.uint8)


def block(
    top: int, left: int, height: int, width: int, size: tuple[int, int] = (48, 64)
) -> np.ndarray:
    """Labels of one rectangle."""
    labels = np.zeros(size, np.int32)
    labels[top : top + height, left : left + width] = 1
    return labels


def stored(folder: Path, *samples: Sample) -> SampleStore:
    """The samples in a cache below ``folder``."""
    return decoded(Listed(*samples), folder)
