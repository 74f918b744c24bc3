"""The interface of all targets, and the baseline that all are compared with."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

import cv2
import numpy as np
from torch import Tensor

from segmentation.errors import UserError
from segmentation.objects import clean_objects


class Target(ABC):
    """Pairs encode with decode.

    A value out of its range is a :class:`UserError`.

    Args:
        threshold: A pixel whose foreground probability is greater counts as foreground.
        min_size: Objects of fewer pixels are dropped from the label map.
        fill_holes: Holes within an object are filled in the label map.
    """

    classes: int  # channels of the network's output
    # The arguments that only decoding looks at, each with the values that ``tune`` tries.
    tunable: ClassVar[Mapping[str, Sequence[Any]]] = {
        "threshold": (0.2, 0.3, 0.35, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8),
        "min_size": (0, 5, 10, 15, 20, 30, 40, 60, 80, 120),
        "fill_holes": (False, True),
    }

    def __init__(self, threshold: float = 0.5, min_size: int = 0, fill_holes: bool = False) -> None:
        check_share("threshold", threshold)
        check_natural("min_size", min_size)
        self.threshold, self.min_size, self.fill_holes = threshold, min_size, fill_holes

    @abstractmethod
    def encode(self, labels: np.ndarray) -> Tensor:
        """(H, W) int32 instance ids ► what the loss compares the logits with (no batch axis)."""

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes, H, W) logits ► float32 values in 0…1 of the same shape: a sigmoid."""
        return logits.float().sigmoid()

    def foreground(self, probs: Tensor) -> Tensor:
        """(B, classes, H, W) probabilities ► (B, H, W) of being any object: the first channel."""
        return probs[:, 0]

    @abstractmethod
    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(classes, H, W) float32 probabilities ► (H, W) int32 ids, not yet cleaned."""

    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(classes, H, W) float32 probabilities ► (H, W) int32 ids 1…n, 0 = background."""
        return clean_objects(self.instances(probs), self.min_size, self.fill_holes)


def otsu(gray: np.ndarray) -> np.ndarray:
    """The baseline to beat: Otsu's threshold on an (H, W) uint8 or uint16 image, as bool.

    The side with fewer pixels is foreground, so that dark nuclei on a bright background are found
    as well; a constant image has none.
    """
    method = cv2.THRESH_BINARY + cv2.THRESH_OTSU
    threshold, _ = cv2.threshold(np.ascontiguousarray(gray), 0, 1, method)
    bright = gray > threshold
    return ~bright if bright.mean() > 0.5 else bright


def check_natural(name: str, value: int) -> None:
    """Raise a :class:`UserError` unless a target's argument is 0 or more."""
    if value < 0:
        raise UserError(f"target.{name}: {value} must not be negative")


def check_share(name: str, value: float) -> None:
    """Raise a :class:`UserError` unless a target's argument lies between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"target.{name}: {value} is not between 0 and 1")
