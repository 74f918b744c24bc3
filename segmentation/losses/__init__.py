"""Losses: (logits, target), and (logits, target, weight) where pixels are weighted, ► a scalar.

All are computed in float32, also under autocast. Those of segmentation-models-pytorch (Dice, focal,
Tversky, …) fit as they are, with ``mode: binary`` for one channel and ``mode: multiclass`` for
several; they take no weights of pixels. Its losses of overlap have no gradient on a batch without
foreground, and sum in the precision of the logits: float16 ones overflow to NaN. Those below do
neither.
"""

from segmentation.losses.classes import CrossEntropyDice, ObjectsAndClasses
from segmentation.losses.pixels import (
    BCEDice,
    BCEDiceDistance,
    DeepSupervision,
    WeightedBCE,
    WeightedCrossEntropy,
    WeightedFScore,
    as_number,
)

__all__ = [
    "BCEDice",
    "BCEDiceDistance",
    "CrossEntropyDice",
    "DeepSupervision",
    "ObjectsAndClasses",
    "WeightedBCE",
    "WeightedCrossEntropy",
    "WeightedFScore",
    "as_number",
]
