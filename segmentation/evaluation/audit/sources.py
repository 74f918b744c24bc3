"""What images were likely acquired with: those that look alike, by size, colour, light and objects.

Two images of different channels, dtype or colour are of different sources, and so are two frames
of different sizes, where at least ``FEWEST`` have each. The others are clustered (average linkage)
by numbers in each of which a distance of 1 is noticed at a glance. It finds candidates to be looked
at, not the truth: two experiments on one microscope may look alike, and one may look like two.
"""

import csv
import io
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import cv2
import numpy as np
from scipy.cluster.hierarchy import fcluster, linkage

from segmentation.data.cache import SampleStore, StoredSample, map_ordered, usable_cores
from segmentation.data.resize import resize_image, scaled_size
from segmentation.data.sample import PARTS, Sample, Split, thinned
from segmentation.data.sources import FEW, about_test, torn
from segmentation.evaluation.overlays import data_url, to_rgb
from segmentation.objects import label_components, light_of, median_diameter, to_gray
from segmentation.targets import otsu

FILE = "sources.csv"
APART = 1.8  # distance from which clusters are two
FEWEST = 3  # images that make a source of their own
MOST = 3000  # images of one kind that are compared in pairs; the others join the nearest cluster
WINDOW = 1024  # pixels a side, in the middle of an image, that are looked at
SHEET, TILE = 12, 128  # images of a contact sheet, and the pixels of each


class Look(NamedTuple):
    """An image in a few numbers; NaN where it shows no object."""

    colour: bool
    highest: int
    background: float  # median of the gray values beside Otsu's foreground
    tints: tuple[float, float, float, float]  # CIELAB's a and b of background and foreground
    diameter: float  # median of its objects, in pixels
    sharpness: float  # gradient at the objects' edges, of the contrast


@dataclass(frozen=True)
class LikelySource:
    """Images that look alike; ``about`` says how, and ``parts`` where the split has them."""

    name: str
    about: str
    images: list[str]
    parts: dict[str, int]


