"""The class of each pixel: tissue, organs, or cells that are told apart by their kind."""

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from segmentation.errors import UserError
from segmentation.objects import label_components
from segmentation.score_names import BACKGROUND
from segmentation.targets.base import Target

MOST = 255  # classes: of one byte a pixel


class Classes(Target):
    """The background and K classes of pixels: a softmax over K + 1 channels.

    Objects are the connected components of each class, so that two regions of different classes
    are two objects where they touch; two of one class are one. For cells that touch their like,
    see :class:`WithClasses`.

    Args:
        names: Of the classes 1…K, in the order of their values in the truth.
        threshold: A pixel is foreground where the classes' probabilities together are greater.

    >>> target = Classes(["tumour", "stroma"])
    >>> target.encode(np.int32([[0, 1, 1, 2]]), np.uint8([0, 2, 1])).tolist()
    [[0, 2, 2, 1]]
    >>> probs = np.float32([[[0.9, 0.2, 0.1]], [[0.1, 0.7, 0.3]], [[0.0, 0.1, 0.6]]])
    >>> target.instances(probs).tolist()
    [[0, 1, 2]]
    """

    monitor = "val/iou"  # it learns pixels

    def __init__(
        self,
        names: Sequence[str],
        threshold: float = 0.5,
        min_size: int = 0,
        fill_holes: bool = False,
    ) -> None:
        super().__init__(threshold, min_size, fill_holes)
        self.class_names = checked_names(names)
        self.classes = len(self.class_names) + 1

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("background", *self.class_names)

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(H, W) int64 classes 0…K; what losses of several classes take."""
        return class_map(labels, classes)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, in float32 also where the logits are not."""
        return logits.float().softmax(dim=1)

    def foreground(self, probs: Tensor) -> Tensor:
        """(B, K + 1, H, W) probabilities ► (B, H, W): 1 - P(background)."""
        return (1 - probs[:, 0]).clamp(0, 1)

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(K + 1, H, W) probabilities ► (H, W) int32 ids of each class's components."""
        best = np.where(1 - probs[0] > self.threshold, probs[1:].argmax(axis=0) + 1, 0)
        return components_of_classes(best)


def checked_names(names: Sequence[str]) -> tuple[str, ...]:
    """Names of classes; a :class:`UserError` unless they can be columns of tables and keys."""
    if isinstance(names, str) or not 1 <= len(names) <= MOST:
        raise UserError(f"target.names: {names!r} must be a list of 1 to {MOST} names of classes")
    for name in names:
        if not isinstance(name, str) or not name.isprintable() or name.strip() != name or not name:
            raise UserError(f"target.names: {name!r} is no name; use letters, digits and signs")
        if "/" in name or name == BACKGROUND:
            why = "is class 0" if name == BACKGROUND else "contains /, which names of scores divide"
            raise UserError(f"target.names: {name!r} {why}; choose another name")
    if len(set(names)) < len(names):
        raise UserError(f"target.names: {', '.join(names)}: each name must be there once")
    return tuple(names)


def class_map(labels: np.ndarray, classes: np.ndarray | None) -> Tensor:
    """(H, W) ids ≥ 0 and the class of each ► (H, W) int64 classes of the pixels."""
    if classes is None:
        raise UserError(
            "model.target: tells classes apart, but the truth has none; set data.classes, or "
            "choose a target without names"
        )
    return torch.from_numpy(classes.astype(np.int64)[labels])


def components_of_classes(pixels: np.ndarray) -> np.ndarray:
    """(H, W) classes ► (H, W) int32 ids of the 8-connected components of each class above 0.

    >>> components_of_classes(np.array([[1, 2, 0, 1]])).tolist()
    [[1, 3, 0, 2]]
    """
    labels, count = np.zeros(pixels.shape, np.int32), 0
    for value in np.flatnonzero(np.bincount(pixels.reshape(-1))).tolist():
        if value:
            own = label_components(pixels == value)
            labels += np.where(own > 0, own + count, 0).astype(np.int32)
            count += int(own.max(initial=0))
    return labels
