"""Weighted cross-entropies against PyTorch's own and by hand, and smp's losses from a config."""

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from jsonargparse import ArgumentParser
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.losses import DeepSupervision, WeightedBCE, WeightedCrossEntropy
from segmentation.targets import Contour, Foreground, Target

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 1, 5, 6, generator=G)
MASK = (torch.rand(2, 1, 5, 6, generator=G) > 0.6).to(torch.uint8)
WEIGHT = torch.rand(2, 5, 6, generator=G) * 3
SCORES = torch.randn(2, 3, 5, 6, generator=G)
CLASSES = torch.randint(0, 3, (2, 5, 6), generator=G)


def test_bce_is_pytorchs() -> None:
    expected = F.binary_cross_entropy_with_logits(LOGITS, MASK.float())
    assert WeightedBCE()(LOGITS, MASK) == pytest.approx(expected)
    expected = F.binary_cross_entropy_with_logits(
        LOGITS, MASK.float(), pos_weight=torch.tensor(3.0)
    )
    assert WeightedBCE(3)(LOGITS, MASK) == pytest.approx(expected)


def test_weighted_bce_by_hand() -> None:
    p = LOGITS[:, 0].double().sigmoid().numpy()
    t, w = MASK[:, 0].double().numpy(), WEIGHT.double().numpy()
    expected = -(w * (2 * t * np.log(p) + (1 - t) * np.log(1 - p))).sum() / t.size
    assert WeightedBCE(pos_weight=2)(LOGITS, MASK, WEIGHT) == pytest.approx(expected, rel=1e-6)


def test_cross_entropy_is_kerass_weighted_mean_over_pixels() -> None:
    p = SCORES.double().softmax(1).numpy()
    c = np.array([0.01, 1.0, 0.95])
    taken = np.take_along_axis(p, CLASSES[:, None].numpy(), 1)[:, 0]
    per_pixel = -c[CLASSES.numpy()] * np.log(taken)
    loss = WeightedCrossEntropy([0.01, 1.0, 0.95])
    assert loss(SCORES, CLASSES) == pytest.approx(per_pixel.mean(), rel=1e-6)
    weighted = (per_pixel * WEIGHT.double().numpy()).mean()
    assert loss(SCORES, CLASSES, WEIGHT) == pytest.approx(weighted, rel=1e-6)
    assert WeightedCrossEntropy()(SCORES, CLASSES) == pytest.approx(
        F.cross_entropy(SCORES, CLASSES)
    )
    assert loss.state_dict() == {}  # the config says it


def test_doubling_a_class_weight_doubles_its_share() -> None:
    only = torch.full_like(CLASSES, 2)
    one, two = (WeightedCrossEntropy([1, 1, w])(SCORES, only) for w in (1.0, 2.0))
    assert two == pytest.approx(2 * one)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_under_autocast_both_are_computed_in_float32(dtype: torch.dtype) -> None:
    with torch.autocast("cpu", dtype=torch.bfloat16):
        big = torch.full((1, 1, 2, 2), 1000.0).to(dtype)
        loss = WeightedBCE()(big, torch.zeros_like(big))
        assert loss.dtype == torch.float32 and loss == pytest.approx(1000, rel=0.01)
        loss = WeightedCrossEntropy()(SCORES.to(dtype), CLASSES)
        assert loss.dtype == torch.float32


def test_class_weights_follow_the_network_into_any_precision() -> None:
    loss = WeightedCrossEntropy([0.25, 1.0, 0.5]).to(torch.bfloat16)  # as with bf16-true
    low = SCORES.bfloat16()
    expected = WeightedCrossEntropy([0.25, 1.0, 0.5])(low.float(), CLASSES)
    assert loss(low, CLASSES) == pytest.approx(expected)


def test_every_channel_counts() -> None:
    logits, target = LOGITS.repeat(1, 3, 1, 1), (CLASSES[:, None] == torch.arange(3).view(3, 1, 1))
    expected = F.binary_cross_entropy_with_logits(logits, target.float())
    assert WeightedBCE()(logits, target) == pytest.approx(expected)
    per_pixel = F.binary_cross_entropy_with_logits(logits, target.float(), reduction="none")
    expected = (per_pixel * WEIGHT[:, None]).mean()
    assert WeightedBCE()(logits, target, WEIGHT) == pytest.approx(expected)


