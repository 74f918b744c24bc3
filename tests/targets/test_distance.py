"""Relative distances, against the plain definition, and objects that come back from them."""

import numpy as np
import pytest
import torch
from scipy import ndimage

from segmentation.losses import BCEDice, BCEDiceDistance
from segmentation.targets import Distance
from segmentation.targets.distance import relative_distance


def discs() -> np.ndarray:
    """Five discs: two that touch, one cut by the border, one alone, one small."""
    labels = np.zeros((128, 128), np.int32)
    rows, columns = np.mgrid[:128, :128]
    for i, (y, x, r) in enumerate(
        [(30, 30, 14), (30, 57, 14), (80, 40, 20), (0, 100, 11), (90, 90, 10)], start=1
    ):
        labels[((rows - y) ** 2 + (columns - x) ** 2 <= r * r) & (labels == 0)] = i
    return labels


def test_distances_of_objects_apart_are_the_plain_definition() -> None:
    labels = discs()
    labels[labels == 2] = 0  # the one that touches another
    wanted = np.zeros(labels.shape)
    for i in range(1, 6):
        if (labels == i).any():
            padded = np.pad(labels == i, 1, mode="edge")  # no outline at the image's border
            distance = ndimage.distance_transform_edt(padded)[1:-1, 1:-1] + 0.5
            distance[labels != i] = 0
            wanted += distance / distance.max()
    np.testing.assert_allclose(relative_distance(labels), wanted, atol=0.02)


def test_every_object_has_its_summit_and_seams_are_low() -> None:
    labels = np.zeros((40, 60), np.int32)
    labels[5:35, 5:30], labels[5:35, 30:55] = 1, 9
    distance = relative_distance(labels)
    assert distance.dtype == np.float32 and distance[labels == 0].max() == 0
    assert distance[labels == 1].max() == distance[labels == 9].max() == 1
    assert distance[20, 29:31].max() < 0.06
    assert distance[20, 17] > 0.95


@pytest.mark.parametrize("value", [0, 4])
def test_an_image_of_one_object_or_none(value: int) -> None:
    labels = np.full((16, 16), value, np.int32)
    assert (relative_distance(labels) == float(value > 0)).all()
    target = Distance()
    assert target.decode(target.encode(labels).numpy()).max() == (value > 0)


def test_thin_objects_have_a_summit_too() -> None:
    labels = np.zeros((12, 12), np.int32)
    labels[3, 2:9], labels[4, 2:9], labels[8, 8] = 1, 2, 3
    distance = relative_distance(labels)
    for i in (1, 2, 3):
        assert distance[labels == i].max() == 1


def test_touching_objects_come_back() -> None:
    labels, target = discs(), Distance()
    encoded = target.encode(labels)
    assert encoded.shape == (2, 128, 128) and encoded.dtype == torch.float32
    decoded = target.decode(encoded.numpy())
    assert decoded.max() == 5 and ((decoded > 0) == (labels > 0)).all()
    for i in range(1, 6):
        found = np.bincount(decoded[labels == i]).argmax()
        both = (labels == i) & (decoded == found)
        assert both.sum() / ((labels == i) | (decoded == found)).sum() > 0.95


def test_the_loss_is_what_it_says() -> None:
    torch.manual_seed(0)
    logits = torch.randn(2, 2, 6, 7, requires_grad=True)
    target = torch.zeros(2, 2, 6, 7)
    target[0, 0, 2:5, 2:5], target[0, 1, 2:5, 2:5] = 1, torch.rand(3, 3)
    loss = BCEDiceDistance(distance_weight=3.0)(logits, target)
    error = (logits[:, 1].sigmoid() - target[:, 1]).abs()
    inside = target[:, 0] > 0
    wanted = BCEDice()(logits[:, :1], target[:, :1]) + 3 * (
        error[inside].sum() / (9 + 1) + error[~inside].sum() / (84 - 9 + 1)
    )
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert logits.grad is not None and logits.grad.abs().min() > 0
    empty = BCEDiceDistance()(logits.detach().half(), torch.zeros(2, 2, 6, 7))
    assert empty.dtype == torch.float32 and torch.isfinite(empty)


def test_the_loss_refuses_other_shapes() -> None:
    three = torch.zeros(1, 3, 4, 4)
    with pytest.raises(ValueError, match="2 channels, got 3"):
        BCEDiceDistance()(three, three)
    with pytest.raises(ValueError, match="differ in shape"):
        BCEDiceDistance()(three, three[:, :2])
    with pytest.raises(ValueError, match=r"loss\.distance_weight: -1 must not be negative"):
        BCEDiceDistance(-1)
