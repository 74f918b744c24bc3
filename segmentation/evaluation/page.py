"""The report of an evaluation as one HTML page that needs nothing else."""

import math
from collections.abc import Sequence
from html import escape
from typing import Any

import numpy as np

from segmentation.data.preprocess import Preprocess, resize_image, resize_labels
from segmentation.evaluation.audit.pictures import outlined
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.evaluate import BASELINE, METHOD, Curves, Inputs
from segmentation.evaluation.html import (
    caution,
    data_url,
    document,
    facts,
    figure,
    histogram,
    table,
)
from segmentation.evaluation.overlays import tint
from segmentation.evaluation.scores import better
from segmentation.evaluation.tables import Images
from segmentation.io.images import read_image
from segmentation.objects import check_size

WORST = 6  # images shown by each of the scores below
_WORST_BY = {"iou": "IoU of the foreground", "ap": "mean AP of the objects"}
_LARGEST = 480  # pixels of a panel's longer side
_SHOWN = ("iou", "f1", "precision", "recall", "ap", "ap50", "ap75", "f1_50", "pq", "aji", "seg",
          "boundary_f", "auroc", "average_precision")  # fmt: skip
_COLUMNS = ("iou", "f1", "precision", "recall", "ap", "ap50", "pq", "seg", "boundary_f", "hd95",
            "count_error", "auroc")  # fmt: skip


def page(report: dict[str, Any], inputs: Inputs, images: Images, curves: Curves | None) -> str:
    """The HTML.

    Args:
        report: What the JSON holds.
        inputs: The files, from which the pictures are made.
        images: The scores of each image.
        curves: Of the probabilities, if there are any.

    Raises:
        UserError: An image that is to be shown is broken or not of its masks' size.
    """
    body = [
        "<h1>Evaluation</h1>",
        _about(report),
        _scores(report),
        _distributions(images),
        "" if curves is None else _curves(report, curves),
        _worst(inputs, images),
        _images(images),
    ]
    return document("Evaluation", "".join(body))


def _about(report: dict[str, Any]) -> str:
    drawn, objects = report["resampled"], report["objects"]
    rows = [
        ("images", f"{report['images']:,}"),
        ("objects of the truth", escape(objects["truth"])),
        ("objects of the prediction", escape(objects["prediction"])),
    ]
    if left_out := report["left_out"]:
        more = " …" if len(left_out) > 20 else ""
        names = escape(", ".join(left_out[:20]))
        count = f'<span class="bad">{len(left_out):,}</span>'
        rows.append(("left out, for one side lacks them", f"{count}: {names}{more}"))
    text = (
        f"<p>The intervals hold the middle 95 % of {drawn['times']:,} bootstrap resamples of the "
        f"{drawn['how_many']:,} {drawn['what']}. "
    )
    if drawn["what"] == "groups":
        text += "Folders of the names are groups: images of one group are not independent. "
    elif not drawn["caution"]:
        text += (
            "Images count as independent; where several come from one subject or film, the "
            "intervals are too narrow: put each subject’s files into one subfolder. "
        )
    return f"{facts(rows)}{text}</p>{caution(drawn)}"


def _scores(report: dict[str, Any]) -> str:
    rows = []
    for name, value in report[METHOD].items():
        low, high = report["intervals"][name]
        good = {"lower": "lower is better", "near 0": "0 is best", "higher": ""}[better(name)]
        interval = f"{_number(low)} … {_number(high)}"
        cells = [escape(name), _number(value), interval]
        if BASELINE in report:
            cells.append(_number(report[BASELINE].get(name, math.nan)))
        rows.append((*cells, str(report["images_with"][name]), good))
    text = (
        "<h2>Scores</h2><p><code>image_…</code> is a mean over images, every other score is pooled "
        "over all pixels or objects. <code>boundary_f</code> allows "
        f"{report['boundary_tolerance']} pixels.</p>"
    )
    otsu = ["Otsu’s threshold"] if BASELINE in report else []
    return text + table(("score", "", "95 % interval", *otsu, "images", ""), rows, "scores.json")


def _distributions(images: Images) -> str:
    text = "<h2>Distributions</h2><p>Images by score; the line is the mean.</p>"
    edges = np.linspace(0, 1, 21)
    for name in _SHOWN:
        values = images.columns.get(name, np.array([]))
        values = values[np.isfinite(values)]
        if len(values):
            counts = np.histogram(values, edges)[0].tolist()
            text += histogram(name, edges.tolist(), counts, float(values.mean()))
    return text


