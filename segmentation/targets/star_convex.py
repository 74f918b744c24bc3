"""Star-convex polygons: how far each pixel of an object is from its outline, in many directions."""

from typing import Any, ClassVar, Self

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.errors import UserError
from segmentation.losses.star_convex import as_distances
from segmentation.objects import label_components, watershed_from_seeds
from segmentation.targets.base import Target, check_natural, check_share
from segmentation.targets.border_weights import within_size
from segmentation.targets.distance import relative_distance, wholly_annotated


class StarConvex(Target):
    """Foreground, centre probability and ``rays`` radial distances (Schmidt et al., MICCAI 2018).

    Each summit of the centre probability proposes a polygon; the most central ones are kept and
    suppress those that overlap with them (non-maximum suppression). Unlike in StarDist there is a
    channel for the foreground, which sharpens the outlines.

    Args:
        rays: Number of directions, a multiple of 4 up to 256.
        grid: Distances are learned at every pixel of objects (1), or at every fifth (2), which
            costs a fifth of the time and takes pixels of all rows and columns.
        centre: A summit of greater centre probability proposes a polygon.
        overlap: Of two polygons that share more than this part of the smaller one, one is dropped.
        smooth: The centre probability is smoothed by a Gaussian of so many pixels (σ) before its
            summits are looked for: what a network answers has several in an object. 0 does not.
        to_foreground: The pixels of the foreground are divided among the polygons, by watershed;
            otherwise the objects are the polygons as they are.

    >>> StarConvex(rays=4, grid=1).encode(np.int32([[0, 1, 1, 1, 0]]))[2:, 0, 2].tolist()
    [1.5, 0.5, 1.5, 0.5]
    """

    lengths = ("smooth",)
    in_pixels = True
    tunable: ClassVar[dict[str, Any]] = {
        **Target.tunable,
        "centre": (0.1, 0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.7, 0.8),
        "overlap": (0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7),
        "smooth": (0, 1, 2, 3, 4, 6),
        "to_foreground": (False, True),
    }

    def __init__(
        self,
        rays: int = 32,
        grid: int = 2,
        threshold: float = 0.5,
        min_size: int = 0,
        fill_holes: bool = False,
        centre: float = 0.4,
        overlap: float = 0.3,
        smooth: int = 2,
        to_foreground: bool = True,
    ) -> None:
        super().__init__(threshold, min_size, fill_holes)
        if not 4 <= rays <= 256 or rays % 4:
            raise UserError(f"target.rays: {rays} must be a multiple of 4, 4 to 256")
        if grid not in (1, 2):
            raise UserError(f"target.grid: {grid} must be 1 or 2")
        check_share("centre", centre)
        check_share("overlap", overlap)
        self.rays, self.grid, self.centre, self.overlap = rays, grid, centre, overlap
        check_natural("smooth", smooth)
        self.smooth, self.to_foreground, self.classes = smooth, to_foreground, 2 + rays
        self._scale = 1.0  # of the network's pixels

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("foreground", "centre", *(f"distance_{i}" for i in range(self.rays)))

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(2 + rays, H, W) float32: foreground, centre probability, distances in pixels.

        The centre probability is the distance to where an object ends over its greatest. Distances
        are 0 where they are not learned.
        """
        labels = within_size(labels)
        encoded = np.zeros((self.classes, *labels.shape), np.float32)
        encoded[0], encoded[1] = labels > 0, relative_distance(labels)
        star_distances(labels, encoded[2:], self.grid)
        return torch.from_numpy(encoded)

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """What is annotated, but objects beside what is not: nobody knows where they end."""
        return wholly_annotated(labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Foreground and centre in 0…1, distances in pixels of the network; all float32."""
        logits = logits.float()
        return torch.cat([logits[:, :2].sigmoid(), as_distances(logits[:, 2:])], dim=1)

    def turned_back(self, probs: Tensor, turns: int, mirrored: bool) -> Tensor:
        """Rays have directions, which turn with the image."""
        numbers = torch.arange(self.rays, device=probs.device)
        # rot90 takes x to the top: a ray that had the number k has k - rays / 4 then.
        numbers = (numbers - turns * self.rays // 4) % self.rays
        if mirrored:  # x to -x
            numbers = numbers[(self.rays // 2 - torch.arange(self.rays)) % self.rays]
        return torch.cat([probs[:, :2], probs[:, 2:][:, numbers]], dim=1)

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(2 + rays, H, W) ► (H, W) int32 ids: polygons, and the foreground around them."""
        centre = cv2.GaussianBlur(probs[1], (0, 0), self.smooth) if self.smooth else probs[1]
        summits = summit_plateaus(centre, self.centre)
        rows, columns = np.nonzero(summits)
        distances = probs[2:, rows, columns].T / self._scale
        # Of a plateau, what lies deepest within.
        order = np.lexsort((-distances.min(axis=1, initial=np.inf), -centre[rows, columns]))
        centres = np.stack([rows, columns], axis=1)[order]
        polygons = drawn(centres, distances[order], summits, self.overlap)
        if not self.to_foreground:
            return polygons
        mask = probs[0] > self.threshold
        return watershed_from_seeds(np.where(mask, polygons, 0), -centre, mask)

    def at_scale(self, scale: float) -> Self:
        other = super().at_scale(scale)
        if other is not self:
            other._scale = self._scale * scale
        return other


def directions(rays: int) -> np.ndarray:
    """(rays, 2) float32 unit vectors (row, column): from the right, over the bottom, around."""
    angles = np.arange(rays, dtype=np.float32) * np.float32(2 * np.pi / rays)
    return np.stack([np.sin(angles), np.cos(angles)], axis=1)


def star_distances(labels: np.ndarray, out: np.ndarray, grid: int = 1) -> np.ndarray:
    """How far each pixel of an object is from where it ends, in steps of one pixel.

    With StarDist's correction of the last step (Schmidt et al. 2018). ``labels`` are (H, W) integer
    ids; the distances are put into ``out``, (rays, H, W) float32, whose other pixels stay. ``grid``
    is 1, or 2: at every fifth pixel alone.

    >>> star_distances(np.int32([[0, 1, 1, 1, 0]]), np.zeros((4, 1, 5), np.float32))[:, 0, 1]
    array([2.5, 0.5, 0.5, 0.5], dtype=float32)
    """
    height, width = labels.shape
    starts = labels > 0
    if grid == 2:  # a knight's move apart: as many in even rows and columns as in odd ones
        starts &= (2 * np.arange(height)[:, None] + np.arange(width)) % 5 == 0
    flat = np.pad(labels, 1, constant_values=-1).reshape(-1)  # a ray does not jump over the rim
    places, inside = np.flatnonzero(starts), np.flatnonzero(np.pad(starts, 1))
    values, ends = flat[inside], np.empty(flat.size, np.float32)
    counts = np.arange(1, height + width + 2, dtype=np.float32)
    for ray, step in zip(out.reshape(len(out), -1), directions(len(out)), strict=True):
        offsets = np.rint(counts[:, None] * step).astype(int) @ (width + 2, 1)
        beyond = 1 - 0.5 / np.abs(step).max()
        alive, value = inside, values
        for count, offset in enumerate(offsets.tolist(), start=1):
            same = flat.take(alive + offset) == value
            if not same.all():
                ends[alive[~same]] = count - beyond
                kept = np.flatnonzero(same)
                alive, value = alive.take(kept), value.take(kept)
                if not len(kept):
                    break
        ray[places] = ends[inside]
    return out


def summit_plateaus(height: np.ndarray, least: float) -> np.ndarray:
    """Number (int32) the plateaus that nothing within two pixels is higher than, if > ``least``.

    >>> summit_plateaus(np.float32([[0.2, 0.9, 0.9, 0.3, 0, 0.1, 0]]), 0.15).tolist()
    [[0, 1, 1, 0, 0, 0, 0]]
    """
    highest = cv2.dilate(height, np.ones((5, 5), np.uint8))
    return label_components((height >= highest) & (height > least))


def drawn(
    centres: np.ndarray, distances: np.ndarray, plateaus: np.ndarray, overlap: float
) -> np.ndarray:
    """Polygons, the best ones first, that do not overlap: (H, W) int32 ids in this order.

    A polygon is left out if it shares more than ``overlap`` of the smaller one's pixels with one
    before it, or if its centre lies in one before it from the same plateau. Where polygons overlap
    less the first one stays on top. Given are (n, 2) rows and columns of the centres, integers, (n,
    rays) distances in pixels, and the (H, W) ids of the plateaus that the centres lie on.

    >>> drawn(np.array([[1, 1]]), np.full((1, 4), 1.0), np.eye(3), 0.5).tolist()
    [[0, 1, 0], [1, 1, 1], [0, 1, 0]]
    """
    labels, waiting = np.zeros(plateaus.shape, np.int32), plateaus.copy()
    areas = np.zeros(len(centres) + 1)
    count = 0
    distances = distances.clip(1e-3, max(plateaus.shape))
    corners = distances[..., None] * directions(distances.shape[1])
    first = np.maximum(np.ceil(centres + corners.min(axis=1)).astype(int), 0)
    last = np.minimum(np.floor(centres + corners.max(axis=1)).astype(int) + 1, plateaus.shape)
    reach = int(distances.max(initial=0)) + 1
    sector, before, after = sectors(distances.shape[1], reach)
    near = 1 / np.append(distances, distances[:, :1], axis=1).astype(np.float32)
    for number, (row, column) in enumerate(centres.tolist()):
        if (plateau := waiting[row, column]) == 0:
            continue
        (top, left), (bottom, right) = first[number].tolist(), last[number].tolist()
        box = slice(top, bottom), slice(left, right)
        around = (
            slice(top - row + reach, bottom - row + reach),
            slice(left - column + reach, right - column + reach),
        )
        ray, inverse = sector[around], near[number]
        inside = before[around] * inverse[ray] + after[around] * inverse[1:][ray] <= 1 + 1e-5
        under = np.bincount(labels[box][inside])
        area, under[0] = under.sum(), 0
        others = np.flatnonzero(under)
        if (under[others] > overlap * np.minimum(area, areas[others])).any():
            continue
        count += 1
        areas[count] = area
        waiting[box][inside & (waiting[box] == plateau)] = 0
        labels[box][inside & (labels[box] == 0)] = count
    return labels


def sectors(rays: int, reach: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Pixels around a centre between rays: three arrays of side 2 · ``reach`` + 1.

    The number (uint8) of the ray before a pixel, and the coordinates a, b (float32) along this ray
    and the next one. The pixel lies within a polygon if a / distance + b / next distance ≤ 1.
    """
    side = np.arange(-reach, reach + 1, dtype=np.float32)
    turn = np.arctan2(side[:, None], side) * np.float32(rays / 2 / np.pi) % rays
    number = np.minimum(turn.astype(np.int32), rays - 1)
    angle, part = np.float32(2 * np.pi / rays), turn - number
    radius = np.hypot(side[:, None], side) / np.sin(angle)
    before, after = radius * np.sin((1 - part) * angle), radius * np.sin(part * angle)
    return number.astype(np.uint8), before, after
