"""Pictures of known stains are taken apart again, and every kind of image comes out alike."""

from typing import Any

import numpy as np
import pytest
from skimage.color import hed_from_rgb, rgb2hed, separate_stains
from skimage.filters import threshold_otsu

from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.data.stains import (
    AS_IT_IS,
    ESTIMATED,
    FIXED,
    HEMATOXYLIN_EOSIN_DAB,
    INVERTED,
    View,
    bright_on_dark,
    estimated_stains,
    separability,
)
from segmentation.errors import UserError
from segmentation.objects import to_gray

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:120, :160]
NUCLEI = np.hypot(ROWS % 40 - 20, COLUMNS % 40 - 20) < 10
TISSUE = COLUMNS > 30
H, E = HEMATOXYLIN_EOSIN_DAB[:2]
SHOWN = Preprocess("bright_on_dark")


def stained(
    hematoxylin: Any = H, eosin: Any = E, white: Any = (245, 240, 235), nuclear_eosin: float = 0.2
) -> np.ndarray:
    """A section by Beer-Lambert's law: nuclei in eosin's tissue, and bare glass."""
    noise = RNG.uniform(0.8, 1.2, NUCLEI.shape)
    first = np.where(NUCLEI, 1.1, 0.04)[..., None] * noise[..., None] * np.asarray(hematoxylin)
    amount = np.where(NUCLEI, nuclear_eosin, 0.9) * RNG.uniform(0.7, 1.3, NUCLEI.shape)
    density = (first + amount[..., None] * np.asarray(eosin)) * TISSUE[..., None]
    return np.rint(np.asarray(white) * np.exp(-density)).astype(np.uint8)


def view_of(image: np.ndarray, **more: bool) -> View:
    return bright_on_dark(lambda: [image], **more)


def deep(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.uint16) * 16).astype(np.uint16)  # 12 of 16 bits, as cameras have


def found(image: np.ndarray) -> float:
    """IoU of the brighter side of Otsu's threshold of what the network sees, and the nuclei."""
    gray = SHOWN.prepare(image)[..., 0]
    bright = gray > threshold_otsu(gray)
    truth = NUCLEI & TISSUE
    return float((bright & truth).sum() / (bright | truth).sum())


