"""The formula, its gradients where there is nothing to find, and its precision."""

import math

import pytest
import torch
from torch import Tensor

from segmentation.losses import BCEDice


def example(*shape: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    logits = torch.randn(shape, generator=generator) * 3
    return logits, (torch.rand(shape, generator=generator) < 0.3).to(torch.uint8)


def slow(
    logits: Tensor, target: Tensor, weight: Tensor | None, smooth: float, per_image: bool
) -> tuple[float, float]:
    """Cross-entropy and 1 - Dice, pixel by pixel in Python's floats."""
    entropy, count = 0.0, 0
    sums = [[0.0, 0.0] for _ in logits]
    for b, image in enumerate(logits.tolist()):
        for y, row in enumerate(image[0]):
            for x, logit in enumerate(row):
                p = 1 / (1 + math.exp(-logit))
                t = int(target[b, 0, y, x])
                w = 1.0 if weight is None else float(weight[b, y, x])
                entropy -= w * (t * math.log(p) + (1 - t) * math.log(1 - p))
                count += 1
                sums[b][0] += p * t
                sums[b][1] += p + t
    if not per_image:
        sums = [[sum(s[0] for s in sums), sum(s[1] for s in sums)]]
    dice = [(2 * overlap + smooth) / (total + smooth) for overlap, total in sums]
    return entropy / count, 1 - sum(dice) / len(dice)


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("smooth", [1.0, 0.01])
@pytest.mark.parametrize("weighted", [False, True])
def test_formula(per_image: bool, smooth: float, weighted: bool) -> None:
    logits, target = example(3, 1, 6, 5)
    weight = torch.rand(3, 6, 5) * 4 if weighted else None
    entropy, dice = slow(logits, target, weight, smooth, per_image)
    for dice_weight in (0.0, 1.0, 2.5):
        module = BCEDice(smooth, dice_weight, per_image)
        loss = module(logits, target, weight)
        assert loss.shape == () and loss.dtype == torch.float32
        assert float(loss) == pytest.approx(entropy + dice_weight * dice, rel=1e-5)


@pytest.mark.parametrize("dtype", [torch.uint8, torch.bool, torch.float32, torch.int64])
def test_targets_of_any_dtype(dtype: torch.dtype) -> None:
    logits, target = example(2, 1, 4, 4)
    torch.testing.assert_close(BCEDice()(logits, target.to(dtype)), BCEDice()(logits, target))


def test_right_answers_cost_nothing() -> None:
    _, target = example(2, 1, 8, 8)
    right = (target.float() * 2 - 1) * 50
    assert float(BCEDice()(right, target)) == pytest.approx(0, abs=1e-5)
    assert float(BCEDice()(-right, target)) > 50


@pytest.mark.parametrize("per_image", [False, True])
@pytest.mark.parametrize("level", [-8.0, 0.0, 8.0, 60.0])
@pytest.mark.parametrize("part", ["whole", "dice"])
def test_empty_masks_have_a_gradient(per_image: bool, level: float, part: str) -> None:
    logits = torch.full((2, 1, 16, 16), level, requires_grad=True)
    loss = BCEDice(per_image=per_image)(logits, torch.zeros(2, 1, 16, 16))
    if part == "dice":
        loss = loss - torch.nn.functional.softplus(logits).mean()
    (gradient,) = torch.autograd.grad(loss, logits)
    assert torch.isfinite(gradient).all()
    if part == "whole" or level < 60:  # there sigmoid itself is flat
        assert (gradient > 0).all()  # towards less foreground


@pytest.mark.parametrize("level", [-1e4, 1e4])
def test_extreme_logits_are_finite(level: float) -> None:
    for target in (torch.zeros(1, 1, 4, 4), torch.ones(1, 1, 4, 4)):
        logits = torch.full((1, 1, 4, 4), level, requires_grad=True)
        loss = BCEDice()(logits, target)
        (gradient,) = torch.autograd.grad(loss, logits)
        assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_float32_under_autocast() -> None:
    logits, target = example(2, 1, 64, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        low = (logits @ torch.eye(64)).requires_grad_()  # what a network gives under autocast
        assert low.dtype == torch.bfloat16
        loss = BCEDice()(low, target)
    assert loss.dtype == torch.float32
    torch.testing.assert_close(loss, BCEDice()(low.detach().float(), target))
    (gradient,) = torch.autograd.grad(loss, low)
    assert gradient.dtype == torch.bfloat16 and torch.isfinite(gradient).all()
    # Sums of 2**20 pixels in bfloat16 would be off by half.
    many = torch.zeros(1, 1, 1024, 1024, dtype=torch.bfloat16)
    zeros = torch.zeros_like(many)
    assert float(BCEDice()(many, zeros)) == pytest.approx(
        math.log(2) + 1 - 1 / (2**19 + 1), rel=1e-5
    )


def test_bad_arguments() -> None:
    logits, target = example(2, 1, 4, 4)
    with pytest.raises(ValueError, match=r"logits \(2, 1, 4, 4\) and target \(2, 4, 4\) differ"):
        BCEDice()(logits, target[:, 0])
    for smooth in (0.0, -1.0):
        with pytest.raises(ValueError, match=r"smooth: .* must be positive"):
            BCEDice(smooth)
