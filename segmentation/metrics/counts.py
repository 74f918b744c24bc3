"""What is counted of one image: a row of integers, from which every score follows.

Rows add up over images. IoU and boundary F are kept in units of 2^-40 and distances in 2^-32
pixels, since integers have the same sum in any order and on any number of processes.

Matching is our own: StarDist's and Cellpose's take 5 to 50 times as long for fewer scores. That
they say the same is tested.
"""

import math
from typing import NamedTuple

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.objects import distance_transform

UNIT, LENGTH_UNIT = 2.0**-40, 2.0**-32
THRESHOLDS = tuple(k / 20 for k in range(10, 20))  # .5, .55, … .95: the floats nearest to these
PIXELS = ("tp", "fp", "fn", "tn")
# Matches at each threshold; objects; sum of IoU of the matches at .5; number and sum of IoU of
# those above .5; SEG's sum of IoU; AJI's intersection and union, in pixels.
OBJECTS = (
    *(f"tp_{percent}" for percent in range(50, 100, 5)),
    *("true_objects", "predicted_objects", "tp_50_iou", "pq_tp", "pq_tp_iou", "seg_iou"),
    *("aji_intersection", "aji_union"),
)
# What became of the objects: counts of true ones, but for those that are false.
KINDS = ("found", "missed", "false", "merged", "split")
TOLERANCE = 2.0  # pixels by which a boundary may be off in the boundary F measure
_DENSE = 1 << 22  # cells of a table that is counted in one go rather than sorted
_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)


def image_counts(
    truth: np.ndarray, labels: np.ndarray | None, mask: np.ndarray, boundary: bool = False
) -> np.ndarray:
    """The row of one image, int64: ``PIXELS``, ``OBJECTS``, boundary F and HD95, ``KINDS``.

    Args:
        truth: (H, W) integer ids of the true objects, 0 = background, -1 = not annotated: such
            pixels count nowhere (see :func:`scored_objects`).
        labels: The same of the predicted objects; ``None`` leaves objects out.
        mask: (H, W) bool, the predicted foreground.
        boundary: Whether to score outlines, too, and to count the kinds of objects.

    Other shapes, and ids that are no integers, are a ``ValueError``.

    >>> truth, labels = np.array([[1, 1, 0, 2]]), np.array([[1, 1, 0, 0]])
    >>> image_counts(truth, labels, labels > 0)[:4].tolist()
    [2, 0, 1, 1]
    """
    if truth.ndim != 2 or mask.shape != truth.shape:
        raise ValueError(f"truth and mask must both be (H, W), got {truth.shape} and {mask.shape}")
    true, pixels = truth > 0, truth.size
    if truth.min(initial=0) < 0:
        known = truth >= 0
        mask, pixels = mask & known, int(np.count_nonzero(known))
        labels = None if labels is None else scored_objects(truth, labels)
        truth = np.where(known, truth, 0)
    tp, found, wanted = (int(np.count_nonzero(some)) for some in (mask & true, mask, true))
    row = [tp, found - tp, wanted - tp, pixels - found - wanted + tp]
    table = None if labels is None else overlaps(truth, labels)
    if table is not None:
        row += object_counts(table).tolist()
    if boundary:
        f, distance = boundary_scores(true, mask)
        row += [round(f / UNIT), round(distance / LENGTH_UNIT)]
        row += [] if table is None else kind_counts(*object_kinds(table))
    return np.array(row, np.int64)


def scored_objects(truth: np.ndarray, labels: np.ndarray) -> np.ndarray:
    """Predicted objects, (H, W) ids, without what lies where nothing is annotated (truth -1).

    A true object that is cut there is found by what is left of the predicted one. A predicted
    object of which more than half is cut off is left out, unless it matches a true one: nobody
    knows what it is (as panoptic quality treats void pixels: Kirillov et al., CVPR 2019, 4.1).

    >>> truth, labels = np.array([[-1, -1, 0, 0, 0]]), np.array([[1, 1, 1, 2, 0]])
    >>> scored_objects(truth, labels).tolist()
    [[0, 0, 0, 2, 0]]
    """
    known = truth >= 0
    seen, (numbers, count) = np.where(known, labels, 0), _numbered(labels)
    areas, parts = (np.bincount(some, minlength=count) for some in (numbers, numbers[known.flat]))
    cut = 2 * parts < areas
    cut[0] = False
    if cut.any():
        table, present = overlaps(np.where(known, truth, 0), seen), np.flatnonzero(parts[1:]) + 1
        cut[present[table.j[table.iou >= THRESHOLDS[0]]]] = False
        seen = np.where(cut[numbers].reshape(seen.shape), 0, seen)
    return seen


