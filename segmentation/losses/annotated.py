"""How losses come to see annotated pixels alone: any loss, also those of other packages."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor


def as_background(logits: Any, where: Tensor, background: Sequence[float]) -> Any:
    """Logits that say background for certain in some pixels: constants without a gradient.

    Args:
        logits: (B, K, H, W), or a list of such.
        where: (B, H, W) bool.
        background: K logits, as ``Target.background``.
    """
    if not isinstance(logits, Tensor):
        return [as_background(head, where, background) for head in logits]
    certain = logits.new_tensor(background).view(-1, 1, 1)
    return torch.where(where[:, None], certain, logits)


def annotated_weight(annotated: Tensor, weight: Tensor | None, sums: bool) -> Tensor:
    """Weights (B, H, W) of which the mean over all pixels is that over the ``annotated`` ones.

    ``weight`` is multiplied. With ``sums`` it is their sum that stays as it is.
    """
    share = annotated.float()
    if not sums:
        share = share / share.mean().clamp(min=1 / share.numel())
    return share if weight is None else share * weight
