"""The report of an evaluation as one HTML page."""

from typing import Any

import numpy as np
import pandas as pd
from markupsafe import Markup

from segmentation.data.preprocess import Preprocess, resize_image, resize_labels
from segmentation.evaluation import plots
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.evaluate import BASELINE, METHOD, Curves, Inputs
from segmentation.evaluation.overlays import data_url, outlined, tint
from segmentation.evaluation.pages import number, render
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.objects import check_size

WORST = 6  # images shown by each of the scores below
_WORST_BY = {"iou": "IoU of the foreground", "ap": "mean AP of the objects"}
_LARGEST = 480  # pixels of a panel's longer side
_SHOWN = ("iou", "f1", "precision", "recall", "ap", "ap50", "ap75", "f1_50", "pq", "aji", "seg",
          "boundary_f", "auroc", "average_precision")  # fmt: skip
_COLUMNS = ("iou", "f1", "precision", "recall", "ap", "ap50", "pq", "seg", "boundary_f", "hd95",
            "count_error", "auroc")  # fmt: skip


def page(report: dict[str, Any], inputs: Inputs, frame: pd.DataFrame, curves: Curves) -> str:
    """The HTML of what the JSON holds, the pictures made from the files that were scored.

    Raises:
        UserError: An image that is to be shown is broken or not of its masks' size.
    """
    worst = {}
    for column, title in _WORST_BY.items():
        some = frame.sort_values(column, kind="stable").head(WORST)
        pairs = zip(some["id"], some[column], strict=True)
        worst[title] = [
            (_picture(inputs, name), f"{name} · {column} {number(value)}") for name, value in pairs
        ]
    names = [name for name in _COLUMNS if name in frame]
    return render(
        "evaluate.html",
        report=report,
        baseline=report.get(BASELINE),
        better=better,
        distributions=Markup("").join(_distribution(frame, name) for name in _SHOWN),
        curves=curves,
        plots=_plots(report[METHOD], report.get("reliability", []), curves) if curves else "",
        worst=worst,
        names=names,
        images=frame.sort_values("iou", kind="stable")[["id", *names]].to_numpy().tolist(),
    )


def _distribution(frame: pd.DataFrame, name: str) -> str:
    values = frame[name].dropna() if name in frame else frame["iou"][:0]
    if values.empty:
        return ""
    edges = np.linspace(0, 1, 21)
    counts = np.histogram(values, edges)[0].tolist()
    return plots.histogram(name, edges.tolist(), counts, float(values.mean()))


def _plots(values: dict[str, float], bins: list[dict[str, float]], curves: Curves) -> Markup:
    hist = np.sum([one for one, _ in curves.values()], axis=0)
    mean, share = (np.array([one[name] for one in bins]) for name in ("probability", "foreground"))
    titles = [
        f"{title}: {number(values[name])}"
        for title, name in (
            ("Precision and recall, average precision", "average_precision"),
            ("ROC, area", "auroc"),
            ("Reliability, ECE", "ece"),
        )
    ]
    rates = ("false positive rate", "true positive rate")
    shares = ("mean probability", "share of foreground")
    return (
        plots.curve(titles[0], "recall", "precision", *pr_curve(hist))
        + plots.curve(titles[1], *rates, *roc_curve(hist), diagonal=True)
        + plots.curve(titles[2], *shares, mean, share, diagonal=True, dots=True)
    )


def _picture(inputs: Inputs, name: str) -> str:
    """Outlines of truth and prediction, and the errors, side by side, as a PNG in a URL."""
    truth, prediction = inputs.labels(name)
    height, width = truth.shape
    rgb = np.full((height, width, 3), 64, np.uint8)
    if name in inputs.images:
        image = read_image(inputs.images[name])
        check_size(str(inputs.truth[name]), truth.shape, image.shape)
        rgb = Preprocess(channels=3).prepare(image)
    scale = min(1.0, _LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rgb = resize_image(rgb, size)
    truth, prediction = resize_labels(truth, size), resize_labels(prediction, size)
    bar = np.full((size[0], 4, 3), 255, np.uint8)
    errors = tint(rgb, prediction > 0, truth > 0, 0.5)
    panels = [outlined(rgb, truth), bar, outlined(rgb, prediction), bar, errors]
    return data_url(np.hstack(panels), lossless=True)
