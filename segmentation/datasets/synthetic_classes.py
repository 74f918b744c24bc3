"""Seeded synthetic images of three kinds of cells, with labels and the class of each.

Kinds differ in size, shape, texture and, on average, in brightness; but the brightness of cells
varies more within a kind than between kinds, and the ground is uneven. So thresholds sort some
cells rightly and many wrongly, and a network that looks at shape and texture does better.
"""

from typing import NamedTuple

import cv2
import numpy as np

from segmentation.datasets.synthetic_nuclei import Range, Rng, Shape, blur, clouds

NAMES = ("round", "long", "large")


class _Kind(NamedTuple):
    """Ranges of the radius in pixels, the aspect and the brightness; spread of the texture."""

    radius: Range
    aspect: Range
    brightness: Range
    texture: float


_KINDS = (
    _Kind((3.5, 7), (1, 1.6), (0.2, 0.7), 0.08),
    _Kind((4.5, 8.5), (1.7, 3.2), (0.15, 0.55), 0.08),
    _Kind((6.5, 11), (1, 1.7), (0.1, 0.45), 0.2),
)
_COVERAGE = 0.2  # of the field by cells
_GAP = 2  # pixels at least between two of one kind: a class map keeps them apart


def cells_of_classes(rng: Rng, shape: Shape) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """One image, (H, W) float32 in [0, 1], its (H, W) int32 labels and (n + 1,) uint8 classes.

    Cells of different kinds may touch. A side under 32 pixels is a ``ValueError``.

    >>> image, labels, classes = cells_of_classes(np.random.default_rng(0), (64, 80))
    >>> image.shape, len(classes) == int(labels.max()) + 1, sorted(set(classes.tolist()))
    ((64, 80), True, [0, 1, 2, 3])
    """
    if min(shape) < 32:
        raise ValueError(f"{shape} pixels: expected at least 32 high and wide")
    labels, classes = np.zeros(shape, np.int32), [0]
    kinds = np.zeros(shape, np.uint8)
    light = np.zeros(shape, np.float32)
    grain = clouds(rng, shape, 2.0)
    for _ in range(600):
        if (labels > 0).mean() > _COVERAGE:
            break
        number = 1 + int(rng.integers(3))
        kind = _KINDS[number - 1]
        spans = (kind.radius, kind.aspect, kind.brightness)
        radius, aspect, brightness = (rng.uniform(low, high) for low, high in spans)
        axes = radius * aspect**0.5, radius / aspect**0.5
        y, x = rng.uniform((0, 0), shape)
        cell = np.zeros(shape, np.uint8)
        box = ((float(x), float(y)), (2 * axes[0], 2 * axes[1]), float(rng.uniform(0, 180)))
        cv2.ellipse(cell, box, 1, -1)
        near = cv2.dilate(cell, np.ones((2 * _GAP + 1, 2 * _GAP + 1), np.uint8)) > 0
        inside = cell > 0
        if inside.sum() < 20 or (labels[inside] > 0).any() or (kinds[near] == number).any():
            continue
        classes.append(number)
        labels[inside], kinds[inside] = len(classes) - 1, number
        light[inside] = brightness * (1 + kind.texture * grain[inside])
    ground = 0.12 + 0.08 * clouds(rng, shape, 40.0)
    image = blur(light, 1.2) + ground + rng.normal(0, 0.05, shape)
    return np.clip(image, 0, 1).astype(np.float32), labels, np.array(classes, np.uint8)
