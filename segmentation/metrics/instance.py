"""Scores of objects as torchmetrics, thin over `segmentation.metrics.matching`."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torchmetrics import MetricCollection

from segmentation.metrics.base import UNIT, ExactMetric
from segmentation.metrics.functional import real_dtype
from segmentation.metrics.matching import (
    COUNTS,
    OF_TRUE_OBJECTS,
    SCORES,
    Overlaps,
    object_counts,
    overlaps,
    scores_from_counts,
)

__all__ = ["ObjectScores", "Overlaps", "object_metrics", "overlaps"]


class ObjectScores(ExactMetric):
    """All scores of `segmentation.metrics.matching`, from one table of overlaps per image.

    Under their plain names they are pooled over all objects of all images; with the prefix
    ``image_`` they are means over images, where an image of few objects weighs as much as one of
    many. ``image_ap`` is Kaggle's score of the Data Science Bowl 2018; ``image_seg`` and
    ``image_matched_iou`` are means over the images that hold true objects.
    """

    higher_is_better = None  # the count error's best value is 0
    plot_lower_bound = None
    plot_upper_bound = None

    counts: Tensor
    image_sums: Tensor
    images: Tensor

    def __init__(self, **kwargs: Any) -> None:
        super().__init__(**kwargs)
        # The integers of `object_counts`; sums of the scores but the count error, in units of
        # 2^-40; all images, and those with true objects.
        for name, size in (("counts", COUNTS), ("image_sums", len(SCORES) - 1), ("images", 2)):
            self.add_state(name, torch.zeros(size, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of label maps.

        Args:
            prediction: (B, H, W) integer ids, 0 = background.
            truth: The same of the same shape.

        Raises:
            ValueError: The shapes differ, or are not of that kind, or the ids are not integers.
        """
        if prediction.ndim != 3 or prediction.shape != truth.shape:
            shapes = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
            raise ValueError(f"prediction and truth must both be (B, H, W), got {shapes}")
        pairs = zip(truth.cpu().numpy(), prediction.cpu().numpy(), strict=True)
        rows = [object_counts(overlaps(one, other)) for one, other in pairs]
        counts = np.array(rows, np.int64).reshape(-1, COUNTS)
        scores = scores_from_counts(counts)
        real = np.array([scores[name] for name in SCORES[:-1]])  # (scores, B)
        sums = np.rint(np.nan_to_num(real) / UNIT).astype(np.int64).sum(1)
        images = np.array([len(counts), np.isfinite(scores["seg"]).sum()])
        for name, new in (("counts", counts.sum(0)), ("image_sums", sums), ("images", images)):
            setattr(self, name, getattr(self, name) + torch.from_numpy(new).to(self.device))

    def compute(self) -> dict[str, Tensor]:
        """Every score, pooled and as mean over images: float64 scalars, NaN without images."""
        images, with_objects = self.images.tolist()
        pooled = scores_from_counts(self.counts.cpu().numpy())
        scores = {name: float(score) if images else math.nan for name, score in pooled.items()}
        for name, total in zip(SCORES, self.image_sums.tolist(), strict=False):
            count = with_objects if name in OF_TRUE_OBJECTS else images
            scores[f"image_{name}"] = total * UNIT / count if count else math.nan
        scores["image_count_error"] = scores["count_error"] / max(images, 1)
        real = real_dtype(self.counts)
        return {
            name: torch.tensor(score, dtype=real, device=self.device)
            for name, score in scores.items()
        }


def object_metrics() -> MetricCollection:
    """All object scores under the names they are logged by: ``ap50``, ``image_ap50``, ``seg``, …

    For the keys ``val/ap50`` etc. use ``object_metrics().clone(prefix="val/")``.
    """
    return MetricCollection({"objects": ObjectScores()})
