"""Every score as a pure function of the summed rows of :mod:`segmentation.metrics.counts`.

A plain name is pooled over all pixels or objects of all images; ``image_…`` is the mean over
images, where a small image weighs as much as a large one.

- ``iou``, ``f1`` (Dice), ``precision``, ``recall`` of the foreground's pixels, ``mean_iou`` of
  foreground and background; ``auroc``, ``average_precision`` over all pixels' probabilities.
- ``ap50``, ``ap75``, ``ap90``: TP / (TP + FP + FN) of objects at IoU >= .5, .75, .9; ``ap``: its
  mean over .5, .55, … .95. The "average precision" of the Data Science Bowl 2018 (Caicedo et al.,
  Nature Methods 2019), which is no area under a curve; ``image_ap`` is Kaggle's score.
- ``f1_50``, ``f1_70``, ``f1_90``, ``precision_50``, ``recall_50``: of objects, at these IoU.
- At StarDist's thresholds .5, .6, … .9 (pooled only): ``ap60``, ``f1_60``, ``precision_60``,
  ``recall_60`` and so on; ``ap_50_90``: the mean of AP over the five.
- ``pq`` = ``sq`` × ``rq``: panoptic quality (Kirillov et al., CVPR 2019); mean IoU of the matches
  above .5, and their F1. Elsewhere a pair whose IoU *is* .5 matches (Kaggle asks for more).
- ``aji``: aggregated Jaccard index (Kumar et al., IEEE Transactions on Medical Imaging 2017).
- ``seg``: the Cell Tracking Challenge's (Maška et al., Bioinformatics 2014): mean over true objects
  of the IoU with the predicted object that covers more than half of it, 0 without one.
- Scores of classes: :mod:`segmentation.metrics.classes`.
- ``matched_iou``: mean IoU of the matches at .5; ``count_error``: predicted minus true objects.

**A ratio of 0 / 0 is 1 without any error, else 0.** An empty image scores 1 if nothing is predicted
(Kaggle's rule for Dice) and 0 if something is. Without true objects SEG and the mean matched IoU
are NaN and left out of means. AUROC is NaN unless both classes occur, average precision without
foreground, and every score without an image.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import numpy as np

from segmentation.metrics.classes import class_scores, count_columns, is_count, names_in
from segmentation.metrics.counts import KINDS, LENGTH_UNIT, OBJECTS, PIXELS, THRESHOLDS, UNIT
from segmentation.score_names import LOGGED, OBJECT_SCORES, PIXEL_SCORES, STARDIST_SCORES, logged

_LOWER = ("hd95", "ece", "abs_count_error")


def pixel_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """``PIXEL_SCORES`` from ``[tp, fp, fn, tn]``: (..., 4) ► (...) float64 each.

    >>> float(pixel_scores(np.array([3, 1, 0, 6]))["iou"])
    0.75
    """
    tp, fp, fn, tn = np.moveaxis(np.asarray(counts), -1, 0)
    empty = np.where(tp + fp + fn + tn == 0, math.nan, fp + fn == 0)
    parts = (tp, tp + fp + fn), (2 * tp, 2 * tp + fp + fn), (tp, tp + fp), (tp, tp + fn)
    iou, *others = (_ratio(*part, empty) for part in parts)
    mean = (iou + _ratio(tn, tn + fp + fn, empty)) / 2
    return dict(zip(PIXEL_SCORES, (iou, *others, mean), strict=True))


def object_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """``OBJECT_SCORES`` from ``object_counts``: (..., 18) ► (...) float64 each."""
    tp, rest = np.split(np.moveaxis(np.asarray(counts), -1, 0), [len(THRESHOLDS)])
    true, predicted, matched, above, strict, seg, intersection, union = rest
    objects = true + predicted

    ratio = partial(_ratio, empty=objects == 0)
    ap, f1 = ratio(tp, objects - tp), ratio(2 * tp, objects)
    scores = (
        *(ap[0], ap[5], ap[8], ap.mean(0), f1[0], f1[4], f1[8]),
        *(ratio(tp[0], predicted), ratio(tp[0], true)),
        *(ratio(2 * UNIT * strict, objects), ratio(UNIT * strict, above)),
        ratio(2 * above, objects),
        ratio(intersection, union),
        ratio(UNIT * seg, np.where(true == 0, math.nan, true)),
        ratio(UNIT * matched, np.where(true == 0, math.nan, tp[0])),
        (predicted - true).astype(np.float64),
    )
    return dict(zip(OBJECT_SCORES, scores, strict=True))


def stardist_scores(counts: np.ndarray) -> dict[str, np.ndarray]:
    """``STARDIST_SCORES`` from ``object_counts``: (..., 18) ► (...) float64 each.

    >>> row = np.zeros(18, int)
    >>> row[:10], row[10:12] = [2] * 5 + [1] * 5, 2  # two objects each, one found up to .7
    >>> {k: round(float(v), 2) for k, v in stardist_scores(row).items() if k.startswith("ap")}
    {'ap60': 1.0, 'ap70': 1.0, 'ap80': 0.33, 'ap_50_90': 0.73}
    """
    counts = np.moveaxis(np.asarray(counts), -1, 0)
    tp, (true, predicted) = counts[: len(THRESHOLDS) : 2], counts[len(THRESHOLDS) :][:2]
    ratio = partial(_ratio, empty=true + predicted == 0)
    ap, f1 = ratio(tp, true + predicted - tp), ratio(2 * tp, true + predicted)
    each = (part for found in tp[1:] for part in (ratio(found, predicted), ratio(found, true)))
    scores = (ap[1], ap[2], ap[3], ap.mean(0), f1[1], f1[3], *each)
    return dict(zip(STARDIST_SCORES, scores, strict=True))


def _ratio(numerator: np.ndarray, denominator: np.ndarray, empty: np.ndarray) -> np.ndarray:
    score = numerator / np.maximum(denominator, 1)
    return np.asarray(np.where(denominator == 0, empty, score))


def ranking_scores(histogram: np.ndarray) -> dict[str, np.ndarray]:
    """``auroc`` and ``average_precision`` from ``probability_histogram``: (..., 2, bins) ► (...).

    Pixels of one bin are ties, which count one half in AUROC (Hanley and McNeil 1982). Average
    precision is without interpolation, as in scikit-learn.
    """
    fg, bg = np.moveaxis(histogram.astype(np.float64), -2, 0)  # their products pass 2^63
    wins = (fg * (bg.cumsum(-1) - bg / 2)).sum(-1)
    tp = fg[..., ::-1].cumsum(-1)
    precision = tp / np.maximum(tp + bg[..., ::-1].cumsum(-1), 1)
    with np.errstate(invalid="ignore"):
        auroc = wins / (fg.sum(-1) * bg.sum(-1))
        average = (fg[..., ::-1] * precision).sum(-1) / fg.sum(-1)
    return {"auroc": auroc, "average_precision": average}


def per_image_columns(rows: np.ndarray, names: Sequence[str] = ()) -> dict[str, np.ndarray]:
    """Counts and scores of images, (images, 4, 22 or 29), as the columns of ``per_image.csv``.

    The counts of classes follow in each row, where they have ``names``.
    """
    more = count_columns(names)
    rows, of_classes = np.split(rows, [rows.shape[1] - len(more)], axis=1)
    pixels, objects, boundary = np.split(rows, [4, 4 + len(OBJECTS)], axis=1)
    columns = dict(zip(PIXELS, pixels.T, strict=True)) | pixel_scores(pixels)
    if objects.shape[1]:
        columns |= object_scores(objects)
    if boundary.shape[1]:
        columns |= {"boundary_f": boundary[:, 0] * UNIT, "hd95": boundary[:, 1] * LENGTH_UNIT}
    columns |= dict(zip(OBJECTS, objects.T, strict=False))
    if more:
        columns |= class_scores(of_classes, names) | dict(zip(more, of_classes.T, strict=True))
    return columns | dict(zip(KINDS, boundary[:, 2:].T, strict=False))


@dataclass(frozen=True)
class Score:
    """One score over images: (images, columns) finite numbers; the score of the columns' sums over
    any images, (..., columns) ► (...); and how many images have it.
    """

    rows: np.ndarray
    of_sums: Callable[[np.ndarray], np.ndarray]
    images: int

    @property
    def value(self) -> float:
        return float(self.of_sums(self.rows.sum(0))) if self.images else math.nan


def scores_of(columns: Mapping[str, np.ndarray]) -> dict[str, Score]:
    """Every score that some columns (images,) of a table allow, by its name.

    Pooled where counts of pixels and objects are columns; and the mean over images of every other
    column, NaN and infinity left out. Beside ``image_count_error``, in which too many and too few
    cancel out, stands the mean of its size, ``image_abs_count_error``.
    """
    scores, classes = {}, names_in(columns)
    of_classes = partial(class_scores, names=classes)
    # Without classes there are no scores of theirs.
    for counts, names, pool in (
        (PIXELS, PIXEL_SCORES, pixel_scores),
        (OBJECTS, OBJECT_SCORES, object_scores),
        (OBJECTS, STARDIST_SCORES, stardist_scores),
        (count_columns(classes), logged(classes)[len(LOGGED) :], of_classes),
    ):
        if names and set(counts) <= set(columns):
            rows = np.stack([columns[name] for name in counts], axis=1).astype(np.float64)
            for name in names:
                of_sums = partial(lambda pool, name, sums: pool(sums)[name], pool, name)
                scores[name] = Score(rows, of_sums, len(rows))
    single = {k: v for k, v in columns.items() if not is_count(k)}
    if "count_error" in single:
        single["abs_count_error"] = np.abs(single["count_error"])
    for column, values in single.items():
        known = np.isfinite(values)
        rows = np.stack([np.where(known, values, 0.0), known], axis=1)
        scores[f"image_{column}"] = Score(rows, _mean, int(known.sum()))
    return scores


def better(name: str) -> str:
    """Which values of a score are good: ``"higher"``, ``"lower"`` or ``"near 0"``."""
    name = name.removeprefix("image_")
    return "near 0" if name == "count_error" else "lower" if name in _LOWER else "higher"


def _mean(sums: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[..., 0] / sums[..., 1])
