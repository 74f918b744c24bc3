"""A weighted mean over heads, and one head as it is."""

import pytest
import torch
from torch import nn

from segmentation.losses import BCEDice, DeepSupervision

HEADS = [torch.randn(2, 1, 5, 5, generator=torch.Generator().manual_seed(i)) for i in range(3)]
TARGET = torch.randint(0, 2, (2, 1, 5, 5), generator=torch.Generator().manual_seed(9))


def test_mean_over_heads() -> None:
    loss = BCEDice()
    each = torch.stack([loss(head, TARGET) for head in HEADS])
    torch.testing.assert_close(DeepSupervision(loss)(HEADS, TARGET), each.mean())
    torch.testing.assert_close(DeepSupervision(loss)(tuple(HEADS), TARGET), each.mean())
    weights = [1.0, 0.0, 3.0]
    weighted = (each * torch.tensor(weights)).sum() / 4
    torch.testing.assert_close(DeepSupervision(loss, weights)(HEADS, TARGET), weighted)
    one = DeepSupervision(loss, [2.0])(HEADS[:1], TARGET)
    torch.testing.assert_close(one, each[0])


def test_one_tensor_as_in_evaluation() -> None:
    loss = BCEDice()
    for weights in (None, [1.0, 2.0, 3.0]):
        one = DeepSupervision(loss, weights)(HEADS[0], TARGET)
        torch.testing.assert_close(one, loss(HEADS[0], TARGET))


def test_weights_of_pixels_reach_every_head() -> None:
    loss, weight = BCEDice(dice_weight=0.0), torch.full((2, 5, 5), 3.0)
    plain = DeepSupervision(loss)(HEADS, TARGET)
    torch.testing.assert_close(DeepSupervision(loss)(HEADS, TARGET, weight), 3 * plain)
    torch.testing.assert_close(
        DeepSupervision(loss)(HEADS[0], TARGET, weight), 3 * loss(HEADS[0], TARGET)
    )


def test_any_loss_of_two_arguments() -> None:
    plain = nn.BCEWithLogitsLoss()
    each = torch.stack([plain(head, TARGET.float()) for head in HEADS])
    torch.testing.assert_close(DeepSupervision(plain)(HEADS, TARGET.float()), each.mean())
    torch.testing.assert_close(DeepSupervision(plain)(HEADS[0], TARGET.float()), each[0])


def test_every_head_learns() -> None:
    heads = [head.clone().requires_grad_() for head in HEADS]
    gradients = torch.autograd.grad(DeepSupervision(BCEDice())(heads, TARGET), heads)
    assert all(gradient.abs().sum() > 0 for gradient in gradients)


def test_bad_weights() -> None:
    with pytest.raises(ValueError, match="2 deep-supervision weights for 3 heads"):
        DeepSupervision(BCEDice(), [1.0, 1.0])(HEADS, TARGET)
    for weights in ([], [0.0, 0.0], [1.0, -1.0]):
        with pytest.raises(ValueError, match="deep-supervision weights"):
            DeepSupervision(BCEDice(), weights)
