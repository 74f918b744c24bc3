"""Objects from masks: against scikit-image's own functions and cases that can be counted."""

import itertools

import cv2
import numpy as np
import pytest
from scipy import ndimage

from segmentation.errors import UserError
from segmentation.objects import (
    binary_mask,
    clean_objects,
    count_overlap,
    distance_transform,
    label_objects,
    local_maxima,
    merge_objects,
    renumber,
    watershed_from_seeds,
)


def discs(*places: tuple[int, int, int], size: int = 96) -> np.ndarray:
    rows, columns = np.mgrid[:size, :size]
    labels = np.zeros((size, size), np.int32)
    for i, (y, x, r) in enumerate(places, start=1):
        labels[(rows - y) ** 2 + (columns - x) ** 2 <= r * r] = i
    return labels


def same_partition(one: np.ndarray, other: np.ndarray) -> bool:
    pairs = np.unique(np.stack([one.ravel(), other.ravel()]), axis=1)
    return bool(len(pairs[0]) == len(np.unique(pairs[0])) == len(np.unique(pairs[1])))


def test_components_are_cut_at_the_waist() -> None:
    truth = discs((48, 30, 16), (48, 58, 16), (15, 80, 8))
    mask = truth > 0
    assert label_objects(mask).max() == 2
    cut = label_objects(mask, seed_distance=6)
    assert cut.max() == 3 and ((cut > 0) == mask).all()
    columns = np.nonzero((cut == cut[48, 30]) & (truth > 0))[1]
    assert 43 <= columns.max() <= 45  # the waist of two discs 28 apart lies half-way, at 44


@pytest.mark.parametrize("seed", range(5))
def test_components_number_all_of_the_mask_and_nothing_else(seed: int) -> None:
    noise = ndimage.gaussian_filter(np.random.default_rng(seed).normal(size=(80, 90)), 2)
    mask = noise > 0.02
    for distance in (0, 1, 4, 20):
        labels = label_objects(mask, distance)
        assert labels.dtype == np.int32 and ((labels > 0) == mask).all()
        assert set(np.unique(labels)) == set(range(labels.max() + 1))
    whole = ndimage.label(mask, np.ones((3, 3)))[0]
    assert same_partition(label_objects(mask), whole)
    # Watershed divides components and never joins two.
    pairs = np.unique(np.stack([label_objects(mask, 3)[mask], whole[mask]]), axis=1)
    assert len(pairs[0]) == len(np.unique(pairs[0]))


def test_a_plateau_is_one_peak_and_distance_parts_peaks() -> None:
    height = np.zeros((20, 40), np.float32)
    height[5:8, 5:9] = 1.0  # a plateau
    height[10, 20], height[10, 25] = 1.0, 0.9  # 5 apart
    mask = height > 0
    assert local_maxima(height, 3, mask).max() == 3
    found = local_maxima(height, 5, mask)
    assert found.max() == 2 and found[10, 25] == 0
    assert len(np.unique(found[5:8, 5:9])) == 1


def test_grown_meets_on_the_ridge_and_keeps_what_has_no_seed() -> None:
    mask = np.zeros((9, 40), bool)
    mask[2:7, 2:22] = mask[2:7, 30:38] = True
    seeds = np.zeros(mask.shape, np.int32)
    seeds[4, 4], seeds[4, 20] = 7, 3
    ridge = np.zeros(mask.shape, np.float32)
    ridge[:, 8] = 1.0  # nearer to the left seed: a nearest-seed rule would cut at 12
    labels = watershed_from_seeds(seeds, ridge, mask)
    assert labels.max() == 3 and ((labels > 0) == mask).all()
    assert len({labels[4, 4], labels[4, 7]}) == 1 and labels[4, 9] == labels[4, 20]
    assert labels[4, 34] not in (labels[4, 4], labels[4, 20])
    assert not watershed_from_seeds(np.zeros_like(seeds), ridge, np.zeros_like(mask)).any()


def test_holes_within_one_object_are_filled_others_stay() -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[2:12, 2:12] = 5
    labels[5:7, 5:7] = 0  # a hole
    labels[8, 8] = 0
    labels[20:30, 10:15], labels[20:30, 18:23] = 2, 3
    labels[20:22, 15:18], labels[28:30, 15:18] = 2, 3  # between them: nobody's
    labels[0:5, 30:40] = 4
    labels[0:3, 33:36] = 0  # open to the image's border: no hole
    filled = clean_objects(labels, 0, fill_holes=True)
    assert (filled[2:12, 2:12] == filled[2, 2]).all()
    assert (filled[22:28, 15:18] == 0).all() and (filled[0:3, 33:36] == 0).all()
    assert filled.max() == 4
    for i in (2, 3, 4, 5):  # each against scipy, which fills one mask at a time
        if i in (4, 5):
            wanted = ndimage.binary_fill_holes(labels == i)
            assert ((filled == filled[labels == i][0]) == wanted).all()
    assert (clean_objects(labels, 0, fill_holes=False) > 0).sum() == (labels > 0).sum()


