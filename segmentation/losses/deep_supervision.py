"""One loss over the several heads of a deeply supervised network."""

from collections.abc import Sequence

from torch import Tensor, nn


class DeepSupervision(nn.Module):
    """The weighted mean of a loss over all heads (Zhou et al., "UNet++", 2018, section 3.2).

    In training the network gives a list of logits, one a head; in evaluation one tensor, to which
    the loss applies as it is.

    Args:
        loss: The loss of one head.
        weights: One weight a head, shallow to deep; equal weights by default.
    """

    def __init__(self, loss: nn.Module, weights: Sequence[float] | None = None) -> None:
        super().__init__()
        self.loss, self.weights = loss, weights

    def forward(
        self, logits: Tensor | Sequence[Tensor], target: Tensor, weight: Tensor | None = None
    ) -> Tensor:
        """A scalar.

        Raises:
            ValueError: The number of weights is not the number of heads.
        """
        if isinstance(logits, Tensor):
            result: Tensor = self.loss(logits, target, weight)
            return result
        weights = self.weights or [1.0] * len(logits)
        if len(weights) != len(logits):
            raise ValueError(f"{len(weights)} deep-supervision weights for {len(logits)} heads")
        losses = [w * self.loss(head, target, weight) for w, head in zip(weights, logits, strict=True)]
        total: Tensor = sum(losses[1:], losses[0])
        return total / sum(weights)
