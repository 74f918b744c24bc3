"""Duplicates: found exactly as by comparing all pairs of pixels, whatever the threshold."""

from itertools import combinations, pairwise
from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.data.cache import decoded
from segmentation.data.sample import Split
from segmentation.datasets.ultrasound_nerve import UltrasoundNerve
from segmentation.evaluation.audit import duplicates
from segmentation.evaluation.audit.duplicates import (
    EDGES,
    connected,
    difference,
    find_duplicates,
    fingerprint,
    near_pairs,
    standardised,
    torn_pairs,
)
from tests.evaluation.audit.listed import block, noise, sample, stored

NEAR = 0.4


def test_difference_is_that_of_the_correlation() -> None:
    one, other = noise(0), noise(1)
    mixed = (0.8 * one + 0.2 * other).astype(np.uint8)
    for image in (other, mixed, one):
        r = np.corrcoef(one.reshape(-1), image.reshape(-1))[0, 1]
        found = difference(*(standardised(i[..., None]) for i in (one, image)))
        assert found == pytest.approx(max(0, 2 - 2 * r) ** 0.5, abs=1e-3)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_brightness_contrast_dtype_and_channels_make_no_difference(dtype: type) -> None:
    one = noise(0)[..., None]
    other = (one.astype(int) // 2 * 2 // 2 + 17).astype(dtype)
    colour = np.repeat(other, 3, axis=2)
    first = standardised(one)
    assert first.mean() == pytest.approx(0, abs=1e-4) and first.std() == pytest.approx(1, abs=1e-4)
    assert difference(first, standardised(colour)) < 0.01
    assert not standardised(np.full((7, 9, 1), 37, dtype)).any()


@pytest.mark.parametrize("size", [(48, 64), (33, 65), (20, 300), (256, 256), (31, 1)])
def test_fingerprints_bound_the_difference_from_below(size: tuple[int, int]) -> None:
    rng = np.random.default_rng(0)
    for seed in range(20):
        one = cv2.GaussianBlur(noise(seed, size), None, rng.uniform(0.5, 9))
        other = cv2.GaussianBlur(noise(seed + rng.integers(2), size), None, rng.uniform(0.5, 9))
        pixels = [standardised(i.reshape(*size, 1)) for i in (one, other)]
        prints = [fingerprint(p) for p in pixels]
        assert np.linalg.norm(prints[0] - prints[1]) <= difference(*pixels) + 1e-5


def test_all_rows_that_are_near(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(duplicates, "BLOCK", 7)
    rows = np.random.default_rng(0).normal(size=(40, 5)).astype(np.float32) / 5
    apart = {(i, j): np.linalg.norm(rows[i] - rows[j]) for i, j in combinations(range(40), 2)}
    counts = np.zeros(len(EDGES) - 1, np.int64)
    found = set(near_pairs(rows, 0.5, counts))
    assert found == {pair for pair, d in apart.items() if d <= 0.5} and 10 < len(found) < 700
    np.testing.assert_array_equal(counts, np.histogram(list(apart.values()), EDGES)[0])


def test_finds_what_was_planted(tmp_path: Path) -> None:
    one, other, mask = noise(0), noise(1), block(5, 5, 10, 20)
    close = np.clip(one + np.random.default_rng(2).normal(0, 8, one.shape), 0, 255)
    found = find_duplicates(
        stored(
            tmp_path,
            sample("a", one, mask),
            sample("b", one, block(5, 15, 10, 20)),  # IoU 100 / 300
            sample("c", close.astype(np.uint8), mask),
            sample("d", other, mask),
            sample("e", other, None),
            sample("f", np.full_like(one, 9), mask),
            sample("g", np.full_like(one, 10), mask),  # blank images are alike, but no duplicates
            sample("h", one.reshape(64, 48), block(0, 0, 2, 2, (64, 48))),
        ),
        NEAR,
    )
    assert found.exact == [["a", "b"], ["d", "e"]]
    assert found.groups == [["a", "b", "c"], ["d", "e"]]
    pairs = {(p.first, p.second): p for p in found.pairs}
    assert set(pairs) == {("a", "b"), ("a", "c"), ("d", "e")}
    assert pairs["a", "b"].exact and pairs["a", "b"].difference == 0
    assert pairs["a", "b"].iou == pytest.approx(1 / 3, abs=1e-4)
    assert not pairs["a", "c"].exact and 0.1 < pairs["a", "c"].difference < 0.3
    assert pairs["a", "c"].iou == 1 and pairs["d", "e"].iou is None
    assert found.pairs[0] == pairs["a", "b"]  # worst first
    assert found.compared == sum(found.counts) == 3 and found.candidates == 1  # a, c and d


def test_two_empty_masks_agree_and_one_does_not(tmp_path: Path) -> None:
    none, some = np.zeros((48, 64)), block(1, 1, 5, 5)
    masks = {"a": none, "b": none, "c": some}
    store = stored(tmp_path, *(sample(name, noise(0), mask) for name, mask in masks.items()))
    found = find_duplicates(store, NEAR)
    assert {p.second: p.iou for p in found.pairs} == {"b": 1.0, "c": 0.0}


def test_the_threshold_counts(tmp_path: Path) -> None:
    one, other = noise(0).astype(float), noise(1).astype(float)
    shares = (0.0, 0.1, 0.2, 0.3, 0.5)
    images = [((1 - share) * one + share * other).astype(np.uint8) for share in shares]
    store = stored(tmp_path, *(sample(str(i), image, None) for i, image in enumerate(images)))
    pixels = [standardised(image[..., None]) for image in images]
    for near in (0.1, 0.3, 0.6):
        wanted = {
            (str(i), str(j))
            for i, j in combinations(range(len(images)), 2)
            if difference(pixels[i], pixels[j]) <= near
        }
        pairs = find_duplicates(store, near).pairs
        assert {(pair.first, pair.second) for pair in pairs} == wanted


def test_pairs_hang_together() -> None:
    assert connected([("a", "b"), ("c", "d"), ("b", "e"), ("x", "d"), ("e", "a")]) == [
        ["a", "b", "e"],
        ["c", "d", "x"],
    ]
    chain = [str(i) for i in range(100, 200)]
    assert connected(list(pairwise(chain))[::-1]) == [chain]
    assert connected([]) == []


def test_pairs_across_parts(tmp_path: Path) -> None:
    store = stored(tmp_path, *(sample(name, noise(0), None) for name in "abcd"))
    pairs = find_duplicates(store, NEAR).pairs
    across = torn_pairs(pairs, Split(("a", "b"), ("c",), ()))
    assert [(pair.first, pair.second) for pair in across] == [("a", "c")]  # d is in no part


def test_nerve_frames_as_by_all_pairs(real_data: Path) -> None:
    store = decoded(UltrasoundNerve(str(real_data / "ultrasound_nerve")))
    pixels = [standardised(one.image) for one in store]
    wanted = {
        (store.entries[i].id, store.entries[j].id)
        for i, j in combinations(range(len(store)), 2)
        if difference(pixels[i], pixels[j]) <= NEAR
    }
    found = find_duplicates(store, NEAR)
    assert {(pair.first, pair.second) for pair in found.pairs} == wanted and len(wanted) == 29
    assert found.exact == [] and found.candidates < found.compared / 20
    assert all(a.partition("_")[0] == b.partition("_")[0] for a, b in wanted)  # of one subject
