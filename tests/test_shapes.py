"""Shapes of all objects at once against scikit-image's, which takes one after another."""

import cv2
import numpy as np
import pytest
from skimage.measure import regionprops

from segmentation.shapes import convex_areas, eccentricities, perimeters


@pytest.mark.parametrize("seed", range(12))
def test_shapes_are_those_of_scikit_image(seed: int) -> None:
    random = np.random.default_rng(seed)
    height, width = random.integers(1, 70, 2).tolist()
    coarse = random.integers(0, 12, (-(-height // 5), -(-width // 5)), np.uint8)
    grown = cv2.resize(coarse, (width, height), interpolation=cv2.INTER_NEAREST)
    labels = 3 * grown.reshape(height, width).astype(np.int32)  # with gaps between the ids
    labels[random.random(labels.shape) < 0.1 * (seed % 4)] = 0  # with holes, and in pieces
    regions = regionprops(labels)
    objects = [region.label for region in regions]
    assert perimeters(labels)[objects] == pytest.approx([r.perimeter for r in regions], abs=1e-9)
    assert convex_areas(labels)[objects].tolist() == [r.area_convex for r in regions]
    rows, columns = np.nonzero(labels)
    found = eccentricities(np.searchsorted(objects, labels[rows, columns]), rows, columns)
    assert found == pytest.approx([r.eccentricity for r in regions], abs=1e-6)


def test_without_objects() -> None:
    empty, nothing = np.zeros((3, 4), np.int32), np.zeros(0, np.int64)
    assert convex_areas(empty).tolist() == [0] and perimeters(empty).tolist() == [0]
    assert eccentricities(nothing, nothing, nothing).tolist() == []
