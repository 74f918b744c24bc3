"""Counts of single images: other tools' figures, naive loops and closed forms."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from scipy.spatial.distance import cdist
from sklearn.metrics import average_precision_score, roc_auc_score

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.metrics import counts
from segmentation.metrics.counts import (
    LENGTH_UNIT,
    UNIT,
    boundary_scores,
    image_counts,
    object_counts,
    overlaps,
    probability_histogram,
)
from segmentation.metrics.scores import (
    OBJECT_SCORES,
    object_scores,
    ranking_scores,
    stardist_scores,
)

FIXTURES = Path(__file__).parent / "fixtures"
SAID: dict[str, Any] = json.loads((FIXTURES / "object_scores.json").read_text())
MAPS = np.load(FIXTURES / "object_scores.npz")
RNG = np.random.default_rng(0)


def random_labels(size: int = 40, ids: int = 12, block: int = 4) -> np.ndarray:
    """Blocks of random ids, some of them background, none of them in order."""
    some = RNG.integers(0, ids, (size // block, size // block)) * 3
    return some.repeat(block, 0).repeat(block, 1).astype(np.int32)


def shifted(labels: np.ndarray, by: int) -> np.ndarray:
    moved = np.zeros_like(labels)
    moved[:, by:] = labels[:, : labels.shape[1] - by]
    return moved


def scores_of(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    scores = object_scores(object_counts(overlaps(truth, prediction)))
    return {name: float(score) for name, score in scores.items()}


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    return MAPS[f"{name}.truth"], MAPS[f"{name}.prediction"]


# Objects: other tools


@pytest.mark.parametrize("name", SAID["stardist"]["figures"])
def test_stardist_says_so(name: str) -> None:
    said, scores = SAID["stardist"]["figures"][name], scores_of(*pair(name))
    table = overlaps(*pair(name))
    assert object_counts(table)[:10].tolist() == said["tp"][:10]
    at = {"50": 0, "70": 4, "75": 5, "90": 8}
    for name in ("ap50", "ap75", "ap90", "f1_50", "f1_70", "f1_90"):
        theirs = said["accuracy" if name.startswith("ap") else "f1"]
        assert scores[name] == pytest.approx(theirs[at[name[-2:]]])
    assert scores["ap"] == pytest.approx(np.mean(said["accuracy"][:10]))
    assert scores["precision_50"] == pytest.approx(said["precision"][0])
    assert scores["recall_50"] == pytest.approx(said["recall"][0])
    more = stardist_scores(object_counts(table))
    names = {"ap": "accuracy", "f1_": "f1", "precision_": "precision", "recall_": "recall"}
    for name, theirs in names.items():
        for percent in (60, 70, 80, 90):
            if (found := more.get(f"{name}{percent}")) is not None:
                assert found == pytest.approx(said[theirs][(percent - 50) // 5])
    assert more["ap_50_90"] == pytest.approx(np.mean(said["accuracy"][:10:2]))
    assert scores["matched_iou"] == pytest.approx(said["mean_matched_score"][0], abs=1e-6)
    if not (table.iou == 0.5).any():  # which it counts, but the paper's PQ does not
        assert scores["pq"] == pytest.approx(said["panoptic_quality"][0], abs=1e-6)
        assert scores["rq"] == scores["f1_50"] and scores["sq"] == scores["matched_iou"]


@pytest.mark.parametrize("name", SAID["cellpose"]["figures"])
def test_cellpose_says_so(name: str) -> None:
    said, found = SAID["cellpose"]["figures"][name], object_counts(overlaps(*pair(name)))
    tp, true, predicted = found[:10], found[10], found[11]
    assert tp.tolist() == said["tp"]
    assert (predicted - tp).tolist() == said["fp"] and (true - tp).tolist() == said["fn"]
    if name == "eroded":  # its AJI matches one to one; where objects shrink that is the same
        assert scores_of(*pair(name))["aji"] == pytest.approx(said["aji"], rel=1e-12)


@pytest.mark.parametrize("name", SAID["ctc"]["figures"])
def test_the_cell_tracking_challenge_says_so(name: str) -> None:
    assert scores_of(*pair(name))["seg"] == pytest.approx(SAID["ctc"]["figures"][name]["seg"])


# Objects: closed forms


@pytest.mark.parametrize("by", range(0, 12))
def test_shifted_squares(by: int) -> None:
    """Squares of side 10 moved by s: IoU (10 - s) / (10 + s), and SEG 0 from half on."""
    truth = np.zeros((40, 64), np.int32)
    for k, (y, x) in enumerate(((2, 2), (2, 32), (20, 2), (20, 32))):
        truth[y : y + 10, x : x + 10] = k + 1
    scores, iou = scores_of(truth, shifted(truth, by)), max(10 - by, 0) / (10 + by)
    wanted = {f"ap{t}": float(iou >= t / 100) for t in (50, 75, 90)}
    wanted |= {f"f1_{t}": float(iou >= t / 100) for t in (50, 70, 90)}
    wanted["ap"] = sum(20 * iou >= k - 1e-9 for k in range(10, 20)) / 10
    wanted["precision_50"] = wanted["recall_50"] = wanted["sq"] = wanted["rq"] = float(iou >= 0.5)
    wanted["matched_iou"] = wanted["pq"] = wanted["sq"] = iou if iou >= 0.5 else 0.0
    wanted |= {"aji": iou, "seg": iou if by < 5 else 0.0, "count_error": 0.0}
    assert scores == pytest.approx(wanted, abs=1e-11)


def test_halves_match_once_at_exactly_one_half_and_never_in_pq() -> None:
    whole, halves = np.zeros((4, 8), np.int32), np.zeros((4, 8), np.int32)
    whole[:2], halves[:2, :4], halves[:2, 4:] = 7, 1, 2
    for truth, prediction in ((whole, halves), (halves, whole)):
        scores = scores_of(truth, prediction)
        assert scores["ap50"] == 1 / 2 and scores["matched_iou"] == 1 / 2
        assert scores["pq"] == scores["sq"] == scores["rq"] == 0
    assert scores_of(whole, halves)["seg"] == 0  # a half is not more than half
    assert scores_of(halves, whole)["seg"] == 1 / 2  # both are covered by the same object


def test_no_objects() -> None:
    some, none = np.eye(4, dtype=np.int32), np.zeros((4, 4), np.int32)
    ratios = [name for name in OBJECT_SCORES if name not in ("seg", "matched_iou", "count_error")]
    for truth, prediction, value in ((none, none, 1), (some, none, 0), (none, some, 0)):
        scores = scores_of(truth, prediction)
        assert {scores[name] for name in ratios} == {value}
        wanted = 0 if truth.any() else pytest.approx(math.nan, nan_ok=True)
        assert scores["seg"] == wanted and scores["matched_iou"] == wanted
        assert scores["count_error"] == int(prediction.any()) - int(truth.any())


# Objects: naive loops


def naive_seg(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Maška et al. 2014, section 2.2, object by object."""
    scores = []
    for i in np.unique(truth[truth > 0]):
        reference, best = truth == i, 0.0
        for j in np.unique(prediction[prediction > 0]):
            segment = prediction == j
            if (reference & segment).sum() > 0.5 * reference.sum():
                best = (reference & segment).sum() / (reference | segment).sum()
        scores.append(best)
    return float(np.mean(scores))


