"""What is measured of each sample by itself, the odd objects of it, and how all are distributed."""

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from scipy.ndimage import find_objects

from segmentation.data.sample import Sample

FLAWS = ("parts", "holes", "small")  # what may be odd about an object
QUANTILES = {"min": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}


@dataclass(frozen=True, slots=True)
class Flaw:
    """An object that is odd: ``value`` components under its id, holes, or (few) pixels.

    ``x`` and ``y`` are the middle of its bounding box.
    """

    what: str
    value: int
    object: int
    x: int
    y: int


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """One sample in numbers; those of objects are ``None`` where no truth is known.

    Args:
        id, group, kind, subset: As in :class:`Sample`.
        height, width, channels, dtype: Of the image.
        low, median, high: Percentiles 0.5, 50 and 99.5 of its values.
        mean: Of its values.
        saturated: Share of its values at the dtype's maximum.
        objects: How many.
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
    objects: int | None = None
    foreground: float | None = None
    cut: int | None = None
    areas: tuple[int, ...] = ()
    flaws: tuple[Flaw, ...] = ()


def examine(sample: Sample, small: int) -> SampleFacts:
    """Measure a sample; objects of less than ``small`` pixels are odd."""
    image = sample.image
    values = np.bincount(image.reshape(-1), minlength=np.iinfo(image.dtype).max + 1)
    shares = np.array([0.005, 0.5, 0.995]) * image.size
    low, median, high = np.searchsorted(np.cumsum(values), shares).astype(float).tolist()
    mean = round(float(values @ np.arange(len(values)) / image.size), 2)
    saturated = round(float(values[-1] / image.size), 6)
    about = (sample.id, sample.group, sample.kind, sample.subset)
    height, width, channels = image.shape
    pixels = (height, width, channels, image.dtype.name, low, median, high, mean, saturated)
    if sample.labels is None:
        return SampleFacts(*about, *pixels)
    areas, cut, flaws = examine_labels(sample.labels, small)
    foreground = round(sum(areas) / sample.labels.size, 6)
    objects = (len(areas), foreground, cut, tuple(areas), tuple(flaws))
    return SampleFacts(*about, *pixels, *objects)


def examine_labels(labels: np.ndarray, small: int) -> tuple[list[int], int, list[Flaw]]:
    """Areas of the objects of an (H, W) label map, how many touch the border, and the odd ones.

    Components are 8-connected, holes are 4-connected and may hold another object.
    """
    areas, flaws, cut = [], [], 0
    for number, box in enumerate(find_objects(labels.astype(np.int32)), 1):
        if box is None:
            continue
        one = labels[box] == number
        area, (parts, holes) = int(np.count_nonzero(one)), parts_and_holes(one)
        y, x = ((side.start + side.stop - 1) // 2 for side in box)
        areas.append(area)
        cut += any(b.start == 0 or b.stop == n for b, n in zip(box, labels.shape, strict=True))
        for what, value, odd in (
            ("parts", parts, parts > 1),
            ("holes", holes, holes > 0),
            ("small", area, area < small),
        ):
            if odd:
                flaws.append(Flaw(what, value, number, x, y))
    return areas, cut, flaws


def parts_and_holes(mask: np.ndarray) -> tuple[int, int]:
    """Number of 8-connected components of an (H, W) bool mask, and of the holes in them.

    >>> parts_and_holes(np.array([[1, 1, 1], [1, 0, 1], [1, 1, 1]], bool))
    (1, 1)
    """
    # A contour with a parent is the rim of a hole.
    _, tree = cv2.findContours(mask.view(np.uint8), cv2.RETR_CCOMP, cv2.CHAIN_APPROX_SIMPLE)
    holes = 0 if tree is None else int(np.count_nonzero(tree[0, :, 3] >= 0))
    return 0 if tree is None else len(tree[0]) - holes, holes


def distributions(facts: Sequence[SampleFacts]) -> dict[str, Any]:
    """Counts and quantiles over the samples; those of objects over the samples with truth.

    Keys: ``sizes`` and ``pixels`` (how many samples of each), ``quantiles`` (by quantity), and
    ``by_kind``, ``by_group``, ``by_subset`` (see :func:`summary`), where the data set knows any.
    """
    with_truth = [one for one in facts if one.objects is not None]
    quantities: dict[str, list[Any]] = {
        "mean of the image": [one.mean for one in facts],
        "0.5th percentile of the image": [one.low for one in facts],
        "99.5th percentile of the image": [one.high for one in facts],
        "saturated share of the image": [one.saturated for one in facts],
        "objects in an image": [one.objects for one in with_truth],
        "pixels of an object": [area for one in facts for area in one.areas],
        "foreground share of an image": [one.foreground for one in with_truth],
    }
    quantiles = {}
    for name, values in quantities.items():
        if values:
            found = np.percentile(np.array(values, float), [*QUANTILES.values()])
            rounded = [float(f"{value:.5g}") for value in found]
            quantiles[name] = dict(zip(QUANTILES, rounded, strict=True))
    by: dict[str, dict[str, list[SampleFacts]]] = {}
    for what in ("kind", "group", "subset"):
        members = by[f"by_{what}"] = defaultdict(list)
        for one in facts:
            members[getattr(one, what)].append(one)
    return {
        "sizes": dict(Counter(f"{f.height}×{f.width}" for f in facts).most_common()),
        "pixels": dict(Counter(f"{f.channels} × {f.dtype}" for f in facts).most_common()),
        "quantiles": quantiles,
        **{
            key: {n: summary(m[n]) for n in sorted(m)} if set(m) - {""} else {}
            for key, m in by.items()
        },
    }


def summary(facts: Sequence[SampleFacts]) -> dict[str, Any]:
    """Samples, those with truth and with objects, objects, their median area, and the foreground.

    The foreground is the share of all pixels with truth: the balance of the two classes.
    """
    with_truth = [one for one in facts if one.objects is not None]
    pixels = sum(one.height * one.width for one in with_truth)
    areas = [area for one in facts for area in one.areas]
    return {
        "samples": len(facts),
        "with truth": len(with_truth),
        "with objects": sum(bool(one.objects) for one in facts),
        "objects": len(areas),
        "median area": float(np.median(areas)) if areas else None,
        "foreground": round(sum(areas) / pixels, 5) if pixels else None,
    }
