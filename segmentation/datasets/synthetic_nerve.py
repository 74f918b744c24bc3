"""Seeded synthetic ultrasound of a neck: frames of one subject, some of them with a nerve.

Bright layers of fascia, muscle between them, speckle that follows the beam, shadows. The nerve is a
darker oval in a bright sheath, its inside grainier than muscle: a shape among similar ones.
"""

from collections.abc import Iterator

import cv2
import numpy as np

from segmentation.datasets.synthetic_nuclei import Rng, Shape, blur, clouds, main_parts


def subject(
    rng: Rng, frames: int, shape: Shape, empty: float = 0.4
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw the frames of one subject, the probe moved a little: (H, W) uint8 gray and bool mask.

    The second frame is the first one again but for noise, and has no mask: experts contradicted
    themselves in the real data too. Of the later ones a share of ``empty`` shows no nerve. A side
    under 32 pixels is a ``ValueError``.
    """
    if min(shape) < 32:
        raise ValueError(f"a frame must be at least 32 pixels high and wide, got {shape}")
    height = shape[0]
    margin = height // 10  # so far the probe moves
    wide = (height + 2 * margin, shape[1] + 2 * margin)
    tissue, speckle = _tissue(rng, wide), _speckle(rng, wide)
    at = margin + rng.uniform((0.3, 0.3), (0.55, 0.7)) * shape
    sides = rng.uniform((0.11, 0.07), (0.15, 0.11)) * shape
    angle, drift, shown = rng.uniform(-0.5, 0.5), np.zeros(2), True
    bumps = 0.12 * clouds(rng, wide, height / 10)
    for number in range(frames):
        if number != 1:
            drift = 0.8 * drift + rng.normal(0, 0.02 * height, 2)
            shown = number == 0 or rng.random() >= empty
        depth = _oval(wide, at, sides, angle) + bumps
        inside, sheath = np.clip(5 * depth, 0, 1), np.exp(-((depth / 0.1) ** 2))
        echo = tissue * (1 - 0.45 * shown * inside) + 0.15 * shown * sheath
        image = echo * (0.85 * speckle + 0.15 * _speckle(rng, wide))
        gray = np.log1p(8 * image) / np.log(9)  # scanners compress the range
        low = margin + np.clip(np.rint(drift), -margin, margin).astype(int)
        view = (slice(low[0], low[0] + height), slice(low[1], low[1] + shape[1]))
        mask = (depth > 0)[view] & (shown and number != 1)
        yield np.clip(255 * gray[view], 0, 255).astype(np.uint8), main_parts(mask) > 0


def _tissue(rng: Rng, shape: Shape) -> np.ndarray:
    """(H, W): how much of the sound each place sends back, about 0.1 to 1."""
    y = np.arange(shape[0], dtype=np.float32)[:, None]
    tissue = 0.22 + 0.06 * clouds(rng, shape, shape[0] / 6)
    fibres = cv2.GaussianBlur(rng.normal(size=shape), (0, 0), sigmaX=9, sigmaY=1.2)  # of muscle
    tissue = tissue + 0.1 * (fibres / fibres.std())
    for _ in range(rng.integers(5, 9)):
        # A layer: level across the image, gently curved, denser near the skin.
        place = shape[0] * rng.beta(1.2, 2.2)
        curve = place + 0.05 * shape[0] * clouds(rng, shape, shape[1] / 2)[:1]
        strength = np.clip(0.6 + 0.4 * clouds(rng, shape, shape[1] / 8)[:1], 0, None)
        thick = rng.uniform(0.006, 0.016) * shape[0]
        tissue += rng.uniform(0.3, 0.8) * strength * np.exp(-(((y - curve) / thick) ** 2))
    for _ in range(rng.integers(1, 4)):  # vessels and muscles: dark ovals too
        at, sides = rng.uniform((0, 0), shape), rng.uniform((0.05, 0.05), (0.12, 0.2)) * shape
        dark = np.clip(3 * _oval(shape, at, sides, rng.uniform(-0.5, 0.5)), 0, 1)
        tissue *= 1 - rng.uniform(0.3, 0.7) * dark
    shadow = 1 - 0.6 * (y / shape[0]) * (clouds(rng, (1, shape[1]), shape[1] / 6) > 0.8)
    return np.asarray(np.clip(tissue, 0.05, 1.2) * blur(shadow, 4))


def _speckle(rng: Rng, shape: Shape) -> np.ndarray:
    """(H, W): what interference makes of even tissue: mean 1, wider than high, never below 0."""
    sigma = max(0.6, 0.003 * shape[0])
    noise = rng.normal(size=(2, *shape))
    waves = [cv2.GaussianBlur(part, (0, 0), 2 * sigma, sigmaY=sigma) for part in noise]
    size = np.sqrt(np.hypot(*waves))  # scanners average several views: less than Rayleigh's spread
    return np.asarray(size / size.mean())


def _oval(shape: Shape, at: np.ndarray, sides: np.ndarray, angle: float) -> np.ndarray:
    """(H, W): 1 in the middle, 0 at the outline, below 0 outside."""
    y, x = np.ogrid[: shape[0], : shape[1]]
    y, x = y - at[0], x - at[1]
    along = (x * np.cos(angle) + y * np.sin(angle)) / sides[1]
    across = (y * np.cos(angle) - x * np.sin(angle)) / sides[0]
    return np.asarray(1 - np.hypot(along, across))
