"""What a network learns and how its output becomes labels again: one class for both directions.

A label map of instance ids is the one truth. A :class:`Target` encodes it for the loss and decodes
the network's output; a new representation is one new class.
"""

from abc import ABC, abstractmethod

import cv2
import numpy as np
import torch
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
        if not 0 < threshold < 1:
            raise UserError(f"target.threshold: {threshold} is not between 0 and 1")
        if min_size < 0:
            raise UserError(f"target.min_size: {min_size} must not be negative")
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
        labels = label_components(probs[0] > self.threshold)
        if self.min_size > 1:
            small = np.bincount(labels.reshape(-1)) < self.min_size
            labels = consecutive(np.where(small[labels], 0, labels))
        return labels


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
