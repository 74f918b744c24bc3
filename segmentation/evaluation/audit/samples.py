"""What is measured of each sample by itself, the odd objects of it, and how all are distributed."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import pandas as pd
from scipy.ndimage import find_objects

from segmentation.data.sample import Sample

FLAWS = ("parts", "holes", "small")  # what may be odd about an object
QUANTILES = {"min": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}


@dataclass(frozen=True, slots=True)
class Flaw:
    """An object that is odd: ``value`` components under its id, holes, or (few) pixels."""

    what: str
    value: int
    object: int
    x: int  # the middle of its bounding box
    y: int


@dataclass(frozen=True, slots=True)
class SampleFacts:
    """One sample in numbers; those of objects are ``None`` where no truth is known."""

    id: str
    group: str
    kind: str
    subset: str
    height: int
    width: int
    channels: int
    dtype: str
    low: float  # percentiles 0.5, 50 and 99.5 of the image's values
    median: float
    high: float
    mean: float
    saturated: float  # share of the values at the dtype's maximum
    objects: int | None = None
    foreground: float | None = None  # share of the pixels
    cut: int | None = None  # objects that touch the image's border
    areas: tuple[int, ...] = ()  # pixels of each object
    flaws: tuple[Flaw, ...] = ()
    unannotated: int = 0  # pixels; the shares are of the others


def examine(sample: Sample, small: int) -> SampleFacts:
    """Measure a sample; objects of less than ``small`` pixels are odd."""
    image, truth = sample.image, dict[str, Any]()
    values = np.bincount(image.reshape(-1), minlength=np.iinfo(image.dtype).max + 1)
    shares = np.array([0.005, 0.5, 0.995]) * image.size
    low, median, high = np.searchsorted(np.cumsum(values), shares).astype(float).tolist()
    if sample.labels is not None:
        areas, cut, flaws = examine_labels(sample.labels, small)
        unknown = int(np.count_nonzero(sample.labels < 0))
        foreground = round(sum(areas) / max(1, sample.labels.size - unknown), 6)
        truth = {"objects": len(areas), "foreground": foreground, "cut": cut}
        truth |= {"areas": tuple(areas), "flaws": tuple(flaws), "unannotated": unknown}
    own = (getattr(sample, name) for name in ("id", "group", "kind", "subset"))
    mean = round(float(values @ np.arange(len(values)) / image.size), 2)
    saturated = round(float(values[-1] / image.size), 6)
    about: Any = *own, *image.shape, image.dtype.name, low, median, high, mean, saturated
    return SampleFacts(*about, **truth)


def examine_labels(labels: np.ndarray, small: int) -> tuple[list[int], int, list[Flaw]]:
    """Areas of the objects of an (H, W) label map, how many touch the border, and the odd ones.

    Components are 8-connected, holes are 4-connected and may hold another object. Objects beside
    what is not annotated (-1) are never odd: nobody knows how they go on.
    """
    areas, flaws, cut = [], [], 0
    unknown = (labels < 0).astype(np.uint8)
    beside = {*labels[cv2.dilate(unknown, np.ones((3, 3))) > 0].tolist()} if unknown.any() else ()
    for number, box in enumerate(find_objects(labels.astype(np.int32)), 1):
        if box is None:
            continue
        one = labels[box] == number
        area, (parts, holes) = int(np.count_nonzero(one)), parts_and_holes(one)
        y, x = ((side.start + side.stop - 1) // 2 for side in box)
        areas.append(area)
        cut += any(b.start == 0 or b.stop == n for b, n in zip(box, labels.shape, strict=True))
        few = "small", area, area < small
        odd = ("parts", parts, parts > 1), ("holes", holes, holes > 0), few
        if number not in beside:
            flaws += [Flaw(what, n, number, x, y) for what, n, is_odd in odd if is_odd]
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
    rows = pd.DataFrame(facts)
    sizes = [f"{f.height}×{f.width}" for f in facts]
    pixels = [f"{f.channels} × {f.dtype}" for f in facts]
    quantities = {
        "mean of the image": rows["mean"],
        "0.5th percentile of the image": rows.low,
        "99.5th percentile of the image": rows.high,
        "saturated share of the image": rows.saturated,
        "objects in an image": rows.objects.dropna(),
        "pixels of an object": rows.areas.explode().dropna(),
        "foreground share of an image": rows.foreground.dropna(),
    }
    if rows.unannotated.any():
        shares = rows.unannotated / (rows.height * rows.width)
        quantities["share of an image not annotated"] = shares[rows.objects.notna()]
    quantiles = {}
    for name, values in quantities.items():
        if len(values):
            found = np.percentile(values.to_numpy(float), [*QUANTILES.values()])
            rounded = [float(f"{value:.5g}") for value in found]
            quantiles[name] = dict(zip(QUANTILES, rounded, strict=True))
    by = {}
    for what in ("kind", "group", "subset"):
        known = set(rows[what]) - {""}
        by[f"by_{what}"] = {n: described(m) for n, m in rows.groupby(what)} if known else {}
    return {
        "sizes": pd.Series(sizes).value_counts(sort=True).to_dict(),
        "pixels": pd.Series(pixels).value_counts().to_dict(),
        "quantiles": quantiles,
        **by,
    }


def described(rows: pd.DataFrame) -> dict[str, Any]:
    """Samples, those with truth and with objects, objects, their median area, and the foreground.

    The foreground is the share of all annotated pixels: the balance of the two classes.
    """
    truth, areas = rows[rows.objects.notna()], rows.areas.explode().dropna()
    pixels = int((truth.height * truth.width - truth.unannotated).sum())
    return {
        "samples": len(rows),
        "with truth": len(truth),
        "with objects": int((truth.objects > 0).sum()),
        "objects": len(areas),
        "median area": float(areas.median()) if len(areas) else None,
        "foreground": round(int(areas.sum()) / pixels, 5) if pixels else None,
    }
