"""Losses: (logits, target), and (logits, target, weight) where pixels are weighted, ► a scalar.

Logits are (B, K, H, W) of any float dtype, targets of any dtype; a ``weight`` is (B, H, W), the
weights of the pixels, not normalised, or ``None``. Shapes that do not fit together are a
``ValueError``. All are computed in float32, also under autocast. Those of
segmentation-models-pytorch (Dice, focal, Tversky, …) fit as they are, with ``mode: binary`` for one
channel and ``mode: multiclass`` for several; they take no weights of pixels. Its losses of overlap
have no gradient on a batch without foreground, and sum in the precision of the logits: float16 ones
overflow to NaN. Those below do neither.

Pixels that are not annotated reach a loss as certain background: their logits are constants, so
that they have no gradient and add nothing to sums. A loss that takes weights gets 0 for them, and
for the others (pixels / annotated pixels), so that its mean over the pixels is one over those that
are annotated; a loss whose attribute ``sums`` is true, for it has sums where others have means,
gets 1 for the others. Every loss below then is what it is on the annotated pixels alone. The mean
of a loss without weights goes over all pixels: it is smaller by the annotated share.
"""

from segmentation.losses.classes import CrossEntropyDice, ObjectsAndClasses
from segmentation.losses.edges import EdgeLoss
from segmentation.losses.flow import FlowLoss
from segmentation.losses.pixels import (
    BCEDice,
    BCEDiceDistance,
    DeepSupervision,
    WeightedBCE,
    WeightedCrossEntropy,
    WeightedFScore,
    as_number,
)
from segmentation.losses.star_convex import StarConvexLoss

__all__ = [
    "BCEDice",
    "BCEDiceDistance",
    "CrossEntropyDice",
    "DeepSupervision",
    "EdgeLoss",
    "FlowLoss",
    "ObjectsAndClasses",
    "StarConvexLoss",
    "WeightedBCE",
    "WeightedCrossEntropy",
    "WeightedFScore",
    "as_number",
]
