"""The synthetic film: cells that touch, move a little, and are seen by their relief alone."""

import cv2
import numpy as np
import pytest

from segmentation.datasets.synthetic_cells import film


def overlap(one: np.ndarray, other: np.ndarray) -> float:
    """Intersection over union of the foregrounds."""
    return float(((one > 0) & (other > 0)).sum() / ((one > 0) | (other > 0)).sum())


def test_film() -> None:
    frames = list(film(np.random.default_rng(0), 10, (96, 120)))
    again = list(film(np.random.default_rng(0), 10, (96, 120)))
    contacts = 0
    for (image, labels), (same, _) in zip(frames, again, strict=True):
        assert image.shape == labels.shape == (96, 120)
        assert image.dtype == np.uint8 and labels.dtype == np.int32
        np.testing.assert_array_equal(image, same)
        assert 0.2 < (labels > 0).mean() < 0.8
        for a, b in ((labels[1:], labels[:-1]), (labels[:, 1:], labels[:, :-1])):
            contacts += int(((a != b) & (a > 0) & (b > 0)).sum())
        # Relief: cells are as bright as the ground, but rougher.
        cells, ground = image[labels > 0].astype(float), image[labels == 0].astype(float)
        assert abs(cells.mean() - ground.mean()) < 8 and cells.std() > 1.3 * ground.std()
    assert contacts > 100
    for seed in range(6):
        for _, labels in film(np.random.default_rng(seed), 8, (48, 64)):
            for label in np.unique(labels)[1:]:
                mask = (labels == label).astype(np.uint8)
                assert mask.sum() >= 20 and cv2.connectedComponents(mask, connectivity=4)[0] == 2
    first, second, last = frames[0][1], frames[1][1], frames[-1][1]
    assert overlap(first, second) > 0.85 and overlap(first, last) < overlap(first, second)
    kept = [overlap(first == n, second == n) for n in np.unique(first)[1:] if (second == n).any()]
    assert np.median(kept) > 0.8  # a cell keeps its id
    with pytest.raises(ValueError, match="at least 32"):
        next(film(np.random.default_rng(0), 1, (31, 64)))
