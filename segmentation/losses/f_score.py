"""The weighted F-score as a loss."""

import math

import torch
from torch import Tensor, nn

from segmentation.losses.checks import check_same_shape, check_weight


def weighted_f_score(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    w: float = 1.5,
    smooth: float = 1.0,
) -> Tensor:
    """Soft (1 + w) · P · R / (w · P + R) over the whole batch, computed in float32.

    P = (Σ p·t + s) / (Σ p + s) is the soft precision and R = (Σ p·t + s) / (Σ t + s) the soft
    recall, p the sigmoid of the logits and s ``smooth``. It is van Rijsbergen's F_β with β² = w, so
    w > 1 weighs recall more. Inserting both gives (1 + w) (Σ p·t + s) / (w (Σ t + s) + Σ p + s),
    which is computed: it is 0 where P = R = 0, and so is no 0/0.

    Args:
        logits: (B, 1, H, W), any float dtype.
        target: (B, 1, H, W), 0 or 1, any dtype.
        weight: (B, H, W) weights of the pixels in all sums, or ``None``.
        w: Weight of recall, > 0.
        smooth: s, ≥ 0.

    Returns:
        A float32 scalar in 0…1.

    Raises:
        ValueError: The shapes do not fit together.
    """
    check_same_shape(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        probs, truth = logits.float().sigmoid(), target.float()
        found, wanted = probs, truth
        if weight is not None:
            check_weight(weight, probs[:, 0].shape)
            found, wanted = probs * weight[:, None], truth * weight[:, None]
        hits = (found * truth).sum() + smooth
        total = w * (wanted.sum() + smooth) + found.sum() + smooth
        # The least normal number, for a batch where nothing is found and nothing is wanted.
        return (1 + w) * hits / total.clamp_min(torch.finfo(torch.float32).tiny)


class WeightedFScore(nn.Module):
    """Minus :func:`weighted_f_score`, to be minimised: from -1 (perfect) to 0.

    Args:
        w: Weight of recall, > 0; 1 is the F1 score. Precision and recall exchanged, as in system
            E's code, is the same as 1 / ``w``.
        smooth: Added to the sums; above 0 an empty batch has a gradient.

    Raises:
        ValueError: A value is out of its range.
    """

    def __init__(self, w: float = 1.5, smooth: float = 1.0) -> None:
        super().__init__()
        if not 0 < w < math.inf:
            raise ValueError(f"loss.w: {w} must be positive and finite")
        if not 0 <= smooth < math.inf:
            raise ValueError(f"loss.smooth: {smooth} must not be negative or infinite")
        self.w, self.smooth = w, smooth

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return -weighted_f_score(logits, target, weight, self.w, self.smooth)
