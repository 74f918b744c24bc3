"""Objects as any target tells them apart, and a class for each."""

import copy
from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import torch
from torch import Tensor

from segmentation.errors import UserError
from segmentation.targets.base import CERTAIN, Target
from segmentation.targets.classes import checked_names, class_map


class WithClasses(Target):
    """Another target's objects, and a class head beside it: K + 1 channels more, under a softmax.

    The class of an object is the vote of its pixels: the class whose probabilities, summed over
    them, are the most, whatever the class head says of the background there (as Cellpose and
    HoVer-Net join a class map to objects; Graham et al., Medical Image Analysis 2019). Threshold,
    sizes and the other settings of the decoding are those of ``objects``.

    Args:
        objects: Tells objects apart, such as ``Contour``.
        names: Of the classes 1…K, in the order of their values in the truth.

    >>> from segmentation.targets import Contour
    >>> target = WithClasses(Contour(width=1, position="inner"), ["round", "long"])
    >>> target.encode(np.int32([[0, 1, 1, 1]]), np.uint8([0, 2]))[:, 0].tolist()
    [[0, 2, 1, 1], [0, 2, 2, 2]]
    """

    def __init__(self, objects: Target, names: Sequence[str]) -> None:
        if objects.class_names:
            kind = type(objects).__name__
            raise UserError(f"target.objects: {kind} has classes of its own; choose another")
        self.objects, self.class_names = objects, checked_names(names)
        self.classes = objects.classes + len(self.class_names) + 1
        # Of this one's objects, though they are attributes of the class.
        vars(self).update(
            {name: getattr(objects, name) for name in ("tunable", "in_pixels", "vectors")},
            monitor=objects.monitor,
        )

    def __getattr__(self, name: str) -> Any:
        """Settings of the decoding are those of ``objects``."""
        if name in vars(self).get("tunable", ()):
            return getattr(self.objects, name)
        raise AttributeError(f"{type(self).__name__} has no attribute {name}")

    def __setattr__(self, name: str, value: Any) -> None:
        """A setting of the decoding is set in a copy of ``objects``, which others may hold."""
        if name in vars(self).get("tunable", ()):
            changed = copy.copy(self.objects)
            setattr(changed, name, value)
            name, value = "objects", changed
        super().__setattr__(name, value)

    @property
    def channel_names(self) -> tuple[str, ...]:
        return (*self.objects.channel_names, "class_background", *self.class_names)

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(C, H, W): what ``objects`` encodes; the last channel is the class of each pixel."""
        inner = self.objects.encode(labels)
        inner = inner[None] if inner.ndim == 2 else inner
        return torch.cat([inner, class_map(labels, classes)[None].to(inner.dtype)])

    @property
    def background(self) -> tuple[float, ...]:
        head = (CERTAIN, *[-CERTAIN] * len(self.class_names))
        return (*self.objects.background, *head)

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        return self.objects.learnable(labels)

    def probabilities(self, logits: Tensor) -> Tensor:
        """Those of ``objects``, and the softmax of the class head."""
        inner, head = logits[:, : self.objects.classes], logits[:, self.objects.classes :]
        return torch.cat([self.objects.probabilities(inner), head.float().softmax(dim=1)], dim=1)

    def turned_back(self, probs: Tensor, turns: int, mirrored: bool) -> Tensor:
        inner, head = probs[:, : self.objects.classes], probs[:, self.objects.classes :]
        return torch.cat([self.objects.turned_back(inner, turns, mirrored), head], dim=1)

    def foreground(self, probs: Tensor) -> Tensor:
        return self.objects.foreground(probs[:, : self.objects.classes])

    def instances(self, probs: np.ndarray) -> np.ndarray:
        return self.objects.instances(probs[: self.objects.classes])

    def at_scale(self, scale: float) -> Self:
        other = copy.copy(self)
        other.objects = self.objects.at_scale(scale)
        return other

    def settings(self) -> dict[str, Any]:
        about = {"class": type(self).__name__, "class_names": self.class_names}
        return {**about, "objects": self.objects.settings()}
