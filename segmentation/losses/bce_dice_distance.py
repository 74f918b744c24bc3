"""BCE + Dice on the foreground, absolute error on the distance."""

import torch
from torch import Tensor, nn

from segmentation.losses.bce_dice import bce_dice
from segmentation.losses.checks import check_same_shape


class BCEDiceDistance(nn.Module):
    """The loss of ``targets.Distance``: :func:`bce_dice` + weight · mean |σ(logit) - distance|.

    The error of the distance is averaged over the true foreground and the background apart, so that
    a few small objects in a large image are not drowned (StarDist weighs its distances by the
    foreground for the same reason: Schmidt et al., MICCAI 2018).

    Args:
        distance_weight: Weight of the distances' error.
        per_image: Dice of each image, averaged, instead of one over the batch.

    Raises:
        ValueError: The weight is negative.
    """

    def __init__(self, distance_weight: float = 2.0, per_image: bool = False) -> None:
        super().__init__()
        if distance_weight < 0:
            raise ValueError(f"loss.distance_weight: {distance_weight} must not be negative")
        self.distance_weight, self.per_image = distance_weight, per_image

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """A float32 scalar.

        Args:
            logits: (B, 2, H, W), any float dtype: foreground and distance.
            target: (B, 2, H, W) in 0…1, the foreground 0 or 1.
            weight: (B, H, W) weights of the cross-entropy's pixels, or ``None``.

        Raises:
            ValueError: The shapes differ, or there are not two channels.
        """
        check_same_shape(logits, target)
        if logits.shape[1] != 2:
            raise ValueError(f"foreground and distance are 2 channels, got {logits.shape[1]}")
        foreground = bce_dice(logits[:, :1], target[:, :1], weight, per_image=self.per_image)
        with torch.autocast(logits.device.type, enabled=False):
            error = (logits[:, 1].float().sigmoid() - target[:, 1].float()).abs()
            inside = target[:, 0].float()
            # + 1: without any foreground there is nothing to average.
            deep = (error * inside).sum() / (inside.sum() + 1)
            flat = (error * (1 - inside)).sum() / ((1 - inside).sum() + 1)
        return foreground + self.distance_weight * (deep + flat)
