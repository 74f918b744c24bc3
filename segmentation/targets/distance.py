"""Foreground, and how deep inside its object a pixel lies."""

from typing import Any, ClassVar

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.objects import distance_transform, label_components, watershed_from_seeds
from segmentation.targets.base import Target, check_share
from segmentation.targets.border_weights import rims, square_filter, within_size


class Distance(Target):
    """Two channels: foreground, and the distance to the object's outline over its greatest value.

    Small and large objects alike have one summit of 1, so that one threshold finds one seed in
    each; the watershed of the distance then divides the foreground (as Naylor et al., IEEE TMI
    2019, with distances relative to the object).

    Args:
        seed: A pixel whose relative distance is greater belongs to an object's seed.

    >>> Distance().encode(np.int32([[0, 1, 1, 1, 0]]))[1].tolist()
    [[0.0, 0.6000000238418579, 1.0, 0.6000000238418579, 0.0]]
    """

    classes = 2
    tunable: ClassVar[dict[str, Any]] = {
        **Target.tunable,
        "seed": (0.3, 0.4, 0.45, 0.5, 0.55, 0.6, 0.65, 0.7, 0.8),
    }

    def __init__(
        self, threshold: float = 0.5, min_size: int = 0, fill_holes: bool = False, seed: float = 0.5
    ) -> None:
        super().__init__(threshold, min_size, fill_holes)
        check_share("seed", seed)
        self.seed = seed

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("foreground", "relative_distance")

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(2, H, W) float32 in 0…1: foreground and relative distance."""
        depth = relative_distance(labels)
        return torch.from_numpy(np.stack([(labels > 0).astype(np.float32), depth]))

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """What is annotated, but objects beside what is not: nobody knows where they end."""
        return wholly_annotated(labels)

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(2, H, W) probabilities ► (H, W) int32 ids: summits, flooded over the foreground."""
        mask = probs[0] > self.threshold
        seeds = label_components(mask & (probs[1] > self.seed))
        return watershed_from_seeds(seeds, -probs[1], mask)


def wholly_annotated(labels: np.ndarray) -> np.ndarray:
    """(H, W) ids, -1 = not annotated ► bool: what is annotated, but objects beside what is not."""
    near = square_filter((labels < 0).astype(np.uint8), 1, cv2.dilate) > 0
    return (labels >= 0) & ~((labels > 0) & np.isin(labels, labels[near]))


def relative_distance(labels: np.ndarray) -> np.ndarray:
    """Each object's distance to where it ends over its greatest: (H, W) float32 in 0…1.

    Where an object leaves the image it does not end.
    """
    labels = within_size(labels)
    # Pixels on the seam between objects are the nearest that is not within: they are counted half
    # a pixel deep, as those at the background are one pixel deep.
    within = (labels > 0) & ~rims(labels, 1, background=False)
    distance = np.where(labels > 0, distance_transform(within) + 0.5, 0).astype(np.float32)
    greatest = np.full(int(labels.max(initial=0)) + 1, 0.5, np.float32)
    np.maximum.at(greatest, labels.reshape(-1), distance.reshape(-1))
    relative: np.ndarray = np.minimum(distance / greatest[labels], 1, dtype=np.float32)
    return relative
