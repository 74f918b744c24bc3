"""Losses over classes against smp's Dice, PyTorch's cross-entropy and their own definition."""

from typing import Any

import pytest
import segmentation_models_pytorch as smp
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.fitting import check_fit, check_loss
from segmentation.losses import (
    BCEDice,
    BCEDiceDistance,
    CrossEntropyDice,
    DeepSupervision,
    FlowLoss,
    ObjectsAndClasses,
    StarConvexLoss,
    WeightedCrossEntropy,
)
from segmentation.targets import (
    Classes,
    Contour,
    Distance,
    Flow,
    Foreground,
    StarConvex,
    Target,
    WithClasses,
)

G = torch.Generator().manual_seed(0)
LOGITS = torch.randn(2, 4, 8, 9, generator=G)
CLASSES = torch.randint(0, 4, (2, 8, 9), generator=G)
WEIGHT = torch.rand(2, 8, 9, generator=G) * 3
NAMES = ["a", "b", "c"]


def test_it_is_smps_dice_of_the_classes_and_pytorchs_cross_entropy() -> None:
    dice = smp.losses.DiceLoss("multiclass", classes=[1, 2, 3], smooth=0.5)
    expected = F.cross_entropy(LOGITS, CLASSES) + 2 * dice(LOGITS, CLASSES)
    found = float(CrossEntropyDice(dice_weight=2)(LOGITS, CLASSES))
    assert found == pytest.approx(float(expected), abs=1e-6)


def test_class_weights_and_weights_of_pixels() -> None:
    loss = CrossEntropyDice([0.5, 1, 0, 3])
    probs = LOGITS.softmax(1)
    dice = []
    for c in (1, 2, 3):
        p, t = probs[:, c], torch.eq(CLASSES, c).float()
        dice.append(float((2 * (p * t).sum() + 1) / (p.sum() + t.sum() + 1)))
    entropy = WeightedCrossEntropy([0.5, 1, 0, 3])(LOGITS, CLASSES)
    expected = entropy + 1 - (dice[0] + 3 * dice[2]) / 4
    assert loss(LOGITS, CLASSES) == pytest.approx(float(expected), abs=1e-6)
    # A pixel of weight 0 may be anything.
    weight = WEIGHT.clone()
    weight[:, :3] = 0
    other = CLASSES.clone()
    other[:, :3] = 1
    logits = LOGITS.clone()
    logits[:, :, :3] = 5
    plain = CrossEntropyDice()
    assert plain(logits, other, weight) == pytest.approx(
        float(plain(LOGITS, CLASSES, weight)), abs=1e-6
    )
    assert plain(LOGITS, CLASSES, WEIGHT) != pytest.approx(float(plain(LOGITS, CLASSES)), abs=1e-3)


def test_a_batch_without_objects_has_a_gradient() -> None:
    logits = LOGITS.half().requires_grad_()
    with torch.autocast("cpu", dtype=torch.bfloat16):
        value = CrossEntropyDice()(logits, torch.zeros_like(CLASSES))
    assert value.dtype == torch.float32 and torch.isfinite(value)
    (gradient,) = torch.autograd.grad(value, logits)
    assert (gradient[:, 1:] > 0).all()


@pytest.mark.parametrize(
    ("objects", "loss"),
    [
        (Foreground(), BCEDice()),
        (Contour(), WeightedCrossEntropy()),
        (Distance(), BCEDiceDistance()),
        (Flow(), FlowLoss()),
        (StarConvex(rays=4, grid=1), StarConvexLoss()),
    ],
)
def test_pairs_are_sums_of_their_losses(objects: Target, loss: nn.Module) -> None:
    target = WithClasses(objects, NAMES)
    labels = torch.zeros(8, 9, dtype=torch.int32).numpy()
    labels[2:6, 1:5], labels[5:8, 6:9] = 1, 2
    encoded = target.encode(labels, torch.tensor([0, 3, 1]).numpy())[None]
    logits = torch.randn(1, target.classes, 8, 9, generator=G)
    both = ObjectsAndClasses(loss, classes=3, class_weight=0.5, class_weights=[1, 2, 1, 1])
    inner: Tensor = objects.encode(labels)[None]
    head = CrossEntropyDice([1, 2, 1, 1])(logits[:, objects.classes :], encoded[:, -1].long())
    expected = loss(logits[:, : objects.classes], inner) + 0.5 * head
    assert both(logits, encoded) == pytest.approx(float(expected), abs=1e-6)
    weight = torch.rand(1, 8, 9, generator=G)
    for used in (both, DeepSupervision(both)):
        check_loss(used, target)
        assert torch.isfinite(used(logits, encoded, weight))


@pytest.mark.parametrize(
    ("loss", "target", "says"),
    [
        (CrossEntropyDice([1, 1]), Classes(NAMES), "2 for 4 classes; give one each"),
        (BCEDice(), Classes(NAMES), "does not fit model.target Classes"),
        (
            ObjectsAndClasses(WeightedCrossEntropy(), 2),
            WithClasses(Contour(), NAMES),
            "does not fit model.target WithClasses",
        ),
        (
            ObjectsAndClasses(BCEDice(), 4),
            WithClasses(Foreground(), NAMES),
            "do not fit loss.classes: 4",
        ),
        (CrossEntropyDice(), WithClasses(Foreground(), NAMES), "does not fit model.target"),
    ],
)
def test_a_loss_that_does_not_fit(loss: nn.Module, target: Target, says: str) -> None:
    with pytest.raises(UserError, match=says):
        check_loss(loss, target)


def test_a_network_that_does_not_fit() -> None:
    net = nn.Conv2d(3, 3, 1)
    net.classes = 3  # type: ignore[assignment]
    with pytest.raises(UserError, match=r"Classes needs 4 \(background, a, b, c\); set"):
        check_fit(net, Classes(NAMES), Preprocess())


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"smooth": 0}, "loss.smooth: 0 must be positive"),
        ({"dice_weight": -1}, "loss.dice_weight: -1"),
        ({"class_weights": [1, 0, 0]}, "loss.class_weights"),
        ({"class_weights": [1, -1, 1]}, "loss.class_weights"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(ValueError, match=says):
        CrossEntropyDice(**settings)
    for bad in ({"classes": 0}, {"class_weight": 0}):
        with pytest.raises(ValueError, match=r"loss\."):
            ObjectsAndClasses(BCEDice(), **{"classes": 3, **bad})  # type: ignore[arg-type]
