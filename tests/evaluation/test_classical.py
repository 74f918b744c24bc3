"""The baseline of a person without a network."""

import numpy as np
import pytest

from segmentation.evaluation.classical import (
    EACH,
    GRAY,
    INVERTED,
    PICTURES,
    STAIN,
    Classical,
    classical_of,
    pictured,
)
from segmentation.objects import label_components
from tests.data.test_stains import NUCLEI, TISSUE, stained

RNG = np.random.default_rng(0)
ROWS, COLUMNS = np.mgrid[:80, :100]
CELLS = np.hypot(ROWS % 40 - 20, COLUMNS % 50 - 25) < 9
BRIGHT = np.where(CELLS, 150, 30).astype(np.uint8)[..., None]
NOISY = (BRIGHT + RNG.normal(0, 45, BRIGHT.shape)).clip(0, 255).astype(np.uint8)
TRUTH = label_components(CELLS)


@pytest.mark.parametrize(
    ("image", "truth", "picture", "sigma"),
    [
        (BRIGHT, TRUTH, EACH, 1),
        (NOISY, TRUTH, EACH, 1),  # smoothing is worth something there
        (255 - BRIGHT, TRUTH, EACH, 1),
        # What is dark on a bright field, but most of the image.
        (255 - BRIGHT, label_components(~CELLS), GRAY, 1),
        (BRIGHT, label_components(~CELLS), INVERTED, 1),
        (stained(), label_components(NUCLEI & TISSUE), EACH, 1),
    ],
)
def test_the_best_is_chosen(
    image: np.ndarray, truth: np.ndarray, picture: str, sigma: float
) -> None:
    found = classical_of([(image, truth)], "images")
    assert found.picture == picture and found.sigma >= sigma
    mask = found.mask(image)
    iou = (mask & (truth > 0)).sum() / (mask | (truth > 0)).sum()
    assert iou > 0.9 and f"IoU per image {iou:.3f}" in str(found)
    assert "chosen of 8 by the 1 images" in str(found)


def test_what_is_not_annotated_does_not_choose() -> None:
    truth = np.where(ROWS < 40, TRUTH, -1)
    image = np.where(ROWS < 40, BRIGHT[..., 0], 200)[..., None].astype(np.uint8)
    assert classical_of([(image, truth)], "images").picture in (EACH, GRAY)
    nothing = classical_of([(BRIGHT, np.full_like(TRUTH, -1))], "images")
    assert "IoU per image 1.000" in str(nothing)


def test_without_images_no_truth_is_looked_at() -> None:
    assert classical_of([], "images") == Classical()
    assert "no truth was looked at" in str(Classical())


def test_touching_objects_are_told_apart() -> None:
    pair = (np.hypot(ROWS - 40, COLUMNS - 40) < 12) | (np.hypot(ROWS - 40, COLUMNS - 59) < 12)
    image = np.where(pair, 200, 20).astype(np.uint8)[..., None]
    assert label_components(pair).max() == 1 and Classical().objects(image).max() == 2


@pytest.mark.parametrize("picture", PICTURES)
@pytest.mark.parametrize("channels", [1, 2, 3, 5])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_every_kind_of_image(picture: str, channels: int, dtype: type) -> None:
    image = np.repeat(BRIGHT, channels, axis=2).astype(dtype)
    for one in (image, image * 0, np.full_like(image, 255)):
        assert pictured(one, picture).shape == (80, 100)
        found = Classical(picture).objects(one)
        assert found.shape == (80, 100) and found.dtype == np.int32
    dark = picture == INVERTED
    assert ((Classical(picture).mask(image) == CELLS).mean() > 0.98) != dark


def test_the_stain_is_forced() -> None:
    """Where it is not the best picture: hematoxylin alone, which gray shows as well."""
    assert not np.array_equal(pictured(stained(), STAIN), pictured(stained(), INVERTED))
