"""What is measured of each sample by itself: its pixels, its objects, and the odd ones of them."""

from dataclasses import dataclass

import cv2
import numpy as np

from segmentation.data.sample import Sample

# What may be odd about an object.
FLAWS = ("parts", "holes", "small")


@dataclass(frozen=True, slots=True)
class Flaw:
    """An object that is odd.

    Attributes:
        what: ``"parts"``: several components under one id. ``"holes"``. ``"small"``: few pixels.
        value: Number of components, of holes, of pixels.
        object: Its id in the label map.
        x: Column of the middle of its bounding box.
        y: Row of it.
    """

    what: str
    value: int
    object: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class Facts:
    """One sample in numbers.

    Attributes:
        id, group, kind, subset: As in :class:`Sample`.
        height, width, channels, dtype: Of the image.
        low, median, high: Percentiles 0.5, 50 and 99.5 of its values.
        mean: Of its values.
        saturated: Share of its values at the dtype's maximum.
        objects: How many; ``None`` where no truth is known, here and below.
        foreground: Share of its pixels.
        cut: Objects that touch the image's border.
        areas: Pixels of each object.
        flaws: Odd objects.
    """

    id: str
    group: str
    kind: str
    subset: str
    height: int
    width: int
    channels: int
    dtype: str
    low: float
    median: float
    high: float
    mean: float
    saturated: float
    objects: int | None
    foreground: float | None
    cut: int | None
    areas: tuple[int, ...]
    flaws: tuple[Flaw, ...]


def examine(sample: Sample, small: int) -> Facts:
    """Measure a sample; objects of less than ``small`` pixels are odd."""
    image = sample.image
    values = np.bincount(image.reshape(-1), minlength=np.iinfo(image.dtype).max + 1)
    cumulated = np.cumsum(values)
    low, median, high = (
        float(np.searchsorted(cumulated, share * image.size)) for share in (0.005, 0.5, 0.995)
    )
    mean = float(values @ np.arange(len(values)) / image.size)
    objects: tuple[int | None, float | None, int | None] = (None, None, None)
    areas: list[int] = []
    flaws: list[Flaw] = []
    if sample.labels is not None:
        areas, cut, flaws = examine_labels(sample.labels, small)
        objects = (len(areas), round(sum(areas) / sample.labels.size, 6), cut)
    height, width, channels = image.shape
    about = (sample.id, sample.group, sample.kind, sample.subset)
    pixels = (low, median, high, round(mean, 2), round(float(values[-1] / image.size), 6))
    odd = tuple(areas), tuple(flaws)
    return Facts(*about, height, width, channels, image.dtype.name, *pixels, *objects, *odd)


def examine_labels(labels: np.ndarray, small: int) -> tuple[list[int], int, list[Flaw]]:
    """Areas of the objects of an (H, W) label map, how many touch the border, and the odd ones.

    Components are 8-connected, holes are 4-connected and may hold another object.
    """
    areas, flaws, cut = [], [], 0
    height, width = labels.shape
    for number, (left, top, right, bottom) in boxes(labels).items():
        one = labels[top:bottom, left:right] == number
        area = int(np.count_nonzero(one))
        parts, holes = parts_and_holes(one)
        place = number, (left + right - 1) // 2, (top + bottom - 1) // 2
        areas.append(area)
        cut += left == 0 or top == 0 or right == width or bottom == height
        for what, value, odd in (
            ("parts", parts, parts > 1),
            ("holes", holes, holes > 0),
            ("small", area, area < small),
        ):
            if odd:
                flaws.append(Flaw(what, value, *place))
    return areas, cut, flaws


def boxes(labels: np.ndarray) -> dict[int, tuple[int, int, int, int]]:
    """Bounding box of each object: id ► (left, top, right, bottom), the last two exclusive."""
    rows, columns = np.nonzero(labels)
    ids = labels[rows, columns].astype(np.intp)
    count = int(ids.max(initial=0)) + 1
    lowest = np.full((2, count), np.iinfo(np.intp).max)
    highest = np.full((2, count), -1)
    for axis, places in enumerate((columns, rows)):
        np.minimum.at(lowest[axis], ids, places)
        np.maximum.at(highest[axis], ids, places)
    return {
        int(i): (
            *(int(lowest[0, i]), int(lowest[1, i])),
            *(int(highest[0, i]) + 1, int(highest[1, i]) + 1),
        )
        for i in np.flatnonzero(highest[0] >= 0)
    }


def parts_and_holes(mask: np.ndarray) -> tuple[int, int]:
    """Number of 8-connected components of an (H, W) bool mask, and of the holes in them."""
    # A contour with a parent is the rim of a hole.
    _, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    if tree is None:
        return 0, 0
    holes = int(np.count_nonzero(tree[0, :, 3] >= 0))
    return len(tree[0]) - holes, holes