DARK = np.where(NUCLEI & TISSUE, 180, 12).astype(np.uint8)[..., None] + RNG.integers(
    0, 9, (*NUCLEI.shape, 1)
).astype(np.uint8)
BLUE = np.concatenate([DARK // 9, DARK // 9, DARK], axis=2)
LAMP = np.rint((255 - DARK) * [1.0, 0.9, 0.8]).astype(np.uint8)  # a yellowish lamp, no stain
KINDS = {
    "fluorescence": (DARK, AS_IT_IS),
    "coloured fluorescence": (BLUE, AS_IT_IS),
    "bright field": (255 - DARK, INVERTED),
    "bright field as RGB": (np.repeat(255 - DARK, 3, axis=2), INVERTED),
    "yellowish bright field": (LAMP, INVERTED),
    "hematoxylin and eosin": (stained(), ESTIMATED),
    "much dark eosin": (stained(nuclear_eosin=0.0, eosin=3 * E), ESTIMATED),
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("deeper", [False, True])
def test_every_kind_is_shown_as_bright_objects_on_dark(kind: str, deeper: bool) -> None:
    image, says = KINDS[kind]
    image = deep(image) if deeper else image
    image.flags.writeable = False
    assert view_of(image).says == says
    shown = SHOWN.prepare(image)
    assert shown.dtype == np.uint8 and shown.shape == (*NUCLEI.shape, 1) and SHOWN.in_channels == 1
    assert found(image) > 0.93
    sample = Sample("a", image, NUCLEI.astype(np.int32))
    assert SHOWN.prepare_sample(sample).channels == (says,)


def test_gray_of_tissue_is_worse() -> None:
    """What the stain channel is for: eosin is as dark as hematoxylin in gray."""
    image = stained()
    gray = to_gray(image)
    bright = gray <= threshold_otsu(gray)
    truth = NUCLEI & TISSUE
    assert (bright & truth).sum() / (bright | truth).sum() < 0.7 < 0.95 < found(image)


def test_fixed_stains_are_scikit_images() -> None:
    """Hematoxylin of white light by Ruifrok's vectors, up to the base of the logarithm."""
    image = stained(white=(255, 255, 255))
    weights = tuple(np.linalg.inv(HEMATOXYLIN_EOSIN_DAB)[:, 0].tolist())
    ours = View(FIXED, 255, weights, (1.0, 1.0, 1.0)).apply(image)[..., 0]
    theirs = 65535 * (1 - np.exp(np.log(1e-6) * rgb2hed(image)[..., 0]))
    inside = NUCLEI & TISSUE
    assert np.abs(ours.astype(float) - theirs)[inside].max() < 0.01 * 65535
    np.testing.assert_allclose(
        np.linalg.inv(hed_from_rgb),
        HEMATOXYLIN_EOSIN_DAB * [[np.linalg.norm(row)] for row in np.linalg.inv(hed_from_rgb)],
        atol=1e-6,
    )


@pytest.mark.parametrize("turned", [0.0, 0.15, -0.1])
def test_stains_are_estimated(turned: float) -> None:
    """Other dyes than the book's are found, and give the amounts that were mixed."""
    dyes = HEMATOXYLIN_EOSIN_DAB[:2] + np.array([[turned, 0, turned / 2], [0.1, 0, abs(turned)]])
    dyes /= np.linalg.norm(dyes, axis=1, keepdims=True)
    amounts = RNG.uniform(0, 1.5, (20000, 2)) * RNG.integers(0, 2, (20000, 2))
    stains = estimated_stains(amounts @ dyes, np.ones(20000))
    assert stains is not None
    assert np.degrees(np.arccos((stains * dyes).sum(axis=1).clip(0, 1))).max() < 1
    image = np.rint(255 * np.exp(-amounts @ dyes)).astype(np.uint8).reshape(100, 200, 3)
    view = view_of(image, stained=True)
    theirs = separate_stains(image, np.linalg.inv(np.stack([*stains, np.cross(*stains)])))
    ours = -np.log(1 - view.apply(image)[..., 0] / 65536)
    assert view.says == ESTIMATED
    assert np.corrcoef(ours.ravel(), amounts[:, 0])[0, 1] > 0.99
    assert np.corrcoef(ours.ravel(), theirs[..., 0].ravel())[0, 1] > 0.99


def test_what_cannot_be_estimated() -> None:
    one = RNG.uniform(0.3, 1, (500, 1)) * H
    assert estimated_stains(one, np.ones(500)) is None  # one stain alone
    assert estimated_stains(one / 100, np.ones(500)) is None  # glass
    alone = stained(eosin=(0, 0, 0))
    assert view_of(alone).says in (INVERTED, FIXED) and found(alone) > 0.93


def test_separability_is_otsus() -> None:
    values = np.concatenate([RNG.normal(50, 9, 500), RNG.normal(180, 20, 300)]).clip(0, 255).round()
    split = [
        ((values > t).mean(), values[values > t].mean(), values[values <= t].mean())
        for t in np.unique(values)[:-1]
    ]
    between = max(w * (1 - w) * (a - b) ** 2 for w, a, b in split)
    assert separability(values, np.ones(800)) == pytest.approx(between / values.var(), abs=0.02)
    assert separability(np.full(3, 7.0), np.ones(3)) == 0


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("more", [{}, {"intensity": "divide"}, {"gamma": 0.5}])
def test_the_decision_belongs_to_the_whole_image(kind: str, more: dict[str, Any]) -> None:
    """Windows that alone would be decided otherwise are shown as in the whole, bit for bit."""
    image, how = deep(KINDS[kind][0]), Preprocess("bright_on_dark", **more)
    whole = how.prepare(image)
    parts = [image[top : top + 7] for top in range(0, 120, 7)]
    view = how.view(lambda: parts)
    tables = how.lookup(np.sum([how.histogram(part, view=view) for part in parts], axis=0))
    done = np.concatenate([how.prepare_window(part, tables, view=view) for part in parts])
    np.testing.assert_array_equal(done, whole)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("channels", [1, 3])
def test_a_constant_image_stays_constant(value: int, channels: int) -> None:
    done = SHOWN.prepare(np.full((9, 9, channels), value, np.uint8))
    assert done.min() == done.max()


def test_what_is_refused() -> None:
    with pytest.raises(UserError, match="polarity 'dark' must be keep with bright_on_dark"):
        Preprocess("bright_on_dark", polarity="dark")
    with pytest.raises(UserError, match=r"4 channels, and preprocess.channels is bright_on_dark"):
        SHOWN.prepare(np.zeros((4, 4, 4), np.uint8))
    with pytest.raises(UserError, match=r"3 channels \(a, b, c\)"):
        SHOWN.prepare(np.zeros((4, 4, 3), np.uint8), ("a", "b", "c"))