@pytest.mark.parametrize("weight", [None, torch.zeros(2, 5, 6)])
def test_empty_targets_have_gradients(weight: Tensor | None) -> None:
    logits = LOGITS.clone().requires_grad_()
    WeightedBCE()(logits, torch.zeros_like(MASK), weight).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert bool(logits.grad.any()) == (weight is None)


def test_deep_supervision_hands_weights_on() -> None:
    loss = DeepSupervision(WeightedBCE(), [1, 3])
    expected = (
        WeightedBCE()(LOGITS, MASK, WEIGHT) + 3 * WeightedBCE()(LOGITS + 1, MASK, WEIGHT)
    ) / 4
    assert loss([LOGITS, LOGITS + 1], MASK, WEIGHT) == pytest.approx(expected)


def test_what_does_not_fit() -> None:
    with pytest.raises(ValueError, match="differ in shape"):
        WeightedBCE()(LOGITS, MASK[:1])
    with pytest.raises(ValueError, match="do not fit together"):
        WeightedCrossEntropy()(SCORES, CLASSES[:, None])
    for shape in ((2, 1, 5, 6), (5, 6), (1, 5, 6)):  # which would be broadcast to something else
        with pytest.raises(ValueError, match="must have the shape"):
            WeightedBCE()(LOGITS, MASK, torch.ones(shape))
        with pytest.raises(ValueError, match="must have the shape"):
            WeightedCrossEntropy()(SCORES, CLASSES, torch.ones(shape))
    with pytest.raises(UserError, match="2 for 3 classes"):
        WeightedCrossEntropy([1, 1])(SCORES, CLASSES)
    with pytest.raises(ValueError, match="must be ≥ 0"):
        WeightedCrossEntropy([1, -1, 1])
    for weights in ([0, 0, 0], [], [1, math.nan, 1], [1, math.inf, 1]):
        with pytest.raises(ValueError, match="must be ≥ 0"):
            WeightedCrossEntropy(weights)
    for pos_weight in (0, math.nan, math.inf):
        with pytest.raises(ValueError, match="must be positive"):
            WeightedBCE(pos_weight)


def from_yaml(text: str) -> nn.Module:
    """A loss as a config names it."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(nn.Module, "loss")
    loss: nn.Module = parser.instantiate(parser.parse_string(text)).loss
    return loss


def encoded(target: Target) -> tuple[Tensor, Tensor]:
    """Two images of touching squares, and logits that are right about them."""
    labels = np.zeros((2, 24, 24), np.int32)
    labels[:, 4:12, 4:12], labels[:, 4:12, 12:20] = 1, 2
    truth = torch.stack([target.encode(some) for some in labels])
    right = torch.full((2, target.classes, 24, 24), -9.0)
    if target.classes == 1:
        right[truth > 0] = 9
    else:
        right.scatter_(1, truth[:, None], 9.0)
    return right, truth


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss"])
@pytest.mark.parametrize(
    ("mode", "target"), [("binary", Foreground()), ("multiclass", Contour())], ids=["one", "three"]
)
def test_smps_losses_take_our_targets(name: str, mode: str, target: Target) -> None:
    one = f"{{class_path: segmentation_models_pytorch.losses.{name}, init_args: {{mode: {mode}}}}}"
    several = f"{{class_path: segmentation.losses.DeepSupervision, init_args: {{loss: {one}}}}}"
    right, truth = encoded(target)
    for text in (one, several):
        loss = from_yaml(f"loss: {text}")
        wrong = (-right).requires_grad_()
        value = loss(wrong, truth)
        value.backward()
        worst = value.item()
        assert loss(right, truth) < 0.05 < worst < math.inf
        assert wrong.grad is not None and wrong.grad.isfinite().all() and wrong.grad.any()
    heads = [right, -right]
    mean = (from_yaml(f"loss: {one}")(right, truth) + worst) / 2
    assert from_yaml(f"loss: {several}")(heads, truth) == pytest.approx(mean)


@pytest.mark.parametrize("name", ["DiceLoss", "JaccardLoss", "TverskyLoss", "FocalLoss"])
def test_smps_losses_of_an_empty_batch_are_finite(name: str) -> None:
    """But those of overlap have no gradient there, as ours have: see the package's docstring."""
    loss = from_yaml(
        f"loss: {{class_path: segmentation_models_pytorch.losses.{name}, "
        "init_args: {mode: binary}}"
    )
    logits = LOGITS.clone().requires_grad_()
    loss(logits, torch.zeros_like(MASK)).backward()
    assert logits.grad is not None and logits.grad.isfinite().all()
    assert bool(logits.grad.any()) == (name == "FocalLoss")
