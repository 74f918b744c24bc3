"""Every score for two folders of masks or label maps, whatever tool they come from."""

import json
import math
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tqdm.auto import tqdm

from segmentation.datasets.folder import find_images, find_maps
from segmentation.errors import UserError
from segmentation.evaluation.bootstrap import percentile_interval, resampled_sums
from segmentation.evaluation.calibration import (
    expected_calibration_error,
    reliability_counts,
    reliability_curve,
)
from segmentation.evaluation.images import (
    TOLERANCE,
    as_images,
    finite,
    resampled,
    score_image,
)
from segmentation.evaluation.maps import (
    Facts,
    Kind,
    check_probabilities,
    check_same_size,
    facts_of,
    holds_instances,
    pair,
    read_probability,
    to_labels,
)
from segmentation.evaluation.scores import resample, scores_of
from segmentation.evaluation.tables import FILE, Images, write_images
from segmentation.io.files import write_bytes
from segmentation.io.images import read_image, read_mask
from segmentation.io.tree import check_root
from segmentation.metrics import functional
from segmentation.objects import label_components, to_gray
from segmentation.targets import otsu

METHOD, BASELINE = "prediction", "otsu"
_CURVE_RESAMPLES = 1000  # of the sums of whole histograms


@dataclass(frozen=True)
class Inputs:
    """What is scored.

    Attributes:
        names: Of the images, sorted.
        truth, prediction, probabilities, images: Name ► file; the last two may lack names.
        instances: Whether truth and prediction are label maps rather than binary masks.
        left_out: Names that one side alone has.
    """

    names: list[str]
    truth: dict[str, Path]
    prediction: dict[str, Path]
    probabilities: dict[str, Path]
    images: dict[str, Path]
    instances: tuple[bool, bool]
    left_out: list[str]

    def labels(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """Truth and prediction of an image as (H, W) int32 ids.

        Raises:
            UserError: A file has become unreadable.
        """
        first, second = (
            to_labels(read_mask(side[name]), instances)
            for side, instances in zip((self.truth, self.prediction), self.instances, strict=True)
        )
        return first, second

    def otsu(self, name: str, truth: np.ndarray) -> np.ndarray:
        """Objects of an image by Otsu's threshold, (H, W) int32 ids as its truth.

        Raises:
            UserError: The image is broken or not of its truth's size.
        """
        image = read_image(self.images[name])
        check_same_size(self.images[name], image.shape[:2], self.truth[name], truth.shape)
        return label_components(otsu(to_gray(image)))

    @property
    def objects(self) -> dict[str, str]:
        """Where the objects of each side come from, in words."""
        says = ("8-connected components of binary masks", "instance ids of label maps")
        truth, prediction = self.instances
        return {"truth": says[truth], "prediction": says[prediction]}


@dataclass(frozen=True)
class Curves:
    """Sums over each image for the curves of probabilities; rows as in the names that have any.

    Attributes:
        names: Of the images.
        histograms: (images, 2, bins), see ``functional.probability_histogram``.
        reliability: (images, 3, bins), see :func:`reliability_counts`.
    """

    names: list[str]
    histograms: np.ndarray
    reliability: np.ndarray


def evaluate(
    truth: Path,
    prediction: Path,
    output: Path,
    probabilities: Path | None = None,
    images: Path | None = None,
    labels: Kind = "auto",
    allow_missing: bool = False,
) -> dict[str, Any]:
    """Score a folder of predictions and write ``per_image.csv``, ``scores.json``, ``report.html``.

    All files are read and checked before anything is written. With an image for each, Otsu's
    threshold is scored beside the prediction. Where the names have folders, these
    are groups (a subject, a film), and the intervals resample groups, not images.

    Args:
        truth: Folder of masks or label maps.
        prediction: The same names, by path without suffix.
        output: Folder; is made.
        probabilities: Folder of maps of the probability of the foreground.
        images: Folder of the images themselves, for Otsu's threshold and under the overlays.
        labels: What the values mean; ``auto`` finds out for each of the two folders.
        allow_missing: Leave out what one side alone has.

    Returns:
        What ``scores.json`` holds.

    Raises:
        UserError: A folder or a file is at fault, or the output cannot be written.
    """
    inputs = find_inputs(truth, prediction, probabilities, images, labels, allow_missing)
    rows, baseline, curves = _score(inputs)
    table = as_images(rows)
    report: dict[str, Any] = {
        "images": len(rows),
        "left_out": inputs.left_out,
        "objects": inputs.objects,
        "boundary_tolerance": TOLERANCE,
        **_totals(table, curves),
    }
    if baseline:
        scores = scores_of(as_images(baseline).columns)
        report[BASELINE] = {name: score.value for name, score in scores.items()}
    from segmentation.evaluation.page import page

    text = page(report, inputs, table, curves)
    # The page is by far the largest: where the disk has no room for it, nothing is written.
    write_bytes(output / "report.html", text.encode())
    write_images(output / FILE, [*rows, *baseline])
    write_bytes(output / "scores.json", json.dumps(finite(report), indent=1).encode())
    return report


def find_inputs(
    truth: Path,
    prediction: Path,
    probabilities: Path | None,
    images: Path | None,
    labels: Kind,
    allow_missing: bool,
) -> Inputs:
    """Pair the folders, and read every file once to see that it is what it should be.

    Raises:
        UserError: As :func:`evaluate`.
    """
    wanted = find_maps(check_root(truth, "check --truth"))
    found = find_maps(check_root(prediction, "check --prediction"))
    names = pair(wanted, found, "--prediction", allow_missing)
    left_out = set(wanted) ^ set(found)
    probs: dict[str, Path] = {}
    if probabilities is not None:
        probs = find_maps(check_root(probabilities, "check --probabilities"))
        scored = {name: wanted[name] for name in names}
        common = pair(scored, probs, "--probabilities", allow_missing)
        left_out |= set(scored) ^ set(probs)
        probs = {name: probs[name] for name in common}
    shown = {} if images is None else find_images(check_root(images, "check --images"))
    if images is not None and not shown.keys() & set(names):
        raise UserError(
            f"--images: none of its {len(shown)} files has the name of one of --truth (such as "
            f"{next(iter(shown))} and {names[0]}); leave --images out, or rename them"
        )
    seen: tuple[dict[Path, Facts], dict[Path, Facts]] = ({}, {})
    for name in tqdm(names, "checking", disable=None):
        for side, files in zip(seen, (wanted, found), strict=True):
            side[files[name]] = facts_of(read_mask(files[name]))
        size = seen[0][wanted[name]].shape
        check_same_size(found[name], seen[1][found[name]].shape, wanted[name], size)
        if name in probs:
            check_same_size(probs[name], read_probability(probs[name]).shape, wanted[name], size)
    if probs:
        check_probabilities(list(probs.values()))
    instances = (
        holds_instances(seen[0], labels, "--truth"),
        holds_instances(seen[1], labels, "--prediction"),
    )
    return Inputs(names, wanted, found, probs, shown, instances, sorted(left_out))


def _score(inputs: Inputs) -> tuple[list[dict[str, Any]], list[dict[str, Any]], Curves | None]:
    """The rows of the prediction, those of the baseline if it can be had, and the curves."""
    rows, baseline, histograms, reliabilities = [], [], [], []
    with_baseline = inputs.images.keys() >= set(inputs.names)
    for name in tqdm(inputs.names, "scoring", disable=None):
        truth, prediction = inputs.labels(name)
        about = {"id": name, "kind": "", "group": name.rpartition("/")[0]}
        row: dict[str, Any] = {"method": METHOD, **about, **score_image(truth, prediction)}
        if with_baseline:
            scores = score_image(truth, inputs.otsu(name, truth))
            baseline.append({"method": BASELINE, **about, **scores})
        if inputs.probabilities:
            row |= {"auroc": math.nan, "average_precision": math.nan, "ece": math.nan}
        if name in inputs.probabilities:
            probs = read_probability(inputs.probabilities[name])
            pixels = torch.from_numpy(probs)[None], torch.from_numpy(truth > 0)[None]
            hist = functional.probability_histogram(*pixels)
            histograms.append(hist.numpy())
            reliabilities.append(reliability_counts(probs, truth > 0))
            row |= {
                **_ranking(hist),
                "ece": float(expected_calibration_error(reliabilities[-1])),
            }
        rows.append(row)
    if not histograms:
        return rows, baseline, None
    names = [name for name in inputs.names if name in inputs.probabilities]
    return rows, baseline, Curves(names, np.stack(histograms), np.stack(reliabilities))


def _totals(table: Images, curves: Curves | None) -> dict[str, Any]:
    """Scores over all images with their intervals."""
    values, intervals, images = {}, {}, {}
    scores = scores_of(table.columns)
    drawn = resample(list(scores.values()), table.clusters)
    for score, several in zip(scores.values(), drawn, strict=True):
        values[score.name], images[score.name] = score.value, score.images
        intervals[score.name] = percentile_interval(several)
    result: dict[str, Any] = {METHOD: values, "intervals": intervals, "images_with": images}
    result["resampled"] = resampled(table)
    if curves is not None:
        totals, ends = _curve_totals(curves, table)
        values |= totals
        intervals |= ends
        images |= dict.fromkeys(totals, len(curves.names))
        result["reliability"] = reliability_curve(curves.reliability.sum(0))
    return result


def _curve_totals(
    curves: Curves, table: Images
) -> tuple[dict[str, float], dict[str, tuple[float, float]]]:
    """AUROC, average precision and ECE over all pixels, and their intervals."""
    groups = dict(zip(table.ids, table.groups, strict=True))
    clusters = None if table.clusters is None else [groups[name] for name in curves.names]
    shape = curves.histograms.shape[1:]
    flat = curves.histograms.reshape(len(curves.names), -1)
    drawn = resampled_sums(flat, clusters, _CURVE_RESAMPLES)
    several = [_ranking(torch.from_numpy(one.reshape(shape)).long()) for one in drawn]
    values = _ranking(torch.from_numpy(curves.histograms.sum(0)))
    intervals = {
        name: percentile_interval(np.array([one[name] for one in several])) for name in values
    }
    counts = curves.reliability
    drawn = resampled_sums(counts.reshape(len(counts), -1), clusters)
    values["ece"] = float(expected_calibration_error(counts.sum(0)))
    eces = expected_calibration_error(drawn.reshape(-1, *counts.shape[1:]))
    intervals["ece"] = percentile_interval(eces)
    return values, intervals


def _ranking(hist: torch.Tensor) -> dict[str, float]:
    return {
        "auroc": float(functional.auroc_from_histogram(hist)),
        "average_precision": float(functional.average_precision_from_histogram(hist)),
    }


def format_scores(report: dict[str, Any], names: Iterable[str] | None = None) -> str:
    """The table that is printed."""
    values, intervals = report[METHOD], report["intervals"]
    drawn = report["resampled"]
    lines = [
        f"Scores of {report['images']} images (image_…: mean over images, others pooled; 95 % "
        f"bootstrap intervals over {drawn['how_many']} {drawn['what']})",
        f"objects of the truth: {report['objects']['truth']}",
        f"objects of the prediction: {report['objects']['prediction']}",
    ]
    if report["left_out"]:
        lines.append(f"left out, for one side lacks them: {len(report['left_out'])}")
    if caution := drawn["caution"]:
        lines.append(f"caution: {caution}")
    baseline = report.get(BASELINE, {})
    if baseline:
        lines.append(f"{'':24}{METHOD:>10}   {'':20}{'Otsu':>10}")
    for name in names or values:
        if name in values:
            low, high = intervals[name]
            line = f"{name:24}{values[name]:10.4f}   {f'[{low:.4f}, {high:.4f}]':20}"
            line += f"{baseline[name]:10.4f}" if name in baseline else ""
            lines.append(line.rstrip())
    return "\n".join(lines)
