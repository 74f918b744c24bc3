"""Losses: pure functions of (logits, target), and the modules that a config names.

Those of segmentation-models-pytorch (Dice, focal, Tversky, …) fit as they are, with
``mode: binary`` for one channel and ``mode: multiclass`` for several; they take no weights of
pixels. Its losses of overlap have no gradient on a batch without foreground, and sum in the
precision of the logits: float16 ones overflow to NaN. Those below do neither.
"""

from segmentation.losses.bce_dice import BCEDice, bce_dice
from segmentation.losses.bce_dice_distance import BCEDiceDistance
from segmentation.losses.cross_entropy import (
    WeightedBCE,
    WeightedCrossEntropy,
    weighted_bce,
    weighted_cross_entropy,
)
from segmentation.losses.deep_supervision import DeepSupervision
from segmentation.losses.f_score import WeightedFScore, weighted_f_score

__all__ = [
    "BCEDice",
    "BCEDiceDistance",
    "DeepSupervision",
    "WeightedBCE",
    "WeightedCrossEntropy",
    "WeightedFScore",
    "bce_dice",
    "weighted_bce",
    "weighted_cross_entropy",
    "weighted_f_score",
]