def naive_aji(truth: np.ndarray, prediction: np.ndarray) -> float:
    """Kumar et al. 2017, algorithm 1, object by object."""
    intersection = union = 0
    segments = {j: prediction == j for j in np.unique(prediction[prediction > 0])}
    used = set()
    for i in np.unique(truth[truth > 0]):
        nucleus = truth == i
        pairs = {j: ((nucleus & s).sum(), (nucleus | s).sum()) for j, s in segments.items()}
        j = max(pairs, key=lambda j: (pairs[j][0] / pairs[j][1], pairs[j][0]), default=None)
        if j is None or not pairs[j][0]:
            union += nucleus.sum()
            continue
        intersection, union = intersection + pairs[j][0], union + pairs[j][1]
        used.add(j)
    return float(
        intersection / (union + sum(s.sum() for j, s in segments.items() if j not in used))
    )


@pytest.mark.parametrize("name", [*map(str, range(6)), "errors0", "errors3", "dilated", "ties"])
def test_seg_and_aji_are_the_naive_loops(name: str) -> None:
    if name.isdigit():
        truth = random_labels(ids=6)
        noise = RNG.random(truth.shape) < 0.15
        prediction = np.where(noise, random_labels(ids=6), shifted(truth, int(name) % 3))
        prediction[prediction == 9] = 0
    else:
        truth, prediction = pair(name)
    scores = scores_of(truth, prediction)
    assert scores["seg"] == pytest.approx(naive_seg(truth, prediction))
    assert scores["aji"] == pytest.approx(naive_aji(truth, prediction))


