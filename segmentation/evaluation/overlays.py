"""Pictures of a prediction's errors."""

from collections.abc import Sequence

import numpy as np

# System E's colours, RGB: true positive purple, false negative yellow, false positive green.
TRUE_POSITIVE = (160, 32, 240)
FALSE_NEGATIVE = (255, 225, 25)
FALSE_POSITIVE = (0, 200, 0)


def error_overlay(
    image: np.ndarray, predicted: np.ndarray, truth: np.ndarray, opacity: float = 0.5
) -> np.ndarray:
    """The image, and beside it the image under the three colours of hits and errors.

    Args:
        image: (H, W, C) uint8, C in {1, 3}, RGB.
        predicted: (H, W) bool.
        truth: (H, W) bool.
        opacity: Of the colours, 0 to 1.

    Returns:
        (H, 2 W + 4, 3) uint8, RGB; a white bar of 4 pixels between the two.
    """
    rgb = np.repeat(image, 3, axis=2) if image.shape[2] == 1 else image
    bar = np.full((len(rgb), 4, 3), 255, np.uint8)
    return np.hstack([rgb, bar, tint(rgb, predicted, truth, opacity)])


def tint(rgb: np.ndarray, predicted: np.ndarray, truth: np.ndarray, opacity: float) -> np.ndarray:
    """Colour true positives, false negatives and false positives.

    Args:
        rgb: (H, W, 3) uint8.
        predicted: (H, W) bool.
        truth: (H, W) bool.
        opacity: Of the colours, 0 to 1.

    Returns:
        (H, W, 3) uint8; true negatives are left as they are.
    """
    colours = np.zeros((2, 2, 3), np.float32)  # [truth, predicted]
    colours[1, 1], colours[1, 0], colours[0, 1] = TRUE_POSITIVE, FALSE_NEGATIVE, FALSE_POSITIVE
    wanted = colours[truth.astype(np.intp), predicted.astype(np.intp)]
    alpha = opacity * (truth | predicted)[..., None]
    tinted: np.ndarray = (rgb * (1 - alpha) + wanted * alpha).round().astype(np.uint8)
    return tinted


def on_one_size(images: Sequence[np.ndarray]) -> list[np.ndarray]:
    """Put images on white canvases as high and wide as the highest and the widest.

    Args:
        images: (H, W, 3) uint8 each, of any sizes.
    """
    height, width = (max(image.shape[axis] for image in images) for axis in (0, 1))
    gaps = [(height - image.shape[0], width - image.shape[1]) for image in images]
    return [
        np.pad(image, ((0, below), (0, right), (0, 0)), constant_values=255)
        for image, (below, right) in zip(images, gaps, strict=True)
    ]
