"""Pixel scores as pure functions over tensors.

Everything starts from one of two integer tables, each exact, cheap and summable over batches and
processes:

- `confusion_counts`: per image the int64 counts ``[tp, fp, fn, tn]``, from which `iou`, `f1`,
  `precision`, `recall` and `mean_iou` follow. Sum the counts over images before scoring to pool all
  pixels; score first and average afterwards for the mean over images.
- `probability_histogram`: int64 counts of the probabilities of foreground and of background pixels,
  from which `auroc_from_histogram` and `average_precision_from_histogram` follow.

Probabilities are passed as probabilities. Nothing here guesses whether a tensor holds logits: a
value outside [0, 1] is a `ValueError`.

Empty masks
-----------
One rule settles every 0 / 0: **the score is 1 if no pixel is wrong (fp = fn = 0), else 0**.

==================  =====  =====  =========  ======
truth / prediction  IoU    F1     precision  recall
==================  =====  =====  =========  ======
empty / empty       1      1      1          1
empty / some        0      0      0          0
some  / empty       0      0      0          0
==================  =====  =====  =========  ======

The first row is Kaggle's rule for Dice. `mean_iou` takes IoU's rule for each of its two classes, so
a background that is empty in truth and prediction counts 1 as well. Counts of no pixel at all, as
opposed to no foreground pixel, have no score: NaN. AUROC is NaN unless both classes occur and
average precision is NaN without foreground; leave these out when averaging.
"""

import torch
from torch import Tensor

_PROB_DTYPES = (torch.float16, torch.bfloat16, torch.float32, torch.float64)
_MASK_DTYPES = (torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64)


def confusion_counts(probs: Tensor, mask: Tensor, threshold: float = 0.5) -> Tensor:
    """Count true and false positives and negatives of each image.

    Args:
        probs: (B, H, W) floating point, foreground probabilities in [0, 1].
        mask: (B, H, W) bool or integer, the truth: 1 foreground, 0 background.
        threshold: a pixel is predicted foreground if its probability is *greater*. It is compared
            in the dtype of ``probs``.

    Returns:
        (B, 4) int64, ``[tp, fp, fn, tn]`` of each image.

    Raises:
        ValueError: if shapes or dtypes are not as above, there is no pixel, a probability is NaN or
            outside [0, 1], the mask holds anything but 0 and 1, or the threshold is outside [0, 1].
    """
    check_threshold(threshold)
    _check_pixels(probs, mask)
    predicted = probs > threshold  # (B, H, W)
    truth = mask.bool()
    tp = _count(predicted & truth)  # (B,)
    fp = _count(predicted) - tp
    fn = _count(truth) - tp
    tn = mask.shape[1] * mask.shape[2] - tp - fp - fn
    return torch.stack([tp, fp, fn, tn], dim=1)


def iou(counts: Tensor) -> Tensor:
    """Intersection over union of the foreground (Jaccard index), ``tp / (tp + fp + fn)``.

    Args:
        counts: (..., 4) int64, ``[tp, fp, fn, tn]`` from `confusion_counts`, summed or not.

    Returns:
        (...) float64 in [0, 1]; NaN where all four counts are 0.

    Raises:
        ValueError: if the last dimension of ``counts`` is not 4.
    """
    tp, fp, fn, _ = _split(counts)
    return _ratio(tp, tp + fp + fn, counts)


def f1(counts: Tensor) -> Tensor:
    """F1 score, which is the Dice coefficient: ``2 tp / (2 tp + fp + fn)``.

    Arguments, result and errors as in `iou`.
    """
    tp, fp, fn, _ = _split(counts)
    return _ratio(2 * tp, 2 * tp + fp + fn, counts)


def precision(counts: Tensor) -> Tensor:
    """Share of the predicted foreground that is right, ``tp / (tp + fp)``.

    Arguments, result and errors as in `iou`.
    """
    tp, fp, _, _ = _split(counts)
    return _ratio(tp, tp + fp, counts)