def test_an_object_in_the_hole_of_another_stays_itself() -> None:
    labels = discs((48, 48, 40), (48, 48, 20), (48, 48, 8))
    labels[labels == 2] = 0
    filled = clean_objects(labels, 0, fill_holes=True)
    assert (filled == clean_objects(labels, 0, False)).all()  # the gap borders on two objects


def test_small_objects_are_dropped_after_holes_are_filled() -> None:
    labels = discs((20, 20, 5), (60, 60, 10))
    labels[18:23, 18:23] = 0
    area = int((discs((20, 20, 5)) > 0).sum())
    assert clean_objects(labels, area, fill_holes=True).max() == 2
    assert clean_objects(labels, area, fill_holes=False).max() == 1
    assert clean_objects(labels, area + 1, fill_holes=True).max() == 1
    assert clean_objects(labels, 10**6, fill_holes=True).max() == 0


def test_binary_mask() -> None:
    for values in ([0, 255], [0, 1], [0], [7], [0, 65535]):
        mask = np.resize(np.array(values, np.uint16), (3, 4))
        np.testing.assert_array_equal(binary_mask(mask, "x"), mask > 0)
    with pytest.raises(UserError, match=r"m\.png: .* holds 0, 1, 2; save the mask"):
        binary_mask(np.arange(3, dtype=np.uint8)[None], "m.png")
    with pytest.raises(UserError, match=r"holds 1, 255;"):
        binary_mask(np.array([[1, 255]], np.uint8), "m.png")
    with pytest.raises(UserError, match=r"holds 0, 1, .*, …; .*without smoothing"):
        binary_mask(np.arange(99, dtype=np.uint8)[None], "m.png")


def test_merge_objects() -> None:
    first, second, hidden = (np.zeros((2, 4), np.uint8) for _ in range(3))
    first[:, :2], hidden[1, 3], second[:, 1:] = 255, 255, 255
    labels = merge_objects([("a", first), ("h", hidden), ("b", second)], (2, 4))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [[1, 2, 2, 2]] * 2)  # the hidden one keeps no id
    assert not merge_objects([], (2, 4)).any()
    with pytest.raises(UserError, match=r"b: the mask is 2×4 .* its image is 4×2; export both"):
        merge_objects([("b", first)], (4, 2))


def test_consecutive() -> None:
    for labels, wanted in (
        ([[0, 5, 9]], [[0, 1, 2]]),
        ([[70000, 9]], [[2, 1]]),
        ([[0, 0]], [[0, 0]]),
        ([[1, 2]], [[1, 2]]),
    ):
        done = renumber(np.array(labels))
        assert done.dtype == np.int32
        np.testing.assert_array_equal(done, wanted)


def test_overlap_counts_pixels_that_several_masks_claim() -> None:
    one, two, three = (np.zeros((6, 8), np.uint8) for _ in range(3))
    one[:3], two[2:5], three[2, :4] = 255, 255, 1
    assert count_overlap([("one", one), ("two", two)]) == 8
    assert count_overlap([("one", one), ("two", two), ("three", three)]) == 8  # each pixel once
    assert count_overlap([("one", one)]) == count_overlap([]) == 0


def test_distances_are_exact_wherever_the_array_lies() -> None:
    """OpenCV's own differ in the last bit with threads and alignment."""
    mask = np.random.default_rng(0).random((211, 173)) > 0.0005
    exact = ndimage.distance_transform_edt(mask).astype(np.float32)
    threads = cv2.getNumThreads()
    try:
        for count, offset in itertools.product((1, 2, 3), (0, 1, 3)):
            cv2.setNumThreads(count)
            moved = np.zeros(mask.size + 8, bool)[offset : offset + mask.size].reshape(mask.shape)
            moved[:] = mask
            np.testing.assert_array_equal(distance_transform(moved), exact)
    finally:
        cv2.setNumThreads(threads)


def test_distances_without_an_outside() -> None:
    """The diagonal, which no distance within the image exceeds."""
    assert (distance_transform(np.ones((3, 4), bool)) == 5).all()
    assert not distance_transform(np.zeros((3, 4), bool)).any()
