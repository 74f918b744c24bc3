"""The report of an evaluation as one HTML page."""

from typing import Any

import numpy as np
import pandas as pd

from segmentation.evaluation import calibration, plots
from segmentation.evaluation.evaluate import Curves
from segmentation.evaluation.inputs import Inputs
from segmentation.evaluation.overlays import class_legend, data_url, to_rgb
from segmentation.evaluation.pages import render
from segmentation.evaluation.pictures import Colours, Picture, legend
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.objects import check_size

WORST = 6  # images shown by a score
_LARGEST = 480  # pixels of a panel's longer side


def evaluation_page(
    report: dict[str, Any],
    inputs: Inputs,
    frame: pd.DataFrame,
    curves: Curves | None,
    colours: Colours = "objects",
) -> str:
    """The HTML of what the JSON holds, the pictures made from the files that were scored."""

    def worst(column: str) -> list[tuple[str, float, str]]:
        some = frame.sort_values(column, kind="stable").head(WORST)
        pairs = zip(some["id"], some[column], strict=True)
        return [(name, value, _shown_image(inputs, name, colours)) for name, value in pairs]

    def distribution(name: str) -> str:
        values = frame[name].dropna() if name in frame else frame["iou"][:0]
        counts, edges = np.histogram(values, np.linspace(0, 1, 21))
        mean = float(values.mean())
        return "" if values.empty else plots.histogram(name, edges.tolist(), counts.tolist(), mean)

    return render(
        "evaluate.html",
        report=report,
        images=frame.sort_values("iou", kind="stable"),
        histogram=None if curves is None else curves[1].sum(0),
        scored=0 if curves is None else len(curves[0]),
        legend=legend(colours),
        class_legend=class_legend(inputs.truth.reader.class_names),
        **{"worst": worst, "distribution": distribution, "better": better, "curve": plots.curve},
        **{"pr_curve": calibration.pr_curve, "roc_curve": calibration.roc_curve},
    )


def _shown_image(inputs: Inputs, name: str, colours: Colours) -> str:
    """The image, or gray without one, and what became of its objects, as a PNG in a URL."""
    truth, found = inputs.read(name)
    rgb = np.full((*truth.labels.shape, 3), 64, np.uint8)
    if name in inputs.images:
        image = read_image(inputs.images[name])
        check_size(str(inputs.truth.path(name)), truth.labels.shape, image.shape)
        rgb = to_rgb(image)
    known = truth.classes is not None and found.classes is not None
    classes: Any = (truth.classes, found.classes) if known else None
    picture = Picture(rgb, truth.labels, found.labels, classes, colours)
    return data_url(picture.overlay(_LARGEST), lossless=True)
