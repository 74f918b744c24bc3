"""The loss of flows to the centres of objects."""

import torch
from torch import Tensor, nn

from segmentation.losses.pixels import BCEDice

FLOW_SCALE = 5.0  # logits a unit of flow, as in Cellpose


class FlowLoss(nn.Module):
    """The loss of ``targets.Flow``: :class:`BCEDice` + weight · squared error of the flows.

    The error is half the mean over pixels and both parts of (logit - 5 · flow)², as Cellpose's
    (``cellpose/train.py``), but averaged over the true foreground and the background apart, so that
    a few small objects in a large image are not drowned.

    Args:
        flow_weight: Weight of the flows' error.
        per_image: Dice of each image, averaged, instead of one over the batch.

    Raises:
        ValueError: The weight is negative.

    >>> target = torch.zeros(1, 3, 4, 4)
    >>> logits = torch.cat([torch.full((1, 1, 4, 4), -30.0), torch.ones(1, 2, 4, 4)], dim=1)
    >>> round(float(FlowLoss()(logits, target)), 2)  # ½ · 16 / 17 · ½
    0.24
    """

    def __init__(self, flow_weight: float = 0.5, per_image: bool = False) -> None:
        super().__init__()
        if flow_weight < 0:
            raise ValueError(f"loss.flow_weight: {flow_weight} must not be negative")
        self.flow_weight, self.foreground = flow_weight, BCEDice(per_image=per_image)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """A float32 scalar.

        Args:
            logits: (B, 3, H, W), any float dtype: foreground and 5 · the flow down and right.
            target: (B, 3, H, W): foreground 0 or 1, flows in -1…1.
            weight: (B, H, W) weights of the cross-entropy's pixels, or ``None``; where it is 0 the
                flows are not looked at.

        Raises:
            ValueError: The shapes differ, or there are not three channels.
        """
        foreground: Tensor = self.foreground(logits[:, :1], target[:, :1], weight)
        if logits.shape[1] != 3:
            raise ValueError(f"foreground and flows are 3 channels, got {logits.shape[1]}")
        with torch.autocast(logits.device.type, enabled=False):
            error = (logits[:, 1:].float() - FLOW_SCALE * target[:, 1:].float()).square().mean(
                1
            ) / 2
            known = torch.ones_like(error) if weight is None else (weight > 0).float()
            inside, outside = known * target[:, 0], known * (1 - target[:, 0])
            # + 1: without any foreground there is nothing to average.
            deep = (error * inside).sum() / (inside.sum() + 1)
            flat = (error * outside).sum() / (outside.sum() + 1)
        return foreground + self.flow_weight * (deep + flat)
