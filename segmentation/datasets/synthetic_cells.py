"""A seeded synthetic film of living cells in differential interference contrast, with labels.

Such an image shows the slope of the cells' thickness in one direction: cells are no brighter than
the ground, one edge is bright and the opposite one dark. Cells touch, move and change their shape
slowly, so neighbouring frames show the same cells in nearly the same places.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import cv2
import numpy as np

from segmentation.datasets.synthetic_nuclei import Rng, Shape, blur, clouds, main_parts

_COVERAGE = 0.5  # of the field by cells
_ORDERS = (2, 3, 4)  # of the waves that deform an outline


@dataclass
class _Cell:
    """Place and speed as (y, x) in pixels, angles in radians, the rest in units of its radius."""

    at: np.ndarray
    speed: np.ndarray
    angle: float
    radius: float
    aspect: float
    waves: np.ndarray  # (2, 3) cosine and sine amplitudes of the orders
    height: float
    grain: np.ndarray  # (64, 64) texture that moves with it

    def move(self, rng: Rng, others: list["_Cell"], shape: Shape) -> None:
        """One time step: inertia, a little push away from others and back into the field."""
        push = np.zeros(2)
        for other in others:
            if other is not self:
                step = self.at - other.at
                gap = float(np.hypot(*step)) + 1e-6
                push += step / gap * max(0.0, 0.85 * (self.radius + other.radius) - gap)
        self.speed = 0.8 * self.speed + rng.normal(0, 0.02 * self.radius, 2)
        self.at = np.clip(self.at + self.speed + 0.15 * push, 0, shape)
        self.angle += rng.normal(0, 0.03)
        self.waves = 0.97 * self.waves + rng.normal(0, 0.012, self.waves.shape)

    def draw(self, shape: Shape) -> tuple[tuple[slice, slice], np.ndarray, np.ndarray]:
        """Its box, and there its depth (1 in the middle, < 0 outside) and thickness in pixels."""
        reach = 1.6 * self.radius * self.aspect**0.5
        low = np.maximum(self.at - reach, 0).astype(int)
        high = np.minimum(self.at + reach + 1, shape).astype(int)
        y, x = np.ogrid[low[0] : high[0], low[1] : high[1]]
        y, x = ((axis - at).astype(np.float32) for axis, at in zip((y, x), self.at, strict=True))
        cos, sin = float(np.cos(self.angle)), float(np.sin(self.angle))
        along = (x * cos + y * sin) / (self.radius * self.aspect**0.5)
        across = (y * cos - x * sin) / (self.radius / self.aspect**0.5)
        turn, limit = np.arctan2(across, along), np.ones_like(along)
        for order, cosine, sine in zip(_ORDERS, *self.waves.tolist(), strict=True):
            limit += cosine * np.cos(order * turn) + sine * np.sin(order * turn)
        depth = 1 - np.hypot(along, across) / np.clip(limit, 0.5, 1.5)
        u, v = (31.5 * (1 + part / 1.6) for part in (along, across))
        grain = cv2.remap(self.grain, u, v, cv2.INTER_LINEAR, borderMode=cv2.BORDER_REFLECT)
        # Flat with steep flanks, as cells that grow on glass.
        dome = np.sqrt(np.clip(2 * depth, 0, 1)) * (1 + 0.12 * grain)
        box = (slice(low[0], high[0]), slice(low[1], high[1]))
        return box, depth, self.height * self.radius * dome


def film(rng: Rng, frames: int, shape: Shape) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Draw a film frame by frame: (H, W) uint8 gray and (H, W) int32 labels.

    A cell keeps its id, and is one 4-connected region. A side under 32 pixels: ``ValueError``.
    """
    if min(shape) < 32:
        raise ValueError(f"a film must be at least 32 pixels high and wide, got {shape}")
    cells = _scatter_cells(rng, shape)
    for time in range(-30, frames):  # apart, before the film begins
        if time == 0:
            uneven = 1.5 * clouds(rng, shape, max(shape) / 2)
        for cell in cells:
            cell.move(rng, cells, shape)
        if time < 0:
            continue
        labels, deepest = np.zeros(shape, np.int32), np.zeros(shape, np.float32)
        thickness = np.zeros(shape, np.float32)
        for number, cell in enumerate(cells, start=1):
            box, depth, height = cell.draw(shape)
            here = depth > deepest[box]
            labels[box][here] = number
            deepest[box][here] = depth[here]
            thickness[box][here] = height[here]
        slope = blur(thickness, 1.2)
        relief = slope - np.roll(slope, (2, 2), axis=(0, 1))
        relief[:2], relief[:, :2] = 0, 0
        image = 119 + uneven + 4 * relief + blur(rng.normal(0, 5, shape), 0.8)
        labels[main_parts(labels) == 0] = 0
        yield np.clip(np.rint(image), 0, 255).astype(np.uint8), labels


def _scatter_cells(rng: Rng, shape: Shape) -> list[_Cell]:
    typical = 0.11 * float(np.sqrt(shape[0] * shape[1]))
    cells = []
    for _ in range(max(3, round(_COVERAGE * shape[0] * shape[1] / (np.pi * typical**2)))):
        radius = typical * float(np.exp(rng.normal(0, 0.15)))
        waves = rng.normal(0, 0.05, (2, len(_ORDERS)))
        speed, angle = rng.normal(0, 0.04 * radius, 2), float(rng.uniform(0, np.pi))
        # Some are round and high: about to divide.
        high, flat = (1.6, 1.0), rng.uniform((0.4, 1.1), (0.8, 2.0)).tolist()
        height, aspect = high if rng.random() < 0.1 else flat
        grain = clouds(rng, (64, 64), 3) + clouds(rng, (64, 64), 8)
        at = rng.uniform((0, 0), shape)
        cells.append(_Cell(at, speed, angle, radius, aspect, waves, height, grain))
    return cells
