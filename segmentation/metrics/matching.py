"""Scores of objects as pure functions: label maps compared through one sparse table of overlaps.

Two label maps become a table (`overlaps`), the table becomes integer counts (`object_counts`), and
the counts become scores (`scores_from_counts`). Sum the counts over images before scoring to pool
all objects; score first and average afterwards for the mean over images.

``ap50``, ``ap75``, ``ap90``
    TP / (TP + FP + FN) at IoU >= .5, .75 and .9: the "average precision" of Kaggle's Data Science
    Bowl 2018 (Caicedo et al., Nature Methods 2019), which is no area under a curve.
``ap``
    The mean of that over the thresholds .5, .55, … .95. Its mean over images is Kaggle's score.
``f1_50``, ``f1_70``, ``f1_90``, ``precision_50``, ``recall_50``
    2 TP / (2 TP + FP + FN), TP / (TP + FP) and TP / (TP + FN) at these IoU.
``pq``, ``sq``, ``rq``
    Panoptic quality = segmentation quality × recognition quality (Kirillov et al., CVPR 2019), of
    one class: SQ is the mean IoU of the matches above .5, RQ their F1.
``aji``
    Aggregated Jaccard index (Kumar et al., IEEE Transactions on Medical Imaging 2017).
``seg``
    The Cell Tracking Challenge's SEG (Maška et al., Bioinformatics 2014): mean over true objects of
    the Jaccard index with the predicted object that covers more than half of it, 0 without one.
``matched_iou``
    Mean IoU of the matches at IoU >= .5.
``count_error``
    Number of predicted minus number of true objects.

A match is a pair of one true and one predicted object, each in one pair at most. A pair whose IoU
*is* the threshold matches, as in StarDist and Cellpose (Kaggle asks for more); only PQ, SQ and RQ
demand more than .5, as they were published.

Empty masks
-----------
**With neither true nor predicted objects every ratio is 1; with only one of them it is 0.** A ratio
whose denominator is 0 for another reason (SQ without any match) is 0. SEG and the mean matched IoU
say how well true objects were found: without true objects they are NaN, to be left out of means.
"""

from dataclasses import dataclass

import numpy as np
from scipy.optimize import linear_sum_assignment

from segmentation.metrics.base import UNIT

THRESHOLDS = tuple(k / 20 for k in range(10, 20))  # .5, .55, … .95: the floats nearest to these
COUNTS = len(THRESHOLDS) + 8
SCORES = (
    *("ap50", "ap75", "ap90", "ap", "f1_50", "f1_70", "f1_90", "precision_50", "recall_50"),
    *("pq", "sq", "rq", "aji", "seg", "matched_iou", "count_error"),
)
OF_TRUE_OBJECTS = ("seg", "matched_iou")  # NaN without true objects

_DENSE = 1 << 22  # cells of a table that is counted in one go rather than sorted


@dataclass(frozen=True)
class Overlaps:
    """What two label maps share, whatever their ids.

    Attributes:
        truth: (n,) int64, pixels of each true object.
        prediction: (m,) int64, pixels of each predicted object.
        i, j: (k,) int64, indices of the pairs that overlap, ascending by ``i``, then ``j``.
        pixels: (k,) int64, how many each pair shares, at least 1.
    """

    truth: np.ndarray
    prediction: np.ndarray
    i: np.ndarray
    j: np.ndarray
    pixels: np.ndarray

    @property
    def union(self) -> np.ndarray:
        """(k,) int64, pixels that belong to either object of each pair."""
        return np.asarray(self.truth[self.i] + self.prediction[self.j] - self.pixels)

    @property
    def iou(self) -> np.ndarray:
        """(k,) float64 in (0, 1], intersection over union of each pair."""
        return np.asarray(self.pixels / self.union)


def overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """The table of overlaps of two label maps.

    Args:
        truth: (H, W) integer ids, 0 = background; gaps do not matter.
        prediction: The same of the same shape.

    Raises:
        ValueError: The shapes differ, or the ids are not integers.
    """
    if truth.shape != prediction.shape:
        raise ValueError(f"truth {truth.shape} and prediction {prediction.shape} differ in shape")
    (rows, height), (columns, width) = _numbered(truth), _numbered(prediction)
    cells = np.multiply(rows, width, dtype=np.int64)
    cells += columns
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


def matches(table: Overlaps, threshold: float) -> np.ndarray:
    """The one-to-one matching of true and predicted objects at an IoU.

    As many pairs as possible, and among the largest matchings one with the greatest sum of IoU: as
    in ``stardist.matching``, found by the Hungarian method only where that is needed. From .5 on an
    object is in two pairs only if it consists of two halves, each an object of the other map, and
    either half will do.

    Args:
        threshold: Least IoU of a match, in (0, 1].

    Returns:
        (matches,) int64, their indices in the table's pairs.

    Raises:
        ValueError: The threshold is outside (0, 1].
    """
    if not 0 < threshold <= 1:
        raise ValueError(f"threshold must be in (0, 1], got {threshold}")
    iou = table.iou
    if threshold < 0.5 and len(iou):
        score = np.zeros((len(table.truth), len(table.prediction)))
        # A match more outweighs what all IoU together can differ by.
        score[table.i, table.j] = (iou >= threshold) + iou / (2 * min(score.shape))
        chosen = np.zeros(score.shape, bool)
        chosen[linear_sum_assignment(score, maximize=True)] = True
        return np.flatnonzero((iou >= threshold) & chosen[table.i, table.j])
    found = np.flatnonzero(iou >= threshold)
    for side in (table.i, table.j):
        found = found[np.unique(side[found], return_index=True)[1]]
    return found


