"""Measures of single samples, against plain definitions."""

import numpy as np
import pytest

from segmentation.evaluation.audit import samples
from tests.evaluation.audit.listed import block, noise, sample

RING = np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]])


def components(mask: np.ndarray, diagonal: bool) -> int:
    """Flood fill, one pixel after another."""
    steps = [(dy, dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1) if diagonal or 0 in (dy, dx)]
    left, count = set(zip(*map(np.ndarray.tolist, np.nonzero(mask)), strict=True)), 0
    while left:
        count, waiting = count + 1, [left.pop()]
        while waiting:
            y, x = waiting.pop()
            near = {(y + dy, x + dx) for dy, dx in steps} & left
            left -= near
            waiting += near
    return count


@pytest.mark.parametrize("density", [0.3, 0.5, 0.7, 0.9])
def test_parts_and_holes_of_random_masks(density: float) -> None:
    for seed in range(20):
        mask = np.random.default_rng(seed).random((12, 15)) < density
        outside = np.pad(~mask, 1, constant_values=True)
        wanted = components(mask, True), components(outside, False) - 1
        assert samples.parts_and_holes(mask) == wanted


def test_no_object_has_neither_parts_nor_holes() -> None:
    assert samples.parts_and_holes(np.zeros((3, 4), bool)) == (0, 0)
    assert samples.parts_and_holes(np.ones((3, 4), bool)) == (1, 0)


def test_odd_objects() -> None:
    labels = np.zeros((20, 30), np.uint8)
    labels[2:5, 2:5] = RING
    labels[3, 3] = 2  # an object in the hole of another
    labels[0, 10:20] = 3
    labels[10:12, 10:12] = labels[15:18, 20:24] = 4
    areas, cut, flaws = samples.examine_labels(labels, small=8)
    assert areas == [8, 1, 10, 16] and cut == 1
    assert flaws == [
        samples.Flaw("holes", 1, 1, 3, 3),
        samples.Flaw("small", 1, 2, 3, 3),
        samples.Flaw("parts", 2, 4, 16, 13),
    ]


@pytest.mark.parametrize("corner", [(0, 9), (9, 0), (42, 20), (20, 60)])
def test_objects_at_each_border_are_cut(corner: tuple[int, int]) -> None:
    areas, cut, _ = samples.examine_labels(block(*corner, 6, 4), small=0)
    assert cut == 1 and areas == [24]
    assert samples.examine_labels(block(1, 1, 46, 62), small=0)[1] == 0


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_pixels(dtype: type) -> None:
    image = noise(0, (40, 50, 3)).astype(dtype)
    image[:20, :25, 0] = np.iinfo(dtype).max
    facts = samples.examine(sample("a", image, block(1, 1, 4, 5, (40, 50)), "g"), small=10)
    assert (facts.id, facts.group) == ("a", "g")
    assert (facts.height, facts.width, facts.channels) == (40, 50, 3)
    assert facts.dtype == np.dtype(dtype).name
    assert facts.mean == pytest.approx(image.mean(), abs=0.01)
    wanted = [np.percentile(image, q, method="inverted_cdf") for q in (0.5, 50, 99.5)]
    assert [facts.low, facts.median, facts.high] == pytest.approx(wanted, abs=1)
    assert facts.saturated == pytest.approx(1 / 12, abs=1e-6)
    assert (facts.objects, facts.areas, facts.foreground) == (1, (20,), 0.01)


def test_shares_are_of_annotated_pixels() -> None:
    labels = np.zeros((10, 10), np.int32)
    labels[:, 5:] = -1
    labels[2, 2], labels[4:6, 4] = 1, 2  # both are small, but the second may go on
    areas, _, flaws = samples.examine_labels(labels, small=4)
    assert areas == [1, 2] and [flaw.object for flaw in flaws] == [1]
    facts = samples.examine(sample("a", np.zeros((10, 10, 1), np.uint8), labels), small=4)
    assert facts.unannotated == 50 and facts.foreground == 3 / 50
    shares = samples.distributions([facts])["quantiles"]["share of an image not annotated"]
    assert set(shares.values()) == {0.5}


def test_without_truth_nothing_is_said_of_objects() -> None:
    facts = samples.examine(sample("a", noise(0), None), small=10)
    assert facts.objects is facts.foreground is facts.cut is None
    assert facts.areas == facts.flaws == ()
    empty = samples.examine(sample("a", noise(0), np.zeros((48, 64))), small=10)
    assert (empty.objects, empty.foreground, empty.cut) == (0, 0.0, 0)
