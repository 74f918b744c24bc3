"""Scores by class against scikit-learn, torchmetrics and our own scores of one class alone."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from sklearn.metrics import confusion_matrix, jaccard_score
from torchmetrics.classification import MulticlassJaccardIndex

from segmentation.datasets.synthetic_classes import NAMES, cells_of_classes
from segmentation.metrics import ScoreTable, better, scores_of
from segmentation.metrics.classes import (
    COUNTED,
    class_row,
    class_scores,
    confusions,
    count_columns,
    is_count,
)
from segmentation.metrics.counts import OBJECTS, object_counts, overlaps
from segmentation.metrics.scores import object_scores

Image = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]


def array(values: Any, dtype: Any = np.int32) -> np.ndarray:
    return np.array(values, dtype)


def image(seed: int, size: tuple[int, int] = (96, 90)) -> Image:
    """Truth and a prediction of it: shifted, some objects lost, merged, or of another class."""
    rng = np.random.default_rng(seed)
    _, labels, classes = cells_of_classes(rng, size)
    found = np.roll(labels, rng.integers(-2, 3, 2), (0, 1))
    found[np.isin(found, rng.integers(1, len(classes), 2))] = 0
    found[found == len(classes) - 1] = 1
    changed = classes.copy()
    changed[1:] = np.where(rng.random(len(classes) - 1) < 0.3, rng.integers(1, 4), changed[1:])
    return labels, found, classes, changed


IMAGES = [image(seed) for seed in range(4)]


def table(images: list[Image] = IMAGES) -> ScoreTable:
    scored = ScoreTable(class_names=NAMES)
    for i, (truth, found, classes, changed) in enumerate(images):
        both = torch.from_numpy(truth)[None], torch.from_numpy(found)[None]
        scored.update(*both, ids=[f"{i}"], classes=[classes], found_classes=[changed])
    return scored


def values(scored: ScoreTable) -> dict[str, float]:
    return {name: float(value) for name, value in scored.compute().items()}


def test_pixels_are_those_of_sklearn_and_torchmetrics() -> None:
    truth = np.concatenate([classes[t].ravel() for t, _, classes, _ in IMAGES])
    found = np.concatenate([changed[f].ravel() for _, f, _, changed in IMAGES])
    scored = table()
    rows = scored.rows()
    matrix = confusions({str(name): rows[name].to_numpy() for name in rows})
    assert matrix["classes"] == ["background", *NAMES]
    assert matrix["pixels"] == confusion_matrix(truth, found).tolist()
    scores = values(scored)
    for c, expected in enumerate(jaccard_score(truth, found, average=None)[1:], start=1):
        assert scores[f"iou/{NAMES[c - 1]}"] == pytest.approx(expected)
        f1 = 2 * expected / (1 + expected)
        assert scores[f"f1/{NAMES[c - 1]}"] == pytest.approx(f1)
    theirs = MulticlassJaccardIndex(4, average=None)(torch.tensor(found), torch.tensor(truth))
    assert scores["class_iou"] == pytest.approx(float(theirs[1:].mean()), abs=1e-6)


def test_objects_are_those_of_one_class_alone() -> None:
    total = {name: np.zeros(len(OBJECTS), np.int64) for name in NAMES}
    for truth, found, classes, changed in IMAGES:
        row = class_row(truth, found, classes, changed, 3)
        named = dict(zip(count_columns(NAMES), row.tolist(), strict=True))
        for c, name in enumerate(NAMES, start=1):
            sides = (np.where(k[m] == c, m, 0) for m, k in ((truth, classes), (found, changed)))
            counts = object_counts(overlaps(*sides))
            assert [named[f"{x}/{name}"] for x in COUNTED] == [
                counts[OBJECTS.index(x)] for x in COUNTED
            ]
            total[name] += counts
    scores = values(table())
    for kind in ("ap50", "pq"):
        single = [float(object_scores(total[name])[kind]) for name in NAMES]
        assert [scores[f"{kind}/{name}"] for name in NAMES] == single
        assert scores[f"class_{kind}"] == pytest.approx(np.mean(single))


def test_confusion_of_objects_by_hand() -> None:
    truth, found, classes, changed = IMAGES[0]
    row = class_row(truth, found, classes, changed, 3)
    matrix = row[16:32].reshape(4, 4)
    expected, left = np.zeros((4, 4), np.int64), {*np.unique(found)} - {0}
    for i in {*np.unique(truth)} - {0}:
        iou = {j: ((truth == i) & (found == j)).sum() / ((truth == i) | (found == j)).sum()
               for j in left}  # fmt: skip
        best = max(iou, key=lambda j: iou[j], default=0)
        hit = best if best and iou[best] >= 0.5 else 0
        expected[classes[i], changed[hit]] += 1
        left -= {hit}
    for j in left:
        expected[0, changed[j]] += 1
    np.testing.assert_array_equal(matrix, expected)
    assert matrix[1:].sum() == len(np.unique(truth)) - 1
    assert matrix[:, 1:].sum() == len(np.unique(found)) - 1


def test_a_class_that_is_nowhere_is_left_out() -> None:
    truth = array([[1, 1, 0, 2, 2, 2]])
    images = [(truth, truth, array([0, 1, 3], np.uint8), array([0, 1, 3], np.uint8))]
    scores = values(table(images))
    assert math.isnan(scores["iou/long"]) and math.isnan(scores["pq/long"])
    assert scores["class_iou"] == scores["class_pq"] == scores["iou/round"] == 1
    # One that is only predicted is all wrong.
    images = [(truth, truth, array([0, 1, 3], np.uint8), array([0, 1, 2], np.uint8))]
    scores = values(table(images))
    assert scores["iou/long"] == scores["ap50/large"] == 0
    assert scores["class_iou"] == pytest.approx(1 / 3)
    empty = np.zeros((1, 4), np.int32)
    nothing = values(table([(empty, empty, array([0], np.uint8), array([0], np.uint8))]))
    assert math.isnan(nothing["class_iou"]) and nothing["iou"] == 1


def test_not_annotated_pixels_are_in_no_pair() -> None:
    truth, found = array([[1, -1, 0, 0]]), array([[1, 1, 0, 2]])
    row = class_row(truth, found, array([0, 2], np.uint8), array([0, 1, 2], np.uint8), 2)
    assert row[:9].reshape(3, 3).tolist() == [[1, 0, 1], [0, 0, 0], [0, 1, 0]]


def test_rows_add_up_and_scores_follow_from_the_table() -> None:
    rows = table().rows()
    columns = {
        str(name): rows[name].to_numpy() for name in rows if name not in ("id", "kind", "group")
    }
    assert rows["pixels/round/long"].dtype == np.int64
    scores = {name: score.value for name, score in scores_of(columns).items()}
    logged = values(table())
    for name in ("class_iou", "class_f1", "class_ap50", "class_pq", "iou/round", "pq/large"):
        assert scores[name] == logged[name] and better(name) == "higher"
        assert scores[f"image_{name}"] == pytest.approx(np.nanmean(rows[name]))
    assert not [name for name in scores if "pixels/" in name or "true_objects/" in name]
    assert is_count("tp_50/a") and is_count("objects/a/b") and not is_count("ap50/a")
    counts = rows[count_columns(NAMES)].to_numpy()
    assert class_scores(counts, NAMES)["iou/long"].tolist() == rows["iou/long"].tolist()
    halves = [table(IMAGES[:1]), table(IMAGES[1:])]  # as on two processes
    halves[0].counts += halves[1].counts
    halves[0].names += halves[1].names
    halves[0].histogram += halves[1].histogram
    assert values(halves[0]) == pytest.approx(logged, rel=0, abs=0, nan_ok=True)


def test_without_classes_nothing_is_added_and_missing_ones_are_told() -> None:
    plain = ScoreTable()
    plain.update(torch.from_numpy(IMAGES[0][0])[None], torch.from_numpy(IMAGES[0][1])[None])
    assert not [name for name in map(str, plain.rows()) if "/" in name or "class" in name]
    with pytest.raises(ValueError, match="classes are missing"):
        empty = torch.zeros(1, 4, 4, dtype=torch.int32)
        ScoreTable(class_names=NAMES).update(empty, empty)
