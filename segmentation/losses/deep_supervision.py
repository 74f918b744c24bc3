"""One loss over the several heads of a deeply supervised network."""

from collections.abc import Sequence

from torch import Tensor, nn


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
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        if weights is not None and (min(weights, default=0) < 0 or sum(weights) <= 0):
            raise ValueError(f"deep-supervision weights {list(weights)} must be ≥ 0, one above")
        self.loss, self.weights = loss, weights

    def forward(
        self, logits: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """The loss of one head or the mean over several.

        Args:
            logits: (B, K, H, W), or one such tensor a head.
            target: As the loss wants it.
            weight: (B, H, W) weights of pixels, or ``None``.

        Returns:
            A scalar.

        Raises:
            ValueError: The number of weights is not the number of heads.
        """
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