def object_counts(table: Overlaps) -> np.ndarray:
    """What all scores of an image follow from, as integers that add up over images.

    Returns:
        (18,) int64: the matches at each of `THRESHOLDS`; true and predicted objects; sum of IoU
        over the matches at .5, number of matches above .5 and their sum of IoU, SEG's sum of IoU,
        all three sums in units of 2^-40; and AJI's intersection and union, in pixels.
    """
    iou = table.iou
    found = iou[matches(table, THRESHOLDS[0])]
    above = found[found > 0.5]
    covered = 2 * table.pixels > table.truth[table.i]  # by one predicted object at most
    sums = np.array([found.sum(), above.sum(), iou[covered].sum()])
    matched, strict, seg = np.rint(sums / UNIT).astype(np.int64).tolist()
    hits = len(found) - np.searchsorted(np.sort(found), THRESHOLDS)
    numbers = (len(table.truth), len(table.prediction), matched, len(above), strict, seg)
    return np.array([*hits.tolist(), *numbers, *_aji(table, iou)], np.int64)


def scores_from_counts(counts: np.ndarray) -> dict[str, np.ndarray]:
    """All scores, the keys in the order of `SCORES`.

    Args:
        counts: (..., 18) int64 from `object_counts`, summed or not.

    Returns:
        (...) float64 each, in [0, 1] except ``count_error``; see the module on empty masks.
    """
    tp, rest = np.split(np.moveaxis(counts, -1, 0), [len(THRESHOLDS)])
    true, predicted, matched, above, strict, seg, intersection, union = rest
    objects = true + predicted

    def ratio(numerator: np.ndarray, denominator: np.ndarray) -> np.ndarray:
        score = numerator / np.maximum(denominator, 1)
        return np.asarray(np.where(denominator == 0, objects == 0, score))

    def where_true(score: np.ndarray) -> np.ndarray:
        return np.asarray(np.where(true == 0, np.nan, score))

    ap, f1 = ratio(tp, objects - tp), ratio(2 * tp, objects)
    at = {round(100 * threshold): k for k, threshold in enumerate(THRESHOLDS)}
    scores = (
        *(ap[at[50]], ap[at[75]], ap[at[90]], ap.mean(0)),
        *(f1[at[50]], f1[at[70]], f1[at[90]]),
        *(ratio(tp[0], predicted), ratio(tp[0], true)),
        *(ratio(2 * UNIT * strict, objects), ratio(UNIT * strict, above)),
        ratio(2 * above, objects),
        ratio(intersection, union),
        *(where_true(ratio(UNIT * seg, true)), where_true(ratio(UNIT * matched, tp[0]))),
        (predicted - true).astype(np.float64),
    )
    return dict(zip(SCORES, scores, strict=True))


def object_scores(table: Overlaps) -> dict[str, float]:
    """All scores of one image, under the names and with the definitions of this module."""
    return {k: float(score) for k, score in scores_from_counts(object_counts(table)).items()}


def _aji(table: Overlaps, iou: np.ndarray) -> tuple[int, int]:
    """Intersection and union of AJI, in pixels (Kumar et al. 2017, algorithm 1).

    Each true object takes the predicted one of the greatest IoU, which others may take as well; the
    union also counts true objects that nothing overlaps and predicted ones that nobody took.
    """
    order = np.lexsort((table.pixels, iou, table.i))
    last = np.diff(table.i[order], append=len(table.truth)) > 0
    best = order[last]
    taken = np.zeros(len(table.prediction), bool)
    taken[table.j[best]] = True
    intersection = int(table.pixels[best].sum())
    union = int(table.truth.sum()) + int(table.prediction[table.j[best]].sum()) - intersection
    return intersection, union + int(table.prediction[~taken].sum())


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Flat ids and a bound above them: as they are if there are few gaps, else renumbered."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"ids of objects must be integers, got {labels.dtype}")
    flat = labels.reshape(-1)
    low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
    if low >= 0 and high <= flat.size:
        return flat, high + 1
    ids, numbers = np.unique(np.append(flat, flat.dtype.type(0)), return_inverse=True)
    zero = int(np.searchsorted(ids, 0))
    # 0 must stay 0, also where negative ids come before it.
    return np.where(numbers == zero, 0, np.where(numbers < zero, numbers + 1, numbers))[:-1], len(
        ids
    )
