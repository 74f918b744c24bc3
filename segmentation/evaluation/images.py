"""All scores of one image, which is a row of ``per_image.csv``, and of many such rows."""

import math
from typing import Any

import numpy as np
import torch

from segmentation.evaluation.bootstrap import LEVEL, RESAMPLES, percentile_interval
from segmentation.evaluation.scores import resample, scores_of
from segmentation.evaluation.tables import ABOUT, COUNTS, OBJECT_COUNTS, Images
from segmentation.metrics import functional
from segmentation.metrics.boundary import boundary_f, hd95
from segmentation.metrics.matching import object_counts, overlaps, scores_from_counts

TOLERANCE = 2  # pixels by which a boundary may be off for boundary_f
_PIXEL_SCORES = ("iou", "f1", "precision", "recall", "mean_iou")


def score_image(
    truth: np.ndarray, prediction: np.ndarray, mask: np.ndarray | None = None
) -> dict[str, Any]:
    """Every score of one image that needs no probabilities: the columns of its row.

    Args:
        truth: (H, W) int32 ids, 0 = background.
        prediction: The same of the same shape.
        mask: (H, W) bool: the predicted foreground, where it is not that of the objects (small
            ones may have been dropped).
    """
    masks = truth > 0, (prediction > 0 if mask is None else mask)
    probs = torch.from_numpy(masks[1][None].astype(np.float32))
    counts = functional.confusion_counts(probs, torch.from_numpy(masks[0][None]))[0]
    objects = object_counts(overlaps(truth, prediction))
    return {
        **dict(zip(COUNTS, counts.tolist(), strict=True)),
        **{name: float(getattr(functional, name)(counts)) for name in _PIXEL_SCORES},
        **{name: float(score) for name, score in scores_from_counts(objects).items()},
        "boundary_f": float(boundary_f(*masks, TOLERANCE)),
        "hd95": float(hd95(*masks)),
        **dict(zip(OBJECT_COUNTS, objects.tolist(), strict=True)),
    }


def as_images(rows: list[dict[str, Any]]) -> Images:
    """The rows of one method by column."""
    return Images(
        tuple(row["id"] for row in rows),
        tuple(row["group"] for row in rows),
        {
            name: np.array([row.get(name, math.nan) for row in rows], float)
            for name in dict.fromkeys(name for row in rows for name in row)
            if name not in ABOUT
        },
    )


def summary(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """Scores by method, with intervals, and by kind: what ``scores.json`` holds.

    Args:
        rows: Of ``per_image.csv``.
    """
    result: dict[str, Any] = {"images": len({row["id"] for row in rows})}
    intervals: dict[str, dict[str, tuple[float, float]]] = {}
    by_kind: dict[str, dict[str, Any]] = {}
    kinds = sorted({row["kind"] for row in rows})
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        table = as_images(mine)
        scores = scores_of(table.columns)
        samples = resample(list(scores.values()), table.clusters)
        intervals[method] = {
            name: percentile_interval(some) for name, some in zip(scores, samples, strict=True)
        }
        result[method] = {name: score.value for name, score in scores.items()}
        by_kind[method] = {
            kind: {"images": len(some), **_values(as_images(some))}
            for kind in kinds
            if (some := [row for row in mine if row["kind"] == kind])
        }
    drawn = resampled(table)  # of any method, for all have the same images
    return result | {"by_kind": by_kind, "intervals": intervals, "resampled": drawn}


def resampled(table: Images) -> dict[str, Any]:
    """What the intervals are drawn from, and how far to trust them.

    Returns:
        ``what`` (images or groups), ``how_many``, ``times``, ``level``, and ``caution``: what must
        be said beside the intervals, in a sentence, or nothing.
    """
    groups = table.clusters
    what, count = ("images", len(table.ids)) if groups is None else ("groups", len(set(groups)))
    caution = ""
    if groups is None and count > 1 and table.groups[0]:
        caution = (
            f"all images are of one group ({table.groups[0]}) and resemble each other: the "
            "intervals are too narrow, and say nothing of other groups"
        )
    elif count < 10:
        caution = f"with fewer than ten {what} the intervals are a hint"
    about = {"what": what, "how_many": count, "times": RESAMPLES, "level": LEVEL}
    return {**about, "caution": caution}


def _values(table: Images) -> dict[str, float]:
    return {name: score.value for name, score in scores_of(table.columns).items()}


def finite(report: Any) -> Any:
    """The same with ``None`` for NaN and infinity, which are no JSON."""
    if isinstance(report, dict):
        return {name: finite(value) for name, value in report.items()}
    if isinstance(report, list | tuple):
        return [finite(value) for value in report]
    return None if isinstance(report, float) and not math.isfinite(report) else report
