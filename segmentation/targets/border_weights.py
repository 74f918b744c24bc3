"""Weights of pixels in the loss, and the figure that shows them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from segmentation.errors import UserError
from segmentation.objects import distance_transform, renumber

VERSION = 2  # raise when a map gives other values for the same settings
REACH = 5.3  # in σ: beyond it the border term is below w0 · exp(-14), 8e-7 of its height


class WeightMap(ABC):
    """Gives each pixel its weight in the loss.

    Attributes:
        key: Says all that the map depends on beside the labels, for the cache.
    """

    @property
    @abstractmethod
    def key(self) -> str: ...

    @abstractmethod
    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) integer ids ► (H, W) float32, ≥ 0."""


@dataclass(frozen=True)
class BorderWeight(WeightMap):
    """w(x) = w_c(x) + w0 · exp(-(d1 + d2)² / 2σ²) (Ronneberger et al., arXiv:1505.04597, eq. 2).

    d1 and d2 are the distances to the nearest and the second nearest object. The second term is
    high where two objects nearly touch and only on background: inside objects it is left out, as
    in most implementations, since there d1 is 0.

    Args:
        w0: Height of the border term, ≥ 0 (the paper: 10).
        sigma: Its width σ in pixels, > 0 (the paper: about 5).
        balance: w_c evens out foreground and background (see :func:`class_weights`); otherwise
            it is 1.
        gap: As in ``segmentation.targets.Foreground``, and to be the same: objects that touch have
            no background between them that could be weighted.

    Raises:
        UserError: A value is out of its range.
    """

    w0: float = 10.0
    sigma: float = 5.0
    balance: bool = True
    gap: int = 0

    def __post_init__(self) -> None:
        if not 0 <= self.w0 < math.inf:
            raise UserError(f"data.weight.w0: {self.w0} must not be negative or infinite")
        if not 0 < self.sigma < math.inf:
            raise UserError(f"data.weight.sigma: {self.sigma} must be positive and finite")
        if self.gap < 0:
            raise UserError(f"data.weight.gap: {self.gap} must not be negative")

    @property
    def key(self) -> str:
        """All that the map depends on beside the labels."""
        return f"border {VERSION} {self.w0} {self.sigma} {self.balance} {self.gap}"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) integer ids ► (H, W) float32."""
        classes, border = self.parts(separated(labels, self.gap))
        both: np.ndarray = classes + border
        return both

    def parts(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w_c and the border term of labels that were pulled apart already, (H, W) float32 each."""
        classes = class_weights(labels) if self.balance else np.ones(labels.shape, np.float32)
        return classes, border_weights(labels, self.w0, self.sigma)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights that make foreground and background count the same, 1 on average.

    Args:
        labels: (H, W) integer ids.

    Returns:
        (H, W) float32: pixels / (2 · pixels of the same class); 1 where only one class occurs.
    """
    mask = labels > 0
    inside = int(mask.sum())
    if inside in (0, mask.size):
        return np.ones(mask.shape, np.float32)
    both = mask.size / 2
    return np.where(mask, both / inside, both / (mask.size - inside)).astype(np.float32)


def border_weights(labels: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """w0 · exp(-(d1 + d2)² / 2σ²) on the background, 0 on objects.

    Each object's distance is computed within its bounding box and ``REACH`` · σ around it, where
    alone it counts; that is exact to 1e-6 · w0.

    Args:
        labels: (H, W) integer ids.
        w0: Height.
        sigma: σ in pixels.

    Returns:
        (H, W) float32; 0 with fewer than two objects.
    """
    if labels.max(initial=0) > labels.size:
        labels = renumber(labels)  # the loop goes through all ids up to the highest
    far = np.float32(1e6)
    nearest = np.full(labels.shape, far, np.float32)
    second = np.full(labels.shape, far, np.float32)
    margin = int(np.ceil(REACH * sigma))
    for number, box in enumerate(ndimage.find_objects(labels), start=1):
        if box is None:
            continue  # a gap in the ids
        window = tuple(slice(max(0, side.start - margin), side.stop + margin) for side in box)
        distance = distance_transform(labels[window] != number)
        d1, d2 = nearest[window], second[window]
        np.minimum(d2, np.maximum(d1, distance), out=d2)
        np.minimum(d1, distance, out=d1)
    total = nearest + second
    # Squares of far distances would only underflow.
    weight = w0 * np.exp(-np.square(np.minimum(total, 40 * sigma) / sigma) / 2)
    return np.where(labels > 0, 0, weight).astype(np.float32)


def separated(labels: np.ndarray, gap: int) -> np.ndarray:
    """(H, W) integer ids without the pixels of objects as near as ``gap`` to another object."""
    if gap == 0:
        return labels
    return np.where(rims(labels, gap, background=False), 0, labels)


def rims(labels: np.ndarray, radius: int, background: bool) -> np.ndarray:
    """Where objects end: pixels of objects with another object, or also background, near them.

    Args:
        labels: (H, W) integer ids, below 2^24.
        radius: A pixel is near in a square of side 2 · ``radius`` + 1.
        background: Whether objects end at the background, too.

    Returns:
        (H, W) bool.
    """
    ids = labels.astype(np.float32)  # OpenCV's filters do not know 32-bit integers
    highest = square_filter(ids, radius, cv2.dilate)
    if not background:
        ids[labels == 0] = np.inf
    edge: np.ndarray = square_filter(ids, radius, cv2.erode) != highest
    return edge & (labels > 0)


def square_filter(image: np.ndarray, radius: int, method: Callable[..., Any]) -> np.ndarray:
    """``cv2.dilate`` or ``erode`` by a square of side 2 · ``radius`` + 1, within the image."""
    result: np.ndarray = method(image, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    return result


def weight_figure(labels: np.ndarray, border: BorderWeight) -> np.ndarray:
    """Mask, class weights, border weights and their sum, side by side with their scales.

    Args:
        labels: (H, W) integer ids.
        border: What to show.

    Returns:
        (H', W', 3) uint8 RGB.
    """
    labels = separated(labels, border.gap)
    classes, edges = border.parts(labels)
    maps = {
        "mask": (labels > 0).astype(np.float32),
        "class weights": classes,
        f"border weights, w0 {border.w0:g}, sigma {border.sigma:g}": edges,
        "sum": classes + edges,
    }
    return np.hstack([_panel(title, values) for title, values in maps.items()])


def _panel(title: str, values: np.ndarray) -> np.ndarray:
    """A coloured map below its title, with a colour bar from its least to its greatest value."""
    low, high = float(values.min()), float(values.max())
    height, width = values.shape
    scaled = np.round((values - low) / max(high - low, 1e-12) * 255).astype(np.uint8)
    bar = np.linspace(255, 0, height).round().astype(np.uint8)[:, None].repeat(12, axis=1)
    picture = np.full((height + 24, width + 80, 3), 255, np.uint8)
    for part, left in ((scaled, 0), (bar, width + 6)):
        colours = cv2.applyColorMap(np.ascontiguousarray(part), cv2.COLORMAP_VIRIDIS)
        picture[24:, left : left + part.shape[1]] = colours[..., ::-1]
    font, ink = cv2.FONT_HERSHEY_SIMPLEX, (0, 0, 0)
    cv2.putText(picture, title, (2, 16), font, 0.4, ink, 1, cv2.LINE_AA)
    for value, row in ((high, 34), (low, height + 22)):
        cv2.putText(picture, f"{value:.3g}", (width + 22, row), font, 0.4, ink, 1, cv2.LINE_AA)
    return picture
