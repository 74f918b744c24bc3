"""The report of an evaluation as one HTML page."""

from typing import Any

import numpy as np
import pandas as pd

from segmentation.data.resize import resize_image, resize_labels
from segmentation.evaluation import calibration, plots
from segmentation.evaluation.evaluate import Curves
from segmentation.evaluation.inputs import Inputs
from segmentation.evaluation.overlays import data_url, in_a_row, outlined, tint, to_rgb
from segmentation.evaluation.pages import render
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.objects import check_size

WORST = 6  # images shown by a score
_LARGEST = 480  # pixels of a panel's longer side


def evaluation_page(
    report: dict[str, Any], inputs: Inputs, frame: pd.DataFrame, curves: Curves | None
) -> str:
    """The HTML of what the JSON holds, the pictures made from the files that were scored."""

    def worst(column: str) -> list[tuple[str, float, str]]:
        some = frame.sort_values(column, kind="stable").head(WORST)
        pairs = zip(some["id"], some[column], strict=True)
        return [(name, value, _shown_image(inputs, name)) for name, value in pairs]

    def distribution(name: str) -> str:
        values = frame[name].dropna() if name in frame else frame["iou"][:0]
        counts, edges = np.histogram(values, np.linspace(0, 1, 21))
        mean = float(values.mean())
        return "" if values.empty else plots.histogram(name, edges.tolist(), counts.tolist(), mean)

    return render(
        "evaluate.html",
        report=report,
        baseline=report.get("otsu"),
        images=frame.sort_values("iou", kind="stable"),
        histogram=None if curves is None else curves[1].sum(0),
        scored=0 if curves is None else len(curves[0]),
        **{"worst": worst, "distribution": distribution, "better": better, "curve": plots.curve},
        **{"pr_curve": calibration.pr_curve, "roc_curve": calibration.roc_curve},
    )


def _shown_image(inputs: Inputs, name: str) -> str:
    """Outlines of truth and prediction, and the errors, side by side, as a PNG in a URL."""
    truth, prediction = (side.labels for side in inputs.read(name))
    height, width = truth.shape
    rgb = np.full((height, width, 3), 64, np.uint8)
    if name in inputs.images:
        image = read_image(inputs.images[name])
        check_size(str(inputs.truth.path(name)), truth.shape, image.shape)
        rgb = to_rgb(image)
    scale = min(1.0, _LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    rgb = resize_image(rgb, size)
    truth, prediction = resize_labels(truth, size), resize_labels(prediction, size)
    errors = tint(rgb, prediction > 0, truth, 0.5)
    panels = outlined(rgb, truth), outlined(rgb, prediction), errors
    return data_url(in_a_row(*panels), lossless=True)