def recall(counts: Tensor) -> Tensor:
    """Share of the true foreground that was found, ``tp / (tp + fn)``.

    Arguments, result and errors as in `iou`.
    """
    tp, _, fn, _ = _split(counts)
    return _ratio(tp, tp + fn, counts)


def mean_iou(counts: Tensor) -> Tensor:
    """Mean of the foreground's and the background's intersection over union.

    Arguments, result and errors as in `iou`.
    """
    # With the background as the positive class tp and tn swap, and so do fp and fn.
    return (iou(counts) + iou(counts.flip(-1))) / 2


def probability_histogram(probs: Tensor, mask: Tensor, bins: int = 1024) -> Tensor:
    """Count the probabilities of foreground and of background pixels.

    The bins are narrow near 0 and 1 and wide near 1/2: bin ``i`` holds the probabilities for which
    ``(1 + sqrt(p) - sqrt(1 - p)) / 2`` lies in ``[i / bins, (i + 1) / bins)``, the last one also 1.
    The lower edge of bin ``i`` is ``p = (1 + d sqrt(2 - d^2)) / 2`` with ``d = 2 i / bins - 1``. A
    greater probability is never in a lower bin.

    Equal bins would do badly for a trained network, which puts nearly all pixels next to 0 or 1: on
    an overconfident one, with logits of both classes spread over +-20, 1024 of them tie so many
    pixels that average precision is off by .03 and AUROC by .003; with these bins, by .004 and
    .0001.

    Args:
        probs: (B, H, W) floating point, foreground probabilities in [0, 1].
        mask: (B, H, W) bool or integer, the truth: 1 foreground, 0 background.
        bins: number of bins, at least 2.

    Returns:
        (2, bins) int64: the foreground's counts, then the background's, each by ascending
            probability.

    Raises:
        ValueError: as `confusion_counts` does, and if ``bins`` is less than 2.
    """
    check_bins(bins)
    _check_pixels(probs, mask)
    # Half precision cannot hold 1024 bins between 0 and 1; converting it to float32 is exact.
    p = probs.detach().to(torch.float64 if probs.dtype == torch.float64 else torch.float32)
    position = (1 - p).sqrt_().neg_().add_(p.sqrt()).add_(1).mul_(bins / 2)  # in [0, bins]
    index = position.to(torch.int32).clamp_(max=bins - 1)
    index.add_(mask, alpha=bins)  # background: 0 ... bins - 1, foreground: bins ... 2 bins - 1
    counts = torch.bincount(index.flatten(), minlength=2 * bins)
    return counts.view(2, bins).flip(0)


def auroc_from_histogram(hist: Tensor) -> Tensor:
    """Area under the ROC curve, from `probability_histogram`.

    The probability that a foreground pixel is ranked above a background pixel, ties counting one
    half (Hanley and McNeil 1982, "The meaning and use of the area under a receiver operating
    characteristic curve"). Pixels in one bin are ties; the exact area differs by at most
    ``sum(fg * bg) / (2 fg.sum() bg.sum())``, and in practice by far less.

    Args:
        hist: (2, bins) int64, counts of foreground and background.

    Returns:
        () float64 in [0, 1]; NaN unless both classes occur.

    Raises:
        ValueError: if ``hist`` is not of shape (2, bins).
    """
    _check_histogram(hist)
    foreground, background = hist.unbind(0)
    real = real_dtype(hist)
    below = background.cumsum(0) - background  # background pixels in lower bins, exact
    # Products of two counts can pass 2^63, hence floating point from here on.
    wins = (foreground.to(real) * (below.to(real) + background.to(real) / 2)).sum()
    return wins / (foreground.sum().to(real) * background.sum().to(real))  # 0 / 0 is NaN


