"""What a network learns and how its output becomes labels again: one class for both directions.

A label map of instance ids is the one truth. A :class:`Target` encodes it for the loss and decodes
the network's output; a new representation is one new class.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.data.images import consecutive, label_components
from segmentation.errors import UserError


class Target(ABC):
    """Pairs encode with decode.

    Attributes:
        classes: Channels of the network's output.
        threshold: A pixel whose foreground probability is greater counts as foreground.
    """

    classes: int
    threshold: float

    @abstractmethod
    def encode(self, labels: np.ndarray) -> Tensor:
        """(H, W) int32 instance ids ► what the loss compares the logits with (no batch axis)."""

    @abstractmethod
    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes, H, W) logits ► float32 probabilities of the same shape."""

    @abstractmethod
    def foreground(self, probs: Tensor) -> Tensor:
        """(B, classes, H, W) probabilities ► (B, H, W) probability of being any object."""

    @abstractmethod
    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(classes, H, W) float32 probabilities ► (H, W) int32 instance ids, 0 = background."""


class Foreground(Target):
    """Object or background, one channel. Instances are the connected components.

    Args:
        threshold: A pixel of greater probability is foreground.
        min_size: Components of fewer pixels are dropped from the label map.

    Raises:
        UserError: A value is out of its range.
    """

    classes = 1

    def __init__(self, threshold: float = 0.5, min_size: int = 0) -> None:
        _check(threshold, min_size)
        self.threshold = threshold
        self.min_size = min_size

    def encode(self, labels: np.ndarray) -> Tensor:
        """(1, H, W) uint8: 1 where an object is. Losses turn it into float32 on the device."""
        return torch.from_numpy((labels > 0).astype(np.uint8))[None]

    def probabilities(self, logits: Tensor) -> Tensor:
        """Sigmoid, in float32 also where the logits are not."""
        return logits.float().sigmoid()

    def foreground(self, probs: Tensor) -> Tensor:
        """The one channel itself."""
        return probs[:, 0]

    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(1, H, W) probabilities ► (H, W) int32 ids of the 8-connected components."""
        return _without_small(label_components(probs[0] > self.threshold), self.min_size)


class Contour(Target):
    """Background, interior and contour: three classes, so that touching objects are told apart.

    Every object's outline becomes a band of the third class, against the background and against
    other objects alike. Where an object leaves the image it has no outline.

    Args:
        width: Of the band in pixels, ≥ 1.
        position: ``"straddling"``: half inside the object (the larger half, where ``width`` is
            odd), half outside; ``"inner"``: inside; ``"outer"``: on the background, and half inside
            where another object follows at once, for there is no background between them.
        threshold: A pixel of greater foreground probability is foreground.
        min_size: Objects of fewer pixels are dropped from the label map.

    Raises:
        UserError: A value is out of its range.
    """

    classes = 3

    def __init__(
        self,
        width: int = 2,
        position: Literal["straddling", "inner", "outer"] = "straddling",
        threshold: float = 0.5,
        min_size: int = 0,
    ) -> None:
        if width < 1:
            raise UserError(f"target.width: {width} must be at least 1 pixel")
        if position not in ("straddling", "inner", "outer"):
            raise UserError(f"target.position: {position!r} must be straddling, inner or outer")
        _check(threshold, min_size)
        self.width, self.position = width, position
        self.threshold, self.min_size = threshold, min_size
        half = (width + 1) // 2
        self._inside = {"straddling": half, "inner": width, "outer": 0}[position]
        self._outside = {"straddling": width - half, "inner": 0, "outer": width}[position]
        self._between = half if position == "outer" else self._inside

    def encode(self, labels: np.ndarray) -> Tensor:
        """(H, W) int64: 0 background, 1 interior, 2 contour."""
        classes = (labels > 0).astype(np.uint8)
        ids = labels.astype(np.float32)  # OpenCV's filters do not know 32-bit integers
        highest = _filtered(ids, self._between, cv2.dilate)
        if self._inside:
            edge = _filtered(ids, self._inside, cv2.erode) != highest
        else:
            # Next to another object only: the background counts as nothing.
            objects = np.where(labels > 0, ids, np.float32(np.inf))
            edge = _filtered(objects, self._between, cv2.erode) != highest
        classes[edge & (labels > 0)] = 2
        if self._outside:
            near = _filtered((labels > 0).astype(np.uint8), self._outside, cv2.dilate) > 0
            classes[near & (labels == 0)] = 2
        return torch.from_numpy(classes.astype(np.int64))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, in float32 also where the logits are not."""
        return logits.float().softmax(dim=1)

    def foreground(self, probs: Tensor) -> Tensor:
        """The probability of lying in an object, the part of its contour included.

        Only part of the band lies in the object: as far from a probable interior as the band is
        wide inside; with ``"outer"``, only what lies between two interiors.
        """
        interior, either = probs[:, 1], probs[:, 1] + probs[:, 2]
        near = _highest(interior, self._between)
        if self.position == "outer":
            near = -_highest(-near, self._between)
        return torch.minimum(near, either)

    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(3, H, W) probabilities ► (H, W) int32 ids: interiors, grown over the foreground.

        Each pixel of the foreground goes to the interior that is nearest.
        """
        seeds = probs[1] > self.threshold
        mask = self.foreground(torch.from_numpy(probs)[None])[0].numpy() > self.threshold
        if not seeds.any():
            return np.zeros(mask.shape, np.int32)
        _, nearest = cv2.distanceTransformWithLabels(
            (~seeds).astype(np.uint8), cv2.DIST_L2, 5, labelType=cv2.DIST_LABEL_CCOMP
        )
        labels = np.where(mask, nearest, 0).astype(np.int32)
        return _without_small(consecutive(labels), self.min_size)


def otsu(gray: np.ndarray) -> np.ndarray:
    """The baseline to beat: Otsu's threshold on an (H, W) uint8 or uint16 image, as bool.

    The side with fewer pixels is taken as foreground, so that dark nuclei on a bright background
    are found as well; a constant image has none.
    Otsu, "A threshold selection method from gray-level histograms", 1979.
    """
    method = cv2.THRESH_BINARY + cv2.THRESH_OTSU
    threshold, _ = cv2.threshold(np.ascontiguousarray(gray), 0, 1, method)
    bright = gray > threshold
    return ~bright if bright.mean() > 0.5 else bright


def _check(threshold: float, min_size: int) -> None:
    if not 0 < threshold < 1:
        raise UserError(f"target.threshold: {threshold} is not between 0 and 1")
    if min_size < 0:
        raise UserError(f"target.min_size: {min_size} must not be negative")


def _without_small(labels: np.ndarray, min_size: int) -> np.ndarray:
    if min_size < 2:
        return labels
    small = np.bincount(labels.reshape(-1)) < min_size
    return consecutive(np.where(small[labels], 0, labels))


def _highest(maps: Tensor, radius: int) -> Tensor:
    """(B, H, W) maps ► the greatest value in a square of side 2 · ``radius`` + 1."""
    return F.max_pool2d(maps[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]


def _filtered(image: np.ndarray, radius: int, method: Callable[..., Any]) -> np.ndarray:
    """The greatest or least value in a square of side 2 · ``radius`` + 1, within the image."""
    result: np.ndarray = method(image, np.ones((2 * radius + 1, 2 * radius + 1), np.uint8))
    return result
