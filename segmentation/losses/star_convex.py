"""The loss of star-convex polygons."""

import torch
from torch import Tensor, nn

from segmentation.losses.pixels import BCEDiceDistance

_MIDDLE, _FARTHEST = 8.0, 7.0  # pixels at a logit of 0; the logit beyond which they grow no more


class StarConvexLoss(nn.Module):
    """The loss of ``targets.StarConvex``: foreground, centre probability, and distances.

    :class:`BCEDiceDistance` of foreground and centre, and of the distances d and t
    -log(Σ min(d, t) / Σ max(d, t)), the sums over the rays of a pixel (polar IoU loss: Xie et al.,
    "PolarMask", CVPR 2020): an error is relative to the size of the object. It is averaged over the
    pixels where distances are known, weighted by the true centre probability (Schmidt et al.,
    MICCAI 2018, equation 2).

    Args:
        distance_weight: Weight of the distances' term, ≥ 0.
        centre_weight: Weight of the centre's error, ≥ 0.
        per_image: Dice of each image, averaged, instead of one over the batch.

    Raises:
        ValueError: A weight is negative.

    >>> target = torch.ones(1, 6, 4, 4)
    >>> target[:, 2:] = as_distances(torch.zeros(1))
    >>> logits = torch.cat([20 * target[:, :2], 0 * target[:, 2:]], 1)
    >>> round(float(StarConvexLoss()(logits, target)), 3)
    0.0
    """

    def __init__(
        self, distance_weight: float = 1.0, centre_weight: float = 2.0, per_image: bool = False
    ) -> None:
        super().__init__()
        for name, value in (("distance", distance_weight), ("centre", centre_weight)):
            if value < 0:
                raise ValueError(f"loss.{name}_weight: {value} must not be negative")
        self.distance_weight = distance_weight
        self.depth = BCEDiceDistance(centre_weight, per_image)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, 2 + rays, H, W) logits, of distances as :func:`as_distances` ► float32 scalar.

        The target holds the foreground 0 or 1, the centre 0…1, and distances in pixels, 0 where
        they are not known. Weights are those of the cross-entropy; where one is 0 neither the
        centre nor distances are looked at.
        """
        if logits.shape != target.shape or logits.shape[1] < 3:
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} must be of one "
                "shape, with channels for the foreground, the centre and distances"
            )
        depth: Tensor = self.depth(logits[:, :2], target[:, :2], weight)
        with torch.autocast(logits.device.type, enabled=False):
            known = target[:, 2] > 0
            if weight is not None:
                known &= weight > 0
            found = as_distances(logits[:, 2:].movedim(1, -1)[known].float())
            true, factor = target[:, 2:].movedim(1, -1)[known].float(), target[:, 1][known].float()
            both, either = torch.minimum(found, true), torch.maximum(found, true)
            error = (either.sum(1) / both.sum(1)).log()
            # Without any object there is nothing to average.
            distance = (error * factor).sum() / factor.sum().clamp(min=1)
            return depth + self.distance_weight * distance


def as_distances(logits: Tensor) -> Tensor:
    """Logits ► distances in pixels, up to 8,773: an exponential, for errors are relative."""
    return _MIDDLE * logits.clamp(max=_FARTHEST).exp()
