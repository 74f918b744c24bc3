"""Losses of targets without classes, and the mean over several heads."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.errors import UserError


class BCEDice(nn.Module):
    """Mean binary cross-entropy + ``dice_weight`` · (1 - soft Dice).

    Dice = (2 Σ p·t + s) / (Σ p + Σ t + s), with p the sigmoid of the logits and s ``smooth``
    (Milletari et al., "V-Net", 2016, without the squares). With s > 0 a batch without any
    foreground still has a gradient: it pushes Σ p to 0.

    Args:
        smooth: s, > 0.
        dice_weight: Weight of the Dice term against the cross-entropy.
        per_image: Dice of each image, averaged; otherwise one Dice over the batch, which does not
            let a nearly empty image outweigh the others.

    Raises:
        ValueError: ``smooth`` is not positive: an empty batch would have no gradient.

    >>> round(float(BCEDice()(torch.full((1, 1, 2, 2), 9.0), torch.ones(1, 1, 2, 2))), 3)
    0.0
    """

    def __init__(
        self, smooth: float = 1.0, dice_weight: float = 1.0, per_image: bool = False
    ) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"loss.smooth: {smooth} must be positive")
        self.smooth, self.dice_weight, self.per_image = smooth, dice_weight, per_image

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) logits, target 0 or 1, weights of the cross-entropy ► float32 scalar."""
        _check_same_shape(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.float()
            pixel = F.binary_cross_entropy_with_logits(logits, target, reduction="none")
            bce = pixel.mean() if weight is None else (pixel * weight[:, None]).mean()
            axes = (1, 2, 3) if self.per_image else (0, 1, 2, 3)
            probs = logits.sigmoid()
            overlap, total = (probs * target).sum(axes), (probs + target).sum(axes)
            dice = (2 * overlap + self.smooth) / (total + self.smooth)
            if weight is not None and self.per_image:  # nothing is known of an image without any
                known = (weight > 0).flatten(1).any(1)
                dice = dice[known | ~known.any()]
            return bce + self.dice_weight * (1 - dice.mean())


class BCEDiceDistance(nn.Module):
    """The loss of ``targets.Distance``: :class:`BCEDice` + weight · mean error of the distance.

    The error is the absolute difference to the logit's sigmoid. It is averaged over the true
    foreground and the background apart, so that a few small objects in a large image are not
    drowned (StarDist weighs its distances by the foreground for the same reason: Schmidt et al.,
    MICCAI 2018).

    Args:
        distance_weight: Weight of the distances' error.
        per_image: Dice of each image, averaged, instead of one over the batch.

    Raises:
        ValueError: The weight is negative.

    >>> target = torch.ones(1, 2, 4, 4)
    >>> round(float(BCEDiceDistance()(20 * target, target)), 3)
    0.0
    """

    def __init__(self, distance_weight: float = 2.0, per_image: bool = False) -> None:
        super().__init__()
        if distance_weight < 0:
            raise ValueError(f"loss.distance_weight: {distance_weight} must not be negative")
        self.distance_weight, self.foreground = distance_weight, BCEDice(per_image=per_image)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, 2, H, W) logits of foreground and distance, targets in 0…1 ► float32 scalar.

        Weights are those of the cross-entropy; where one is 0 the distance is not looked at.
        """
        _check_same_shape(logits, target)
        if logits.shape[1] != 2:
            raise ValueError(f"foreground and distance are 2 channels, got {logits.shape[1]}")
        foreground: Tensor = self.foreground(logits[:, :1], target[:, :1], weight)
        with torch.autocast(logits.device.type, enabled=False):
            error = (logits[:, 1].float().sigmoid() - target[:, 1].float()).abs()
            apart = mean_apart(error, target[:, 0], weight)
        return foreground + self.distance_weight * apart


class WeightedBCE(nn.Module):
    """Mean over all pixels of w · binary cross-entropy; each channel is a question of its own.

    Args:
        pos_weight: Factor of the foreground's term, > 0.

    Raises:
        ValueError: It is not positive and finite.

    >>> round(float(WeightedBCE()(torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2))), 3)  # log 2
    0.693
    """

    def __init__(self, pos_weight: float = 1.0) -> None:
        super().__init__()
        if not 0 < pos_weight < math.inf:
            raise ValueError(f"loss.pos_weight: {pos_weight} must be positive and finite")
        self.pos_weight = pos_weight

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, K, H, W) logits, target 0 or 1, and weights ► float32 scalar."""
        _check_same_shape(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            logits, target = logits.float(), target.float()
            factor = None if self.pos_weight == 1 else logits.new_tensor(self.pos_weight)
            loss = F.binary_cross_entropy_with_logits(
                logits, target, reduction="none", pos_weight=factor
            )
            return _weighted_mean(loss.mean(1), weight)


class WeightedCrossEntropy(nn.Module):
    """Mean over all pixels of -w · w_c · log p_c.

    The mean is over pixels, as in Keras, not over weights, as in PyTorch's ``CrossEntropyLoss``:
    small class weights make a small loss.

    Args:
        class_weights: w_c, one a class, ≥ 0 and not all 0; ``None`` weighs all alike.

    Raises:
        ValueError: A weight is negative or not finite, or all are 0.

    >>> logits, target = torch.zeros(1, 3, 2, 2), torch.zeros(1, 2, 2)
    >>> round(float(WeightedCrossEntropy()(logits, target)), 3)  # log 3
    1.099
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
        """(B, K, H, W) logits, (B, H, W) classes 0…K-1 and weights ► float32 scalar.

        Another number of ``class_weights`` than of classes is a :class:`UserError`.
        """
        weights = self.class_weights
        if weights is not None and len(weights) != logits.shape[1]:
            raise UserError(
                f"loss.class_weights: {len(weights)} for {logits.shape[1]} classes; give one each"
            )
        if logits.shape[:1] + logits.shape[2:] != target.shape:
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit together"
            )
        with torch.autocast(logits.device.type, enabled=False):
            # The weights may have followed the network into another precision.
            weights = None if weights is None else weights.float()
            loss = F.cross_entropy(logits.float(), target.long(), weights, reduction="none")
            return _weighted_mean(loss, weight)


class WeightedFScore(nn.Module):
    """Minus the soft F score, (1 + w) · P · R / (w · P + R) over the batch: -1 (perfect) to 0.

    P = (Σ p·t + s) / (Σ p + s) is the soft precision and R = (Σ p·t + s) / (Σ t + s) the soft
    recall, p the sigmoid of the logits and s ``smooth``. It is van Rijsbergen's F_β with β² = w, so
    w > 1 weighs recall more. Inserting both gives (1 + w) (Σ p·t + s) / (w (Σ t + s) + Σ p + s),
    which is computed: it is 0 where P = R = 0, and so is no 0/0.

    Args:
        w: Weight of recall, > 0; 1 is the F1 score. Precision and recall exchanged, as in the code
            of nerve-segmentation, is the same as 1 / ``w``.
        smooth: s, ≥ 0; above 0 an empty batch has a gradient.

    Raises:
        ValueError: A value is out of its range.

    >>> target = torch.ones(1, 1, 2, 2)
    >>> round(float(WeightedFScore()(20 * target, target)), 3)
    -1.0
    """

    sums = True

    def __init__(self, w: float = 1.5, smooth: float = 1.0) -> None:
        super().__init__()
        if not 0 < w < math.inf:
            raise ValueError(f"loss.w: {w} must be positive and finite")
        if not 0 <= smooth < math.inf:
            raise ValueError(f"loss.smooth: {smooth} must not be negative or infinite")
        self.w, self.smooth = w, smooth

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, 1, H, W) logits, target 0 or 1, weights of all sums ► float32 scalar."""
        _check_same_shape(logits, target)
        with torch.autocast(logits.device.type, enabled=False):
            probs, truth = logits.float().sigmoid(), target.float()
            found, wanted = probs, truth
            if weight is not None:
                _check_weight(weight, probs[:, 0].shape)
                found, wanted = probs * weight[:, None], truth * weight[:, None]
            hits = (found * truth).sum() + self.smooth
            total = self.w * (wanted.sum() + self.smooth) + found.sum() + self.smooth
            # The least normal number, for a batch where nothing is found and nothing is wanted.
            return -(1 + self.w) * hits / total.clamp_min(torch.finfo(torch.float32).tiny)


class DeepSupervision(nn.Module):
    """The weighted mean of a loss over all heads (Zhou et al., "UNet++", 2018, section 3.2).

    In training the network gives a list of logits, one a head; in evaluation one tensor, to which
    the loss applies as it is.

    Args:
        loss: The loss of one head: (logits, target) ► scalar, and with a third argument where
            pixels are weighted.
        weights: One weight a head, shallow to deep, ≥ 0 and not all 0; equal weights by default.

    Raises:
        ValueError: A weight is negative, or all are 0.

    >>> target = torch.ones(1, 1, 2, 2)
    >>> loss = DeepSupervision(WeightedBCE(), weights=[1, 3])
    >>> round(float(loss([0 * target, 20 * target], target)), 3)  # log 2 / 4
    0.173
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            raise ValueError(f"deep-supervision weights {list(weights)} must be ≥ 0, one above")
        self.loss, self.weights = loss, weights

    def forward(
        self, logits: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """Logits of one head, or a list of several heads', and what the loss wants ► scalar."""
        extra = () if weight is None else (weight,)  # not every loss knows weights of pixels
        if isinstance(logits, Tensor):
            result: Tensor = self.loss(logits, target, *extra)
            return result
        weights = self.weights or [1.0] * len(logits)
        if len(weights) != len(logits):
            raise ValueError(f"{len(weights)} deep-supervision weights for {len(logits)} heads")
        heads = zip(weights, logits, strict=True)
        losses = [w * self.loss(head, target, *extra) for w, head in heads]
        total: Tensor = sum(losses[1:], losses[0])
        return total / sum(weights)


def as_number(target: Tensor, logits: Tensor) -> Tensor:
    """Whole numbers as PyTorch's losses want them: float beside logits of one shape, else int64."""
    if target.is_floating_point():
        return target
    return target.to(logits.dtype) if target.shape == logits.shape else target.long()


def mean_apart(error: Tensor, foreground: Tensor, weight: Tensor | None) -> Tensor:
    """The mean of (B, H, W) errors over the foreground, plus that over the background.

    Pixels of ``weight`` 0 do not count.
    """
    inside = foreground.float()
    outside = 1 - inside
    if weight is not None:
        inside, outside = inside * (weight > 0), outside * (weight > 0)
    # + 1: without any foreground there is nothing to average.
    deep = (error * inside).sum() / (inside.sum() + 1)
    flat = (error * outside).sum() / (outside.sum() + 1)
    return deep + flat


def _check_same_shape(logits: Tensor, target: Tensor) -> None:
    if logits.shape != target.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape"
        )


def _check_weight(weight: Tensor, shape: torch.Size) -> None:
    if weight.shape != shape:  # others would be broadcast
        raise ValueError(f"weight {tuple(weight.shape)} must have the shape {tuple(shape)}")


def _weighted_mean(loss: Tensor, weight: Tensor | None) -> Tensor:
    if weight is None:
        return loss.mean()
    _check_weight(weight, loss.shape)
    return (loss * weight).mean()
