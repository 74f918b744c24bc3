"""Pixels that are not annotated: scores are those of a crop that is."""

import numpy as np
import pytest
import torch
from sklearn.metrics import roc_auc_score

from segmentation.metrics import AUROC, F1, IoU, ScoreTable
from segmentation.metrics.classes import class_row
from segmentation.metrics.counts import image_counts, scored_objects

WINDOW = np.s_[20:70, 15:75]


def discs(rng: np.random.Generator, count: int = 25) -> np.ndarray:
    labels, (y, x) = np.zeros((90, 100), np.int32), np.mgrid[:90, :100]
    for label in range(1, count + 1):
        row, column, radius = rng.integers((0, 0, 3), (90, 100, 10))
        labels[(y - row) ** 2 + (x - column) ** 2 <= radius**2] = label
    return labels


def scene(seed: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Truth, the same with nothing annotated outside of a window, and a prediction like it."""
    rng = np.random.default_rng(seed)
    truth = discs(rng)
    found = np.roll(truth, (1, -1), (0, 1))
    extra = discs(rng, 6)
    found = np.where((found == 0) & (extra > 0), extra + 40, found)
    partial = np.full_like(truth, -1)
    partial[WINDOW] = truth[WINDOW]
    return truth, partial, found


def kept(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """The prediction in the window; the rule of Kirillov et al., object by object."""
    inside = found[WINDOW].copy()
    for label in np.unique(inside[inside > 0]):
        own = inside == label
        ious = [
            (own & (truth[WINDOW] == other)).sum() / (own | (truth[WINDOW] == other)).sum()
            for other in np.unique(truth[WINDOW])
            if other
        ]
        if 2 * own.sum() < (found == label).sum() and max(ious, default=0) < 0.5:
            inside[own] = 0
    return inside


@pytest.mark.parametrize("seed", range(12))
def test_counts_are_those_of_the_annotated_crop(seed: int) -> None:
    truth, partial, found = scene(seed)
    rows = image_counts(partial, found, found > 0, boundary=True)
    inside = kept(truth, found)
    assert (inside != found[WINDOW]).any() or seed != 0  # the rule matters
    crop = image_counts(truth[WINDOW], inside, found[WINDOW] > 0, boundary=True)
    np.testing.assert_array_equal(rows, crop)
    classes = np.random.default_rng(seed).integers(1, 3, 60)
    classes[0] = 0
    about = classes, classes, 2
    row, crop = (
        class_row(partial, found, *about),
        class_row(truth[WINDOW], inside, *about),
    )
    pixels = class_row(truth[WINDOW], found[WINDOW], *about)[:9]  # each counts by its own class
    np.testing.assert_array_equal(row, [*pixels, *crop[9:]])


def test_objects_are_left_out_by_their_larger_part() -> None:
    truth = np.array([[-1] * 4 + [0] * 4])
    cases = {
        (1, 1, 1, 1, 1, 1, 1, 1): [0, 0, 0, 0, 1, 1, 1, 1],  # half
        (1, 1, 1, 1, 1, 1, 1, 0): [0] * 8,
        (0, 0, 1, 1, 1, 1, 1, 0): [0, 0, 0, 0, 1, 1, 1, 0],
        (7, 7, 0, 0, 0, 0, 9, 9): [0, 0, 0, 0, 0, 0, 9, 9],
    }
    for found, wanted in cases.items():
        assert scored_objects(truth, np.array([found])).tolist() == [wanted]
    truth[0, 4:6] = 3  # what is left of a true object finds what is left of the predicted one
    found = np.array([[1] * 6 + [0] * 2])
    assert scored_objects(truth, found).tolist() == [[0, 0, 0, 0, 1, 1, 0, 0]]
    assert image_counts(truth, found, found > 0)[:4].tolist() == [2, 0, 0, 2]
    whole = np.array([[0, 1, 2, 0]])
    assert scored_objects(whole, whole) is not None


def test_the_table_and_the_metrics_leave_them_out() -> None:
    probs, truths, partials, founds = [], [], [], []
    for seed in range(3):
        truth, partial, found = scene(seed)
        noise = np.random.default_rng(seed).random(truth.shape)
        probs.append(np.where(found > 0, 0.5 + noise / 2, noise / 2).astype(np.float32))
        truths.append(truth), partials.append(partial), founds.append(found)
    table, crops = ScoreTable(boundary=True), ScoreTable(boundary=True)
    for prob, truth, partial, found in zip(probs, truths, partials, founds, strict=True):
        table.update(*(torch.from_numpy(a)[None] for a in (partial, found, prob)))
        inside = kept(truth, found)
        parts = (truth[WINDOW], inside, prob[WINDOW])
        crops.update(*(torch.from_numpy(np.ascontiguousarray(a))[None] for a in parts))
    one, other = table.compute(), crops.compute()
    assert one.keys() == other.keys()
    for name, value in one.items():
        assert float(value) == pytest.approx(float(other[name]), abs=1e-12), name
    known = np.stack(partials) >= 0
    p, t = np.stack(probs)[known], np.stack(truths)[known] > 0
    both = torch.from_numpy(np.stack(probs)), torch.from_numpy(np.stack(partials))
    assert float(AUROC()(*both)) == pytest.approx(roc_auc_score(t, p), abs=1e-4)
    hits, union = ((p > 0.5) & t).sum(), ((p > 0.5) | t).sum()
    assert float(IoU()(*both)) == pytest.approx(hits / union)
    assert float(F1()(*both)) == pytest.approx(2 * hits / (hits + union))


def test_nothing_annotated_is_no_score() -> None:
    truth, probs = torch.full((1, 4, 4), -1), torch.rand(1, 4, 4)
    table = ScoreTable()
    table.update(truth, torch.ones_like(truth), probs)
    scores = table.compute()
    assert all(np.isnan(float(scores[name])) for name in ("iou", "f1", "auroc", "image_iou"))
    assert np.isnan(float(AUROC()(probs, truth))) and np.isnan(float(IoU()(probs, truth)))
    with pytest.raises(ValueError, match="differ in shape"):
        AUROC()(probs, truth[:, :2])
