"""The table of overlaps and its scores: other tools' figures, naive loops and closed forms."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from segmentation.metrics import matching
from segmentation.metrics.matching import (
    SCORES,
    THRESHOLDS,
    Overlaps,
    matches,
    object_counts,
    object_scores,
    overlaps,
    scores_from_counts,
)

FIXTURES = Path(__file__).parent / "fixtures"
SAID: dict[str, Any] = json.loads((FIXTURES / "object_scores.json").read_text())
MAPS = np.load(FIXTURES / "object_scores.npz")
RNG = np.random.default_rng(0)
NAN = pytest.approx(math.nan, nan_ok=True)


def random_labels(size: int = 40, ids: int = 12, block: int = 4) -> np.ndarray:
    """Blocks of random ids, some of them background, none of them in order."""
    some = RNG.integers(0, ids, (size // block, size // block)) * 3
    return some.repeat(block, 0).repeat(block, 1).astype(np.int32)


def shifted(labels: np.ndarray, by: int) -> np.ndarray:
    moved = np.zeros_like(labels)
    moved[:, by:] = labels[:, : labels.shape[1] - by]
    return moved


def scores_of(truth: np.ndarray, prediction: np.ndarray) -> dict[str, float]:
    return object_scores(overlaps(truth, prediction))


# Other tools


def pair(name: str) -> tuple[np.ndarray, np.ndarray]:
    return MAPS[f"{name}.truth"], MAPS[f"{name}.prediction"]


@pytest.mark.parametrize("name", SAID["stardist"]["figures"])
def test_stardist_says_so(name: str) -> None:
    said = SAID["stardist"]["figures"][name]
    table = overlaps(*pair(name))
    scores = object_scores(table)
    assert [len(matches(table, t)) for t in (*THRESHOLDS, 0.1, 0.3)] == said["tp"]
    assert object_counts(table)[:10].tolist() == said["tp"][:10]
    for t, threshold in enumerate((*THRESHOLDS, 0.1, 0.3)):
        if said["tp"][t]:
            mean = table.iou[matches(table, threshold)].mean()
            assert mean == pytest.approx(said["mean_matched_score"][t], abs=1e-6)  # float32 there
    at = {"50": 0, "70": 4, "75": 5, "90": 8}
    for name in ("ap50", "ap75", "ap90", "f1_50", "f1_70", "f1_90"):
        theirs = said["accuracy" if name.startswith("ap") else "f1"]
        assert scores[name] == pytest.approx(theirs[at[name[-2:]]])
    assert scores["ap"] == pytest.approx(np.mean(said["accuracy"][:10]))
    assert scores["precision_50"] == pytest.approx(said["precision"][0])
    assert scores["recall_50"] == pytest.approx(said["recall"][0])
    assert scores["matched_iou"] == pytest.approx(said["mean_matched_score"][0], abs=1e-6)
    if not (table.iou == 0.5).any():  # which it counts, but the paper's PQ does not
        assert scores["pq"] == pytest.approx(said["panoptic_quality"][0], abs=1e-6)
        assert scores["rq"] == scores["f1_50"] and scores["sq"] == scores["matched_iou"]


@pytest.mark.parametrize("name", SAID["cellpose"]["figures"])
def test_cellpose_says_so(name: str) -> None:
    said = SAID["cellpose"]["figures"][name]
    counts = object_counts(overlaps(*pair(name)))
    tp, true, predicted = counts[:10], counts[10], counts[11]
    assert tp.tolist() == said["tp"]
    assert (predicted - tp).tolist() == said["fp"] and (true - tp).tolist() == said["fn"]
    scores = scores_of(*pair(name))
    for k, score in ((0, "ap50"), (5, "ap75"), (8, "ap90")):
        assert scores[score] == pytest.approx(said["ap"][k])


def test_cellpose_says_the_same_aji_where_objects_shrink() -> None:
    """Its AJI matches one to one and counts each pixel of the union once; here that is the same."""
    said = SAID["cellpose"]["figures"]["eroded"]["aji"]
    assert 0 < said < 1 and scores_of(*pair("eroded"))["aji"] == pytest.approx(said, rel=1e-12)


@pytest.mark.parametrize("name", SAID["ctc"]["figures"])
def test_the_cell_tracking_challenge_says_so(name: str) -> None:
    assert scores_of(*pair(name))["seg"] == pytest.approx(SAID["ctc"]["figures"][name]["seg"])


def test_fixtures_are_hard() -> None:
    """Matches at all thresholds, of IoU below .5 too, and ties: or else agreement proves little."""
    errors = [f for name, f in SAID["stardist"]["figures"].items() if name.startswith("errors")]
    assert all(f["tp"][0] > f["tp"][9] for f in errors)
    assert sum(f["tp"][10] > f["tp"][0] for f in errors) >= 3
    iou = overlaps(*pair("ties")).iou
    assert (iou == 0.5).sum() == 4 and {11 / 20, 3 / 5, 3 / 4} < set(iou)


# Closed forms


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


@pytest.mark.parametrize(("radius", "by"), [(60, 20), (60, 40), (80, 100)])
def test_shifted_discs(radius: int, by: int) -> None:
    """Two discs of radius r, d apart, share 2 r² acos(d / 2r) - d/2 sqrt(4 r² - d²)."""
    y, x = np.ogrid[:200, :320]
    discs = [(y - 100) ** 2 + (x - 100 - s) ** 2 <= radius**2 for s in (0, by)]
    lens = 2 * radius**2 * math.acos(by / 2 / radius) - by / 2 * math.sqrt(4 * radius**2 - by**2)
    iou = lens / (2 * math.pi * radius**2 - lens)
    scores = scores_of(*(disc.astype(np.int32) for disc in discs))
    assert scores["aji"] == pytest.approx(iou, abs=0.01)
    assert scores["ap50"] == scores["rq"] == (iou > 0.5)
    assert scores["pq"] == pytest.approx(iou if iou > 0.5 else 0, abs=0.01)


def test_what_is_too_much_and_what_is_missing() -> None:
    """3 true objects; of 4 predicted ones, 2 are right to the pixel. All have 16 pixels."""
    truth, prediction = np.zeros((8, 60), np.int32), np.zeros((8, 60), np.int32)
    for k in range(3):
        truth[:4, 6 * k : 6 * k + 4] = k + 1
    for k in (1, 2, 5, 7):
        prediction[:4, 6 * k : 6 * k + 4] = 10 - k
    counted = {
        "ap50": 2 / 5,
        "ap": 2 / 5,
        "f1_90": 4 / 7,
        "precision_50": 2 / 4,
        "recall_50": 2 / 3,
    }
    qualities = {"pq": 4 / 7, "sq": 1, "rq": 4 / 7, "seg": 2 / 3, "matched_iou": 1, "aji": 2 / 5}
    wanted = {**counted, **qualities, "count_error": 1}
    scores = scores_of(truth, prediction)
    assert {name: scores[name] for name in wanted} == pytest.approx(wanted)


def test_halves_match_once_at_exactly_one_half_and_never_in_pq() -> None:
    whole, halves = np.zeros((4, 8), np.int32), np.zeros((4, 8), np.int32)
    whole[:2], halves[:2, :4], halves[:2, 4:] = 7, 1, 2
    for truth, prediction in ((whole, halves), (halves, whole)):
        scores = scores_of(truth, prediction)
        assert scores["ap50"] == 1 / 2 and scores["matched_iou"] == 1 / 2
        assert scores["pq"] == scores["sq"] == scores["rq"] == 0
    assert scores_of(whole, halves)["seg"] == 0  # a half is not more than half
    assert scores_of(halves, whole)["seg"] == 1 / 2  # both are covered by the same object


def test_below_one_half_the_matching_is_the_largest() -> None:
    """The best pair would leave the other two objects alone."""
    table = Overlaps(*map(np.array, ([10, 10], [10, 10], [0, 0, 1], [0, 1, 0], [6, 3, 3])))
    assert table.iou.tolist() == [6 / 14, 3 / 17, 3 / 17]
    assert matches(table, 3 / 17).tolist() == [1, 2] and matches(table, 0.4).tolist() == [0]


def test_empty_masks() -> None:
    some, none = np.eye(4, dtype=np.int32), np.zeros((4, 4), np.int32)
    ratios = [name for name in SCORES if name not in ("seg", "matched_iou", "count_error")]
    expected = {"nothing": (none, none, 1), "missed": (some, none, 0), "invented": (none, some, 0)}
    for truth, prediction, value in expected.values():
        scores = scores_of(truth, prediction)
        assert {scores[name] for name in ratios} == {value}
        wanted = 0 if truth.any() else NAN
        assert scores["seg"] == wanted and scores["matched_iou"] == wanted
        assert scores["count_error"] == int(prediction.any()) - int(truth.any())
    assert set(scores_of(np.zeros((0, 4), int), np.zeros((0, 4), int))) == set(SCORES)


# Naive loops


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


@pytest.mark.parametrize("seed", range(6))
def test_seg_and_aji_are_the_naive_loops(seed: int) -> None:
    truth = random_labels(ids=6)
    noise = RNG.random(truth.shape) < 0.15
    prediction = np.where(noise, random_labels(ids=6), shifted(truth, seed % 3))
    prediction[prediction == 9] = 0
    scores = scores_of(truth, prediction)
    assert scores["seg"] == pytest.approx(naive_seg(truth, prediction))
    assert scores["aji"] == pytest.approx(naive_aji(truth, prediction))


@pytest.mark.parametrize("name", ["errors0", "errors3", "dilated", "ties"])
def test_seg_and_aji_of_nuclei_are_the_naive_loops(name: str) -> None:
    scores = scores_of(*pair(name))
    assert scores["seg"] == pytest.approx(naive_seg(*pair(name)))
    assert scores["aji"] == pytest.approx(naive_aji(*pair(name)))


@pytest.mark.parametrize("ids", [2, 12, 90])
@pytest.mark.parametrize("dense", [0, 1 << 22])
def test_table_counts_every_pair(ids: int, dense: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(matching, "_DENSE", dense)
    truth, prediction = random_labels(ids=ids), shifted(random_labels(ids=ids), 2)
    table = overlaps(truth, prediction)
    for sizes, labels in ((table.truth, truth), (table.prediction, prediction)):
        assert sizes.tolist() == np.unique(labels[labels > 0], return_counts=True)[1].tolist()
    both = (truth > 0) & (prediction > 0)
    pairs, counts = np.unique(np.stack([truth[both], prediction[both]]), axis=1, return_counts=True)
    assert table.pixels.tolist() == counts.tolist() and len(table.iou) == pairs.shape[1]
    names = [np.unique(labels[labels > 0]) for labels in (truth, prediction)]
    found = np.stack([names[0][table.i], names[1][table.j]])
    assert found.tolist() == pairs.tolist()
    for (i, j), iou in zip(pairs.T, table.iou, strict=True):
        one, other = truth == i, prediction == j
        assert iou == (one & other).sum() / (one | other).sum()


# Properties and refusals


def test_scores_do_not_depend_on_ids() -> None:
    truth, prediction = pair("errors1")
    wanted = scores_of(truth, prediction)
    other = RNG.permutation(int(prediction.max())) + 1
    renamed = np.where(prediction > 0, other[prediction.astype(int) - 1], 0)
    assert scores_of(truth, renamed) == pytest.approx(wanted, rel=1e-9)
    # Ids beyond 2^53 are no floats; and nothing depends on the dtype.
    far = np.where(truth > 0, truth.astype(np.uint64) + np.uint64(2**63), np.uint64(0))
    assert scores_of(far, prediction.astype(np.int8)) == wanted
    assert scores_of(truth.astype(np.int64) * 10**9, prediction) == wanted
    assert scores_of(-truth.astype(np.int64), prediction)["ap50"] == wanted["ap50"]


def test_counts_add_up_to_pooled_scores() -> None:
    """Two images side by side are one image."""
    names = ("errors0", "errors1")
    counts = np.stack([object_counts(overlaps(*pair(name))) for name in names])
    both = [
        np.concatenate(maps, 1).astype(np.int64) for maps in zip(*map(pair, names), strict=True)
    ]
    for labels in both:
        labels[:, 160:] += (labels[:, 160:] > 0) * 1000
    pooled = scores_from_counts(counts.sum(0))
    assert {k: float(v) for k, v in pooled.items()} == pytest.approx(scores_of(*both), rel=1e-9)
    each = scores_from_counts(counts)
    assert [float(v) for v in each["aji"]] == [scores_of(*pair(name))["aji"] for name in names]


def test_refusals() -> None:
    labels = np.zeros((4, 4), np.int32)
    with pytest.raises(ValueError, match=r"\(4, 4\) and prediction \(4, 5\) differ in shape"):
        overlaps(labels, np.zeros((4, 5), int))
    for kind in (np.float32, bool):
        with pytest.raises(ValueError, match="must be integers"):
            overlaps(labels, labels.astype(kind))
    for threshold in (0, -0.1, 1.01, math.nan):
        with pytest.raises(ValueError, match=r"threshold must be in \(0, 1\]"):
            matches(overlaps(labels, labels), threshold)