@pytest.mark.parametrize("ids", [2, 12, 90])
@pytest.mark.parametrize("dense", [0, 1 << 22])
def test_table_counts_every_pair(ids: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(counts, "_DENSE", dense)
    truth, prediction = random_labels(ids=ids), shifted(random_labels(ids=ids), 2)
    table = overlaps(truth, prediction)
    for sizes, labels in ((table.truth, truth), (table.prediction, prediction)):
        assert sizes.tolist() == np.unique(labels[labels > 0], return_counts=True)[1].tolist()
    both = (truth > 0) & (prediction > 0)
    pairs, pixels = np.unique(np.stack([truth[both], prediction[both]]), axis=1, return_counts=True)
    assert table.pixels.tolist() == pixels.tolist()
    names = [np.unique(labels[labels > 0]) for labels in (truth, prediction)]
    assert np.stack([names[0][table.i], names[1][table.j]]).tolist() == pairs.tolist()
    for (i, j), iou in zip(pairs.T, table.iou, strict=True):
        one, other = truth == i, prediction == j
        assert iou == (one & other).sum() / (one | other).sum()


def test_scores_do_not_depend_on_ids() -> None:
    truth, prediction = pair("errors1")
    wanted = scores_of(truth, prediction)
    other = RNG.permutation(int(prediction.max())) + 1
    renamed = np.where(prediction > 0, other[prediction.astype(int) - 1], 0)
    assert scores_of(truth, renamed) == pytest.approx(wanted, rel=1e-9)
    # Ids beyond 2^53 are no floats; and nothing depends on the dtype.
    far = np.where(truth > 0, truth.astype(np.uint64) + np.uint64(2**63), np.uint64(0))
    assert scores_of(far, prediction.astype(np.int8)) == wanted
    assert scores_of(-truth.astype(np.int64) * 10**9, prediction)["ap50"] == wanted["ap50"]


def test_rows_add_up_to_pooled_scores() -> None:
    """Two images side by side are one image."""
    names = ("errors0", "errors1")
    rows = [image_counts(*pair(name), pair(name)[1] > 0) for name in names]
    truth, labels = (
        np.concatenate(maps, 1).astype(int) for maps in zip(*map(pair, names), strict=True)
    )
    for some in (truth, labels):
        some[:, 160:] += (some[:, 160:] > 0) * 1000
    np.testing.assert_allclose(sum(rows), image_counts(truth, labels, labels > 0), atol=2)


# Pixels and outlines


def test_the_foreground_may_differ_from_the_objects() -> None:
    truth, labels = np.array([[1, 1, 0, 2, 0]]), np.array([[5, 0, 0, 0, 0]])
    mask = np.array([[True, True, True, False, False]])
    assert image_counts(truth, None, mask).tolist() == [2, 1, 1, 1]
    row = image_counts(truth, labels, mask, boundary=True)
    assert row[:4].tolist() == [2, 1, 1, 1] and row[14:16].tolist() == [2, 1]
    f, distance = boundary_scores(truth > 0, mask)
    assert (row[22] * UNIT, row[23] * LENGTH_UNIT) == pytest.approx((f, distance), abs=1e-9)


def outline(mask: np.ndarray) -> np.ndarray:
    """(n, 2) places of the pixels with one of four neighbours outside, one by one."""
    height, width = mask.shape
    found = []
    for y, x in np.argwhere(mask):
        near = ((y - 1, x), (y + 1, x), (y, x - 1), (y, x + 1))
        if not all(0 <= v < height and 0 <= u < width and mask[v, u] for v, u in near):
            found.append((y, x))
    return np.array(found, float).reshape(-1, 2)


@pytest.mark.parametrize("seed", range(4))
def test_all_pairs_of_boundary_pixels(seed: int) -> None:
    truth, other = (
        make_nuclei(np.random.default_rng(s), 96, 112, "fluorescence")[1] > 0
        for s in (seed, seed + 10)
    )
    noise = np.random.default_rng(seed).random(truth.shape) < 0.002
    for prediction in (np.roll(truth, (seed, 2), (0, 1)), truth ^ noise, other):
        pairs = cdist(outline(truth), outline(prediction))
        there, back = pairs.min(1), pairs.min(0)
        wanted = max(np.percentile(there, 95), np.percentile(back, 95))
        for tolerance in (0, 1, 2, math.sqrt(5), 7.5):
            recall, precision = (float((side <= tolerance).mean()) for side in (there, back))
            f = 2 * precision * recall / max(precision + recall, 1e-9)
            found = boundary_scores(truth, prediction, tolerance)
            assert found == pytest.approx((f, wanted), rel=1e-6)


def test_full_and_empty_masks_have_boundaries() -> None:
    whole = np.ones((12, 16), bool)
    assert boundary_scores(whole, whole) == (1, 0)
    inner = np.pad(np.ones((8, 12), bool), 2)
    # Of the 52 outer pixels, all but the 3 at each corner are 2 away from the inner boundary.
    assert boundary_scores(whole, inner, 2)[0] == pytest.approx(2 * 40 / 52 / (1 + 40 / 52))
    assert boundary_scores(whole, inner, 1)[0] == 0
    assert boundary_scores(~whole, ~whole) == (1, 0)
    assert boundary_scores(whole, ~whole) == boundary_scores(~whole, whole) == (0, 20)  # diagonal


# Probabilities


def random_pixels(seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Probabilities (B, H, W) float32 that know something of the mask (B, H, W) bool."""
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand((3, 17, 23), generator=generator) < 0.3
    return (2 * torch.randn(mask.shape, generator=generator) + 2.0 * mask - 1).sigmoid(), mask


def test_histogram_is_that_of_a_loop_over_pixels() -> None:
    probs, mask = random_pixels(3)
    d = 2 * np.arange(17) / 16 - 1
    edges = (1 + d * np.sqrt(2 - d**2)) / 2  # of the documented bins
    hist = probability_histogram(probs, mask, 16)
    for truth, found in ((mask, hist[0]), (~mask, hist[1])):
        assert found.tolist() == np.histogram(probs[truth].numpy(), edges)[0].tolist()
    ends = probability_histogram(torch.tensor([[[0.0, 1.0]]]), torch.ones(1, 1, 2).bool())[0]
    assert ends[[0, 1023]].tolist() == [1, 1]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("bins", [32, 1024])
def test_ranking_scores_of_the_bins_are_scikit_learns(bins: int, seed: int) -> None:
    hist = probability_histogram(*random_pixels(seed), bins).numpy()
    ranks = np.repeat(np.tile(np.arange(bins), 2), hist.flatten())
    truth = np.repeat([1, 0], hist.sum(1))
    wanted = roc_auc_score(truth, ranks), average_precision_score(truth, ranks)
    assert tuple(ranking_scores(hist).values()) == pytest.approx(wanted, abs=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_probabilities_of_any_dtype(dtype: torch.dtype) -> None:
    probs, mask = random_pixels(5)
    probs = probs.to(dtype)
    hist, wide = (probability_histogram(p, mask) for p in (probs, probs.float()))
    # In double rounding may move a probability that lies on an edge.
    assert int((hist - wide).abs().sum()) <= (4 if dtype == torch.float64 else 0)


@pytest.mark.parametrize(
    ("probs", "message"),
    [
        (torch.full((1, 2, 2), 1.001), "from 1.001 to 1.001; logits"),
        (torch.tensor([[[0.5, -1e-6]]]), r"in \[0, 1\]"),
        (torch.tensor([[[0.5, math.nan]]]), "not NaN"),
        (torch.zeros(1, 2, 2).long(), "probs must be floating point"),
        (torch.zeros(0, 2, 2), "got torch.float32"),
    ],
)
def test_refused_probabilities(probs: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        probability_histogram(probs, probs > 0)


def test_refused_maps() -> None:
    labels = np.zeros((4, 4), np.int32)
    with pytest.raises(ValueError, match=r"\(4, 4\) and prediction \(4, 5\) differ in shape"):
        overlaps(labels, np.zeros((4, 5), int))
    with pytest.raises(ValueError, match="must be integers"):
        overlaps(labels, labels.astype(np.float32))
    with pytest.raises(ValueError, match=r"must both be \(H, W\)"):
        image_counts(labels, labels, labels[:2] > 0)
