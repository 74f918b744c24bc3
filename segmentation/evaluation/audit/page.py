"""The page of an audit: numbers of the report, plots, and pictures of what is odd."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from segmentation.data.cache import SampleStore
from segmentation.data.resize import resize_image, resize_labels
from segmentation.data.sample import Sample, evenly
from segmentation.evaluation.audit.duplicates import EDGES, Duplicates
from segmentation.evaluation.audit.samples import FLAWS, SampleFacts
from segmentation.evaluation.audit.sources import SHEET, LikelySource, contact_sheet
from segmentation.evaluation.overlays import data_url, in_a_row, outlined, tint, to_rgb
from segmentation.evaluation.pages import render
from segmentation.evaluation.plots import histogram, histogram_of

PAIRS, CLOSEUPS, SHEETS = 24, 12, 40  # shown as pictures; of each flaw; of likely sources
ODD = (255, 40, 40)
LARGEST = 320  # pixels of a picture's longer side
WINDOW = 96  # pixels around an odd object


def audit_page(
    report: dict[str, Any],
    store: SampleStore,
    facts: Sequence[SampleFacts],
    found: Duplicates,
    likely: Sequence[LikelySource],
) -> str:
    """The HTML of what ``audit.json`` holds, with pictures of the samples."""
    places = {entry.id: i for i, entry in enumerate(store.entries)}
    flaws = {}
    for what in FLAWS:
        members = [(f, one.id) for one in facts for f in one.flaws if f.what == what]
        members.sort(key=lambda pair: pair[0].value, reverse=what != "small")
        shown = [(store[places[name]], f, name) for f, name in members[:CLOSEUPS]]
        pictures = [(closeup(one, f.object, f.x, f.y), f, name) for one, f, name in shown]
        if members:
            flaws[what] = len(members), len({name for _, name in members}), pictures
    with_truth = [one for one in facts if one.objects is not None]
    numbers: dict[str, Sequence[float]] = {
        "Samples by mean of the image": [one.mean for one in facts],
        "Samples by number of objects": [one.objects or 0 for one in with_truth],
        "Samples by share of foreground": [one.foreground or 0 for one in with_truth],
        "Objects by pixels (log scale)": [area for one in facts for area in one.areas],
    }
    plots = [histogram_of(title, n, "log" in title) for title, n in numbers.items() if n]
    near = report["settings"]["near"]
    title = "Pairs by the difference of their fingerprints"
    return render(
        "audit.html",
        report=report,
        found=found,
        compared=histogram(title, EDGES.tolist(), found.counts, near) if found.compared else "",
        pictures=[
            (side_by_side(store[places[pair.first]], store[places[pair.second]]), pair)
            for pair in found.pairs[:PAIRS]
        ],
        flaws=flaws,
        plots=plots,
        sheets=[
            (contact_sheet([store[places[name]] for name in shown]), one)
            for one in likely[:SHEETS]
            for shown in [[one.images[i] for i in evenly(len(one.images), SHEET)]]
        ],
    )


def side_by_side(first: Sample, second: Sample) -> str:
    """Two images of one size with their masks outlined, and where the masks differ, as a data URL.

    In the third panel foreground of both is purple, of the first alone yellow, of the second alone
    green.
    """
    (rgb, labels), (other_rgb, other) = _shrunk(first), _shrunk(second)
    errors = tint(rgb, other > 0, np.where(other < 0, -1, labels), opacity=0.6)
    return data_url(in_a_row(outlined(rgb, labels), outlined(other_rgb, other), errors))


def closeup(sample: Sample, number: int, x: int, y: int) -> str:
    """The surroundings of object ``number``, outlined in red, enlarged, as a data URL."""
    assert sample.labels is not None
    (height, width), half = sample.labels.shape, WINDOW // 2
    left, top = max(0, min(x - half, width - WINDOW)), max(0, min(y - half, height - WINDOW))
    window = np.s_[top : top + WINDOW, left : left + WINDOW]
    rgb = to_rgb(sample.image[window])  # shows what is dim in its image
    size = rgb.shape[0] * 2, rgb.shape[1] * 2
    rgb = resize_image(rgb, size)
    labels = resize_labels(sample.labels[window].astype(np.int32), size)
    return data_url(outlined(outlined(rgb, labels), np.where(labels == number, labels, 0), ODD))


def _shrunk(sample: Sample) -> tuple[np.ndarray, np.ndarray]:
    """RGB uint8 with its contrast stretched and the labels, both no larger than a picture."""
    rgb = to_rgb(sample.image)
    height, width = rgb.shape[:2]
    labels = np.zeros((height, width), np.int32) if sample.labels is None else sample.labels
    scale = min(1.0, LARGEST / max(height, width))
    size = max(1, round(height * scale)), max(1, round(width * scale))
    return resize_image(rgb, size), resize_labels(labels.astype(np.int32), size)
