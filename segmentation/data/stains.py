"""One kind of picture, whatever the microscope and the stain: gray, bright objects on dark.

How an image becomes one is decided for the whole image, from counts of its values and colours, so
that windows of a large image are shown as the image in one piece is.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from functools import cached_property, reduce

import numpy as np

from segmentation.objects import to_gray

# Optical densities of red, green and blue: hematoxylin, eosin and DAB (Ruifrok & Johnston 2001).
HEMATOXYLIN_EOSIN_DAB = np.array([[0.65, 0.70, 0.29], [0.07, 0.99, 0.11], [0.27, 0.57, 0.78]])
HEMATOXYLIN_EOSIN_DAB /= np.linalg.norm(HEMATOXYLIN_EOSIN_DAB, axis=1, keepdims=True)
AS_IT_IS, INVERTED = "as it is", "inverted"
FIXED, ESTIMATED = "hematoxylin of fixed stains", "hematoxylin of estimated stains"

_BITS = 6  # of each channel, in counts of colours: the exact ones of 8 bits would take 128 MB
_FAINT = 0.15  # optical density below which a pixel is taken for background (Macenko et al. 2009)
_APART, _SHARE = 1 / 8, 0.01  # coloured: in such a share of pixels channels lie so far apart
# Counterstained: such a share of all density lies in pixels, denser than that, which let red pass:
# of their density so much is red's at most. Eosin has .06, DAB .17, hematoxylin .40.
_COUNTERSTAIN, _DENSE, _RED = 0.1, 0.3, 0.18
_STEPS = 8192  # of a density of 1, in tables
Windows = Callable[[], Iterable[np.ndarray]]


@dataclass(frozen=True)
class View:
    """How one image becomes bright objects on dark.

    ``weights`` are what the densities of red, green and blue are multiplied with, to give that of
    hematoxylin; ``()`` for gray.
    """

    says: str  # what is done: ``AS_IT_IS``, ``INVERTED``, ``FIXED`` or ``ESTIMATED``
    top: int  # the greatest value that the image could have, such as 4095 of 12 bits
    weights: tuple[float, ...] = ()
    white: tuple[float, ...] = ()  # red, green and blue light without any stain, in 0…1

    def apply(self, image: np.ndarray) -> np.ndarray:
        """The image or a window of it, (H, W, 1 or 3) uint8 or uint16 ► (H, W, 1).

        Gray keeps its type. Hematoxylin is uint16: the light that it alone would take away.
        """
        if self.weights:
            red, green, blue = (t[image[..., i]] for i, t in enumerate(self._densities))
            steps = np.clip(red + green + blue, 0, len(_ABSORBED) - 1)
            return np.asarray(_ABSORBED[steps][..., None])
        gray = to_gray(image)[..., None]
        return gray if self.says == AS_IT_IS else (self.top - gray).astype(image.dtype)

    @cached_property
    def _densities(self) -> np.ndarray:
        """(3, values) int32: what each value of a channel adds to hematoxylin, in steps."""
        light = (np.arange(self.top + 1) + 0.5) / (self.top + 1)
        density = np.maximum(np.log(np.array(self.white)[:, None] / light), 0)
        return np.asarray(np.rint(np.array(self.weights)[:, None] * density * _STEPS), np.int32)


_ABSORBED = np.rint(65535 * (1 - np.exp(-np.arange(8 * _STEPS) / _STEPS))).astype(np.uint16)


def bright_on_dark(windows: Windows, stained: bool = False) -> View:
    """How an image is shown as bright objects on dark; nothing but its pixels is looked at.

    A bright field is one whose median (of each pixel's largest channel) lies above the middle of
    its range (0.5th to 99.8th percentile of all values). Of gray it is inverted. A coloured one
    becomes its hematoxylin, by fixed stains or by stains estimated from the image; or inverted
    gray, but where a stain lets red pass, as eosin and DAB do, for that is dark in gray as well. Of
    these pictures that one is taken which Otsu's threshold divides best (the greatest share of the
    variance lies between its two sides). All else is as it is, colours by their luminance.

    Args:
        windows: Gives, each time it is called, windows that divide the image: (h, w, 1 or 3) uint8
            or uint16.
        stained: A coloured bright field is shown as hematoxylin in any case.

    >>> nuclei = np.full((9, 9, 1), 200, np.uint8)
    >>> nuclei[3:5, 3:5] = 60
    >>> bright_on_dark(lambda: [nuclei]).says
    'inverted'
    """
    every = largest = np.zeros(0, np.int64)
    for window in windows():
        values, channels = 1 << (8 * window.dtype.itemsize), window.shape[2]
        # Channel by channel, which is far faster than max(axis=2).
        each = (window, reduce(np.maximum, np.moveaxis(window, 2, 0)))
        counts = [np.bincount(some.reshape(-1), minlength=values) for some in each]
        every = every + counts[0] if every.size else counts[0]
        largest = largest + counts[1] if largest.size else counts[1]
    bits = max(8, int(np.flatnonzero(every)[-1]).bit_length())
    top, levels = (1 << bits) - 1, np.arange(values)
    low, high = _percentiles(levels, every, 0.5, 99.8)
    (median,) = _percentiles(levels, largest, 50)
    if 2 * median <= low + high:
        return View(AS_IT_IS, top)
    if channels == 1:
        return View(INVERTED, top)
    colours = np.zeros(1 << (3 * _BITS), np.int64)
    for window in windows():
        red, green, blue = np.moveaxis(window.astype(np.int32) >> (bits - _BITS), 2, 0)
        places = (red << (2 * _BITS)) | (green << _BITS) | blue
        colours += np.bincount(places.reshape(-1), minlength=len(colours))
    return _best(colours, top, stained)


def estimated_stains(densities: np.ndarray, counts: np.ndarray) -> np.ndarray | None:
    """Directions of two stains, (2, 3), hematoxylin first: the redder one in density.

    They are the ends of the angles in the plane in which most of the colours lie (Macenko et al.,
    ISBI 2009), in which each pixel weighs as much as its density: noise of pale ones is wide.
    ``None`` where all colours lie in one direction, or are background.

    Args:
        densities: (n, 3) ≥ 0, of red, green and blue.
        counts: (n,) pixels of each.
    """
    length = np.linalg.norm(densities, axis=1)
    dense = length > _FAINT
    densities, length = densities[dense], length[dense]
    if len(length) < 2:
        return None
    weights = counts[dense] * length
    scaled = densities * (weights / length**2)[:, None]
    axes = np.linalg.eigh(scaled.T @ densities)[1][:, [2, 1]]
    axes = axes * (1 if axes[:, 0].sum() > 0 else -1, 1)
    along, across = (densities @ axes).T
    angles = _percentiles(np.arctan2(across, along), weights, 1, 99)
    if angles[1] - angles[0] < np.radians(5):
        return None
    ends = np.maximum([axes @ (np.cos(angle), np.sin(angle)) for angle in angles], 0)
    ends /= np.linalg.norm(ends, axis=1, keepdims=True)
    return np.asarray(ends[np.argsort(-ends[:, 0])])


def separability(values: np.ndarray, counts: np.ndarray) -> float:
    """Share of the variance that lies between the two sides of Otsu's threshold (Otsu 1979), 0…1.

    ``values`` are numbers, ``counts`` how often each occurs; they are taken in 256 levels between
    their 0.5th and 99.8th percentile.

    >>> separability(np.array([0.0, 0.9, 1.0]), np.array([50, 25, 25])) > 0.98
    True
    """
    low, high = _percentiles(values, counts, 0.5, 99.8)
    levels = np.rint(np.clip((values - low) / max(high - low, 1e-9), 0, 1) * 255).astype(int)
    share = np.bincount(levels, counts, 256) / counts.sum()
    below, mean = share.cumsum(), (share * np.arange(256)).cumsum()
    total = (share * (np.arange(256) - mean[-1]) ** 2).sum()
    between = (mean[-1] * below - mean) ** 2 / np.maximum(below * (1 - below), 1e-12)
    return float(between.max() / max(total, 1e-12))


def _best(colours: np.ndarray, top: int, stained: bool) -> View:
    """The picture of a bright field of these ``colours`` that Otsu's threshold divides best."""
    (places,) = np.nonzero(colours)
    counts, mask = colours[places], (1 << _BITS) - 1
    bins = np.stack([places >> (2 * _BITS), (places >> _BITS) & mask, places & mask], axis=1)
    apart = np.ptp(bins, axis=1) >= _APART * (1 << _BITS)
    if counts[apart].sum() < _SHARE * counts.sum():
        return View(INVERTED, top)
    light = (bins + 0.5) / (1 << _BITS)
    white = np.array([_percentiles(channel, counts, 99)[0] for channel in light.T])
    density = np.maximum(np.log(white / light), 0)
    weights = {FIXED: np.linalg.inv(HEMATOXYLIN_EOSIN_DAB)[:, 0]}
    if (stains := estimated_stains(density, counts)) is not None:
        weights[ESTIMATED] = np.linalg.pinv(stains)[:, 0]
    length, total = np.linalg.norm(density, axis=1), density.sum(axis=1)
    mass = counts * total * (length > _DENSE)
    passes = mass[density[:, 0] < _RED * total].sum()
    alone = not stained and passes <= _COUNTERSTAIN * mass.sum()
    shown = {INVERTED: 1 - light @ (0.299, 0.587, 0.114)} if alone else {}
    shown |= {k: 1 - np.exp(-np.maximum(density @ some, 0)) for k, some in weights.items()}
    best = max(shown, key=lambda name: separability(shown[name], counts))
    if best == INVERTED:
        return View(INVERTED, top)
    return View(best, top, tuple(weights[best].tolist()), tuple(white.tolist()))


def _percentiles(values: np.ndarray, counts: np.ndarray, *percent: float) -> np.ndarray:
    """The smallest values that so many percent do not exceed, of values that occur so often."""
    order = np.argsort(values, kind="stable")
    below = counts[order].cumsum()
    ranks = np.array(percent) / 100 * below[-1]
    # At least one pixel is counted, so that 0 % is the smallest value that occurs.
    ranks = np.maximum(ranks, counts[counts > 0].min())
    return np.asarray(values[order][np.searchsorted(below, ranks)])