def average_precision_from_histogram(hist: Tensor) -> Tensor:
    """Average precision, from `probability_histogram`.

    ``sum_n (R_n - R_{n-1}) P_n`` over the bins as descending thresholds, without interpolation, as
    in scikit-learn's ``average_precision_score``.

    Args:
        hist: (2, bins) int64, counts of foreground and background.

    Returns:
        () float64 in [0, 1]; NaN without foreground.

    Raises:
        ValueError: if ``hist`` is not of shape (2, bins).
    """
    _check_histogram(hist)
    foreground, background = hist.flip(1).unbind(0)  # by descending probability
    real = real_dtype(hist)
    tp = foreground.cumsum(0)
    predicted = tp + background.cumsum(0)
    # Where nothing is predicted yet, `foreground` is 0 and so is the term.
    precisions = tp.to(real) / predicted.clamp(min=1).to(real)
    return (foreground.to(real) * precisions).sum() / foreground.sum().to(real)  # 0 / 0 is NaN


def real_dtype(tensor: Tensor) -> torch.dtype:
    """Dtype of the scores of ``tensor``: float64, or float32 on a device without it (MPS)."""
    return torch.float32 if tensor.device.type == "mps" else torch.float64


def check_threshold(threshold: float) -> None:
    """Raise a `ValueError` unless ``threshold`` is in [0, 1]."""
    if not 0 <= threshold <= 1:
        raise ValueError(f"threshold must be in [0, 1], got {threshold}")


def check_bins(bins: int) -> None:
    """Raise a `ValueError` unless ``bins`` is at least 2."""
    if bins < 2:
        raise ValueError(f"bins must be at least 2, got {bins}")


def _check_pixels(probs: Tensor, mask: Tensor) -> None:
    if probs.ndim != 3 or probs.shape != mask.shape:
        shapes = f"{tuple(probs.shape)} and {tuple(mask.shape)}"
        raise ValueError(f"probs and mask must have the same shape (B, H, W), got {shapes}")
    if probs.numel() == 0:
        raise ValueError(f"probs and mask hold no pixel, their shape is {tuple(probs.shape)}")
    if probs.dtype not in _PROB_DTYPES:
        raise ValueError(f"probs must be floating point, got {probs.dtype}")
    if mask.dtype not in _MASK_DTYPES:
        raise ValueError(f"mask must be bool or integer, got {mask.dtype}")
    # One pass finds both ends, and both are NaN if any value is.
    low, high = torch.stack(torch.aminmax(probs.detach())).tolist()
    if not (low >= 0 and high <= 1):
        raise ValueError(
            f"probs must be in [0, 1] and not NaN, got values from {low:g} to {high:g}; "
            "logits need a sigmoid or softmax first"
        )
    if mask.dtype != torch.bool:
        low, high = torch.stack(torch.aminmax(mask)).tolist()
        if low < 0 or high > 1:
            raise ValueError(f"mask must hold only 0 and 1, got values from {low} to {high}")


def _check_histogram(hist: Tensor) -> None:
    if hist.ndim != 2 or hist.shape[0] != 2:
        raise ValueError(f"hist must have the shape (2, bins), got {tuple(hist.shape)}")


def _split(counts: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    if counts.ndim == 0 or counts.shape[-1] != 4:
        raise ValueError(f"counts must have the shape (..., 4), got {tuple(counts.shape)}")
    tp, fp, fn, tn = counts.unbind(-1)
    return tp, fp, fn, tn


def _ratio(numerator: Tensor, denominator: Tensor, counts: Tensor) -> Tensor:
    """Divide with the module's rule for 0 / 0: (...) float64, NaN where ``counts`` are all 0."""
    real = real_dtype(counts)
    _, fp, fn, _ = _split(counts)
    nothing_wrong = (fp + fn == 0).to(real)
    score = numerator.to(real) / denominator.clamp(min=1).to(real)
    score = torch.where(denominator == 0, nothing_wrong, score)
    return score.masked_fill(counts.sum(-1) == 0, torch.nan)


def _count(pixels: Tensor) -> Tensor:
    """Number of true pixels (B, H, W) of each image: (B,) int64."""
    # A row's sum fits int32, which is twice as fast; over the rows torch adds up in int64.
    return pixels.sum(2, dtype=torch.int32).sum(1, dtype=torch.int64)
