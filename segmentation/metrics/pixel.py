"""Pixel scores as torchmetrics, thin over `segmentation.metrics.functional`.

``metric.update(probs, mask)`` takes probabilities (B, H, W) in [0, 1] and the truth (B, H, W), bool
or 0/1. The scores come in three families, and each computes its counts once per update however many
of its scores a `MetricCollection` holds (a *compute group*):

- pooled over all pixels of all images: `IoU`, `F1`, `Precision`, `Recall`, `MeanIoU`;
- mean over images, where a small image weighs as much as a large one: `ImageIoU`, `ImageF1`,
  `ImageMeanIoU`;
- ranking of all pixels, without a threshold: `AUROC`, `AveragePrecision`.

All states are int64 and summed across processes, so that a result depends neither on the order of
the images nor on the number of processes or their shares. Empty masks are scored by the rule in
`segmentation.metrics.functional`; a metric that saw no image is NaN.
"""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torchmetrics import MetricCollection

from segmentation.metrics import functional
from segmentation.metrics.base import UNIT, ExactMetric


def pixel_metrics(threshold: float = 0.5) -> MetricCollection:
    """All pixel scores under the names they are logged by.

    Args:
        threshold: a pixel is predicted foreground if its probability is greater; in [0, 1].

    Returns:
        A collection with the keys ``iou``, ``f1``, ``precision``, ``recall`` and ``mean_iou``
        (pooled over all pixels), ``image_iou`` and ``image_f1`` (mean over images), ``auroc`` and
        ``average_precision`` (over all pixels). For the keys ``val/iou`` etc. use
        ``pixel_metrics().clone(prefix="val/")``.

    Raises:
        ValueError: if the threshold is outside [0, 1].
    """
    return MetricCollection(
        {
            "iou": IoU(threshold),
            "f1": F1(threshold),
            "precision": Precision(threshold),
            "recall": Recall(threshold),
            "mean_iou": MeanIoU(threshold),
            "image_iou": ImageIoU(threshold),
            "image_f1": ImageF1(threshold),
            "auroc": AUROC(),
            "average_precision": AveragePrecision(),
        }
    )


def _state_name(name: str, threshold: float) -> str:
    """Name of a state that depends on the threshold, such as ``counts_at_0_5``.

    A `MetricCollection` lets metrics share one state for good if names *and values* agree after the
    first update, and a confident first image has the same counts at any two thresholds. Different
    names keep them apart.
    """
    return f"{name}_at_{float(threshold)!r}".replace(".", "_")


class _PooledMetric(ExactMetric):
    """Counts of all pixels of all images."""

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        """Score foreground where the probability is greater than ``threshold``.

        Args:
            threshold: in [0, 1].
            kwargs: torchmetrics' own options, such as ``process_group``.

        Raises:
            ValueError: if the threshold is outside [0, 1].
        """
        super().__init__(**kwargs)
        functional.check_threshold(threshold)
        self.threshold = threshold
        self._counts_name = _state_name("counts", threshold)
        self.add_state(self._counts_name, torch.zeros(4, dtype=torch.int64), dist_reduce_fx="sum")

    @property
    def counts(self) -> Tensor:
        """(4,) int64, ``[tp, fp, fn, tn]`` so far."""
        counts: Tensor = getattr(self, self._counts_name)
        return counts

    def update(self, probs: Tensor, mask: Tensor) -> None:
        """Add images; arguments and errors as in `functional.confusion_counts`."""
        new = functional.confusion_counts(probs, mask, self.threshold).sum(0)  # (4,)
        # Never in place: metrics that share the state hold the same tensor.
        setattr(self, self._counts_name, self.counts + new)


class IoU(_PooledMetric):
    """Intersection over union of the foreground, pooled over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return functional.iou(self.counts)


class F1(_PooledMetric):
    """F1 score (Dice coefficient) of the foreground, pooled over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return functional.f1(self.counts)


class Precision(_PooledMetric):
    """Share of the predicted foreground that is right, pooled over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return functional.precision(self.counts)


class Recall(_PooledMetric):
    """Share of the true foreground that was found, pooled over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return functional.recall(self.counts)


