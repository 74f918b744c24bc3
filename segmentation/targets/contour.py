"""Background, interior and contour."""

from typing import Any, ClassVar, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.errors import UserError
from segmentation.objects import label_components, watershed_from_seeds
from segmentation.targets.base import Target, check_share
from segmentation.targets.border_weights import rims, square_filter, within_size


class Contour(Target):
    """Background, interior and contour: three classes, so that touching objects are told apart.

    Every object's outline becomes a band of the third class, against the background and against
    other objects alike. Where an object leaves the image it has no outline. An object too thin for
    the band has as much of it as leaves an interior, or none: every object can be found again.

    Args:
        width: Of the band in pixels, 1 to 100.
        position: ``"straddling"``: half inside the object (the larger half, where ``width`` is
            odd), half outside; ``"inner"``: inside; ``"outer"``: on the background, and half inside
            where another object follows at once, for there is no background between them.
        seed: A pixel of greater interior probability belongs to an object's seed.

    >>> Contour(width=1, position="inner").encode(np.int32([[0, 0, 1, 1, 1, 0]])).tolist()
    [[0, 0, 2, 1, 2, 0]]
    """

    classes = 3
    tunable: ClassVar[dict[str, Any]] = {
        **Target.tunable,
        "seed": (0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9),
    }

    def __init__(
        self,
        width: int = 2,
        position: Literal["straddling", "inner", "outer"] = "straddling",
        threshold: float = 0.5,
        min_size: int = 0,
        fill_holes: bool = False,
        seed: float = 0.5,
    ) -> None:
        if not 1 <= width <= 100:
            raise UserError(f"target.width: {width} must be 1 to 100 pixels")
        if position not in ("straddling", "inner", "outer"):
            raise UserError(f"target.position: {position!r} must be straddling, inner or outer")
        super().__init__(threshold, min_size, fill_holes)
        check_share("seed", seed)
        self.width, self.position, self.seed = width, position, seed
        half = (width + 1) // 2
        self._inside = {"straddling": half, "inner": width, "outer": 0}[position]
        self._outside = {"straddling": width - half, "inner": 0, "outer": width}[position]
        self._between = half if position == "outer" else self._inside

    @property
    def channel_names(self) -> tuple[str, ...]:
        return ("background", "interior", "contour")

    def encode(self, labels: np.ndarray, classes: np.ndarray | None = None) -> Tensor:
        """(H, W) int64: 0 background, 1 interior, 2 contour; what losses take as classes."""
        labels = within_size(labels)
        mask = labels > 0
        interior = np.zeros_like(mask)
        missing = np.bincount(labels.reshape(-1)) > 0  # objects without an interior so far
        missing[0] = False
        # With "outer" only other objects make an outline inside.
        bands = [(radius, self._inside > 0) for radius in range(self._between, 0, -1)]
        for radius, background in (*bands, (1, False), (0, False)):
            whole = mask & missing[labels] & ~rims(labels, radius, background)
            interior |= whole
            missing[labels[whole]] = False
            if not missing.any():
                break
        near = mask.astype(np.uint8)
        if self._outside:
            near = square_filter(near, self._outside, cv2.dilate)
        return torch.from_numpy(np.where(interior, 1, 2 * near.astype(np.int64)))

    def learnable(self, labels: np.ndarray) -> np.ndarray:
        """Where nothing that is not annotated is near enough to change the class.

        What is left of an object beside it, if too thin for the band, may belong to a thick one.
        """
        known, unknown = labels >= 0, (labels < 0).astype(np.uint8)
        ids = within_size(labels.clip(0))
        for pixels, radius in (ids > 0, self._between), (ids == 0, self._outside):
            known &= ~(pixels & (square_filter(unknown, radius, cv2.dilate) > 0))
        thick = known & (ids > 0) & ~rims(ids, self._between, self._inside > 0)
        cut = np.setdiff1d(ids[~known], ids[thick])
        return known & ~((ids > 0) & np.isin(ids, cut))

    def probabilities(self, logits: Tensor) -> Tensor:
        """Softmax, in float32 also where the logits are not."""
        return logits.float().softmax(dim=1)

    def foreground(self, probs: Tensor) -> Tensor:
        """The probability of lying in an object: P(interior) and a share of P(contour).

        All of it would enlarge every object by the outer part of its band. The share is 1 for
        ``"inner"``; for ``"straddling"`` ½ · (1 + a - b), a and b the greatest P(interior) and
        P(background) within the band's widths; for ``"outer"`` what lies between two interiors.
        """
        background, interior, contour = probs.unbind(1)
        foreground = interior + contour
        if self._outside > 0:
            near = _highest(interior, self._between)
            if self.position == "outer":
                foreground = torch.minimum(foreground, -_highest(-near, self._between))
            else:
                far = _highest(background, self._outside)
                foreground = interior + contour * (1 + near - far) / 2
        return foreground.clamp(0, 1)  # which rounding may leave by 1e-7

    def instances(self, probs: np.ndarray) -> np.ndarray:
        """(3, H, W) probabilities ► (H, W) int32 ids: interiors, flooded over the foreground.

        The watershed climbs P(contour), so that objects meet on its ridge. A component of the
        foreground without an interior is an object of its own.
        """
        mask = self.foreground(torch.from_numpy(probs)[None])[0].numpy() > self.threshold
        return watershed_from_seeds(label_components(mask & (probs[1] > self.seed)), probs[2], mask)


def _highest(maps: Tensor, radius: int) -> Tensor:
    """(B, H, W) maps ► the greatest value in a square of side 2 · ``radius`` + 1."""
    return F.max_pool2d(maps[:, None], 2 * radius + 1, stride=1, padding=radius)[:, 0]
