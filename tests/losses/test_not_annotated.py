"""Pixels that are not annotated: every loss is what it is on the others alone."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
from torch import Tensor, nn

from segmentation.losses import (
    BCEDice,
    BCEDiceDistance,
    CrossEntropyDice,
    DeepSupervision,
    FlowLoss,
    ObjectsAndClasses,
    WeightedBCE,
    WeightedCrossEntropy,
    WeightedFScore,
)
from segmentation.targets import Classes, Contour, Distance, Flow, Foreground, Target, WithClasses
from segmentation.task import SegmentationTask
from tests.tiny import PREPROCESS, sgd

CASES: list[tuple[nn.Module, Target]] = [
    (BCEDice(), Foreground()),
    (BCEDice(smooth=0.1, dice_weight=2), Foreground()),
    (WeightedBCE(pos_weight=3), Foreground()),
    (WeightedFScore(), Foreground()),
    (BCEDiceDistance(), Distance()),
    (FlowLoss(), Flow()),
    (WeightedCrossEntropy(), Contour()),
    (WeightedCrossEntropy([1, 0.5, 3]), Contour()),
    (CrossEntropyDice([1, 2, 1]), Classes(["a", "b"])),
    (ObjectsAndClasses(BCEDice(), 2), WithClasses(Foreground(), ["a", "b"])),
]


def make_task(loss: nn.Module, target: Target) -> SegmentationTask:
    net = nn.Conv2d(3, target.classes, 1)
    return SegmentationTask(net, loss, target, PREPROCESS, optimizer=sgd)


def example(target: Target, count: int = 3) -> tuple[Tensor, dict[str, Any]]:
    """Random logits and a batch of which the last image is not annotated at all."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn(count, target.classes, 6, 8, generator=random)
    truth = torch.rand(count, 6, 8, generator=random)
    learned = {
        1: (truth < 0.4).to(torch.uint8)[:, None],
        2: torch.stack([(truth < 0.4).float(), (truth < 0.4) * truth], 1),
        3: (truth * 3).long(),
        4: torch.stack([truth < 0.4, truth * 3], 1).long(),
    }[target.classes]
    if isinstance(target, Flow):
        learned = torch.stack([(truth < 0.4).float(), *2 * [(truth < 0.4) * truth]], 1)
    annotated = torch.rand(count, 6, 8, generator=random) < 0.5
    annotated[-1] = False
    here = annotated if learned.ndim == 3 else annotated[:, None]
    return logits.requires_grad_(), {"target": learned * here, "annotated": annotated}


def gathered(array: Tensor, known: Tensor) -> Tensor:
    """The annotated pixels of a batch as one image of one row."""
    if array.ndim == 3:
        return array[known][None, None]
    return array.movedim(1, -1)[known].T[None, :, None]


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize(("loss", "target"), CASES, ids=lambda part: type(part).__name__)
def test_losses_see_annotated_pixels_alone(loss: nn.Module, target: Target, weighted: bool) -> None:
    logits, batch = example(target)
    known, weights = batch["annotated"], []
    if weighted:
        batch["weight"] = torch.rand(known.shape) + 0.5
        weights = [gathered(batch["weight"], known)]
    value = make_task(loss, target).batch_loss(logits, batch)
    truth = gathered(batch["target"], known)
    alone = loss(gathered(logits, known), truth, *weights)
    torch.testing.assert_close(value, alone, atol=1e-6, rtol=1e-6)
    value.backward()
    assert logits.grad is not None
    here = known[:, None].expand_as(logits.grad)
    assert not logits.grad[~here].any() and logits.grad[here].any()


def test_dice_of_each_image_leaves_out_what_has_none() -> None:
    logits, batch = example(Foreground())
    value = make_task(BCEDice(per_image=True), Foreground()).batch_loss(logits, batch)
    known, alone, both = batch["annotated"], [], (logits.detach(), batch["target"])
    entropy = float(WeightedBCE()(*(gathered(a, known) for a in both)))
    for i in (0, 1):
        parts = (gathered(a[i : i + 1], known[i : i + 1]) for a in both)
        found, true = (part.flatten() for part in parts)
        p = found.sigmoid()
        alone.append(1 - float((2 * (p * true).sum() + 1) / (p.sum() + true.sum() + 1)))
    assert value.item() == pytest.approx(entropy + sum(alone) / 2, abs=1e-6)
    for part in batch.values():  # nothing can be learned, and nothing is
        part.zero_()
    nothing = make_task(BCEDice(per_image=True), Foreground()).batch_loss(logits, batch)
    (gradient,) = torch.autograd.grad(nothing, logits)
    assert nothing.item() == pytest.approx(0, abs=1e-6) and not gradient.any()


def test_deep_supervision_of_annotated_pixels() -> None:
    target = Distance()
    (one, batch), (other, _) = example(target), example(target)
    other = (other * 0.3).detach().requires_grad_()
    loss = DeepSupervision(BCEDiceDistance(), [1, 3])
    value = make_task(loss, target).batch_loss([one, other], batch)
    known = batch["annotated"]
    truth = gathered(batch["target"], known)
    heads = [BCEDiceDistance()(gathered(head, known), truth) for head in (one, other)]
    torch.testing.assert_close(value, (heads[0] + 3 * heads[1]) / 4, atol=1e-6, rtol=1e-6)
    for gradient in torch.autograd.grad(value, [one, other]):
        assert not gradient[~known[:, None].expand_as(gradient)].any()


@pytest.mark.parametrize(
    ("loss", "target"),
    [
        (smp.losses.DiceLoss("binary", smooth=1), Foreground()),
        (smp.losses.TverskyLoss("binary", smooth=1), Foreground()),
        (smp.losses.DiceLoss("multiclass", classes=[1, 2], smooth=1), Contour()),
        (smp.losses.FocalLoss("binary", reduction="sum"), Foreground()),
        (smp.losses.FocalLoss("multiclass", reduction="sum"), Contour()),
        (nn.BCEWithLogitsLoss(reduction="sum"), Foreground()),
        (nn.CrossEntropyLoss(reduction="sum"), Contour()),
    ],
    ids=lambda part: type(part).__name__,
)
def test_sums_of_foreign_losses_have_annotated_pixels_alone(
    loss: nn.Module, target: Target
) -> None:
    logits, batch = example(target)
    known = batch["annotated"]
    value = make_task(loss, target).batch_loss(logits, batch)
    truth = gathered(batch["target"], known)
    truth = truth if batch["target"].ndim == 3 else truth.float()
    alone = loss(gathered(logits, known), truth)
    torch.testing.assert_close(value, alone, atol=2e-6, rtol=2e-6)
    (gradient,) = torch.autograd.grad(value, logits)
    here = known[:, None].expand_as(gradient)
    assert not gradient[~here].any() and gradient[here].any()


@pytest.mark.parametrize("target", [target for _, target in CASES])
def test_background_is_certain(target: Target) -> None:
    logits = torch.tensor(target.background).view(1, -1, 1, 1)
    assert float(target.foreground(target.probabilities(logits))) < 1e-9
