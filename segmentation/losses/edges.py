"""What may make outlines sharper: edges that are uncertain by a pixel, and distances to them."""

import math

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.errors import UserError


class EdgeLoss(nn.Module):
    """Another loss, with softened edges of the foreground, and a term for pixels far off them.

    Annotators differ by about a pixel. ``smoothing`` replaces the foreground by its mean over a
    square, so that nobody has to be certain there. ``boundary`` weighs the boundary loss of
    Kervadec et al. 2019 (arXiv:1812.07032): the mean of p · φ, with p the probability and φ the
    signed distance to the edge (negative inside), here in units of ``reach`` and at most 1.

    Args:
        loss: (logits, target[, weight]) ► scalar; the first channel is the foreground's logit.
        smoothing: Pixels to each side that the mean is taken over; 0 leaves edges as they are.
        boundary: Weight of the boundary loss.
        reach: Pixels beyond which all distances are alike.

    Raises:
        UserError: A value is negative, or ``reach`` is 0.

    >>> from segmentation.losses import BCEDice
    >>> target = torch.tensor([[[[0.0, 0, 1, 1]]]])
    >>> soft = EdgeLoss(BCEDice(dice_weight=0), smoothing=1).softened(target)
    >>> [round(value, 2) for value in soft.flatten().tolist()]
    [0.0, 0.33, 0.67, 1.0]
    """

    def __init__(
        self, loss: nn.Module, smoothing: int = 0, boundary: float = 0.0, reach: float = 10.0
    ) -> None:
        super().__init__()
        for name, value in (("smoothing", smoothing), ("boundary", boundary)):
            if not 0 <= value < math.inf:
                raise UserError(f"loss.{name}: {value} must be at least 0")
        if not 0 < reach < math.inf:
            raise UserError(f"loss.reach: {reach} must be positive")
        self.loss, self.smoothing, self.boundary, self.reach = loss, smoothing, boundary, reach
        self.sums = getattr(loss, "sums", False)

    def forward(self, logits: Tensor, target: Tensor, weight: Tensor | None = None) -> Tensor:
        """(B, K, H, W) logits and target, whose first channel is 0 or 1 ► float32 scalar.

        Weights are for the other loss, if that takes some; where one is 0 the boundary loss looks
        at nothing.
        """
        if logits.shape != target.shape:
            raise ValueError(
                f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape: "
                "edges are known of a foreground of its own channel"
            )
        more = () if weight is None else (weight,)
        value: Tensor = self.loss(logits, self.softened(target), *more)
        if not self.boundary:
            return value
        with torch.autocast(logits.device.type, enabled=False):
            far = logits[:, 0].float().sigmoid() * self.distances(target[:, 0])
            return value + self.boundary * (far if weight is None else far * (weight > 0)).mean()

    def softened(self, target: Tensor) -> Tensor:
        """(B, K, H, W): the first channel averaged over squares, within the image."""
        if not self.smoothing:
            return target
        side, edge = 2 * self.smoothing + 1, self.smoothing
        first = F.avg_pool2d(target[:, :1].float(), side, 1, edge, count_include_pad=False)
        return torch.cat([first, target[:, 1:].to(first.dtype)], 1)

    def distances(self, mask: Tensor) -> Tensor:
        """(B, H, W) float32 in -1…1: to the middle of the edge, negative inside; 0 without one."""
        found = [self._distance((one > 0).astype(np.uint8)) for one in mask.cpu().numpy()]
        return torch.from_numpy(np.stack(found)).to(mask.device)

    def _distance(self, inside: np.ndarray) -> np.ndarray:
        if inside.all() or not inside.any():
            return np.zeros(inside.shape, np.float32)
        within, without = (
            cv2.distanceTransform(side, cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
            for side in (inside, 1 - inside)
        )
        signed = np.where(inside, 0.5 - within, without - 0.5)  # both are 1 beside the edge
        return np.asarray(np.clip(signed / self.reach, -1, 1), np.float32)
