"""Scores of a set of images, each a function of sums over them, so that they can be resampled."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np
import torch

from segmentation.evaluation.bootstrap import resampled_sums
from segmentation.evaluation.tables import COUNTS, OBJECT_COUNTS
from segmentation.metrics import functional
from segmentation.metrics.matching import SCORES, scores_from_counts

_LOWER = ("hd95", "ece", "image_hd95", "image_ece", "image_abs_count_error")


@dataclass(frozen=True)
class Score:
    """One score.

    Attributes:
        name: As in ``scores.json``; ``image_…`` is a mean over images, others are pooled.
        rows: (images, columns) float64, finite.
        of_sums: (..., columns) ► (...), from the columns' sums over any images.
        images: How many images have it.
    """

    name: str
    rows: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]
    images: int

    @property
    def value(self) -> float:
        """Over all images."""
        return float(self.of_sums(self.rows.sum(0)))


def scores_of(columns: Mapping[str, np.ndarray]) -> dict[str, Score]:
    """Every score that some columns of a table allow, by its name.

    Pooled over pixels and over objects where their counts are columns; and the mean over images of
    every other column, NaN and infinity left out. Beside ``image_count_error``, in which too many
    and too few cancel out, stands the mean of its size, ``image_abs_count_error``.

    Args:
        columns: Name ► (images,) float64.
    """
    scores = {}
    for counts, names, pool in (
        (COUNTS, ("iou", "f1", "precision", "recall", "mean_iou"), _of_pixels),
        (OBJECT_COUNTS, SCORES, _of_objects),
    ):
        if set(counts) <= set(columns):
            rows = np.stack([columns[name] for name in counts], axis=1)
            for name in names:
                scores[name] = Score(name, rows, partial(pool, name), len(rows))
    single = {k: v for k, v in columns.items() if k not in (*COUNTS, *OBJECT_COUNTS)}
    if "count_error" in single:
        single["abs_count_error"] = np.abs(single["count_error"])
    for column, values in single.items():
        known = np.isfinite(values)
        rows = np.stack([np.where(known, values, 0.0), known], axis=1)
        name = f"image_{column}"
        scores[name] = Score(name, rows, _mean, int(known.sum()))
    return scores


def resample(scores: Sequence[Score], groups: Sequence[str] | None) -> list[np.ndarray]:
    """All scores on the same resamples of their images, see :func:`resampled_sums`.

    Args:
        scores: At least one, of the same images in the same order.
        groups: Of each image, or ``None`` to resample images.

    Returns:
        Of each score (resamples,) float64.
    """
    # Scores that are pooled share their rows, which need summing only once.
    blocks = list({id(score.rows): score.rows for score in scores}.values())
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = np.split(resampled_sums(np.hstack(blocks), groups), ends, axis=1)
    sums = {id(block): part for block, part in zip(blocks, parts, strict=True)}
    return [score.of_sums(sums[id(score.rows)]) for score in scores]


def better(name: str) -> str:
    """Which values of a score are good: ``"higher"``, ``"lower"`` or ``"near 0"``."""
    if name.removeprefix("image_") == "count_error":
        return "near 0"
    return "lower" if name in _LOWER else "higher"


def _of_pixels(name: str, sums: np.ndarray) -> np.ndarray:
    result: np.ndarray = getattr(functional, name)(torch.from_numpy(np.asarray(sums))).numpy()
    return result


def _of_objects(name: str, sums: np.ndarray) -> np.ndarray:
    return scores_from_counts(sums)[name]


def _mean(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])
