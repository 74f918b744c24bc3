"""The interface of all targets, and the baseline that all are compared with."""

import copy
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, Self

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.errors import UserError
from segmentation.objects import clean_objects

CERTAIN = 30.0  # a logit of probability 1e-13: it adds nothing to a loss


class Target(ABC):
    """Pairs encode with decode.

    A value out of its range is a :class:`UserError`.

    Args:
        threshold: A pixel whose foreground probability is greater counts as foreground.
        min_size: Objects of fewer pixels are dropped from the label map.
        fill_holes: Holes within an object are filled in the label map.
    """

    classes: int  # channels of the network's output
    class_names: tuple[str, ...] = ()  # of the objects' classes 1…K, where they are told apart
    lengths: ClassVar[tuple[str, ...]] = ()  # arguments in pixels that decoding looks at
    in_pixels: ClassVar[bool] = False  # whether the network answers lengths in pixels
    vectors: ClassVar[slice | None] = None  # of its channels, the two parts of a vector
    # What of the validation chooses the epoch: what ``fit`` then tunes the decoding for.
    monitor: str = "val/image_ap"
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

    @property
    def background(self) -> tuple[float, ...]:
        """Logits of a pixel that is background for certain, one a channel.

        All are low, or that of the first channel is high: what gives the lesser foreground.
        """
        low = (-CERTAIN,) * (self.classes - 1)
        every = torch.tensor([(-CERTAIN, *low), (CERTAIN, *low)])
        least = self.foreground(self.probabilities(every[..., None, None])).flatten().argmin()
        return tuple(every[least].tolist())

    @property
    def channel_names(self) -> tuple[str, ...]:
        """What each channel of :meth:`probabilities` is, for other programs."""
        return ("foreground", *(f"channel_{i}" for i in range(1, self.classes)))

    @abstractmethod
    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """What the loss compares the logits with (no batch axis): 0 for background.

        Args:
            labels: (H, W) int32 instance ids ≥ 0.
            classes: (n + 1,) uint8, the class of each id; only targets with ``class_names`` look.
        """

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) ids, -1 = not annotated ► (H, W) bool: where it is known what to encode."""
        return labels >= 0

    def probabilities(self, logits: Tensor) -> Tensor:
        """(B, classes, H, W) logits ► float32 values in 0…1 of the same shape: a sigmoid."""
        return logits.float().sigmoid()

    def turned_back(self, probs: Tensor, turns: int, mirrored: bool) -> Tensor:
        """Undo, in the values of pixels that are back in place, what turning an image did to them.

        The image was mirrored (left and right exchanged) if ``mirrored``, then turned by ``turns``
        quarters (``torch.rot90``). Values that have no direction stay.
        """
        return probs

    def foreground(self, probs: Tensor) -> Tensor:
        """(B, classes, H, W) probabilities ► (B, H, W) of being any object: the first channel."""
        return probs[:, 0]

    @abstractmethod
    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(classes, H, W) float32 probabilities ► (H, W) int32 ids, not yet cleaned."""

    def decode(self, probs: np.ndarray) -> np.ndarray:
        """(classes, H, W) float32 probabilities ► (H, W) int32 ids 1…n, 0 = background."""
        return clean_objects(self.instances(probs), self.min_size, self.fill_holes)

    def decode_batch(
        self, probs: Tensor, scale: float = 1.0
    ) -> tuple[Tensor, list[np.ndarray | None]]:
        """(B, classes, H, W) probabilities ► (B, H, W) int32 ids, on the CPU, and their classes.

        The images were magnified by ``scale`` for the network.
        """
        target, maps = self.at_scale(scale), probs.cpu().numpy()
        found = [target.decode(one) for one in maps]
        classes = [target.classify(one, ids) for one, ids in zip(maps, found, strict=True)]
        return torch.from_numpy(np.stack(found)), classes

    def votes(self, probs: np.ndarray, labels: np.ndarray) -> np.ndarray:
        """(classes, H, W) probabilities and (H, W) ids 1…n ► (n + 1, K) float64.

        For each object and class the sum of the class's probability over the object's pixels. The
        last K channels are those of the classes; K is 0 where they are not told apart.
        """
        ids, count = labels.reshape(-1), int(labels.max(initial=0)) + 1
        sums = np.zeros((len(self.class_names), count))
        for own, channel in zip(sums, probs[len(probs) - len(sums) :], strict=True):
            own[:] = np.bincount(ids, channel.reshape(-1), count)
        return sums.T

    def classify(self, probs: np.ndarray, labels: np.ndarray) -> np.ndarray | None:
        """(classes, H, W) probabilities and (H, W) ids 1…n ► (n + 1,) uint8 class of each.

        That of the most :meth:`votes`; ``None`` where classes are not told apart.
        """
        return winners(self.votes(probs, labels)) if self.class_names else None

    def settings(self) -> dict[str, Any]:
        """The class and its arguments as plain values: the record of what an output was made by."""
        own = {name: value for name, value in vars(self).items() if not name.startswith("_")}
        return {"class": type(self).__name__, **own}

    def at_scale(self, scale: float) -> Self:
        """The same for images that were magnified by ``scale`` before the network saw them.

        Lengths and areas that decoding looks at are meant at the network's size, and decoding is
        done at the image's own.
        """
        if scale == 1:
            return self
        other = copy.copy(self)
        other.min_size = round(self.min_size / scale**2)
        for name in self.lengths:
            if value := getattr(self, name):  # 0 switches off
                setattr(other, name, max(1, round(value / scale)))
        return other


def otsu(gray: np.ndarray) -> np.ndarray:
    """The baseline to beat: Otsu's threshold on an (H, W) uint8 or uint16 image, as bool.

    The side with fewer pixels is foreground, so that dark nuclei on a bright background are found
    as well; a constant image has none.
    """
    method = cv2.THRESH_BINARY + cv2.THRESH_OTSU
    threshold, _ = cv2.threshold(np.ascontiguousarray(gray), 0, 1, method)
    bright = gray > threshold
    return ~bright if bright.mean() > 0.5 else bright


def winners(votes: np.ndarray) -> np.ndarray:
    """(n + 1, K) votes ► (n + 1,) uint8: each object's class 1…K, 0 for the background.

    >>> winners(np.array([[9.0, 9.0], [0.2, 0.1], [1.0, 3.0]])).tolist()
    [0, 1, 2]
    """
    won: np.ndarray = (votes.argmax(axis=1) + 1).astype(np.uint8)
    won[0] = 0
    return won


def check_natural(name: str, value: float) -> None:
    """Raise a :class:`UserError` unless a target's argument is 0 or more."""
    if value < 0:
        raise UserError(f"target.{name}: {value} must not be negative")


def check_share(name: str, value: float) -> None:
    """Raise a :class:`UserError` unless a target's argument lies between 0 and 1."""
    if not 0 < value < 1:
        raise UserError(f"target.{name}: {value} is not between 0 and 1")
