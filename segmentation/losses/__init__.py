"""Losses: pure functions of (logits, target), and the modules that a config names."""

from segmentation.losses.bce_dice import BCEDice, bce_dice
from segmentation.losses.deep_supervision import DeepSupervision

__all__ = ["BCEDice", "DeepSupervision", "bce_dice"]
