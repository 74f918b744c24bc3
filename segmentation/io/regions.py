"""Objects as annotation programs keep them, one by one, each as the pixels that belong to it."""

from collections.abc import Iterable
from typing import NamedTuple

import numpy as np

from segmentation.errors import UserError
from segmentation.objects import renumber

# What QuPath and labelme call regions that must not be learned from.
_NOT_ANNOTATED = ("Ignore*", "__ignore__")


class Region(NamedTuple):
    """One object of an image."""

    what: str  # names it in messages, its file before it
    pixels: np.ndarray  # int64 places in the rows of the image; some may come twice
    kind: str | int | None = None  # name of its class, or its number from 1
    annotated: bool = True  # otherwise it is not known what is in it


class Truth(NamedTuple):
    """What is known of one image.

    ``values`` are (H, W) integers as the file holds them, 0 where not annotated; ``None`` where
    they can mean one thing only.
    """

    labels: np.ndarray  # (H, W) int32 instance ids 1…n, 0 = background, -1 = not annotated
    classes: np.ndarray | None = None  # (n + 1,) uint8, the class 1…K of each id, 0 first
    values: np.ndarray | None = None
    overlaps: int = 0  # pixels that several objects claim


def paint(regions: Iterable[Region], shape: tuple[int, ...], class_names: tuple[str, ...]) -> Truth:
    """Regions ► an (H, W) label map and their classes, if ``class_names`` says which there are.

    Where regions overlap the later one wins; one that vanishes so keeps no id. Pixels that are not
    annotated and belong to no object become -1. A region of another class, or of none, is a
    :class:`UserError`.

    >>> cells = [Region("a", np.array([0, 1])), Region("b", np.array([1, 2]))]
    >>> truth = paint(cells, (1, 4), ())
    >>> truth.labels.tolist(), truth.overlaps
    ([[1, 2, 2, 0]], 1)
    """
    labels = np.zeros(shape[0] * shape[1], np.int32)
    several, unknown = np.zeros(labels.shape, bool), np.zeros(labels.shape, bool)
    numbers = [0]
    for region in regions:
        if not region.annotated or region.kind in _NOT_ANNOTATED:
            unknown[region.pixels] = True
            continue
        numbers.append(number_of(region.kind, class_names, region.what) if class_names else 0)
        several[region.pixels] |= labels[region.pixels] > 0
        labels[region.pixels] = len(numbers) - 1
    labels[unknown & (labels == 0)] = -1
    classes = class_of_ids(labels, np.array(numbers, np.uint8)) if class_names else None
    return Truth(renumber(labels.reshape(shape)), classes, None, int(np.count_nonzero(several)))


def class_of_ids(labels: np.ndarray, numbers: np.ndarray) -> np.ndarray:
    """The classes, (n + 1,) uint8, of the ids that :func:`renumber` gives: ``numbers`` of the old.

    >>> class_of_ids(np.array([[0, 2, 2]]), np.uint8([0, 1, 3])).tolist()
    [0, 3]
    """
    return np.asarray(numbers[np.union1d(0, labels[labels > 0])].astype(np.uint8))


def number_of(kind: str | int | None, class_names: tuple[str, ...], what: str) -> int:
    """The number of a class by its name; a :class:`UserError` for what is none of the classes."""
    if isinstance(kind, str) and kind in class_names:
        return class_names.index(kind) + 1
    if isinstance(kind, int) and 0 < kind <= len(class_names):
        return kind
    has = "has no class" if kind is None else f"is of class {kind!r}"
    names = numbered(class_names)
    raise UserError(f"{what} {has}, but data.classes names {names}; name all classes there")


def numbered(names: Iterable[str]) -> str:
    """Such as ``1 tumour, 2 stroma``."""
    return ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
