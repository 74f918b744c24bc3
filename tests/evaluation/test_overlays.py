"""The four colours of hits and errors, each where it belongs."""

import numpy as np
import pytest

from segmentation.evaluation import overlays

TRUTH = np.array([[True, True, False, False]])
PREDICTED = np.array([[True, False, True, False]])
COLOURS = (overlays.TRUE_POSITIVE, overlays.FALSE_NEGATIVE, overlays.FALSE_POSITIVE)


@pytest.mark.parametrize("opacity", [0.0, 0.25, 1.0])
def test_tint(opacity: float) -> None:
    rgb = np.array([[[10, 200, 30], [0, 0, 0], [255, 255, 255], [9, 8, 7]]], np.uint8)
    tinted = overlays.tint(rgb, PREDICTED, TRUTH, opacity)
    assert tinted.dtype == np.uint8 and tinted.shape == rgb.shape
    for place, colour in enumerate(COLOURS):
        mixed = rgb[0, place] * (1 - opacity) + np.array(colour) * opacity
        assert np.abs(tinted[0, place] - mixed).max() <= 0.5
    np.testing.assert_array_equal(tinted[0, 3], rgb[0, 3])  # a true negative keeps its own


def test_what_is_not_annotated_is_hatched() -> None:
    rgb = np.full((16, 16, 3), 9, np.uint8)
    truth = np.zeros((16, 16), np.int32)
    truth[:, 8:] = -1
    truth[0, 0] = 7
    tinted = overlays.tint(rgb, np.ones((16, 16), bool), truth, 1.0)
    assert (
        tuple(tinted[0, 0]) == overlays.TRUE_POSITIVE
        and tuple(tinted[0, 1]) == overlays.FALSE_POSITIVE
    )
    found = {tuple(colour) for colour in tinted[:, 8:].reshape(-1, 3).tolist()}
    assert found == {overlays.UNKNOWN, (9, 9, 9)}  # neither right nor wrong


def test_on_one_size() -> None:
    tall, wide = np.zeros((3, 2, 3), np.uint8), np.full((1, 5, 3), 7, np.uint8)
    one, other = overlays.on_one_size([tall, wide])
    assert one.shape == other.shape == (3, 5, 3)
    assert (one[:, :2] == 0).all() and (one[:, 2:] == 255).all()
    assert (other[:1] == 7).all() and (other[1:] == 255).all()
