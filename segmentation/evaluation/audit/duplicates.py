"""Images that are the same, or nearly, and whether their masks agree.

Equal images have equal digests. Near-duplicates are told by the difference of two images of one
size: the root mean square difference of their gray values, each image brought to mean 0 and
standard deviation 1 first. It is 0 for images that differ in brightness and contrast alone, about
1.4 for unrelated ones, and √(2 − 2 r) for a correlation r.

Not every pair is compared pixel by pixel. The fingerprint of an image is its thumbnail of area
means. As averaging never enlarges a mean square (Jensen), the difference of two fingerprints is a
lower bound of the difference of the images: the pairs whose fingerprints are near enough hold every
near-duplicate, and only they are compared. Fingerprints are compared by matrix products.
"""

from collections import defaultdict
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache

import cv2
import numpy as np

from segmentation.data.cache import SampleStore
from segmentation.data.sample import PARTS, Split

THUMBNAIL = 32  # pixels a side; 16 lets ten times as many unrelated pairs through
BLOCK = 1024  # fingerprints compared at once
EDGES = np.concatenate([[0], np.geomspace(0.01, 2, 47)])  # of the histogram


@dataclass(frozen=True, slots=True)
class Pair:
    """Two samples that are duplicates."""

    first: str
    second: str
    exact: bool  # their images are equal
    difference: float  # see the module; 0 where they are equal
    iou: float | None  # of their foregrounds, 1 where both are empty; None: one has no mask


@dataclass(frozen=True, slots=True)
class Duplicates:
    """What was found. A near-duplicate of a group of equal images is one of its first image."""

    exact: list[list[str]]  # ids of images that are equal
    pairs: list[Pair]  # of equal images the first with each other; least agreeing masks first
    groups: list[list[str]]  # ids that are connected by pairs, largest group first
    compared: int  # pairs of images of one size, whose fingerprints were compared
    candidates: int  # pairs of them whose pixels were compared
    counts: list[int]  # fingerprint differences of the compared pairs between the EDGES


def find_duplicates(store: SampleStore, near: float) -> Duplicates:
    """Equal images of a decoded data set, and those that differ by at most ``near``."""
    places = {entry.id: i for i, entry in enumerate(store.entries)}
    same: dict[str, list[str]] = defaultdict(list)
    for entry in store.entries:
        same[entry.digest].append(entry.id)
    exact = [ids for ids in same.values() if len(ids) > 1]
    found = [(ids[0], other, True, 0.0) for ids in exact for other in ids[1:]]
    counts = np.zeros(len(EDGES) - 1, np.int64)
    candidates = sorted(_candidates(store, [places[ids[0]] for ids in same.values()], near, counts))
    pixels = lru_cache(maxsize=64)(lambda i: standardised(store[i].image))
    for i, j in candidates:
        if (apart := difference(pixels(i), pixels(j))) <= near:
            found.append((store.entries[i].id, store.entries[j].id, False, apart))
    pairs = []
    for a, b, equal, apart in found:
        iou = foreground_iou(store[places[a]].labels, store[places[b]].labels)
        pairs.append(Pair(a, b, equal, round(apart, 5), iou))
    pairs.sort(key=lambda pair: (1.0 if pair.iou is None else pair.iou, pair.difference))
    groups = connected((pair.first, pair.second) for pair in pairs)
    return Duplicates(exact, pairs, groups, int(counts.sum()), len(candidates), counts.tolist())


def torn_pairs(pairs: Iterable[Pair], split: Split) -> list[Pair]:
    """The pairs whose images lie in two different parts."""
    part = {name: p for p in PARTS for name in getattr(split, p)}
    known = [pair for pair in pairs if pair.first in part and pair.second in part]
    return [pair for pair in known if part[pair.first] != part[pair.second]]


