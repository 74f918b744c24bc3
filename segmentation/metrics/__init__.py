"""Scores: pure functions in `functional`, torchmetrics classes over them in `pixel`."""

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
    "ImageF1",
    "ImageIoU",
    "ImageMeanIoU",
    "IoU",
    "MeanIoU",
    "Precision",
    "Recall",
    "pixel_metrics",
]
