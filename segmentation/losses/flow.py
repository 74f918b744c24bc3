"""The loss of flows to the centres of objects."""

import torch
from torch import Tensor, nn

from segmentation.losses.pixels import BCEDice, mean_apart

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
        """(B, 3, H, W) logits: foreground and 5 · the flow down and right ► float32 scalar.

        The target holds the foreground, 0 or 1, and flows in -1…1. Weights are those of the
        cross-entropy; where one is 0 the flows are not looked at.
        """
        foreground: Tensor = self.foreground(logits[:, :1], target[:, :1], weight)
        if logits.shape[1] != 3:
            raise ValueError(f"foreground and flows are 3 channels, got {logits.shape[1]}")
        with torch.autocast(logits.device.type, enabled=False):
            error = (logits[:, 1:].float() - FLOW_SCALE * target[:, 1:].float()).square().mean(1)
            apart = mean_apart(error / 2, target[:, 0], weight)
        return foreground + self.flow_weight * apart