def standardised(image: np.ndarray) -> np.ndarray:
    """(H, W, C) pixels of any kind ► (H, W) float32 gray values of mean 0 and deviation 1.

    A constant image becomes all 0.
    """
    gray = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    if gray.min() == gray.max():
        return np.zeros(gray.shape, np.float32)
    mean, deviation = (value[0, 0] for value in cv2.meanStdDev(gray))
    scaled: np.ndarray = (gray.astype(np.float32) - np.float32(mean)) / np.float32(deviation)
    return scaled


def difference(first: np.ndarray, second: np.ndarray) -> float:
    """Root mean square difference of two standardised images."""
    return float(cv2.norm(first, second, cv2.NORM_L2) / first.size**0.5)


def fingerprint(image: np.ndarray) -> np.ndarray:
    """A standardised image ► float32 vector; distances bound :func:`difference` from below."""
    height, width = image.shape
    size = min(width, THUMBNAIL), min(height, THUMBNAIL)
    thumbnail = cv2.resize(image, size, interpolation=cv2.INTER_AREA)
    return thumbnail.reshape(-1) / np.float32(thumbnail.size**0.5)


def foreground_iou(one: np.ndarray | None, other: np.ndarray | None) -> float | None:
    """Intersection over union of two label maps' foregrounds; 1 where both are empty.

    Pixels that are not annotated in both are left out.
    """
    if one is None or other is None:
        return None
    known = (one >= 0) & (other >= 0)
    one, other = one[known], other[known]
    both, either = (one > 0) & (other > 0), (one > 0) | (other > 0)
    return round(int(both.sum()) / int(either.sum()), 4) if either.any() else 1.0


def connected(pairs: Iterable[tuple[str, str]]) -> list[list[str]]:
    """Connected components, each sorted, the largest first.

    >>> connected([("a", "b"), ("x", "y"), ("b", "c")])
    [['a', 'b', 'c'], ['x', 'y']]
    """
    home: dict[str, list[str]] = {}
    for first, second in pairs:
        one, other = home.setdefault(first, [first]), home.setdefault(second, [second])
        if one is not other:
            one += other
            home.update(dict.fromkeys(other, one))
    groups = {id(group): sorted(group) for group in home.values()}
    return sorted(groups.values(), key=lambda group: (-len(group), group))


def _candidates(
    store: SampleStore, places: Sequence[int], near: float, counts: np.ndarray
) -> Iterator[tuple[int, int]]:
    """Pairs of places whose fingerprints are near; ``counts`` is filled with all differences."""
    sizes: dict[tuple[int, ...], list[int]] = defaultdict(list)
    for i in places:
        sizes[store.entries[i].image[1][:2]].append(i)
    for members in sizes.values():
        prints: dict[int, np.ndarray] = {}
        for i in members:
            pixels = standardised(store[i].image)
            if pixels.any():  # a blank image has nothing to tell it by but its digest
                prints[i] = fingerprint(pixels)
        kept = list(prints)
        if len(kept) > 1:
            for i, j in near_pairs(np.stack(list(prints.values())), near, counts):
                yield kept[i], kept[j]


def near_pairs(prints: np.ndarray, near: float, counts: np.ndarray) -> Iterator[tuple[int, int]]:
    """Rows i < j of an (N, K) float32 matrix that are at most ``near`` apart.

    The distances of all pairs are added to ``counts``, between the ``EDGES``.
    """
    squares = np.einsum("ij,ij->i", prints, prints)
    for start in range(0, len(prints), BLOCK):
        rows = slice(start, start + BLOCK)
        squared = squares[rows, None] + squares[None, start:] - 2 * prints[rows] @ prints[start:].T
        # float32 leaves 1e-6 of the two norms, which are about 1.
        apart = np.sqrt(np.maximum(squared, 0))
        upper = np.triu(np.ones(apart.shape, bool), 1)
        counts += np.histogram(apart[upper].clip(max=EDGES[-1]), EDGES)[0]
        for i, j in np.argwhere((squared <= near**2 + 1e-5) & upper):
            yield start + int(i), start + int(j)
