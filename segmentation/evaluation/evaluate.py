"""Every score for two folders of masks or label maps, whatever tool they come from."""

from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from segmentation.evaluation import calibration, intervals, maps, table
from segmentation.evaluation.annotators import annotator_scores
from segmentation.evaluation.classical import BASELINES, Classical
from segmentation.evaluation.inputs import Inputs, agreed, find_inputs, find_side
from segmentation.evaluation.pages import render
from segmentation.io.files import write_bytes, write_json
from segmentation.io.truth import Masks, TruthReader
from segmentation.metrics.classes import confusions
from segmentation.metrics.counts import TOLERANCE, probability_histogram
from segmentation.metrics.scores import ranking_scores, scores_of
from segmentation.metrics.table import ScoreTable
from segmentation.progress import progress

METHOD = "prediction"
Allowed = Literal["no_objects", "no_background", "inverted", "smooth", "reused_ids", "classes"]
_CURVE_RESAMPLES = 1000  # of the sums of whole histograms
# Names of the images with probabilities; their histograms (n, 2, bins) and reliability counts.
Curves = tuple[list[str], np.ndarray, np.ndarray]


def evaluate(
    truth: list[Path],
    prediction: Path,
    output: Path,
    probabilities: Path | None = None,
    images: Path | None = None,
    labels: Literal["auto", "instances", "mask", "classes"] = "auto",
    allow_missing: bool = False,
    allow: list[Allowed] | None = None,
    classes: list[str] | None = None,
    ignore: int | None = None,
    annotated: Path | None = None,
    overlays: Literal["objects", "pixels"] = "objects",
) -> None:
    """Score a folder of masks, label maps or outlines, from any tool, against the truth.

    Intervals are 95 % bootstrap intervals over images, or over the groups where there are two or
    more.

    Args:
        truth: Masks or label maps: PNG, TIFF, BMP, NPY or NPZ; subfolders are groups (subjects).
            Or outlines: ImageJ's ROIs, GeoJSON, labelme's JSON; or one file: COCO's JSON, or run
            lengths as CSV. Several are annotators: what they agree on is scored, and each, and they
            against each other.
        prediction: The same names, whatever the suffix.
        output: Gets report.html, scores.json and per_image.csv.
        probabilities: Foreground probabilities: 8 or 16 bit (the largest value is 1), or float
            TIFF.
        images: Score two baselines on them, too, Otsu's threshold and what a person would do by
            hand; and show the worst ones under their outlines.
        labels: What values mean: ids of objects, foreground whose connected components are the
            objects, or classes, whose components are; auto finds out for each folder, but classes.
        allow_missing: Leave out what one folder alone has.
        allow: What is doubtful about the masks but right, by its word in the message.
        classes: Names of the classes 1, 2, …, to score each; as values of masks (--labels classes),
            as folders of masks, or as objects.csv or outlines tell them.
        ignore: Value of the truth's pixels that are not annotated, which are not scored.
        annotated: Folder of masks of what is annotated; the rest is not scored.
        overlays: What the colours of pictures tell: objects (found, missed, false, merged, split)
            or pixels (right, missed, too much).
    """
    kind: Masks = "classes" if labels == "classes" else "labels"
    names = tuple(classes or ())
    readers = [TruthReader(kind, names, ignore, annotated, option="--") for _ in truth]
    sides = [find_side("--truth", *one) for one in zip(truth, readers, strict=True)]
    reader = TruthReader(kind, names, option="--")
    found = find_side("--prediction", prediction, reader, sides[0].files)
    how = probabilities, images, labels, allow_missing, allow or ()
    each = [find_inputs(side, found, *how) for side in sides]
    inputs = each[0] if len(each) == 1 else agreed(each, truth)
    (mine, *others), curves, unannotated = _scored(inputs)
    report: dict[str, Any] = {
        "images": len(inputs.names),
        "left_out": inputs.left_out,
        "doubts": inputs.doubts,
        **({"unannotated": unannotated} if unannotated else {}),
        "objects": {"truth": inputs.truth.kind, METHOD: inputs.prediction.kind},
        "boundary_tolerance": int(TOLERANCE),
        **_totals(mine, curves),
    }
    if inputs.truth.reader.class_names:
        report["confusion"] = confusions(table.columns(mine))
    if len(each) > 1:
        report["annotators"] = annotator_scores(inputs)
    for name, frame in zip(BASELINES, others, strict=False):
        report[name] = table.values_of(scores_of(table.columns(frame)))
    if others:
        report["classical_by"] = str(Classical())
    from segmentation.evaluation.evaluate_page import evaluation_page

    text = evaluation_page(report, inputs, mine, curves, overlays)
    # The page is by far the largest: where the disk has no room for it, nothing is written.
    write_bytes(output / "report.html", text.encode())
    table.write_images(output / table.FILE, pd.concat([mine, *others], ignore_index=True))
    write_json(output / "scores.json", table.finite(report))
    print(render("evaluate.txt", report=report), end="")
    if len(each) > 1:
        print(render("annotators.txt", rows=report["annotators"]), end="")
    print(f"\npage      {output / 'report.html'}")
    print(f"scores    {output / 'scores.json'}, {table.FILE}")


