"""Curves of probabilities: precision-recall, ROC and reliability, from sums over images."""

import numpy as np

RELIABILITY_BINS = 15  # as Guo et al. 2017


def reliability_counts(probs: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Pixels, summed probabilities and foreground pixels by equal bins of the probability.

    Args:
        probs: (H, W) float32 in 0…1, of the foreground.
        mask: (H, W) bool, the truth.

    Returns:
        (3, bins) float64; sums over images are those of all their pixels.
    """
    flat = probs.reshape(-1)
    index = np.minimum((flat * RELIABILITY_BINS).astype(np.intp), RELIABILITY_BINS - 1)
    weights = (None, flat, mask.reshape(-1))
    counts = [np.bincount(index, weight, RELIABILITY_BINS) for weight in weights]
    return np.stack([count.astype(np.float64) for count in counts])


def expected_calibration_error(counts: np.ndarray) -> np.ndarray:
    """ECE: mean over pixels of |foreground share - mean probability| of the pixel's bin.

    Naeini et al. 2015, "Obtaining well calibrated probabilities using Bayesian binning", for the
    probability of the foreground (rather than of the likelier class, as Guo et al. 2017 have it).
    Most pixels of an image are easy background, which makes it small: compare, do not judge by it.

    Args:
        counts: (..., 3, bins) of :func:`reliability_counts`, summed or not.

    Returns:
        (...) float64 in 0…1, 0 is perfect; NaN without pixels.
    """
    pixels, confidence, foreground = (counts[..., k, :] for k in range(3))
    gaps = np.abs(foreground - confidence).sum(-1)
    with np.errstate(invalid="ignore"):
        error: np.ndarray = gaps / pixels.sum(-1)
    return error


def reliability_curve(counts: np.ndarray) -> list[dict[str, float]]:
    """The bins that hold pixels: ``pixels``, mean ``probability``, share of ``foreground``."""
    return [
        {
            "pixels": int(pixels),
            "probability": float(confidence / pixels),
            "foreground": float(foreground / pixels),
        }
        for pixels, confidence, foreground in counts.T
        if pixels
    ]


def roc_curve(hist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """False and true positive rate, from (0, 0) to (1, 1), thresholds descending.

    Args:
        hist: (2, bins) of ``functional.probability_histogram``: foreground, background.

    Returns:
        Two arrays (bins + 1,); NaN without one of the classes.
    """
    with np.errstate(invalid="ignore", divide="ignore"):  # NumPy changed which
        tpr, fpr = (
            np.append(0.0, np.cumsum(side[::-1])) / side.sum() for side in hist.astype(np.float64)
        )
    return fpr, tpr


def pr_curve(hist: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Recall and precision at each threshold at which something is predicted, descending.

    Arguments as in :func:`roc_curve`. NaN without foreground.
    """
    tp, fp = np.cumsum(hist[:, ::-1].astype(np.float64), axis=1)
    some = tp + fp > 0
    with np.errstate(invalid="ignore"):
        return tp[some] / hist[0].sum(), tp[some] / (tp + fp)[some]
