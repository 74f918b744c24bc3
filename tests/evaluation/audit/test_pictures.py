"""Pictures of the page."""

import base64

import cv2
import numpy as np
import pytest

from segmentation.evaluation.audit.pictures import (
    ODD,
    OUTLINE,
    closeup,
    outlined,
    side_by_side,
)
from tests.evaluation.audit.listed import block, noise, sample


def decode(url: str) -> np.ndarray:
    data = base64.b64decode(url.removeprefix("data:image/jpeg;base64,"), validate=True)
    pixels = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert pixels is not None
    return pixels[..., ::-1]


def test_outlines_are_the_outermost_pixels() -> None:
    rgb = np.zeros((48, 64, 3), np.uint8)
    labels = block(2, 3, 5, 6) + 2 * block(7, 3, 5, 6) + 3 * block(40, 60, 8, 4)
    drawn = (outlined(rgb, labels) == OUTLINE).all(2)
    wanted = labels > 0
    wanted[3:6, 4:8] = wanted[8:11, 4:8] = wanted[41:47, 61:63] = False
    np.testing.assert_array_equal(drawn, wanted)
    assert not rgb.any()


@pytest.mark.parametrize("size", [(48, 64), (700, 350), (30, 1300)])
def test_side_by_side(size: tuple[int, int]) -> None:
    image = np.full(size, 40, np.uint8)
    image[0] = 80
    pair = (
        sample("a", image, block(5, 5, 20, 20, size)),
        sample("b", image, block(5, 20, 20, 20, size)),
    )
    pixels = decode(side_by_side(*pair))
    scale = min(1, 320 / max(size))
    assert pixels.shape == (round(size[0] * scale), 3 * round(size[1] * scale) + 8, 3)
    if scale == 1:
        third = pixels[:, 2 * 68 :].astype(int)
        both, one, other = third[15, 22], third[15, 10], third[15, 32]
        assert both[2] > both[1] and one[0] > one[2] + 50 and other[1] > other[0] + 50
    without = sample("c", image, None)
    assert decode(side_by_side(pair[0], without)).shape == pixels.shape


@pytest.mark.parametrize(("x", "y"), [(0, 0), (63, 47), (30, 20)])
@pytest.mark.parametrize("scale", [1, 5])
def test_closeups_show_the_object(x: int, y: int, scale: int) -> None:
    image = np.repeat(noise(0)[..., None] // 4, 3, 2).repeat(scale, 0).repeat(scale, 1)
    labels = np.zeros(image.shape[:2], np.int32)
    labels[y * scale : y * scale + 8, x * scale : x * scale + 8] = 3
    pixels = decode(closeup(sample("a", image, labels), 3, x * scale, y * scale)).astype(int)
    assert max(pixels.shape) <= 192
    assert (np.abs(pixels - ODD).sum(2) < 150).any()
