"""Losses of targets with classes."""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.losses.pixels import WeightedCrossEntropy, as_number


class CrossEntropyDice(nn.Module):
    """Mean cross-entropy + ``dice_weight`` · (1 - mean over the classes of soft Dice).

    Dice_c = (2 Σ p·t + s) / (Σ p + Σ t + s), the sums over all pixels of the batch, p the softmax
    of the logits and s ``smooth``; the background is not among the classes (as in nnU-Net: Isensee
    et al., Nature Methods 2021). A class that the batch lacks has a gradient: it pushes Σ p to 0.

    Args:
        class_weights: Of the background and the K classes, in the cross-entropy and, the
            background's aside, in the mean of Dice; ≥ 0. ``None`` weighs all alike.
        dice_weight: Weight of the Dice term against the cross-entropy, ≥ 0.
        smooth: s, > 0.

    Raises:
        ValueError: A value is out of its range.

    >>> target = torch.tensor([[[0, 1], [2, 1]]])
    >>> logits = 20 * F.one_hot(target, 3).permute(0, 3, 1, 2).float()
    >>> round(float(CrossEntropyDice()(logits, target)), 3)
    0.0
    """

    def __init__(
        self,
        class_weights: Sequence[float] | None = None,
        dice_weight: float = 1.0,
        smooth: float = 1.0,
    ) -> None:
        super().__init__()
        if not smooth > 0:
            raise ValueError(f"loss.smooth: {smooth} must be positive")
        if not 0 <= dice_weight < math.inf:
            raise ValueError(f"loss.dice_weight: {dice_weight} must not be negative or infinite")
        if class_weights is not None and not any(class_weights[1:]):
            raise ValueError(f"loss.class_weights: {list(class_weights)}: one after the first > 0")
        self.cross_entropy = WeightedCrossEntropy(class_weights)
        self.dice_weight, self.smooth = dice_weight, smooth

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, K + 1, H, W) logits, (B, H, W) classes 0…K and weights ► float32 scalar.

        The weights are those of the cross-entropy; where one is 0, the pixel does not count in Dice
        either. Another number of ``class_weights`` than of classes is a :class:`UserError`.
        """
        loss: Tensor = self.cross_entropy(logits, target, weight)
        with torch.autocast(logits.device.type, enabled=False):
            probs = logits.float().softmax(dim=1)
            truth = F.one_hot(target.long(), probs.shape[1]).permute(0, 3, 1, 2).to(probs.dtype)
            if weight is not None:
                known = (weight > 0)[:, None]
                probs, truth = probs * known, truth * known
            overlap, total = (probs * truth).sum((0, 2, 3)), (probs + truth).sum((0, 2, 3))
            dice = ((2 * overlap + self.smooth) / (total + self.smooth))[1:]
            factors = self.cross_entropy.class_weights
            if factors is None:
                return loss + self.dice_weight * (1 - dice.mean())
            shares = factors[1:].float() / factors[1:].float().sum()
            return loss + self.dice_weight * (1 - (dice * shares).sum())


class ObjectsAndClasses(nn.Module):
    """The loss of ``targets.WithClasses``: that of its objects, and :class:`CrossEntropyDice`.

    Args:
        objects: The loss of the objects' target.
        classes: How many classes there are, without the background.
        class_weight: Weight of the class head's loss against the objects', > 0.
        class_weights: In the class head's loss, of the background and each class; ``None``: alike.

    Raises:
        ValueError: A value is out of its range.

    >>> from segmentation.losses import BCEDice
    >>> loss = ObjectsAndClasses(BCEDice(), classes=2)
    >>> target = torch.tensor([[[[1, 0]], [[2, 0]]]])  # foreground; class
    >>> target.shape, loss(torch.zeros(1, 4, 1, 2), target).ndim
    (torch.Size([1, 2, 1, 2]), 0)
    """

    def __init__(
        self,
        objects: nn.Module,
        classes: int,
        class_weight: float = 1.0,
        class_weights: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        if classes < 1:
            raise ValueError(f"loss.classes: {classes} must be 1 or more")
        if not 0 < class_weight < math.inf:
            raise ValueError(f"loss.class_weight: {class_weight} must be positive and finite")
        self.objects, self.channels, self.class_weight = objects, classes + 1, class_weight
        self.head = CrossEntropyDice(class_weights)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, C + K + 1, H, W) logits, of objects and classes, and weights ► float32 scalar.

        The target is (B, C', H, W): what the objects' target encodes, then the classes 0…K.
        """
        count = logits.shape[1] - self.channels
        if count < 1 or target.ndim != 4 or target.shape[1] < 2:
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} do not fit "
                f"loss.classes: {self.channels - 1}"
            )
        inner, extra = target[:, :-1], () if weight is None else (weight,)
        inner = inner[:, 0] if inner.shape[1] == 1 < count else inner
        one, head = logits[:, :count], logits[:, count:]
        objects: Tensor = self.objects(one, as_number(inner, one), *extra)
        classes: Tensor = self.head(head, target[:, -1].long(), *extra)
        return objects + self.class_weight * classes