def annotated(probs: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Probabilities and truth of one shape, as they are or, where any is negative, the others."""
    known = mask >= 0
    if known.all():
        return probs, mask
    check_probs(probs, mask)
    return probs[known], mask[known]


class Overlaps(NamedTuple):
    """What two label maps share: (n,) and (m,) pixels of their objects; of each pair that overlaps
    its indices, ascending by ``i``, then ``j``, and the pixels that it shares.
    """

    truth: np.ndarray
    prediction: np.ndarray
    i: np.ndarray
    j: np.ndarray
    pixels: np.ndarray

    @property
    def iou(self) -> np.ndarray:
        """Intersection over union of each pair, float64 in (0, 1]."""
        both = self.truth[self.i] + self.prediction[self.j]
        return np.asarray(self.pixels / (both - self.pixels))


def overlaps(truth: np.ndarray, prediction: np.ndarray) -> Overlaps:
    """The table of overlaps of two label maps of one shape, (H, W) integer ids, 0 = background.

    >>> overlaps(np.array([[1, 1, 1, 0]]), np.array([[0, 7, 7, 7]])).iou
    array([0.5])
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


def _numbered(labels: np.ndarray) -> tuple[np.ndarray, int]:
    """Flat ids and a bound above them: as they are if there are few gaps, else renumbered."""
    if not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(f"ids of objects must be integers, got {labels.dtype}")
    flat = labels.reshape(-1)
    low, high = (int(flat.min()), int(flat.max())) if flat.size else (0, 0)
    if low >= 0 and high <= flat.size:
        return flat, high + 1
    ids, numbers = np.unique(flat, return_inverse=True)
    return np.where(flat == 0, 0, numbers + 1), len(ids) + 1


def matched_pairs(table: Overlaps) -> np.ndarray:
    """Which pairs match, their IoU being at least .5, each object in one: places in the table."""
    matched = np.flatnonzero(table.iou >= THRESHOLDS[0])
    for side in (table.i, table.j):
        matched = matched[np.unique(side[matched], return_index=True)[1]]
    return matched


def object_kinds(table: Overlaps) -> tuple[np.ndarray, np.ndarray]:
    """What became of each true and of each predicted object: (n,) and (m,) places in ``KINDS``.

    Each is the first that it can be:

    - found: it matches, the IoU being at least .5; these are the objects of ``tp_50``.
    - merged: a predicted object that holds more than half of two or more true ones, and these.
    - split: a true object in which two or more predicted ones lie with more than half of their
      pixels, and these.
    - missed, of a true object; false, of a predicted one.

    >>> table = overlaps(np.array([[1, 1, 0, 2, 2, 3]]), np.array([[4, 4, 5, 6, 6, 6]]))
    >>> [[KINDS[kind] for kind in side] for side in object_kinds(table)]
    [['found', 'found', 'merged'], ['found', 'false', 'found']]
    """
    found, missed, false, merged, split = range(len(KINDS))
    true = np.full(len(table.truth), missed)
    predicted = np.full(len(table.prediction), false)
    held = 2 * table.pixels > table.truth[table.i]  # each true object by one at most
    within = 2 * table.pixels > table.prediction[table.j]
    merges = np.bincount(table.j[held], minlength=len(predicted)) > 1
    parted = np.bincount(table.i[within], minlength=len(true)) > 1
    true[parted] = split
    true[table.i[held & merges[table.j]]] = merged
    matched = matched_pairs(table)
    true[table.i[matched]] = found
    predicted[table.j[within & (true[table.i] == split)]] = split
    predicted[merges] = merged
    predicted[table.j[matched]] = found
    return true, predicted


def kind_counts(true: np.ndarray, predicted: np.ndarray) -> list[int]:
    """The ``KINDS`` of an image, from :func:`object_kinds`."""
    counts = np.bincount(true, minlength=len(KINDS))
    counts[2] = np.count_nonzero(predicted == 2)
    return [int(count) for count in counts]


def object_counts(table: Overlaps) -> np.ndarray:
    """The ``OBJECTS`` of an image: (18,) int64.

    A match is a pair of objects whose IoU is at least the threshold, each object in one pair. From
    .5 on an object is in two such pairs only if both halves of it are objects of the other map, and
    either half will do: no assignment problem.
    """
    iou = table.iou
    found = iou[matched_pairs(table)]
    above = found[found > 0.5]
    covered = 2 * table.pixels > table.truth[table.i]  # by one predicted object at most
    sums = np.array([found.sum(), above.sum(), iou[covered].sum()])
    of_matched, of_above, of_covered = np.rint(sums / UNIT).astype(np.int64).tolist()
    hits = len(found) - np.searchsorted(np.sort(found), THRESHOLDS)
    objects = (len(table.truth), len(table.prediction))
    ious = (of_matched, len(above), of_above, of_covered)
    return np.array([*hits.tolist(), *objects, *ious, *_aji(table, iou)], np.int64)


def _aji(table: Overlaps, iou: np.ndarray) -> tuple[int, int]:
    """Intersection and union of AJI, in pixels (Kumar et al. 2017, algorithm 1).

    Each true object takes the predicted one of the greatest IoU, which others may take as well.
    """
    order = np.lexsort((table.pixels, iou, table.i))
    best = order[np.diff(table.i[order], append=len(table.truth)) > 0]
    taken = np.zeros(len(table.prediction), bool)
    taken[table.j[best]] = True
    intersection = int(table.pixels[best].sum())
    union = int(table.truth.sum()) + int(table.prediction[table.j[best]].sum()) - intersection
    return intersection, union + int(table.prediction[~taken].sum())


def boundary_scores(
    truth: np.ndarray, prediction: np.ndarray, tolerance: float = TOLERANCE
) -> tuple[float, float]:
    """Boundary F measure (Csurka et al., BMVC 2013) and 95 % Hausdorff distance of two masks.

    Boundary pixels have one of four neighbours outside, as is what lies beyond the image. F is the
    harmonic mean of the shares of each boundary within the tolerance (pixels) of the other. HD95 is
    the larger of the two 95th percentiles, as in MONAI; MedPy's, of both together, is never larger.

    Both masks, (H, W) bool, empty: 1 and 0. One of them: 0 and the image's diagonal, which is more
    than any two pixels are apart and finite, so that the mean over images remains a number.
    """
    if not (truth.any() and prediction.any()):
        empty = not (truth.any() or prediction.any())
        return (1.0, 0.0) if empty else (0.0, math.hypot(*truth.shape))
    sides = ((truth | prediction).any(axis) for axis in (1, 0))
    window = tuple(slice(np.argmax(s), len(s) - np.argmax(s[::-1])) for s in sides)
    one, other = (_boundary(mask[window]) for mask in (truth, prediction))
    there, back = distance_transform(~other)[one], distance_transform(~one)[other]
    recall, precision = (float((side <= tolerance).mean()) for side in (there, back))
    f = 2 * precision * recall / (precision + recall) if precision + recall else 0.0
    return f, max(float(np.percentile(side, 95)) for side in (there, back))


def _boundary(mask: np.ndarray) -> np.ndarray:
    pixels = mask.astype(np.uint8)
    inner = cv2.erode(pixels, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(pixels > inner)


def check_probs(probs: Tensor, mask: Tensor) -> None:
    """Raise a ``ValueError`` unless both have one shape and all probabilities lie in [0, 1]."""
    if probs.shape != mask.shape:  # one would be repeated
        raise ValueError(f"probs {tuple(probs.shape)} and mask {tuple(mask.shape)} differ in shape")
    if probs.numel() == 0 or not probs.is_floating_point():
        raise ValueError(f"probs must be floating point, got {probs.dtype} {tuple(probs.shape)}")
    # One pass finds both ends, and both are NaN if any value is.
    low, high = torch.stack(torch.aminmax(probs.detach())).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"probs must be in [0, 1] and not NaN, got values from {low:g} to {high:g}; "
            "logits need a sigmoid or softmax first"
        )


def probability_histogram(probs: Tensor, mask: Tensor, bins: int = 1024) -> Tensor:
    """Count the probabilities of foreground and of background pixels: (2, bins) int64.

    Bin ``i`` holds the probabilities for which ``(1 + sqrt(p) - sqrt(1 - p)) / 2`` lies in
    ``[i / bins, (i + 1) / bins)``, the last one also 1: narrow near 0 and 1, where nearly all
    pixels of a trained network are. 1024 equal bins would tie so many of them that average
    precision is off by .03 (now .004) and AUROC by .003 (.0001). torchmetrics' own takes minutes.

    ``probs`` are (B, H, W) in [0, 1], ``mask`` (B, H, W) bool; anything else is a ``ValueError``.
    """
    check_probs(probs, mask)
    # Half precision cannot hold 1024 bins between 0 and 1; converting it to float32 is exact.
    p = probs.detach().to(torch.float64 if probs.dtype == torch.float64 else torch.float32)
    position = (1 - p).sqrt_().neg_().add_(p.sqrt()).add_(1).mul_(bins / 2)  # in [0, bins]
    index = position.to(torch.int32).clamp_(max=bins - 1)
    index.add_(mask, alpha=bins)  # background: 0 ... bins - 1, foreground: bins ... 2 bins - 1
    return torch.bincount(index.flatten(), minlength=2 * bins).view(2, bins).flip(0)
