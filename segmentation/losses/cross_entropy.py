"""Cross-entropy of two and of several classes, with weights of classes and of pixels."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.losses.checks import check_same_shape, check_weight


def weighted_bce(
    logits: Tensor, target: Tensor, weight: Tensor | None = None, pos_weight: float = 1.0
) -> Tensor:
    """Mean over all pixels of w · BCE, computed in float32.

    Args:
        logits: (B, K, H, W), any float dtype; each channel is a question of its own.
        target: (B, K, H, W), 0 or 1, any dtype.
        weight: (B, H, W) weights of the pixels, not normalised, or ``None``.
        pos_weight: Factor of the foreground's term.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: The shapes do not fit together.
    """
    check_same_shape(logits, target)
    with torch.autocast(logits.device.type, enabled=False):
        logits, target = logits.float(), target.float()
        factor = None if pos_weight == 1 else logits.new_tensor(pos_weight)
        loss = F.binary_cross_entropy_with_logits(
            logits, target, reduction="none", pos_weight=factor
        )
        return _mean(loss.mean(1), weight)


def weighted_cross_entropy(
    logits: Tensor,
    target: Tensor,
    weight: Tensor | None = None,
    class_weights: Tensor | None = None,
) -> Tensor:
    """Mean over all pixels of -w · w_c · log p_c, computed in float32.

    The mean is over pixels, as in Keras, not over weights, as in PyTorch's ``CrossEntropyLoss``:
    small class weights make a small loss.

    Args:
        logits: (B, K, H, W), any float dtype.
        target: (B, H, W) classes 0…K-1, any integer dtype.
        weight: (B, H, W) weights of the pixels, not normalised, or ``None``.
        class_weights: (K,) or ``None``.

    Returns:
        A float32 scalar.

    Raises:
        ValueError: The shapes do not fit together.
    """
    if logits.shape[:1] + logits.shape[2:] != target.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit together"
        )
    with torch.autocast(logits.device.type, enabled=False):
        loss = F.cross_entropy(
            logits.float(),
            target.long(),
            # The module's may have followed the network into another precision.
            weight=None if class_weights is None else class_weights.float(),
            reduction="none",
        )
        return _mean(loss, weight)


class WeightedBCE(nn.Module):
    """:func:`weighted_bce` as a module; without weights it is the plain binary cross-entropy.

    Args:
        pos_weight: Factor of the foreground's term, > 0.

    Raises:
        ValueError: It is not positive and finite.
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < pos_weight < math.inf:
            raise ValueError(f"loss.pos_weight: {pos_weight} must be positive and finite")
        self.pos_weight = pos_weight

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        return weighted_bce(logits, target, weight, self.pos_weight)


class WeightedCrossEntropy(nn.Module):
    """:func:`weighted_cross_entropy` as a module.

    Args:
        class_weights: One a class, ≥ 0 and not all 0; ``None`` weighs all alike.

    Raises:
        ValueError: A weight is negative or not finite, or all are 0.
    """

    class_weights: Tensor | None

    def __init__(self, class_weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if class_weights is not None and not (
            all(0 <= w < math.inf for w in class_weights) and any(class_weights)
        ):
            raise ValueError(
                f"loss.class_weights: {list(class_weights)} must be ≥ 0 and finite, one above"
            )
        weights = None if class_weights is None else torch.tensor(class_weights).float()
        # Not part of the checkpoint, whose config says it already.
        self.register_buffer("class_weights", weights, persistent=False)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """The loss.

        Raises:
            UserError: There are not as many class weights as classes.
            ValueError: The shapes do not fit together.
        """
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise UserError(
                f"loss.class_weights: {len(weights)} for {logits.shape[1]} classes; give one each"
            )
        return weighted_cross_entropy(logits, target, weight, weights)


def _mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return loss.mean()
    check_weight(weight, loss.shape)
    return (loss * weight).mean()
