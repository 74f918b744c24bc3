"""Scores of pixels, of objects and of outlines: pure functions and torchmetrics classes over them.

Pixels: `functional` and `pixel`. Objects: `matching` and `instance`. Outlines: both in `boundary`.
"""

from segmentation.metrics.boundary import BoundaryScores, boundary_f, hd95
from segmentation.metrics.instance import ObjectScores, object_metrics
from segmentation.metrics.matching import Overlaps, object_scores, overlaps
from segmentation.metrics.pixel import (
    AUROC,
    F1,
    AveragePrecision,
    ImageF1,
    ImageIoU,
    ImageMeanIoU,
    IoU,
    MeanIoU,
    Precision,
    Recall,
    pixel_metrics,
)

__all__ = [
    "AUROC",
    "F1",
    "AveragePrecision",
    "BoundaryScores",
    "ImageF1",
    "ImageIoU",
    "ImageMeanIoU",
    "IoU",
    "MeanIoU",
    "ObjectScores",
    "Overlaps",
    "Precision",
    "Recall",
    "boundary_f",
    "hd95",
    "object_metrics",
    "object_scores",
    "overlaps",
    "pixel_metrics",
]
