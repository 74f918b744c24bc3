"""Softened edges and the boundary loss, against closed forms."""

import numpy as np
import pytest
import torch
from scipy.ndimage import distance_transform_edt

from segmentation.errors import UserError
from segmentation.losses import BCEDice, BCEDiceDistance, EdgeLoss


@pytest.fixture
def target() -> torch.Tensor:
    mask = torch.zeros(2, 1, 24, 32)
    mask[0, 0, 6:18, 8:20] = 1
    mask[1, 0, 2:5, 2:30] = 1
    return mask


def test_without_either_it_is_the_other_loss(target: torch.Tensor) -> None:
    logits, weight = torch.randn(2, 1, 24, 32), torch.rand(2, 24, 32)
    assert EdgeLoss(BCEDice())(logits, target) == BCEDice()(logits, target)
    assert EdgeLoss(BCEDice())(logits, target, weight) == BCEDice()(logits, target, weight)


def test_softened_edges_are_the_mean_over_squares(target: torch.Tensor) -> None:
    soft = EdgeLoss(BCEDice(), smoothing=2).softened(target)
    for one, mask in zip(soft[:, 0], target[:, 0], strict=True):
        for row, column in ((0, 0), (6, 8), (4, 31), (12, 12), (2, 2)):
            square = mask[max(0, row - 2) : row + 3, max(0, column - 2) : column + 3]
            assert float(one[row, column]) == pytest.approx(float(square.mean()), abs=1e-6)


def test_other_channels_stay_as_they_are() -> None:
    target = torch.rand(1, 2, 8, 8).round(decimals=2)
    soft = EdgeLoss(BCEDiceDistance(), smoothing=1).softened(target)
    assert torch.equal(soft[:, 1:], target[:, 1:]) and not torch.equal(soft[:, :1], target[:, :1])


def test_distances_are_signed_and_end_at_the_reach(target: torch.Tensor) -> None:
    found = EdgeLoss(BCEDice(), boundary=1, reach=5).distances(target[:, 0]).numpy()
    for one, mask in zip(found, target[:, 0].numpy() > 0, strict=True):
        wanted = np.where(mask, 0.5 - distance_transform_edt(mask), 0)
        wanted = np.where(mask, wanted, distance_transform_edt(~mask) - 0.5)
        np.testing.assert_allclose(one, np.clip(wanted / 5, -1, 1), atol=1e-3)
    assert found.min() < 0 < found.max() == 1


def test_of_certain_answers_the_boundary_loss_is_the_mean_distance(target: torch.Tensor) -> None:
    loss = EdgeLoss(BCEDice(), boundary=3.0, reach=5)
    everywhere = torch.full_like(target, 50.0)
    more = loss(everywhere, target) - BCEDice()(everywhere, target)
    assert float(more) == pytest.approx(3 * float(loss.distances(target[:, 0]).mean()), abs=1e-4)
    known = torch.zeros(2, 24, 32)
    known[:, :12] = 1
    more = loss(everywhere, target, known) - BCEDice()(everywhere, target, known)
    wanted = 3 * float((loss.distances(target[:, 0]) * known).mean())
    assert float(more) == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_a_batch_without_edges(value: float) -> None:
    logits = torch.zeros(1, 1, 8, 8, requires_grad=True)
    target = torch.full((1, 1, 8, 8), value)
    assert EdgeLoss(BCEDice(), boundary=1)(logits, target) == BCEDice()(logits, target)


def test_classes_that_exclude_each_other_are_refused() -> None:
    with pytest.raises(ValueError, match="differ in shape: edges are known of a foreground"):
        EdgeLoss(BCEDice(), smoothing=1)(torch.zeros(1, 3, 8, 8), torch.zeros(1, 8, 8))


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"smoothing": -1}, "loss.smoothing: -1 must be at least 0"),
        ({"boundary": float("nan")}, "loss.boundary: nan"),
        ({"reach": 0.0}, "loss.reach: 0.0 must be positive"),
    ],
)
def test_impossible_settings(settings: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=says):
        EdgeLoss(BCEDice(), **settings)  # type: ignore[arg-type]
