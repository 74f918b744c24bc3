"""Scores of pixels (functions in `functional`, classes in `pixel`) and of objects (`instance`)."""

from segmentation.metrics.instance import SEG, ImageSEG, Overlaps, object_metrics, overlaps
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
    "SEG",
    "AveragePrecision",
    "ImageF1",
    "ImageIoU",
    "ImageMeanIoU",
    "ImageSEG",
    "IoU",
    "MeanIoU",
    "Overlaps",
    "Precision",
    "Recall",
    "object_metrics",
    "overlaps",
    "pixel_metrics",
]
