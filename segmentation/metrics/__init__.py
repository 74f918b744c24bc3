"""Scores of pixels, objects and outlines: counts of an image, scores of counts, a table of both."""

from segmentation.metrics.counts import image_counts, overlaps
from segmentation.metrics.pixels import AUROC, F1, IoU
from segmentation.metrics.scores import better, scores_of
from segmentation.metrics.table import ScoreTable
from segmentation.score_names import OBJECT_SCORES, PIXEL_SCORES

__all__ = [
    "AUROC",
    "F1",
    "OBJECT_SCORES",
    "PIXEL_SCORES",
    "IoU",
    "ScoreTable",
    "better",
    "image_counts",
    "overlaps",
    "scores_of",
]
