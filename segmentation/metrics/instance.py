"""Scores of objects: label maps compared through one sparse table of overlaps."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from segmentation.metrics import functional
from segmentation.metrics.pixel import _UNIT, _PixelMetric

_DENSE = 1 << 22  # cells of a table that is counted in one go rather than sorted


@dataclass(frozen=True)
class Overlaps:
    """What two label maps share, whatever their ids.

    Attributes:
        truth: (n,) pixels of each true object.
        prediction: (m,) pixels of each predicted object.
        i, j: (k,) indices of the pairs that overlap.
        pixels: (k,) that each pair shares.
    """

    truth: np.ndarray
    prediction: np.ndarray
    i: np.ndarray
    j: np.ndarray
    pixels: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """(k,) intersection over union of each pair."""
        union = self.truth[self.i] + self.prediction[self.j] - self.pixels
        return np.asarray(self.pixels / union)


def overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """The table of overlaps of two label maps.

    Args:
        truth: (H, W) integer ids, 0 = background; gaps do not matter.
        prediction: The same of the same shape.

    Raises:
        ValueError: The shapes differ.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    rows, columns = (_numbered(labels) for labels in (truth, prediction))
    width = int(columns.max(initial=0)) + 1
    height = int(rows.max(initial=0)) + 1
    cells = rows.astype(np.int64) * width + columns
    if height * width <= _DENSE:
        counts = np.bincount(cells, minlength=height * width)
        filled = np.flatnonzero(counts)
        counts = counts[filled]
    else:
        filled, counts = np.unique(cells, return_counts=True)
    sides, pairs = np.divmod(filled, width), np.ones(len(filled), bool)
    sizes, places = [], []
    for side, count in zip(sides, (height, width), strict=True):
        size = np.bincount(side, counts, count).astype(np.int64)
        size[0] = 0  # the background
        places.append((np.cumsum(size > 0) - 1)[side])
        sizes.append(size[size > 0])
        pairs &= side > 0
    i, j = (place[pairs] for place in places)
    return Overlaps(sizes[0], sizes[1], i, j, counts[pairs])


def seg_sum(table: Overlaps) -> tuple[float, int]:
    """Sum of each true object's Jaccard index with its match, and the number of true objects.

    The match is the predicted object that covers more than half of the true one; there is at most
    one, and an object without a match counts 0 (Maška et al., Bioinformatics 2014).
    """
    matched = 2 * table.pixels > table.truth[table.i]
    return float(table.iou[matched].sum()), len(table.truth)


class SEG(_PixelMetric):
    """The Cell Tracking Challenge's SEG: the mean over all true objects of all images.

    Images without true objects contribute nothing; with none at all it is NaN. As with the scores
    of pixels, the states are integers (Jaccard indices as multiples of 2^-40): the result is the
    same to the bit for any order of the images and any number of processes.
    """

    total: Tensor
    count: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        zero = torch.zeros((), dtype=torch.int64)
        self.add_state("total", zero, dist_reduce_fx="sum")
        self.add_state("count", zero.clone(), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of label maps.

        Args:
            prediction: (B, H, W) integer ids, 0 = background.
            truth: The same of the same shape.

        Raises:
            ValueError: The shapes differ, or are not of that kind.
        """
        if prediction.ndim != 3 or prediction.shape != truth.shape:
            shapes = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
            raise ValueError(f"prediction and truth must both be (B, H, W), got {shapes}")
        for one, other in zip(prediction.cpu().numpy(), truth.cpu().numpy(), strict=True):
            total, count = self._image(*seg_sum(overlaps(other, one)))
            self.total += round(total / _UNIT)
            self.count += count

    def compute(self) -> Tensor:
        """The score, a float64 scalar in 0…1 or NaN."""
        real = functional.real_dtype(self.total)
        return self.total.to(real) * _UNIT / self.count.to(real)  # 0 / 0 is NaN

    def _image(self, total: float, count: int) -> tuple[float, int]:
        return total, count


class ImageSEG(SEG):
    """SEG of each image, averaged over the images that hold objects: system D's variant.

    Its formula for an object is the challenge's; only here an image of few objects weighs as much
    as one of many.
    """

    def _image(self, total: float, count: int) -> tuple[float, int]:
        return (total / count, 1) if count else (0.0, 0)


def object_metrics() -> MetricCollection:
    """All object scores under the names they are logged by: ``seg`` and ``image_seg``."""
    # One group each: their states are of the same names and shapes, yet not the same.
    return MetricCollection({"seg": SEG(), "image_seg": ImageSEG()}, compute_groups=False)


def _numbered(labels: np.ndarray) -> np.ndarray:
    """Ids as they are where there are few gaps, otherwise renumbered; flat."""
    flat = labels.reshape(-1)
    if flat.size == 0 or (int(flat.min()) >= 0 and int(flat.max()) <= flat.size):
        return flat
    ids, numbers = np.unique(np.append(flat, 0), return_inverse=True)
    zero = int(np.searchsorted(ids, 0))
    # 0 must stay 0, also where negative ids come before it.
    return np.where(numbers == zero, 0, np.where(numbers < zero, numbers + 1, numbers))[:-1]
