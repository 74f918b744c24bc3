"""Objects come out whole whatever block they fall into."""

import copy
from collections.abc import Callable

import cv2
import numpy as np
import pytest

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.objects import label_components
from segmentation.predict.label_map import LabelMap, matching_ids, overlapping_blocks
from segmentation.predict.large import Rows
from segmentation.targets import Contour, Distance, Flow, Foreground, Target

Decode = Callable[[np.ndarray], np.ndarray]


def merged(
    probs: np.ndarray, decode: Decode, rows: int, halo: int, min_size: int = 0, band: int = 7
) -> tuple[np.ndarray, np.ndarray]:
    """Labels and areas of (K, H, W) probabilities that arrive in bands."""
    labels = LabelMap(Rows(), halo)  # type: ignore[arg-type]
    bands = (probs[:, top : top + band] for top in range(0, probs.shape[1], band))
    for block, own in overlapping_blocks(bands, probs.shape[1], rows, halo):
        labels.append(decode(block), own)
    labels.finish(min_size)
    return np.concatenate(list(labels)), labels.areas


def assert_same(found: np.ndarray, areas: np.ndarray, wanted: np.ndarray) -> None:
    """One id for one id; areas counted; ids consecutive in the order of the first row."""
    assert found.shape == wanted.shape
    pairs = np.unique(np.stack([found.ravel(), wanted.ravel()]), axis=1)
    assert pairs.shape[1] == len(np.unique(wanted)) == len(np.unique(found))
    assert (found[wanted == 0] == 0).all() and (found[wanted > 0] > 0).all()
    np.testing.assert_array_equal(np.bincount(found.ravel())[1:], areas)
    assert set(np.unique(found)) - {0} == set(range(1, len(areas) + 1))


def spiral(side: int) -> np.ndarray:
    """One winding line that passes every block many times, and its complement in between."""
    mask = np.zeros((side, side), np.uint8)
    turns = np.linspace(0, 12 * np.pi, 4000)
    radius = turns / turns[-1] * (side / 2 - 2)
    points = side / 2 + np.stack([radius * np.cos(turns), radius * np.sin(turns)], axis=1)
    cv2.polylines(mask, [points.astype(np.int32)], False, 1, 1)
    return mask.astype(np.float32)[None]


@pytest.mark.parametrize("seed", range(20))
def test_components_are_those_of_the_whole_image(seed: int) -> None:
    rng = np.random.default_rng(seed)
    shape = rng.integers(1, 60, 2)
    probs = rng.random((1, *shape), np.float32)
    if seed % 2:  # long objects; plain noise is near the percolation threshold at other times
        probs[0] = cv2.GaussianBlur(probs[0], (0, 0), 1 + seed / 20)
    threshold = float(np.clip(np.quantile(probs, rng.uniform(0.2, 0.8)), 0.01, 0.99))
    min_size = int(rng.integers(0, 20))
    decode = Foreground(threshold).decode
    wanted = Foreground(threshold, min_size).decode(probs)
    for rows, halo in ((1, 1), (2, 1), (5, 3), (8, 8), (64, 4)):
        band = int(rng.integers(1, 20))
        assert_same(*merged(probs, decode, rows, halo, min_size, band), wanted)


@pytest.mark.parametrize("turned", [0, 1])
def test_a_spiral_is_one_object_and_so_is_what_it_winds_around(turned: int) -> None:
    line = np.rot90(spiral(101), turned, (1, 2))
    decode = Foreground().decode
    for probs in (line, 1 - line):
        wanted = decode(probs)
        assert_same(*merged(probs, decode, 6, 1), wanted)
    assert len(merged(line, decode, 6, 1)[1]) == 1


@pytest.mark.parametrize("target", [Contour(), Distance(), Flow(), Foreground(seed_distance=4)])
@pytest.mark.parametrize("min_size", [0, 60])
def test_touching_objects_smaller_than_the_halo_are_those_of_the_whole_image(
    target: Target, min_size: int
) -> None:
    _, labels = make_nuclei(np.random.default_rng(3), 300, 200, "fluorescence")
    labels = crowded(labels)
    encoded = target.encode(labels).numpy()
    if encoded.ndim == 2:
        encoded = np.stack([encoded == k for k in range(3)])
    # What a good network would say.
    probs = np.stack([cv2.GaussianBlur(c.astype(np.float32), (0, 0), 0.7) for c in encoded])
    whole = copy.copy(target)
    whole.min_size = min_size
    wanted = whole.decode(probs)
    assert len(np.unique(wanted)) > 1.5 * len(np.unique(label_components(wanted > 0)))
    for rows in (40, 53, 111):
        assert_same(*merged(probs, target.decode, rows, 60, min_size), wanted)


def crowded(labels: np.ndarray) -> np.ndarray:
    """Objects grown until many touch."""
    grown = labels.copy()
    for _ in range(3):
        near = cv2.dilate(grown.astype(np.float32), np.ones((3, 3))).astype(np.int32)
        grown = np.where(grown > 0, grown, near)
    return grown


def test_objects_that_touch_are_matched_by_the_most_they_share() -> None:
    one = np.repeat([[1, 1, 1, 2, 2, 2, 0, 3]], 2, axis=0).astype(np.int32)
    other = np.repeat([[5, 5, 7, 7, 7, 7, 0, 0]], 2, axis=0).astype(np.int32)
    assert sorted(matching_ids(one, other).T.tolist()) == [[1, 5], [2, 7]]
    # Two pieces of foreground: each has its own pair, though all is one object in one of them.
    one, other = (np.array([row], np.int32) for row in ([1, 1, 0, 1, 1], [4, 4, 0, 5, 5]))
    assert sorted(matching_ids(one, other).T.tolist()) == [[1, 4], [1, 5]]
    assert matching_ids(one, np.zeros_like(one)).shape == (2, 0)


@pytest.mark.parametrize("band", [1, 4, 50])
@pytest.mark.parametrize(("rows", "halo"), [(1, 1), (5, 2), (7, 20), (40, 3)])
def test_blocks_cover_every_row_once(band: int, rows: int, halo: int) -> None:
    image = np.arange(2 * 33 * 3).reshape(2, 33, 3)
    bands = (image[:, i : i + band] for i in range(0, 33, band))
    found = list(overlapping_blocks(bands, 33, rows, halo))
    start = 0
    for block, own in found:
        stop = start + own.stop - own.start
        np.testing.assert_array_equal(block[:, own], image[:, start:stop])
        np.testing.assert_array_equal(block, image[:, max(start - halo, 0) : stop + halo])
        start = stop
    assert start == 33 and len(found) == -(-33 // rows)