def _scored(inputs: Inputs) -> tuple[list[pd.DataFrame], Curves | None, float]:
    """Tables of the prediction and, with an image for each, of the baselines; and more.

    That is the curves, and the share of the pixels that are not annotated.
    """
    methods = [METHOD, *(BASELINES if inputs.images.keys() >= set(inputs.names) else [])]
    names = inputs.truth.reader.class_names
    if names:  # a threshold tells no classes
        methods = [METHOD]
    tables = {method: ScoreTable(boundary=True, class_names=names) for method in methods}
    counted: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    unknown, every = 0, 0
    for name in progress(inputs.names, "scoring"):
        true, predicted = inputs.read(name)
        truth = true.labels
        unknown, every = unknown + int(np.count_nonzero(truth < 0)), every + truth.size
        found = {METHOD: predicted.labels}
        found |= inputs.baselines(name, truth) if len(tables) > 1 else {}
        about: Any = {"ids": [name], "groups": [name.rpartition("/")[0]]}
        about |= {"classes": [true.classes], "found_classes": [predicted.classes]}
        for method, scored in tables.items():
            pair = torch.from_numpy(truth)[None], torch.from_numpy(found[method])[None]
            scored.update(*pair, **about)
        if name in inputs.probabilities:
            known = truth >= 0
            probs, mask = maps.read_probability(inputs.probabilities[name])[known], truth[known] > 0
            pixels = torch.from_numpy(probs)[None], torch.from_numpy(mask)[None]
            hist = probability_histogram(*pixels).numpy()
            counted[name] = hist, calibration.reliability_counts(probs, mask)
    frames = [one.rows() for one in tables.values()]
    for frame, method in zip(frames, tables, strict=True):
        frame.insert(0, "method", method)
    if not counted:
        return frames, None, unknown / every
    hists, counts = (np.stack(some) for some in zip(*counted.values(), strict=True))
    ranked = pd.DataFrame(_curve_scores(hists, counts), index=list(counted))
    frames[0] = frames[0].join(ranked, on="id")
    return frames, (list(counted), hists, counts), unknown / every


def _totals(frame: pd.DataFrame, curves: Curves | None) -> dict[str, Any]:
    """Scores over all images with their intervals."""
    scores, groups = scores_of(table.columns(frame)), table.groups_in(frame)
    values, drawn = table.values_of(scores), intervals.resample(scores, groups)
    images = {name: score.images for name, score in scores.items()}
    result: dict[str, Any] = {"resampled": table.resampled(frame)}
    if curves is not None:
        names, hists, counts = curves
        if groups is not None:
            groups = frame.set_index("id")["group"][names].tolist()
        sums = [
            intervals.resampled_sums(some.reshape(len(some), -1), groups, times)
            for some, times in ((hists, _CURVE_RESAMPLES), (counts, intervals.RESAMPLES))
        ]
        shapes = (-1, *hists.shape[1:]), (-1, *counts.shape[1:])
        drawn |= _curve_scores(sums[0].reshape(shapes[0]), sums[1].reshape(shapes[1]))
        totals = _curve_scores(hists.sum(0), counts.sum(0))
        values |= {name: float(value) for name, value in totals.items()}
        images |= dict.fromkeys(totals, len(names))
        result["reliability"] = calibration.reliability_curve(counts.sum(0))
    ends = {name: intervals.percentile_interval(some) for name, some in drawn.items()}
    return {METHOD: values, "intervals": ends, "images_with": images, **result}


def _curve_scores(hists: np.ndarray, counts: np.ndarray) -> dict[str, np.ndarray]:
    return ranking_scores(hists) | {"ece": calibration.expected_calibration_error(counts)}
