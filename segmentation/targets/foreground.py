"""Object or background."""

from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.objects import label_objects
from segmentation.targets.base import Target, check_natural
from segmentation.targets.border_weights import separated, square_filter


class Foreground(Target):
    """Object or background, one channel. Instances are the connected components, cut at waists.

    Args:
        seed_distance: Components are cut by watershed on the distance to the background, seeds
            being at least so many pixels apart; 0 leaves them whole.
        gap: Objects that touch are learned as if so many pixels of each were background, so that
            they can come out as two (Ronneberger et al. 2015: the separation border). Scores still
            compare with the objects as they are.

    >>> target = Foreground()
    >>> target.encode(np.int32([[1, 1, 0, 2]])).tolist()
    [[[1, 1, 0, 1]]]
    >>> target.instances(np.float32([[[0.9, 0.8, 0.1, 0.7]]])).tolist()
    [[1, 1, 0, 2]]
    """

    classes = 1
    monitor = "val/iou"  # it learns pixels
    lengths = ("seed_distance",)
    tunable: ClassVar[dict[str, Any]] = {
        **Target.tunable,
        "seed_distance": (0, 2, 3, 4, 5, 6, 8, 10, 13, 17),
    }

    def __init__(
        self,
        threshold: float = 0.5,
        min_size: int = 0,
        fill_holes: bool = False,
        seed_distance: int = 0,
        gap: int = 0,
    ) -> None:
        super().__init__(threshold, min_size, fill_holes)
        check_natural("seed_distance", seed_distance)
        check_natural("gap", gap)
        self.seed_distance, self.gap = seed_distance, gap

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(1, H, W) uint8: 1 where an object is. Losses turn it into float32 on the device."""
        return torch.from_numpy((separated(labels, self.gap) > 0).view(np.uint8))[None]

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """What is annotated; with a ``gap`` no object's pixels so near to what is not."""
        known = labels >= 0
        if self.gap:
            near = square_filter((~known).astype(np.uint8), self.gap, cv2.dilate) > 0
            known &= ~((labels > 0) & near)
        return known

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(1, H, W) probabilities ► (H, W) int32 ids of the components, cut at waists."""
        return label_objects(probs[0] > self.threshold, self.seed_distance)
