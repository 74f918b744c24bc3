"""Scores of pixels (functions in `functional`, classes in `pixel`) and of objects (`instance`)."""

from segmentation.metrics.instance import SEG, ImageSEG, object_metrics
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
    "Precision",
    "Recall",
    "object_metrics",
    "pixel_metrics",
]
