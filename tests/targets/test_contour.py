"""Contours: where they lie, and that objects come back from them."""

from typing import Any

import numpy as np
import pytest
import torch

from segmentation.errors import UserError
from segmentation.targets import Contour


def discs() -> np.ndarray:
    """Five discs: two that touch, one cut by the border, one alone, one small."""
    labels = np.zeros((128, 128), np.int32)
    rows, columns = np.mgrid[:128, :128]
    for i, (y, x, r) in enumerate(
        [(30, 30, 14), (30, 57, 14), (80, 40, 20), (0, 100, 11), (90, 90, 10)], start=1
    ):
        labels[((rows - y) ** 2 + (columns - x) ** 2 <= r * r) & (labels == 0)] = i
    return labels


def certain(classes: torch.Tensor) -> np.ndarray:
    """(3, H, W) probabilities of a network that is sure and right."""
    return torch.nn.functional.one_hot(classes, 3).permute(2, 0, 1).float().numpy()


POSITIONS = ["straddling", "inner", "outer"]


@pytest.mark.parametrize("position", POSITIONS)
@pytest.mark.parametrize("width", [1, 2, 3, 4])
def test_contour_tells_touching_objects_apart_and_gives_them_back(
    width: int, position: Any
) -> None:
    labels, target = discs(), Contour(width, position)
    probs = certain(target.encode(labels))
    decoded = target.decode(probs)
    assert decoded.dtype == np.int32 and decoded.max() == 5
    for i in range(1, 6):
        found = np.bincount(decoded[labels == i]).argmax()
        both = (labels == i) & (decoded == found)
        assert found and both.sum() / ((labels == i) | (decoded == found)).sum() > 0.93
    foreground = target.foreground(torch.from_numpy(probs)[None])[0].numpy() > 0.5
    assert (foreground == (decoded > 0)).all()
    assert ((labels > 0) != foreground).sum() < 0.02 * (labels > 0).sum()  # round corners


@pytest.mark.parametrize("width", [1, 2, 3])
@pytest.mark.parametrize("position", POSITIONS)
def test_where_the_contour_lies(width: int, position: Any) -> None:
    """A bar of 10 columns: how many of its own and of the background's belong to each side."""
    labels = np.zeros((12, 40), np.int32)
    labels[:, 15:25] = 1
    row = Contour(width, position).encode(labels)[6].tolist()
    half = (width + 1) // 2
    inside, outside = {
        "straddling": (half, width - half),
        "inner": (width, 0),
        "outer": (0, width),
    }[position]
    wanted = [0] * (15 - outside) + [2] * (outside + inside) + [1] * (10 - 2 * inside)
    assert row[:20] == wanted[:20]
    assert row == row[::-1]
    assert Contour(width, position).encode(labels)[0].tolist() == row  # no contour at the end


@pytest.mark.parametrize("position", POSITIONS)
def test_between_touching_objects_there_is_always_a_contour(position: Any) -> None:
    labels = np.zeros((10, 40), np.int32)
    labels[:, :20], labels[:, 20:] = 1, 2
    classes = Contour(2, position).encode(labels)
    assert (classes[:, 19:21] == 2).all() and (classes == 0).sum() == 0
    assert classes[0, :15].tolist() == [1] * 15


def test_contour_shapes_and_probabilities() -> None:
    target = Contour()
    assert target.classes == 3 and target.encode(discs()).dtype == torch.int64
    assert target.encode(discs()).shape == (128, 128)
    logits = torch.randn(2, 3, 5, 6).half()
    probs = target.probabilities(logits)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs.sum(1), torch.ones(2, 5, 6))
    foreground = target.foreground(probs)
    assert foreground.shape == (2, 5, 6)
    assert (foreground <= probs[:, 1] + probs[:, 2] + 1e-6).all()
    assert (Contour(2, "inner").foreground(probs) >= 0).all()


def test_contour_of_nothing_and_of_small_objects() -> None:
    nothing = np.zeros((16, 16), np.int32)
    assert not Contour().encode(nothing).any()
    probs = certain(Contour().encode(nothing))
    assert not Contour().decode(probs).any()
    labels = discs()
    small = Contour(2, min_size=350)
    assert small.decode(certain(small.encode(labels))).max() == 3  # two are below 350 pixels
    with pytest.raises(UserError, match=r"target\.width: 0 must be at least 1 pixel"):
        Contour(0)
    with pytest.raises(UserError, match=r"target\.position: 'middle' must be straddling, inner"):
        Contour(2, "middle")  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"target\.threshold: 1\.5 is not between 0 and 1"):
        Contour(threshold=1.5)