class MeanIoU(_PooledMetric):
    """Mean of the foreground's and the background's IoU, each pooled over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return functional.mean_iou(self.counts)


_IMAGE_SCORES: tuple[Callable[[Tensor], Tensor], ...] = (
    functional.iou,
    functional.f1,
    functional.mean_iou,
)


class _ImageMetric(ExactMetric):
    """Sums of the scores of single images.

    All scores are in one state, though each metric reads one of them: were each summed on its own
    under the same name, a `MetricCollection` would merge them for good after a first image on which
    they are all 1.
    """

    def __init__(self, threshold: float = 0.5, **kwargs: Any) -> None:
        """Score foreground where the probability is greater than ``threshold``.

        Args:
            threshold: in [0, 1].
            kwargs: torchmetrics' own options, such as ``process_group``.

        Raises:
            ValueError: if the threshold is outside [0, 1].
        """
        super().__init__(**kwargs)
        functional.check_threshold(threshold)
        self.threshold = threshold
        self._sums_name = _state_name("image_sums", threshold)
        zeros = torch.zeros(len(_IMAGE_SCORES), dtype=torch.int64)
        self.add_state(self._sums_name, zeros, dist_reduce_fx="sum")
        self.images: Tensor
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, mask: Tensor) -> None:
        """Add images; arguments and errors as in `functional.confusion_counts`."""
        counts = functional.confusion_counts(probs, mask, self.threshold)  # (B, 4)
        scores = torch.stack([score(counts) for score in _IMAGE_SCORES], dim=1)  # (B, scores)
        new = (scores / UNIT).round().to(torch.int64).sum(0)
        # Never in place: metrics that share the state hold the same tensors.
        setattr(self, self._sums_name, getattr(self, self._sums_name) + new)
        self.images = self.images + len(counts)

    def _mean(self, score: Callable[[Tensor], Tensor]) -> Tensor:
        """Mean over images of one of `_IMAGE_SCORES`: () float64."""
        total: Tensor = getattr(self, self._sums_name)[_IMAGE_SCORES.index(score)]
        real = functional.real_dtype(total)
        return total.to(real) * UNIT / self.images.to(real)  # 0 / 0 is NaN


class ImageIoU(_ImageMetric):
    """Mean over images of the foreground's intersection over union."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return self._mean(functional.iou)


class ImageF1(_ImageMetric):
    """Mean over images of the foreground's F1 score (Dice coefficient)."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return self._mean(functional.f1)


class ImageMeanIoU(_ImageMetric):
    """Mean over images of the mean of the foreground's and the background's IoU."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without images."""
        return self._mean(functional.mean_iou)


class _RankingMetric(ExactMetric):
    """Histogram of the probabilities of all pixels: constant memory and exactly summable."""

    def __init__(self, bins: int = 1024, **kwargs: Any) -> None:
        """Rank pixels by the bin of their probability.

        Args:
            bins: see `functional.probability_histogram`.
            kwargs: torchmetrics' own options, such as ``process_group``.

        Raises:
            ValueError: if ``bins`` is less than 2.
        """
        super().__init__(**kwargs)
        functional.check_bins(bins)
        self.bins = bins
        # Another number of bins is another shape, which a `MetricCollection` never merges.
        self.histogram: Tensor  # (2, bins)
        self.add_state("histogram", torch.zeros(2, bins, dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, probs: Tensor, mask: Tensor) -> None:
        """Add images; arguments and errors as in `functional.probability_histogram`."""
        # Never in place: metrics that share the state hold the same tensor.
        self.histogram = self.histogram + functional.probability_histogram(probs, mask, self.bins)


class AUROC(_RankingMetric):
    """Area under the ROC curve, over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN unless both classes occurred."""
        return functional.auroc_from_histogram(self.histogram)


class AveragePrecision(_RankingMetric):
    """Average precision, over all pixels."""

    def compute(self) -> Tensor:
        """() float64 in [0, 1], NaN without foreground."""
        return functional.average_precision_from_histogram(self.histogram)
