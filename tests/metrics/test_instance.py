"""The table of overlaps, and SEG, against naive loops and closed forms."""

import math
import warnings
from unittest.mock import patch

import numpy as np
import pytest
import torch

from segmentation.metrics import SEG, ImageSEG, object_metrics
from segmentation.metrics.instance import overlaps, seg_sum

RNG = np.random.default_rng(0)


def random_labels(size: int = 40, ids: int = 12, block: int = 4) -> np.ndarray:
    """Blocks of random ids, some of them background, none of them in order."""
    some = RNG.integers(0, ids, (size // block, size // block)) * 3
    return some.repeat(block, 0).repeat(block, 1).astype(np.int32)


def naive_seg(truth: np.ndarray, prediction: np.ndarray) -> list[float]:
    """Maška et al. 2014, section 2.2, object by object."""
    scores = []
    for i in np.unique(truth[truth > 0]):
        reference, best = truth == i, 0.0
        for j in np.unique(prediction[prediction > 0]):
            segment = prediction == j
            if (reference & segment).sum() > 0.5 * reference.sum():
                best = (reference & segment).sum() / (reference | segment).sum()
        scores.append(float(best))
    return scores


def shifted(labels: np.ndarray, by: int) -> np.ndarray:
    moved = np.zeros_like(labels)
    moved[:, by:] = labels[:, : labels.shape[1] - by]
    return moved


@pytest.mark.parametrize("ids", [2, 12, 90])
def test_table_counts_every_pair(ids: int) -> None:
    truth, prediction = random_labels(ids=ids), shifted(random_labels(ids=ids), 2)
    table = overlaps(truth, prediction)
    real = [np.unique(x[x > 0]) for x in (truth, prediction)]
    assert table.truth.sum() == (truth > 0).sum()
    assert sorted(table.truth[table.truth > 0]) == sorted((truth == i).sum() for i in real[0])
    both = (truth > 0) & (prediction > 0)
    pairs, counts = np.unique(np.stack([truth[both], prediction[both]]), axis=1, return_counts=True)
    assert sorted(table.pixels) == sorted(counts) and len(table.iou) == pairs.shape[1]
    for i, j, pixels, iou in zip(table.i, table.j, table.pixels, table.iou, strict=True):
        assert iou == pixels / (table.truth[i] + table.prediction[j] - pixels)


def test_table_does_not_depend_on_ids() -> None:
    truth, prediction = random_labels(), random_labels()
    small = overlaps(truth, prediction)
    far = overlaps(truth.astype(np.int64) * 10**9, np.where(prediction > 0, prediction + 10**6, 0))
    assert seg_sum(small)[0] == pytest.approx(seg_sum(far)[0])
    assert sorted(small.pixels) == sorted(far.pixels)


def test_ids_with_gaps_are_no_objects() -> None:
    truth = np.array([[0, 5, 5], [0, 9, 0]])
    assert seg_sum(overlaps(truth, truth)) == (2.0, 2)
    assert seg_sum(overlaps(truth, np.zeros_like(truth))) == (0.0, 2)
    assert seg_sum(overlaps(np.zeros_like(truth), truth)) == (0.0, 0)


@pytest.mark.parametrize("seed", range(6))
def test_seg_is_the_naive_loop(seed: int) -> None:
    truth = random_labels(ids=6)
    prediction = np.where(
        RNG.random(truth.shape) < 0.15, random_labels(ids=6), shifted(truth, seed % 3)
    )
    scores = naive_seg(truth, prediction)
    total, count = seg_sum(overlaps(truth, prediction))
    assert count == len(scores) and total == pytest.approx(sum(scores))


@pytest.mark.parametrize(("by", "score"), [(0, 1), (2, 8 / 12), (4, 6 / 14), (5, 0), (9, 0)])
def test_shifted_squares(by: int, score: float) -> None:
    """A square of side 10 moved by s: (10 - s) / (10 + s), and 0 from half on."""
    truth = np.zeros((20, 40), np.int32)
    truth[5:15, 5:15] = 1
    metric = SEG()
    metric.update(torch.tensor(shifted(truth, by))[None], torch.tensor(truth)[None])
    assert metric.compute().item() == pytest.approx(score)


def test_pooled_over_objects_and_averaged_over_images() -> None:
    one, many = np.zeros((8, 30), np.int32), np.zeros((8, 30), np.int32)
    one[:4, :4] = 1
    for i in range(5):
        many[:4, 6 * i : 6 * i + 4] = i + 1
    empty = np.zeros((8, 30), np.int32)
    truth = torch.tensor(np.stack([one, many, empty]))
    prediction = torch.tensor(np.stack([empty, many, many]))
    pooled, averaged = SEG(), ImageSEG()
    for metric in (pooled, averaged):
        metric.update(prediction, truth)
    assert pooled.compute().item() == pytest.approx(5 / 6)
    assert averaged.compute().item() == pytest.approx(1 / 2)  # the empty image says nothing
    both = object_metrics()
    both.update(prediction, truth)
    scores = {name: value.item() for name, value in both.compute().items()}
    assert scores == pytest.approx({"seg": 5 / 6, "image_seg": 1 / 2})


def test_without_objects_it_is_nan_and_states_add_up() -> None:
    metric, halves = SEG(), (SEG(), SEG())
    nothing = torch.zeros(1, 4, 4, dtype=torch.int32)
    metric.update(nothing, nothing)
    assert math.isnan(metric.compute())
    for half in halves:
        truth, prediction = (torch.tensor(random_labels())[None] for _ in range(2))
        half.update(prediction, truth)
        metric.update(prediction, truth)
    first, second = halves
    first.total, first.count = first.total + second.total, first.count + second.count
    assert metric.compute() == first.compute()  # to the bit


def test_no_warning_where_a_process_had_no_image() -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        with patch("torch.distributed.is_initialized", return_value=True):
            metric = SEG(dist_sync_on_step=False, sync_on_compute=False)
            assert math.isnan(metric.compute())


def test_states_stay_integers() -> None:
    metric = SEG().to(torch.bfloat16)
    metric.set_dtype(torch.float16)
    assert metric.total.dtype == metric.count.dtype == torch.int64


def test_shapes_that_differ() -> None:
    labels = torch.zeros(4, 4, dtype=torch.int32)
    for one, other in ((labels, labels), (labels[None], labels[None, :3])):
        with pytest.raises(ValueError, match=r"must both be \(B, H, W\)"):
            SEG().update(one, other)
    with pytest.raises(ValueError, match="differ in shape"):
        overlaps(np.zeros((4, 4), int), np.zeros((4, 5), int))
