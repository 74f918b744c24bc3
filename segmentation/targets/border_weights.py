"""Weights of pixels in the loss, and the figure that shows them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from scipy import ndimage

from segmentation.errors import UserError
from segmentation.io.files import writing
from segmentation.io.images import read_mask
from segmentation.objects import distance_transform, label_components, renumber

VERSION = 2  # raise when a map gives other values for the same settings
REACH = 5.3  # in σ: beyond it the border term is below w0 · exp(-14), 8e-7 of its height


class WeightMap(ABC):
    """Gives each pixel its weight in the loss."""

    @property
    @abstractmethod
    def key(self) -> str:
        """All that the map depends on beside the labels, for the cache."""

    @abstractmethod
    def __call__(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) integer ids, -1 = not annotated ► (H, W) float32, ≥ 0, and 0 at -1."""


@dataclass(frozen=True)
class BorderWeight(WeightMap):
    """w(x) = w_c(x) + w0 · exp(-(d1 + d2)² / 2σ²) (Ronneberger et al., arXiv:1505.04597, eq. 2).

    d1 and d2 are the distances to the nearest and the second nearest object. As in most
    implementations, the second term is left out inside objects. A value out of its range is a
    :class:`UserError`.

    Args:
        w0: Height of the border term, ≥ 0 (the paper: 10).
        sigma: Its width σ in pixels, > 0 (the paper: about 5).
        balance: w_c evens out foreground and background (see :func:`class_weights`); otherwise
            it is 1.
        gap: As in ``segmentation.targets.Foreground``, and to be the same: objects that touch have
            no background between them that could be weighted.
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
        return f"border {VERSION} {self.w0} {self.sigma} {self.balance} {self.gap}"

    def __call__(self, labels: np.ndarray) -> np.ndarray:
        known = labels >= 0
        ids = separated(np.where(known, labels, 0), self.gap)
        classes, border = self.parts(np.where(known, ids, np.int32(-1)))
        both: np.ndarray = (classes + border) * known
        return both

    def parts(self, labels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """w_c and the border term of labels that were pulled apart already, (H, W) float32 each."""
        classes = class_weights(labels) if self.balance else np.ones(labels.shape, np.float32)
        return classes, border_weights(labels, self.w0, self.sigma)


def class_weights(labels: np.ndarray) -> np.ndarray:
    """Weights that make foreground and background count the same, 1 on average: (H, W) float32.

    Pixels / (2 · pixels of the same class), of those that are annotated (≥ 0); 1 where only one
    class occurs.
    """
    mask = labels > 0
    inside, total = int(mask.sum()), int(np.count_nonzero(labels >= 0))
    if inside in (0, total):
        return np.ones(mask.shape, np.float32)
    return np.where(mask, total / 2 / inside, total / 2 / (total - inside)).astype(np.float32)


def border_weights(labels: np.ndarray, w0: float = 10.0, sigma: float = 5.0) -> np.ndarray:
    """w0 · exp(-(d1 + d2)² / 2σ²) on the background, 0 on objects: (H, W) float32.

    Each object's distance is computed within its bounding box and ``REACH`` · σ around it, where
    alone it counts; that is exact to 1e-6 · w0.
    """
    labels = within_size(np.maximum(labels, 0))
    far = np.float32(1e6)
    nearest, second = (np.full(labels.shape, far, np.float32) for _ in range(2))
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


def within_size(labels: np.ndarray) -> np.ndarray:
    """(H, W) integer ids, renumbered where they exceed the pixels: tables go up to the highest."""
    return renumber(labels) if labels.max(initial=0) > labels.size else labels


def separated(labels: np.ndarray, gap: int) -> np.ndarray:
    """(H, W) integer ids without the pixels of objects as near as ``gap`` to another object."""
    if gap == 0:
        return labels
    return np.where(rims(labels, gap, background=False), 0, labels)


def rims(labels: np.ndarray, radius: int, background: bool) -> np.ndarray:
    """Where objects end: pixels of objects with another one, or also background, near: (H, W) bool.

    Near is in a square of side 2 · ``radius`` + 1. Ids are below 2^24.
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


def weights(
    *, mask: Path, output: Path, w0: float = 10.0, sigma: float = 5.0, gap: int = 0
) -> None:
    """Draw a mask with its class weights, border weights and their sum.

    Args:
        mask: Label map, or a mask of two values whose connected components are the objects.
        output: PNG, SVG or PDF.
        w0: Height of the border weights.
        sigma: Their width in pixels.
        gap: Part objects that touch by so many pixels of each.
    """
    from matplotlib.figure import Figure  # takes a second, and only this needs it

    border = BorderWeight(w0, sigma, gap=gap)
    labels = read_mask(mask)
    if (labels[labels > 0] == labels.max(initial=0)).all():  # one value: not numbered yet
        labels = label_components(labels > 0)
    labels = separated(labels, gap)
    classes, edges = border.parts(labels)
    maps = {
        "mask": (labels > 0).astype(np.float32),
        "class weights": classes,
        f"border weights, w0 {w0:g}, σ {sigma:g}": edges,
        "sum": classes + edges,
    }
    figure = Figure(figsize=(16, 3.6), layout="constrained")
    for axes, (title, values) in zip(figure.subplots(1, 4), maps.items(), strict=True):
        axes.set_title(title)
        axes.set_axis_off()
        figure.colorbar(axes.imshow(values, interpolation="nearest"), ax=axes)
    try:
        with writing(output) as file:
            figure.savefig(file, format=output.suffix[1:].lower())
    except ValueError as error:  # of a format that is unknown
        raise UserError(f"{output}: {error}; use .png") from None
    print(output)
