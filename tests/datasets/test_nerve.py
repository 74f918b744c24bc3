"""Synthetic ultrasound: near-duplicates within a subject, empty frames, a contradiction."""

import cv2
import numpy as np
import pytest

from segmentation.datasets.synthetic_nerve import subject


def test_subject() -> None:
    shown = 0
    for seed in range(4):
        frames = list(subject(np.random.default_rng(seed), 8, (84, 116)))
        again = list(subject(np.random.default_rng(seed), 8, (84, 116)))
        for (image, mask), (same, _) in zip(frames, again, strict=True):
            assert image.shape == mask.shape == (84, 116)
            assert image.dtype == np.uint8 and mask.dtype == np.bool_
            np.testing.assert_array_equal(image, same)
            assert cv2.connectedComponents(mask.astype(np.uint8))[0] <= 2
            assert not mask.any() or 0.01 < mask.mean() < 0.1
        shown += sum(int(mask.any()) for _, mask in frames[2:])
        first, twin = (image.astype(float) for image, _ in frames[:2])
        assert np.abs(first - twin).mean() < 12  # the same picture, a contradicting mask
        assert frames[0][1].any() and not frames[1][1].any()
        other = next(subject(np.random.default_rng(seed + 9), 1, (84, 116)))[0].astype(float)
        assert np.abs(first - other).mean() > 25
    assert 6 <= shown <= 20
    with pytest.raises(ValueError, match="at least 32"):
        next(subject(np.random.default_rng(0), 1, (64, 31)))