def look(sample: Sample, diameter: float | None) -> Look:
    """Measure an image whose objects' median diameter, where there is a truth, is known."""
    top, left = (max(0, (side - WINDOW) // 2) for side in sample.image.shape[:2])
    image = sample.image[top : top + WINDOW, left : left + WINDOW]
    gray = to_gray(image)
    found = otsu(gray)
    if sample.labels is not None and diameter is None:  # known to be empty: it would find noise
        found = np.zeros_like(found)
    behind = ~found
    tints, colour = np.zeros((2, 2)), False
    if image.shape[2] == 3 and (image != image[..., :1]).any():
        scaled = image.astype(np.float32) / np.iinfo(image.dtype).max
        ab = cv2.cvtColor(scaled, cv2.COLOR_RGB2LAB)[..., 1:]
        tints = np.array([ab[part].mean(0) if part.any() else (0, 0) for part in (behind, found)])
        colour = bool(np.abs(tints).max() > 1)
    light = gray.astype(np.float32)
    background = float(np.median(light[behind]))
    sharpness = np.nan
    if found.any():
        if diameter is None:
            diameter = median_diameter(np.bincount(label_components(found).reshape(-1))[1:])
        gradient = np.hypot(cv2.Sobel(light, -1, 1, 0), cv2.Sobel(light, -1, 0, 1)) / 8
        edges = cv2.morphologyEx(found.astype(np.uint8), cv2.MORPH_GRADIENT, np.ones((3, 3))) > 0
        contrast = abs(float(np.median(light[found])) - background) or 1.0
        sharpness = float(np.percentile(gradient[edges], 75)) / contrast
    size = np.nan if diameter is None else diameter
    a, b, c, d = tints.reshape(-1).tolist()
    return Look(colour, int(gray.max()), background, (a, b, c, d), size, sharpness)


def likely_sources(store: SampleStore, split: Split | None) -> list[LikelySource]:
    """The clusters of a data set's images, the largest first."""
    entries = store.entries
    numbers, cores = range(len(store)), usable_cores()
    looks = list(map_ordered(lambda i: look(store[i], entries[i].diameter), numbers, cores))
    common = Counter(entry.image[1][:2] for entry in entries)
    kinds: dict[tuple[Any, ...], list[int]] = {}
    for i, (entry, one) in enumerate(zip(entries, looks, strict=True)):
        (height, width, channels), dtype = entry.image[1], entry.image[2]
        size = (height, width) if common[height, width] >= FEWEST else None
        kinds.setdefault((channels, dtype, one.colour, size), []).append(i)
    # Of 16 bits often 12 are used: what the brightest of all images needs is the range.
    bits = max(max((one.highest for one in looks), default=1).bit_length(), 8)
    full = float(2**bits - 1)
    groups = []
    for members in kinds.values():
        of_each = clusters(np.array([_point(looks[i], full) for i in members]))
        for number in np.unique(of_each):
            groups.append([i for i, found in zip(members, of_each, strict=True) if found == number])
    groups.sort(key=lambda members: (-len(members), members))
    part = {name: p for p in PARTS for name in getattr(split, p)} if split else {}
    digits = len(str(len(groups)))
    return [
        LikelySource(
            f"source-{number:0{digits}}",
            _about([entries[i] for i in members], [looks[i] for i in members], full),
            [entries[i].id for i in members],
            dict(Counter(part[entries[i].id] for i in members if entries[i].id in part)),
        )
        for number, members in enumerate(groups, 1)
    ]


def clusters(points: np.ndarray) -> np.ndarray:
    """The cluster of each of (n, k) points, (n,); those of fewer than ``FEWEST`` join others."""
    usual = np.nan_to_num(np.nanmedian(np.vstack([points, np.zeros_like(points[:1])]), axis=0))
    points = np.where(np.isnan(points), usual, points)
    if len(points) < FEWEST:
        return np.zeros(len(points), np.intp)
    some = points[thinned(range(len(points)), MOST)]
    found = fcluster(linkage(some, "average"), APART, "distance")
    kept = [number for number, count in Counter(found.tolist()).items() if count >= FEWEST]
    if not kept:
        return np.zeros(len(points), np.intp)
    middles = np.array([some[found == number].mean(0) for number in sorted(kept)])
    distances = ((points[:, None] - middles) ** 2).sum(-1)
    nearest: np.ndarray = distances.argmin(1)
    return nearest


def contact_sheet(samples: Sequence[Sample]) -> str:
    """Images side by side, each in a square of its own, as a data URL."""
    tiles = []
    for sample in samples:
        rgb = to_rgb(sample.image)
        size = scaled_size(rgb.shape, TILE / max(rgb.shape[:2]))
        tile = np.full((TILE, TILE, 3), 255, np.uint8)
        tile[: size[0], : size[1]] = resize_image(rgb, size)
        tiles.append(tile)
    row = min(6, len(tiles))
    tiles += [np.full((TILE, TILE, 3), 255, np.uint8)] * (-len(tiles) % row)
    return data_url(np.vstack([np.hstack(tiles[i : i + row]) for i in range(0, len(tiles), row)]))


def sources_report(
    known: Mapping[str, str], likely: Sequence[LikelySource], split: Split | None, file: str
) -> dict[str, Any]:
    """What ``audit.json`` says of sources: those known, those likely, the test, and a proposal.

    Known sources count where each image has one; else the likely ones, which ``file`` lists.
    """
    named = bool(known) and all(known.values())
    sources = known if named else {name: one.name for one in likely for name in one.images}
    count = len({*sources.values()})
    option, why = None, f"fewer than three sources ({count}): {FEW}"
    if count >= 3:
        option = "--data.split SourceSplit"
        why = f"{count} sources that the data set names"
        if not named:
            option += f" --data.split.sources {file}"
            why = f"{count} likely sources; look at their sheets, and correct {FILE} where needed"
    return {
        "known": len({*known.values()} - {""}),
        "test": about_test(sources, split.train, split.test) if split else "",
        "torn": torn(sources, split) if split else {},
        "propose": option,
        "why": why,
        "likely": [vars(one) for one in likely],
    }


def sources_csv(likely: Sequence[LikelySource]) -> str:
    """The file that ``SourceSplit`` reads: a line for each image."""
    text = io.StringIO()
    write = csv.writer(text, lineterminator="\n").writerow
    write(("id", "source", "about"))
    for one in likely:
        for name in one.images:
            write((name, one.name, one.about))
    return text.getvalue()


def _point(one: Look, full: float) -> tuple[float, ...]:
    background = np.log2(one.background / full + 0.02) / 0.6
    tints = [tint / scale for tint, scale in zip(one.tints, (6, 6, 10, 10), strict=True)]
    return (
        float(background),
        *tints,
        float(np.log2(one.diameter)) / 0.6,
        float(np.log2(one.sharpness + 0.01)) / 0.35,
    )


def _about(entries: Sequence[StoredSample], looks: Sequence[Look], full: float) -> str:
    """Such as ``256×320, colour, bright background, objects of 20 px``."""
    sizes = {"×".join(map(str, entry.image[1][:2])) for entry in entries}
    channels = entries[0].image[1][2]
    pixels = (
        "colour" if looks[0].colour else "gray" if channels in (1, 3) else f"{channels} channels"
    )
    level = float(np.median([one.background for one in looks])) / full
    known = [one.diameter for one in looks if one.diameter > 0]  # not NaN
    objects = f"objects of {np.median(known):.0f} px" if known else "no objects"
    size = sizes.pop() if len(sizes) == 1 else "several sizes"
    return f"{size}, {pixels}, {light_of(level)} background ({level:.2f}), {objects}"
