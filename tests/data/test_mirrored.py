"""Mirrored objects against numbers by hand, and components of each id alone."""

from collections import Counter

import numpy as np
import pytest

from segmentation.data.augment import random_crop
from segmentation.data.examples import TrainWindows
from segmentation.data.mirrored import mirrored_apart
from segmentation.data.sample import Sample
from segmentation.objects import label_components
from segmentation.targets import Flow


def window(labels: np.ndarray, classes: np.ndarray | None = None) -> Sample:
    return Sample("a", np.zeros((*labels.shape, 1), np.uint8), labels, classes=classes)


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.int32])
def test_each_id_is_one_component(dtype: type) -> None:
    rng = np.random.default_rng(0)
    for _ in range(20):
        coarse = rng.integers(-1 if dtype == np.int32 else 0, 4, (6, 7))
        labels: np.ndarray = coarse.repeat(3, 0).repeat(3, 1).astype(dtype)
        classes = np.array([0, 1, 2, 1], np.uint8)
        found = mirrored_apart(window(labels, classes))
        assert found.labels is not None and found.classes is not None
        for value in (0, -1):
            np.testing.assert_array_equal(found.labels == value, labels == value)
        pieces = Counter[int]()
        for one in np.unique(found.labels[found.labels > 0]):
            where = found.labels == one
            assert label_components(where).max() == 1
            (own,) = np.unique(labels[where])
            pieces[int(own)] += 1
            assert found.classes[one] == classes[own]
        for own in np.unique(labels[labels > 0]):
            parts = label_components(labels == own)
            assert pieces[int(own)] == parts.max()
            # The largest keeps its number.
            assert (found.labels == own).sum() == np.bincount(parts.ravel())[1:].max()


def test_nothing_changes_where_nothing_is_repeated() -> None:
    labels = np.array([[1, 1, 0], [0, 0, 2], [-1, 0, -1]], np.int32)
    one = window(labels)
    assert mirrored_apart(one) is one


def test_copies_flow_to_centres_of_their_own() -> None:
    labels = np.zeros((24, 24), np.int32)
    labels[9:14, 9:14] = 1
    image = np.zeros((24, 24, 1), np.uint8)
    rng = np.random.default_rng(0)
    _, cut, _, mirrored = random_crop(image, labels, None, (64, 64), rng)
    apart = mirrored_apart(window(cut)).labels
    assert mirrored and apart is not None
    before, after = (Flow().encode(one)[1:].norm(dim=0) for one in (cut, apart))
    objects = label_components(cut > 0)
    assert objects.max() >= 4
    still = [float(before[objects == n].max()) == 0 for n in range(1, objects.max() + 1)]
    assert sum(still) == objects.max() - 1  # all but one had no flow
    assert all(float(after[objects == n].max()) > 0 for n in range(1, objects.max() + 1))


def test_windows_within_the_image_keep_the_numbers_of_their_objects() -> None:
    """An object in two pieces stays one, though other windows of this image are mirrored."""
    labels = np.zeros((48, 60), np.int32)
    labels[4:20, 4:56] = labels[28:44, 4:56] = 7
    sample = window(labels)
    windows, seen = TrainWindows("none", (32, 32), (0.5, 2.0), seed=0), set[bool]()
    for seed in range(40):
        cut, moved, _, mirrored = random_crop(
            sample.image, labels, None, (32, 32), np.random.default_rng(seed), (0.5, 2.0)
        )
        found = windows.cut(sample, None, np.random.default_rng(seed))
        assert found.labels is not None
        np.testing.assert_array_equal(found.image, cut)
        np.testing.assert_array_equal(found.labels > 0, moved > 0)
        if not mirrored:
            np.testing.assert_array_equal(found.labels, moved)
        elif label_components(moved > 0).max() > 1:
            assert len(np.unique(found.labels)) > 2
        seen.add(mirrored)
    assert seen == {False, True}
