"""What a network learns and how its output becomes labels again: one class for both directions.

A label map of instance ids is the one truth. A :class:`Target` encodes it for the loss and decodes
the network's output; a new representation is one new class.
"""

from abc import ABC, abstractmethod
from typing import Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.data.images import consecutive, label_components
from segmentation.data.weights import rims, separated, square_filter
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
        gap: Objects that touch are learned as if so many pixels of each were background, so that
            they can come out as two (Ronneberger et al. 2015: the separation border). Scores still
            compare with the objects as they are.

    Raises:
        UserError: A value is out of its range.
    """

    classes = 1

    def __init__(self, threshold: float = 0.5, min_size: int = 0, gap: int = 0) -> None:
        _check(threshold, min_size)
        if gap < 0:
            raise UserError(f"target.gap: {gap} must not be negative")
        self.threshold, self.min_size, self.gap = threshold, min_size, gap

    def encode(self, labels: np.ndarray) -> Tensor:
        """(1, H, W) uint8: 1 where an object is. Losses turn it into float32 on the device."""
        labels = separated(labels, self.gap)
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
    other objects alike. Where an object leaves the image it has no outline. An object too thin for
    the band has as much of it as leaves an interior, or none: every object can be found again.

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
        """(H, W) int64: 0 background, 1 interior, 2 contour; what losses take as classes."""
        if labels.max(initial=0) > labels.size:
            labels = consecutive(labels)
        mask = labels > 0
        interior = np.zeros_like(mask)
        missing = np.bincount(labels.reshape(-1)) > 0  # objects without an interior so far
        missing[0] = False
        # With "outer" only other objects make an outline inside.
        bands = [(radius, self._inside > 0) for radius in range(self._between, 0, -1)]
        for radius, background in (*bands, (1, False), (0, False)):
            whole = mask & missing[labels] & ~rims(labels, radius, background)
            interior |= whole
            missing[labels[whole]] = False
            if not missing.any():
                break
        near = mask.astype(np.uint8)
        if self._outside:
            near = square_filter(near, self._outside, cv2.dilate)
        return torch.from_numpy(np.where(interior, 1, 2 * near.astype(np.int64)))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, in float32 also where the logits are not."""
        return logits.float().softmax(dim=1)

    def foreground(self, probs: Tensor) -> Tensor:
        """The probability of lying in an object: P(interior) and a share of P(contour).

        Taking all of it would enlarge every object by the outer part of its band. The share is 1
        for ``"inner"``; for ``"straddling"`` ½ · (1 + a - b), with a the greatest P(interior) as
        near as the band is wide inside, and b the greatest P(background) as near as it is wide
        outside; for ``"outer"`` it is what lies between two interiors.
        """
        background, interior, contour = probs.unbind(1)
        foreground = interior + contour
        if self._outside > 0:
            near = _highest(interior, self._between)
            if self.position == "outer":
                foreground = torch.minimum(foreground, -_highest(-near, self._between))
            else:
                far = _highest(background, self._outside)
                foreground = interior + contour * (1 + near - far) / 2
        return foreground.clamp(0, 1)  # which rounding may leave by 1e-7

    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(3, H, W) probabilities ► (H, W) int32 ids: interiors, grown over the foreground.

        Each pixel of the foreground goes to the interior that is nearest; that is as good as
        flooding by the contour's probability, and faster. A component of the foreground without
        an interior is an object of its own, so that all of the foreground belongs to objects.
        """
        mask = self.foreground(torch.from_numpy(probs)[None])[0].numpy() > self.threshold
        seeds = mask & (probs[1] > self.threshold)
        whole = label_components(mask)
        seeds |= mask & ~np.isin(whole, whole[seeds])
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
