"""Curves of probabilities: precision-recall, ROC and reliability, from sums over images."""

import numpy as np

RELIABILITY_BINS = 15  # as Guo et al. 2017


def reliability_counts(probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels, summed probabilities and foreground pixels by equal bins: (3, bins) float64.

    Of an image's probabilities (H, W) float32 in 0…1 and its truth (H, W) bool.
    """
    flat = probs.reshape(-1)
    index = np.minimum((flat * RELIABILITY_BINS).astype(np.intp), RELIABILITY_BINS - 1)
    weights = (None, flat, mask.reshape(-1))
    return np.stack([np.bincount(index, w, RELIABILITY_BINS).astype(np.float64) for w in weights])


def expected_calibration_error(counts: np.ndarray) -> np.ndarray:
    """ECE: mean over pixels of |foreground share - mean probability| of the pixel's bin.

    Naeini et al. 2015, for the probability of the foreground (Guo et al. 2017 have the likelier
    class): (..., 3, bins) counts ► (...) in 0…1, 0 is perfect, NaN without pixels. Easy background
    makes it small: compare, do not judge by it.
    """
    pixels, confidence, foreground = np.moveaxis(counts, -2, 0)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.abs(foreground - confidence).sum(-1) / pixels.sum(-1))


def reliability_curve(counts: np.ndarray) -> list[dict[str, float]]:
    """The bins that hold pixels: ``pixels``, mean ``probability``, share of ``foreground``."""
    return [
        {"pixels": int(n), "probability": float(sure / n), "foreground": float(true / n)}
        for n, sure, true in counts.T
        if n
    ]


def roc_curve(hist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate, from (0, 0) to (1, 1), of ``probability_histogram``'s counts;
    NaN where there is no background or no foreground."""
    counts = np.cumsum(hist[:, ::-1].astype(np.float64), axis=1)
    with np.errstate(invalid="ignore"):
        tpr, fpr = (np.append(0.0, side) / side[-1] for side in counts)
    return fpr, tpr


def pr_curve(hist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at each threshold at which something is predicted, descending; NaN
    without foreground."""
    tp, fp = np.cumsum(hist[:, ::-1].astype(np.float64), axis=1)
    some = tp + fp > 0
    with np.errstate(invalid="ignore"):
        return tp[some] / hist[0].sum(), tp[some] / (tp + fp)[some]
