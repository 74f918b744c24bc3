"""Curves of probabilities against closed forms and scikit-learn."""

import numpy as np
import pytest
import torch
from sklearn import metrics

from segmentation.evaluation import calibration
from segmentation.metrics.counts import probability_histogram

RNG = np.random.default_rng(0)


def test_error_of_a_constant_forecast() -> None:
    """All pixels at .9, three quarters foreground: off by .15; at .75 it is right."""
    mask = np.arange(400).reshape(20, 20) < 300
    for value, error in ((0.9, 0.15), (0.75, 0), (1, 0.25)):
        counts = calibration.reliability_counts(np.full((20, 20), value, np.float32), mask)
        assert calibration.expected_calibration_error(counts) == pytest.approx(error, abs=1e-6)
        (point,) = calibration.reliability_curve(counts)
        assert point == {
            "pixels": 400,
            "probability": pytest.approx(value),
            "foreground": pytest.approx(0.75),
        }


def test_counts_add_up_over_images() -> None:
    probs = RNG.random((2, 40, 40), dtype=np.float32)
    masks = RNG.random((2, 40, 40)) < probs
    both = calibration.reliability_counts(probs.reshape(80, 40), masks.reshape(80, 40))
    each = zip(probs, masks, strict=True)
    several = np.stack([calibration.reliability_counts(*one) for one in each])
    np.testing.assert_allclose(several.sum(0), both)
    assert calibration.expected_calibration_error(several).shape == (2,)
    assert calibration.expected_calibration_error(both) < 0.04  # it is calibrated by its making
    assert both.shape == (3, calibration.RELIABILITY_BINS) and both[0].sum() == 3200
    inverted = calibration.reliability_counts(1 - probs[0], masks[0])
    assert calibration.expected_calibration_error(inverted) == pytest.approx(0.5, abs=0.05)


def test_curves_as_scikit_learn_has_them() -> None:
    probs = RNG.random((1, 60, 60), dtype=np.float32)
    mask = RNG.random((1, 60, 60)) < probs**2
    hist = probability_histogram(torch.from_numpy(probs), torch.from_numpy(mask)).numpy()
    fpr, tpr = calibration.roc_curve(hist)
    assert (fpr[0], tpr[0], fpr[-1], tpr[-1]) == (0, 0, 1, 1)
    area = metrics.roc_auc_score(mask.ravel(), probs.ravel())
    assert metrics.auc(fpr, tpr) == pytest.approx(area, abs=1e-4)
    recall, precision = calibration.pr_curve(hist)
    theirs = metrics.average_precision_score(mask.ravel(), probs.ravel())
    assert (np.diff(recall, prepend=0) * precision).sum() == pytest.approx(theirs, abs=2e-3)
