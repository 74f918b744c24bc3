"""Scores of outlines against closed forms and all pairs of boundary pixels."""

import math
import warnings

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.metrics import BoundaryScores, boundary_f, hd95


def square(y: int, x: int, side: int = 20, shape: tuple[int, int] = (60, 80)) -> np.ndarray:
    mask = np.zeros(shape, bool)
    mask[y : y + side, x : x + side] = True
    return mask


def outline(mask: np.ndarray) -> np.ndarray:
    """(n, 2) places of the pixels with one of four neighbours outside, one by one."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere(mask):
        near = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if not all(0 <= v < height and 0 <= u < width and mask[v, u] for v, u in near):
            found.append((y, x))
    return np.array(found, float).reshape(-1, 2)


def distances(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel of one boundary to the nearest of the other, there and back."""
    pairs = cdist(outline(truth), outline(prediction))
    return pairs.min(1), pairs.min(0)


def nuclei(seed: int) -> np.ndarray:
    labels = make_nuclei(np.random.default_rng(seed), 96, 112, "fluorescence")[1]
    return np.asarray(labels > 0)


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_of_boundary_pixels(seed: int) -> None:
    truth = nuclei(seed)
    noise = np.random.default_rng(seed).random(truth.shape) < 0.002
    for prediction in (np.roll(truth, (seed, 2), (0, 1)), truth ^ noise, nuclei(seed + 10)):
        there, back = distances(truth, prediction)
        wanted = max(np.percentile(there, 95), np.percentile(back, 95))
        assert hd95(truth, prediction) == pytest.approx(wanted, rel=1e-6)
        for tolerance in (0, 1, 2, math.sqrt(5), 7.5):
            recall, precision = (float((side <= tolerance).mean()) for side in (there, back))
            f = 2 * precision * recall / max(precision + recall, 1e-9)
            assert boundary_f(truth, prediction, tolerance) == pytest.approx(f, abs=1e-9)


@pytest.mark.parametrize("by", [0, 1, 3, 8])
def test_squares_side_by_side(by: int) -> None:
    """Moved by s < n / 2: the ends, n of 4 (n - 1) pixels, are s away, the others no more."""
    truth, prediction = square(10, 10), square(10, 10 + by)
    assert hd95(truth, prediction) == pytest.approx(by)
    assert boundary_f(truth, prediction, by) == 1
    if by:
        # At distance 0 are those of the top and the bottom that both have.
        assert boundary_f(truth, prediction, 0) == pytest.approx(2 * (20 - by) / 76)


def test_a_square_inside_another() -> None:
    """The inner boundary is 5 from the outer one; the outer corners are 5 sqrt(2) away."""
    outer, inner = square(10, 10, 30), square(15, 15, 20)
    assert hd95(outer, inner) == hd95(inner, outer)
    assert 5 < hd95(outer, inner) <= 5 * math.sqrt(2)
    assert boundary_f(outer, inner, 5) == pytest.approx(2 * 80 / 116 / (1 + 80 / 116))
    assert boundary_f(outer, inner, 4.99) == 0 and boundary_f(outer, inner, 7.08) == 1


def test_the_fraction_that_hd95_ignores() -> None:
    """A speck far away: 1 boundary pixel of 77 is under 5 %, 5 of 81 are over it."""
    truth = square(30, 4)
    speck, specks = truth.copy(), truth.copy()
    speck[5, 70] = True
    specks[5, 70:75] = True
    assert hd95(truth, speck) == 0 and hd95(truth, specks) > 40


def test_masks_at_the_edge_have_boundaries() -> None:
    whole = np.ones((12, 16), bool)
    assert boundary_f(whole, whole) == 1 and hd95(whole, whole) == 0
    assert hd95(whole, ~whole) == 20  # the diagonal
    assert len(outline(whole)) == 2 * 12 + 2 * 16 - 4
    inner = np.pad(np.ones((8, 12), bool), 2)
    # Of the 52 outer pixels, all but the 3 at each corner are 2 away from the inner boundary.
    assert boundary_f(whole, inner, 2) == pytest.approx(2 * 40 / 52 / (1 + 40 / 52))
    assert boundary_f(whole, inner, 1) == 0


def test_empty_masks() -> None:
    some, none = square(0, 0, 3, (30, 40)), np.zeros((30, 40), bool)
    assert (boundary_f(none, none), hd95(none, none)) == (1, 0)
    for truth, prediction in ((some, none), (none, some)):
        assert (boundary_f(truth, prediction), hd95(truth, prediction)) == (0, 50)


def test_means_over_images() -> None:
    truths = [nuclei(0), nuclei(1), np.zeros((96, 112), bool), nuclei(2)]
    predictions = [nuclei(0), np.roll(truths[1], 3, 0), nuclei(3), np.zeros((96, 112), bool)]
    stacks = [torch.from_numpy(np.stack(masks)) for masks in (predictions, truths)]
    metric, reverse = BoundaryScores(tolerance=1.0), BoundaryScores(tolerance=1.0)
    metric.update(*stacks)
    for prediction, truth in list(zip(*stacks, strict=True))[::-1]:
        reverse.update(prediction[None], truth[None])
    pairs = list(zip(truths, predictions, strict=True))
    wanted = {
        "image_boundary_f": np.mean([boundary_f(t, p, 1.0) for t, p in pairs]),
        "image_hd95": np.mean([hd95(t, p) for t, p in pairs]),
    }
    scores = {name: score.item() for name, score in metric.compute().items()}
    assert scores == pytest.approx(wanted, rel=1e-7)
    assert scores == {name: score.item() for name, score in reverse.compute().items()}  # to the bit
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # no update
        assert all(map(math.isnan, BoundaryScores().compute().values()))


def test_refusals() -> None:
    mask = square(0, 0)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        boundary_f(mask, mask, -1)
    with pytest.raises(ValueError, match="tolerance must be at least 0"):
        BoundaryScores(tolerance=math.nan)
    for score in (boundary_f, hd95):
        with pytest.raises(ValueError, match=r"must both be \(H, W\)"):
            score(mask, mask[:5])
        with pytest.raises(ValueError, match="masks must be bool, got bool and int64"):
            score(mask, mask.astype(np.int64))
    with pytest.raises(ValueError, match=r"must both be \(B, H, W\)"):
        BoundaryScores().update(torch.zeros(4, 4), torch.zeros(4, 4))
    with pytest.raises(ValueError, match="masks must be bool"):
        BoundaryScores().update(torch.zeros(1, 4, 4), torch.zeros(1, 4, 4))
