"""Objects of other training images, pasted into a window: more neighbours, and new ones."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import replace

import cv2
import numpy as np

from segmentation.data.cache import StoredSample
from segmentation.data.classes import filled
from segmentation.data.sample import Sample

_COVERED = 0.3  # of an object's pixels: one that would hide more of another is not pasted
_SOFT = 3  # pixels: the window by which a pasted border is blended


class CopyPaste:
    """Pastes objects between training windows of one kind of image.

    After Ghiasi et al. 2021 (arXiv:2012.07177): each whole object of the other window is pasted
    where it lies with probability ½, its border blended over a pixel. One that would hide more than
    30 % of an object, or of what it covers is not annotated, stays away.

    Args:
        entries: What is known of the training samples.
        chance: Probability that anything is pasted into a window, 0…1.
    """

    def __init__(self, entries: Sequence[StoredSample], chance: float) -> None:
        self.chance = chance
        self._kinds = [(entry.kind, entry.image[1][2:], entry.channels) for entry in entries]
        self._alike = defaultdict[tuple[object, ...], list[int]](list)
        for i, (kind, entry) in enumerate(zip(self._kinds, entries, strict=True)):
            if entry.objects:
                self._alike[kind].append(i)

    def partner(self, index: int, rng: np.random.Generator) -> int | None:
        """Another sample of the same kind whose objects are to be pasted, or ``None``."""
        if not self.chance or rng.random() >= self.chance:
            return None
        others = [i for i in self._alike[self._kinds[index]] if i != index]
        return others[rng.integers(len(others))] if others else None


def paste(window: Sample, other: Sample, rng: np.random.Generator) -> Sample:
    """``window`` with some whole objects of ``other``; both of one size, else it stays as it is.

    Pasted objects get new ids, and keep their classes.

    >>> image, labels = np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.int32)
    >>> full = np.pad(np.full((2, 2), 5, np.int32), 3)
    >>> bright = Sample("b", image + 200, full)
    >>> pasted = paste(Sample("a", image, labels), bright, np.random.default_rng(0))
    >>> np.unique(pasted.labels).tolist()
    [0, 1]
    """
    labels, theirs = window.labels, other.labels
    assert labels is not None and theirs is not None
    if labels.shape != theirs.shape or window.image.shape != other.image.shape:
        return window
    names, flat = np.unique(theirs.clip(0), return_inverse=True)
    theirs = flat.reshape(theirs.shape)  # 0, 1, … n
    chosen = rng.random(len(names)) < 0.5
    chosen[0] &= names[0] != 0
    chosen[theirs[[0, -1]]] = chosen[theirs[:, [0, -1]]] = False  # cut off by the window
    chosen[theirs[labels < 0]] = False
    areas = np.bincount(np.maximum(labels, 0).reshape(-1))
    under, over = labels[labels > 0], theirs[labels > 0]
    width = len(names)
    pairs, hidden = np.unique(under.astype(np.int64) * width + over, return_counts=True)
    chosen[(pairs % width)[hidden > _COVERED * areas[pairs // width]]] = False
    if not chosen.any():
        return window
    inside = chosen[theirs]
    soft = cv2.blur(inside.astype(np.float32), (_SOFT, _SOFT))[..., None]
    mixed = window.image + (other.image.astype(np.float32) - window.image) * soft
    numbers = np.zeros(width, np.int32)
    numbers[chosen] = len(areas) + np.arange(int(chosen.sum()))
    classes = window.classes
    if classes is not None and other.classes is not None:
        classes = np.concatenate([filled(classes, len(areas)), other.classes[names[chosen]]])
    image = mixed.round().astype(window.image.dtype)
    merged = np.where(inside, numbers[theirs], labels)
    return replace(window, image=image, labels=merged, classes=classes)
