"""The loss of star-convex polygons, against its formula written out for each pixel."""

import math
from typing import Any

import pytest
import torch

from segmentation.losses import BCEDiceDistance, StarConvexLoss
from segmentation.targets import StarConvex
from segmentation.task import SegmentationTask
from tests.losses.test_not_annotated import gathered
from tests.tiny import PREPROCESS, sgd

G = torch.Generator().manual_seed(0)


def example() -> tuple[torch.Tensor, torch.Tensor]:
    target = torch.zeros(2, 6, 5, 7)
    target[:, 0, 1:4, 1:4] = 1
    target[:, 1, 1:4, 1:4] = torch.rand(2, 3, 3, generator=G)
    target[:, 2:, 1:4, 1:3] = 0.5 + 9 * torch.rand(2, 4, 3, 2, generator=G)  # not of all
    return torch.randn(2, 6, 5, 7, generator=G).requires_grad_(), target


@pytest.mark.parametrize("weighted", [False, True])
def test_the_loss_is_what_it_says(weighted: bool) -> None:
    logits, target = example()
    weight = (torch.rand(2, 5, 7, generator=G) - 0.3).clamp(min=0) if weighted else None
    sums = [0.0, 0.0]
    for b, row, column in torch.nonzero(target[:, 2]).tolist():
        if weight is None or weight[b, row, column] > 0:
            true = target[b, 2:, row, column].tolist()
            found = [8 * math.exp(x) for x in logits[b, 2:, row, column].tolist()]
            pairs = list(zip(found, true, strict=True))
            error = -math.log(sum(map(min, pairs)) / sum(map(max, pairs)))
            centre = float(target[b, 1, row, column])
            sums = [sums[0] + centre * error, sums[1] + centre]
    extra = () if weight is None else (weight,)
    wanted = BCEDiceDistance(0.5)(logits[:, :2], target[:, :2], *extra) + 3 * sums[0] / sums[1]
    loss = StarConvexLoss(distance_weight=3, centre_weight=0.5)(logits, target, *extra)
    torch.testing.assert_close(loss, wanted)
    loss.backward()
    assert logits.grad is not None and torch.isfinite(logits.grad).all()
    known = (target[:, 2] > 0) & (torch.ones(2, 5, 7) if weight is None else weight).bool()
    gradient = logits.grad[:, 2:].movedim(1, -1)
    assert gradient[known].any(1).all() and not gradient[~known].any()


def test_an_image_without_objects() -> None:
    logits = example()[0].half()
    loss = StarConvexLoss()(logits, torch.zeros(2, 6, 5, 7))
    assert loss.dtype == torch.float32 and torch.isfinite(loss)
    (gradient,) = torch.autograd.grad(loss, logits)
    assert gradient[:, :2].all() and not gradient[:, 2:].any()


def test_pixels_that_are_not_annotated() -> None:
    logits, target = example()
    known = torch.rand(2, 5, 7, generator=G) < 0.6
    task = SegmentationTask(
        torch.nn.Conv2d(3, 6, 1), StarConvexLoss(), StarConvex(rays=4), PREPROCESS, optimizer=sgd
    )
    batch: Any = {"target": target * known[:, None], "annotated": known}
    alone = StarConvexLoss()(gathered(logits, known), gathered(target, known))
    torch.testing.assert_close(task.batch_loss(logits, batch), alone)


def test_bad_arguments() -> None:
    for name in ("distance_weight", "centre_weight"):
        with pytest.raises(ValueError, match=rf"loss\.{name}: -1 must not be negative"):
            StarConvexLoss(**{name: -1})  # type: ignore[arg-type]
    for channels in (2, 5):
        with pytest.raises(ValueError, match="must be of one shape, with channels for"):
            StarConvexLoss()(torch.zeros(1, channels, 3, 3), torch.zeros(1, 2, 3, 3))
