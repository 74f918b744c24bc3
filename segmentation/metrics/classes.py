"""What is counted of one image by class, as integers, and the scores that follow.

A pixel has the class of the object that it belongs to. The column ``pixels/A/B`` counts those that
are A in the truth and B in the prediction, ``objects/A/B`` the pairs of a true and a predicted
object whose IoU is at least .5, whatever their classes; an object without a partner is paired with
the ``background``. ``tp_50/A`` and the like are the counts of :mod:`.counts` where both sides hold
the objects of that class alone.

- ``iou/A``, ``f1/A`` of the pixels and ``ap50/A``, ``pq/A`` of the objects of a class. NaN for a
  class that neither truth nor prediction has.
- ``class_iou``, ``class_f1``, ``class_ap50``, ``class_pq``: their means over the classes, NaN left
  out. (``class_iou`` is the mean IoU of Pascal VOC without the background.)
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from segmentation.metrics.counts import (
    KINDS,
    OBJECTS,
    PIXELS,
    UNIT,
    Overlaps,
    matched_pairs,
    object_counts,
    overlaps,
    scored_objects,
)
from segmentation.score_names import BACKGROUND, CLASS_SCORES, MEANS, named

COUNTED = ("tp_50", "true_objects", "predicted_objects", "pq_tp", "pq_tp_iou")
_PLACES = [OBJECTS.index(name) for name in COUNTED]


def count_columns(names: Sequence[str]) -> list[str]:
    """The columns of :func:`class_row`, in order; none without names."""
    if not names:
        return []
    every = (BACKGROUND, *names)
    pairs = [f"{kind}/{a}/{b}" for kind in ("pixels", "objects") for a in every for b in every]
    return pairs + [f"{count}/{name}" for name in names for count in COUNTED]


def is_count(column: str) -> bool:
    """Whether a column of the table holds counts rather than a score of the image."""
    kind, of_class, _ = column.partition("/")
    return column in (*PIXELS, *OBJECTS, *KINDS) or bool(of_class and kind not in CLASS_SCORES)


def names_in(columns: Iterable[str]) -> list[str]:
    """The classes of which a table has counts."""
    start = "true_objects/"
    return [name.removeprefix(start) for name in columns if name.startswith(start)]


def class_row(
    truth: np.ndarray,
    labels: np.ndarray,
    true_classes: np.ndarray,
    found_classes: np.ndarray,
    count: int,
) -> np.ndarray:
    """The row of one image, int64, as :func:`count_columns` names it, of ``count`` classes.

    ``truth`` and ``labels`` are (H, W) integer ids, 0 = background; a pixel whose truth is -1
    counts in no pair. The classes are (n + 1,), 1…``count`` for each id.

    >>> truth, labels = np.array([[1, 1, 0, 2]]), np.array([[1, 1, 0, 0]])
    >>> row = class_row(truth, labels, np.array([0, 1, 2]), np.array([0, 1]), 2)
    >>> row[:9].reshape(3, 3).tolist()
    [[1, 0, 0], [0, 2, 0], [1, 0, 0]]
    """
    side, known = count + 1, truth >= 0
    pairs = true_classes.astype(np.intp)[truth[known]] * side + found_classes[labels[known]]
    pixels = np.bincount(pairs, minlength=side**2)
    labels = labels if known.all() else scored_objects(truth, labels)
    table = overlaps(np.maximum(truth, 0), labels)
    of_truth, of_found = (
        classes[ids[ids > 0]]
        for classes, ids in ((true_classes, np.unique(truth)), (found_classes, np.unique(labels)))
    )
    matched = matched_pairs(table)
    i, j = table.i[matched], table.j[matched]
    objects = np.zeros((side, side), np.int64)
    np.add.at(objects, (of_truth[i], of_found[j]), 1)
    objects[:, 0] = np.bincount(np.delete(of_truth, i), minlength=side)
    objects[0] += np.bincount(np.delete(of_found, j), minlength=side)
    single = [
        object_counts(_restricted(table, of_truth == c, of_found == c))[_PLACES]
        for c in range(1, side)
    ]
    return np.concatenate([pixels, objects.reshape(-1), *single]).astype(np.int64)


def _restricted(table: Overlaps, rows: np.ndarray, columns: np.ndarray) -> Overlaps:
    """The table of some objects alone, (n,) and (m,) bool."""
    kept = rows[table.i] & columns[table.j]
    i, j = (
        (np.cumsum(some) - 1)[side[kept]] for some, side in ((rows, table.i), (columns, table.j))
    )
    return Overlaps(table.truth[rows], table.prediction[columns], i, j, table.pixels[kept])


def class_scores(counts: np.ndarray, names: Sequence[str]) -> dict[str, np.ndarray]:
    """The scores of each class and their means: (..., :func:`count_columns`) ► (...) float64.

    >>> counts = np.array([[1, 0, 0], [0, 2, 0], [1, 0, 0]]).reshape(-1)
    >>> scores = class_scores(np.append(counts, np.zeros(9 + 10)), ["a", "b"])
    >>> float(scores["iou/a"]), float(scores["class_iou"]), float(scores["ap50/a"])
    (1.0, 0.5, nan)
    """
    side = len(names) + 1
    pixels, _, single = np.split(counts, [side**2, 2 * side**2], axis=-1)
    pixels = pixels.reshape(*counts.shape[:-1], side, side)
    right = np.diagonal(pixels, axis1=-2, axis2=-1)[..., 1:]
    both = (pixels.sum(-1) + pixels.sum(-2))[..., 1:]
    single = single.reshape(*counts.shape[:-1], side - 1, len(COUNTED))
    tp, true, predicted, _, above = np.moveaxis(single, -1, 0)
    objects = true + predicted
    parts = (
        (right, both - right),
        (2 * right, both),
        (tp, objects - tp),
        (2 * UNIT * above, objects),
    )
    scores: dict[str, np.ndarray] = {}
    for kind, mean, (top, bottom) in zip(CLASS_SCORES, MEANS, parts, strict=True):
        # A denominator is 0 where neither side has the class.
        values = np.where(bottom == 0, math.nan, top / np.maximum(bottom, 1))
        scores |= dict(zip(named(kind, names), np.moveaxis(values, -1, 0), strict=True))
        known = np.isfinite(values)
        total, count = np.where(known, values, 0).sum(-1), known.sum(-1)
        scores[mean] = np.where(count == 0, math.nan, total / np.maximum(count, 1))
    return scores


def confusions(columns: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """The matrices, truth × prediction, over all rows of a table with columns of classes."""
    names = (BACKGROUND, *names_in(columns))
    found: dict[str, Any] = {"classes": list(names)}
    for kind in ("pixels", "objects"):
        found[kind] = [[int(columns[f"{kind}/{a}/{b}"].sum()) for b in names] for a in names]
    return found
