"""Encode and decode are each other's inverse where that is possible, and say what they lose."""

import cv2
import numpy as np
import pytest
import torch

from segmentation.errors import UserError
from segmentation.targets import Foreground, otsu


def discs(height: int = 40, width: int = 60) -> np.ndarray:
    """Three discs that do not touch, of 5, 49 and 197 pixels or so, ids in reading order."""
    labels = np.zeros((height, width), np.int32)
    for label, (y, x, radius) in enumerate([(5, 8, 1), (8, 30, 4), (25, 20, 8)], start=1):
        cv2.circle(labels, (x, y), radius, label, -1)
    return labels


def probabilities(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 0.9, 0.1).astype(np.float32)[None]


def test_encode() -> None:
    labels = discs()
    labels[labels == 3] = 100_000
    for dtype in (np.int32, np.int64, np.uint32):
        target = Foreground().encode(labels.astype(dtype))
        assert target.shape == (1, 40, 60) and target.dtype == torch.uint8
        np.testing.assert_array_equal(target[0].numpy(), labels > 0)
    assert not Foreground().encode(np.zeros((3, 4), np.int32)).any()


def test_decode_finds_what_was_encoded() -> None:
    labels = discs()
    found = Foreground().decode(probabilities(labels))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    for empty in (np.zeros((1, 5, 6), np.float32), np.full((1, 5, 6), 0.5, np.float32)):
        assert not Foreground().decode(empty).any()
    assert (Foreground().decode(np.ones((1, 5, 6), np.float32)) == 1).all()


def test_threshold_is_exceeded() -> None:
    probs = np.array([[[0.2, 0.0, 0.3, 0.0, 0.31]]], np.float32)
    np.testing.assert_array_equal(
        Foreground(float(np.float32(0.3))).decode(probs), [[0, 0, 0, 0, 1]]
    )
    np.testing.assert_array_equal(Foreground(0.1).decode(probs), [[1, 0, 2, 0, 3]])


@pytest.mark.parametrize("min_size", [0, 1, 5, 6, 49, 50, 10_000])
def test_min_size(min_size: int) -> None:
    labels = discs()
    areas = np.bincount(labels.ravel())[1:]
    kept = [label for label, area in enumerate(areas, start=1) if area >= min_size]
    wanted = np.zeros_like(labels)
    for new, label in enumerate(kept, start=1):
        wanted[labels == label] = new  # numbered without gaps
    found = Foreground(min_size=min_size).decode(probabilities(labels))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


def test_min_size_above_the_background() -> None:
    probs = np.ones((1, 4, 5), np.float32)
    probs[0, 0, 0] = 0  # one pixel of background is no small component
    found = Foreground(min_size=5).decode(probs)
    assert found[0, 0] == 0 and found.sum() == 19


def test_probabilities_and_foreground() -> None:
    logits = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0]).view(1, 1, 1, 5)
    probs = Foreground().probabilities(logits)
    torch.testing.assert_close(probs, 1 / (1 + torch.exp(-logits)))
    assert Foreground().foreground(probs).shape == (1, 1, 5)
    half = Foreground().probabilities(logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, probs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threshold": 0.0}, "threshold: 0.0 is not between 0 and 1"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"min_size": -1}, "min_size: -1 must not be negative"),
    ],
)
def test_bad_settings(settings: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=f"^target\\.{says}"):
        Foreground(**settings)  # type: ignore[arg-type]


def slow_otsu(gray: np.ndarray) -> np.ndarray:
    """Every threshold in turn: the one with the greatest variance between both classes."""
    best, chosen = -1.0, 0
    for threshold in np.unique(gray)[:-1]:
        above = gray > threshold
        share = above.mean()
        variance = share * (1 - share) * (gray[above].mean() - gray[~above].mean()) ** 2
        if variance > best * (1 + 1e-12):
            best, chosen = variance, int(threshold)
    bright = gray > chosen
    return ~bright if bright.mean() > 0.5 else bright


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_otsu(dtype: type) -> None:
    rng = np.random.default_rng(0)
    truth = discs() > 0
    for contrast in (30, 60, 120):
        noisy = rng.normal(60, 12, truth.shape) + contrast * truth
        gray = noisy.clip(0, 255).round().astype(dtype)
        if dtype == np.uint16:
            gray = gray * 16
        np.testing.assert_array_equal(otsu(gray), slow_otsu(gray))
        # Dark objects on a bright background are found as well.
        np.testing.assert_array_equal(otsu(gray.max() - gray), slow_otsu(gray.max() - gray))
    assert (otsu(gray) == truth).mean() > 0.95
    assert (otsu(gray.max() - gray) == truth).mean() > 0.95


@pytest.mark.parametrize("value", [0, 5, 255])
def test_otsu_of_a_constant_image(value: int) -> None:
    found = otsu(np.full((4, 5), value, np.uint8))
    assert found.dtype == bool and not found.any()


def test_otsu_takes_a_view() -> None:
    gray = np.repeat(discs()[..., None] * 80, 3, axis=2).astype(np.uint8)
    np.testing.assert_array_equal(otsu(gray[::2, :, 1]), otsu(gray[::2, :, 1].copy()))