def _curves(report: dict[str, Any], curves: Curves) -> str:
    values, hist = report[METHOD], curves.histograms.sum(0)
    titles = [
        f"{title}: {_number(values[name])}"
        for title, name in (
            ("Precision and recall, average precision", "average_precision"),
            ("ROC, area", "auroc"),
            ("Reliability, ECE", "ece"),
        )
    ]
    bins = report["reliability"]
    mean, share = (np.array([one[name] for one in bins]) for name in ("probability", "foreground"))
    rows = [
        (f"{one['probability']:.4f}", f"{one['foreground']:.4f}", f"{one['pixels']:,}")
        for one in bins
    ]
    return (
        f"<h2>Probabilities</h2><p>All pixels of {len(curves.names):,} images.</p>"
        + curve(titles[0], "recall", "precision", *pr_curve(hist))
        + curve(titles[1], "false positive rate", "true positive rate", *roc_curve(hist), True)
        + curve(titles[2], "mean probability", "share of foreground", mean, share, True, True)
        + table(("mean probability", "share of foreground", "pixels"), rows, "scores.json")
    )


def curve(
    title: str,
    x_name: str,
    y_name: str,
    x: np.ndarray,
    y: np.ndarray,
    diagonal: bool = False,
    dots: bool = False,
) -> str:
    """An SVG of a curve in the unit square; values that are NaN are left out.

    Args:
        title: Written above.
        x_name, y_name: Of the axes.
        x, y: (points,) in 0…1.
        diagonal: Draw it.
        dots: Mark the points.
    """
    side, left, top = 300, 50, 24
    shapes = [f'<text x="{left}" y="12" class="t">{escape(title)}</text>']
    for tick in (0, 0.25, 0.5, 0.75, 1):
        px, py = left + tick * side, top + (1 - tick) * side
        shapes.append(f'<line x1="{left}" x2="{left + side}" y1="{py}" y2="{py}" class="g"/>')
        shapes.append(f'<line x1="{px}" x2="{px}" y1="{top}" y2="{top + side}" class="g"/>')
        shapes.append(f'<text x="{left - 4}" y="{py + 4}" class="r">{tick:g}</text>')
        shapes.append(f'<text x="{px}" y="{top + side + 14}" text-anchor="middle">{tick:g}</text>')
    if diagonal:
        ends = f'x1="{left}" y1="{top + side}" x2="{left + side}" y2="{top}"'
        shapes.append(f'<line {ends} class="m"/>')
    known = ~(np.isnan(x) | np.isnan(y))
    points = [
        (left + a * side, top + (1 - b) * side) for a, b in zip(x[known], y[known], strict=True)
    ]
    path = " ".join(f"{a:.1f},{b:.1f}" for a, b in dict.fromkeys(points))
    shapes.append(f'<polyline points="{path}" fill="none" stroke="#4a78b5" stroke-width="2"/>')
    if dots:
        shapes += [f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="#4a78b5"/>' for a, b in points]
    middle = left + side / 2
    shapes.append(
        f'<text x="{middle}" y="{top + side + 28}" text-anchor="middle">{escape(x_name)}</text>'
        f'<text x="12" y="{top + side / 2}" text-anchor="middle" '
        f'transform="rotate(-90 12 {top + side / 2})">{escape(y_name)}</text>'
    )
    size = f"0 0 {left + side + 10} {top + side + 34}"
    return f'<svg viewBox="{size}" role="img">{"".join(shapes)}</svg>'


def _worst(inputs: Inputs, images: Images) -> str:
    text = (
        "<h2>Worst images</h2><p>Left: outlines of the true objects. Middle: outlines of the "
        "predicted ones. Right: foreground that is right purple, missed yellow, too much green.</p>"
    )
    for column, title in _WORST_BY.items():
        values = images.columns[column]
        text += f"<h3>By {title}</h3>"
        for place in np.argsort(values, kind="stable")[:WORST]:
            name = images.ids[place]
            about = f"{escape(name)} · {column} {_number(float(values[place]))}"
            text += figure(_picture(inputs, name), about)
    return text


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
    panels = [outlined(rgb, truth), outlined(rgb, prediction)]
    panels.append(tint(rgb, prediction > 0, truth > 0, 0.5))
    bar = np.full((size[0], 4, 3), 255, np.uint8)
    shown = np.hstack([panels[0], bar, panels[1], bar, panels[2]])
    return data_url(shown, lossless=True)


def _images(images: Images) -> str:
    names = [name for name in _COLUMNS if name in images.columns]
    rows: Sequence[tuple[str, ...]] = [
        (
            escape(images.ids[place]),
            *(_number(float(images.columns[name][place])) for name in names),
        )
        for place in np.argsort(images.columns["iou"], kind="stable")
    ]
    return f"<h2>Images</h2>{table(('image', *names), rows, 'per_image.csv')}"


def _number(value: float) -> str:
    return "–" if np.isnan(value) else f"{value:.4g}"
