"""Binary cross-entropy plus soft Dice."""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.losses.checks import check_same_shape


def bce_dice(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    smooth: float = 1.0,
    dice_weight: float = 1.0,
    per_image: bool = False,
) -> Tensor:
    """Mean binary cross-entropy + ``dice_weight`` · (1 - soft Dice), computed in float32.

    Dice = (2 Σ p·t + s) / (Σ p + Σ t + s), with p the sigmoid of the logits and s ``smooth``
    (Milletari et al., "V-Net", 2016, without the squares). With s > 0 a batch without any
    foreground still has a gradient: it pushes Σ p to 0.

    Args:
        logits: (B, 1, H, W), any float dtype.
        target: (B, 1, H, W), 0 or 1, any dtype.
        weight: (B, H, W) weights of the cross-entropy's pixels, not normalised, or ``None``.
        smooth: s, > 0.
        dice_weight: Weight of the Dice term.
        per_image: Dice of each image, averaged; otherwise one Dice over the batch, which does
            not let a nearly empty image outweigh the others.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: The shapes differ.
    """
    check_same_shape(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
        bce = pixel.mean() if weight is None else (pixel * weight[:, None]).mean()
        axes = (1, 2, 3) if per_image else (0, 1, 2, 3)
        probs = logits.sigmoid()
        overlap, total = (probs * target).sum(axes), (probs + target).sum(axes)
        dice = ((2 * overlap + smooth) / (total + smooth)).mean()
        return bce + dice_weight * (1 - dice)


class BCEDice(nn.Module):
    """:func:`bce_dice` as a module.

    Args:
        smooth: Added to Dice's numerator and denominator.
        dice_weight: Weight of the Dice term against the cross-entropy.
        per_image: Dice of each image, averaged, instead of one over the batch.

    Raises:
        ValueError: ``smooth`` is not positive: an empty batch would have no gradient.
    """

    def __init__(
        self, smooth: float = 1.0, dice_weight: float = 1.0, per_image: bool = False
    ) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"loss.smooth: {smooth} must be positive")
        self.smooth, self.dice_weight, self.per_image = smooth, dice_weight, per_image

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return bce_dice(logits, target, weight, self.smooth, self.dice_weight, self.per_image)
