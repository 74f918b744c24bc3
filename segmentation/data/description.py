"""What the training images of a network were like, and how far another image is from them."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import cv2
import numpy as np

from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.objects import median_diameter

VERSION = 1  # raise when image_features() says something else
MOST = 200  # training images that are described
FEWEST = 10  # training images, below which nothing can be said of others
_WINDOW = 1024  # pixels: the middle of a larger image stands for all of it
_BANDS = 5  # octaves of detail
_WIDTH = 0.25  # octaves of diameter: how far apart sizes count as alike
SIZE = "size of objects"
# By which the features of each group vary at least, or rounding would count.
_LEAST = {"brightness": 0.02, "colour": 0.02, "detail": 0.05, SIZE: 0.25}
_NEAR = 0.05  # of these, the distance that says nothing


def image_features(image: np.ndarray, areas: np.ndarray) -> dict[str, list[float]]:
    """What an image looks like to the network, in groups of numbers of similar ranges.

    Brightness is five percentiles of the gray values (5, 25, 50, 75, 95), colour what each channel
    is brighter than their mean, detail the standard deviation (log10) of five octaves of a
    Laplacian pyramid (Burt & Adelson 1983), and size log2 of diameter and number of the objects.

    Args:
        image: (H, W, C) uint8, as prepared for the network.
        areas: (n,) of its objects, in pixels of ``image``; 0 where there is no such object.
            Without objects their size is NaN.

    >>> found = image_features(np.zeros((64, 64, 1), np.uint8), np.full(4, 201.0))
    >>> found["size of objects"]
    [3.9998, 3.4284]
    """
    full = image.shape[0] * image.shape[1]
    top, left = (max(0, (side - _WINDOW) // 2) for side in image.shape[:2])
    window = image[top : top + _WINDOW, left : left + _WINDOW].astype(np.float32) / 255
    gray = window.mean(axis=2)
    colour = (window.mean(axis=(0, 1)) - gray.mean()).tolist() if image.shape[2] > 1 else []
    low, detail = gray, []
    for _ in range(_BANDS):
        high, low = low, cv2.GaussianBlur(low, (5, 5), 0)
        detail.append(float(np.log10((high - low).std() + 1e-3)))
        low = cv2.resize(low, [max(1, side // 2) for side in low.shape[::-1]])
    size, diameter = [float("nan")] * 2, median_diameter(areas)
    if diameter is not None:
        per = 1e4 * np.count_nonzero(areas) / full  # objects in 100² pixels
        size = [float(np.log2(diameter)), float(np.log2(1 + per))]
    groups = {
        "brightness": np.percentile(gray, (5, 25, 50, 75, 95)).tolist(),
        "colour": colour,
        "detail": detail,
        SIZE: size,
    }
    return {name: [round(v, 4) for v in values] for name, values in groups.items() if values}


@dataclass(frozen=True)
class Description:
    """Features of training images, and from them what is usual.

    Attributes:
        groups: Names of the groups of features ► how many each has.
        rows: (n, features) of at most 200 training images; NaN where one holds no objects.
    """

    groups: Mapping[str, int]
    rows: np.ndarray

    @classmethod
    def of(cls, samples: Iterable[Sample]) -> "Description":
        """Describe training images, as prepared for the network; at least one."""
        found = []
        for sample in samples:
            labels = np.zeros((1, 1), int) if sample.labels is None else sample.labels
            areas = np.bincount(np.maximum(labels, 0).reshape(-1))[1:]
            found.append(image_features(sample.image, areas))
        rows = np.array([np.concatenate([*one.values()]) for one in found])
        return cls({name: len(values) for name, values in found[0].items()}, rows)

    def plain(self) -> dict[str, Any]:
        """Plain values, for a checkpoint; quantiles of the diameters for who looks into it."""
        shares = (0.05, 0.25, 0.5, 0.75, 0.95) if len(self._sizes) else ()
        return {
            "version": VERSION,
            "groups": dict(self.groups),
            "images": [[None if np.isnan(v) else v for v in row] for row in self.rows.tolist()],
            "diameters": {f"{q:g}": float(2 ** np.quantile(self._sizes, q)) for q in shares},
        }

    @classmethod
    def from_plain(cls, stored: Any) -> "Description | None":
        """What :meth:`plain` gave; ``None`` of another version of it.

        Raises:
            UserError: It is broken.
        """
        try:
            if stored is None or stored["version"] != VERSION:
                return None
            groups = {str(name): int(count) for name, count in stored["groups"].items()}
            rows = np.array(stored["images"], float)
            fits = rows.shape == (len(rows), sum(groups.values())) and {*groups} <= {*_LEAST}
            if not fits or groups[SIZE] != 2:
                raise ValueError(f"{rows.shape} features")
            return cls(groups, rows)
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise UserError(
                f"the description of the training images is broken ({error}); copy the file again"
            ) from None

    @property
    def diameter(self) -> float | None:
        """Median over the training images of their objects' median diameter, as the network saw
        them, in pixels; ``None`` if none holds an object."""
        return float(2 ** np.median(self._sizes)) if len(self._sizes) else None

    def likeness(self, diameter: float) -> float:
        """How usual it is that an image's objects have this median diameter: 0…1.

        The density of the training images' diameters on a logarithmic axis (a Gaussian kernel of a
        quarter of an octave), 1 where it is greatest.
        """
        greatest = self._density(self._sizes).max(initial=1e-6)
        return float(self._density(np.log2([diameter]))[0] / greatest)

    def unlike(self, features: Mapping[str, Sequence[float]]) -> tuple[float, list[str]] | None:
        """How far an image is from the training images, and in which groups of features.

        The distance to the most similar training image (root mean square over features, each in
        units of its standard deviation), over the distance that 95 of 100 training images keep to
        theirs: above 1, it is unlike them. The groups are those of which the same holds by
        themselves, else the one that is farthest off. ``None`` where that cannot be said: of fewer
        than 10 training images, or of other features.
        """
        if len(self.rows) < FEWEST or {k: len(v) for k, v in features.items()} != self.groups:
            return None
        values = np.concatenate([*features.values()])
        total, *each = (
            float(self._apart(values[None], part).min() / limit) for part, limit in self._limits
        )
        farthest = sorted(zip(each, self.groups, strict=True), reverse=True)
        return total, [name for far, name in farthest if far > 1] or [farthest[0][1]]

    @cached_property
    def _sizes(self) -> np.ndarray:
        """log2 of the diameters that are known."""
        known = self.rows[:, -2]
        return np.asarray(known[~np.isnan(known)])

    def _density(self, sizes: np.ndarray) -> np.ndarray:
        apart = (sizes[:, None] - self._sizes) / _WIDTH
        return np.asarray(np.exp(-0.5 * apart**2).sum(axis=1))

    @cached_property
    def _spread(self) -> np.ndarray:
        least = np.repeat([_LEAST[name] for name in self.groups], [*self.groups.values()])
        spread = np.ma.masked_invalid(self.rows).std(axis=0).filled(0)
        return np.asarray(np.maximum(spread, least))

    def _apart(self, values: np.ndarray, part: slice) -> np.ndarray:
        """Distances of (m, features) from the training images: (m, n)."""
        # What is not known, of an image without objects, is no difference.
        apart = np.nan_to_num((values[:, None] - self.rows) / self._spread)[..., part]
        return np.asarray(np.sqrt((apart**2).mean(axis=2)))

    @cached_property
    def _limits(self) -> list[tuple[slice, float]]:
        """Of all features and of each group: the distance that is usual in the training."""
        ends = np.cumsum([0, *self.groups.values()]).tolist()
        parts = [slice(None), *(slice(a, b) for a, b in pairwise(ends))]
        limits = []
        for part in parts:
            apart = self._apart(self.rows, part)
            np.fill_diagonal(apart, np.inf)
            limits.append((part, max(float(np.quantile(apart.min(axis=1), 0.95)), _NEAR)))
        return limits


def is_unlike(far: float | None) -> bool:
    """Whether :meth:`Description.unlike` says so."""
    return far is not None and far > 1


def unlike_text(groups: Iterable[str]) -> str:
    """What is said of images that are.

    >>> unlike_text(["brightness", "size of objects"])
    'unlike the training images (brightness, size of objects)'
    """
    return f"unlike the training images ({', '.join(groups)})"
