"""Every score for two folders of masks or label maps, whatever tool they come from."""

import json
from collections.abc import Collection
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pandas as pd
import torch

from segmentation.data.masks import MaskFacts, facts_of
from segmentation.errors import UserError
from segmentation.evaluation import calibration, intervals, maps, table
from segmentation.evaluation.pages import render
from segmentation.io.files import write_bytes
from segmentation.io.images import read_image, read_mask
from segmentation.io.listing import partner_of
from segmentation.io.pairs import find_images, find_maps
from segmentation.io.tree import check_root
from segmentation.metrics.counts import TOLERANCE, probability_histogram
from segmentation.metrics.scores import ranking_scores, scores_of
from segmentation.metrics.table import ScoreTable
from segmentation.objects import label_components, renumber, to_gray
from segmentation.progress import progress
from segmentation.targets import otsu

METHOD, BASELINE = "prediction", "otsu"
_CURVE_RESAMPLES = 1000  # of the sums of whole histograms
# Names of the images with probabilities; their histograms (n, 2, bins) and reliability counts.
Curves = tuple[list[str], np.ndarray, np.ndarray]


@dataclass(frozen=True)
class Inputs:
    """What is scored: names, sorted, and for each side name ► file; the last two may lack names."""

    names: list[str]
    truth: dict[str, Path]
    prediction: dict[str, Path]
    probabilities: dict[str, Path]
    images: dict[str, Path]
    instances: tuple[bool, bool]  # whether truth and prediction are label maps rather than masks
    left_out: list[str]  # names that one side alone has
    doubts: list[str]  # what is unlikely about the masks

    def labels(self, name: str) -> list[np.ndarray]:
        """Truth and prediction of an image as (H, W) int32 ids 1…n."""
        sides = zip((self.truth, self.prediction), self.instances, strict=True)
        maps = [(read_mask(side[name]), instances) for side, instances in sides]
        return [renumber(m.astype(np.int32)) if i else label_components(m > 0) for m, i in maps]

    def otsu(self, name: str, truth: np.ndarray) -> np.ndarray:
        """Objects of an image by Otsu's threshold, (H, W) int32 ids as its truth."""
        image = read_image(self.images[name])
        _check_size(self.images[name], image, self.truth[name], truth.shape)
        return label_components(otsu(to_gray(image)))


def evaluate(
    truth: Path,
    prediction: Path,
    output: Path,
    probabilities: Path | None = None,
    images: Path | None = None,
    labels: Literal["auto", "instances", "mask"] = "auto",
    allow_missing: bool = False,
    allow: list[
        Literal["no_objects", "no_background", "inverted", "smooth", "reused_ids", "classes"]
    ]
    | None = None,
) -> None:
    """Score a folder of masks or label maps, from any tool, against the truth.

    Intervals are 95 % bootstrap intervals over images, or over the groups where there are two or
    more.

    Args:
        truth: Masks or label maps: PNG, TIFF, BMP or NPY; subfolders are groups (subjects).
        prediction: The same names, whatever the suffix.
        output: Gets report.html, scores.json and per_image.csv.
        probabilities: Foreground probabilities: 8 or 16 bit (the largest value is 1), or float
            TIFF.
        images: Score Otsu's threshold on them, too, and show the worst ones under their outlines.
        labels: What values mean: ids of objects, or foreground whose connected components are the
            objects; auto finds out for each folder.
        allow_missing: Leave out what one folder alone has.
        allow: What is doubtful about the masks but right, by its word in the message.
    """
    folders = truth, prediction, probabilities, images
    inputs = find_inputs(*folders, labels, allow_missing, allow or ())
    (mine, *baseline), curves = _scored(inputs)
    says = ("8-connected components of binary masks", "instance ids of label maps")
    report: dict[str, Any] = {
        "images": len(inputs.names),
        "left_out": inputs.left_out,
        "doubts": inputs.doubts,
        "objects": {k: says[i] for k, i in zip(("truth", METHOD), inputs.instances, strict=True)},
        "boundary_tolerance": int(TOLERANCE),
        **_totals(mine, curves),
    }
    if baseline:
        report[BASELINE] = table.values_of(scores_of(table.columns(baseline[0])))
    from segmentation.evaluation.evaluate_page import evaluation_page

    text = evaluation_page(report, inputs, mine, curves)
    # The page is by far the largest: where the disk has no room for it, nothing is written.
    write_bytes(output / "report.html", text.encode())
    table.write_images(output / table.FILE, pd.concat([mine, *baseline], ignore_index=True))
    write_bytes(output / "scores.json", json.dumps(table.finite(report), indent=1).encode())
    print(render("evaluate.txt", report=report, baseline=report.get(BASELINE)), end="")
    print(f"\npage      {output / 'report.html'}")
    print(f"scores    {output / 'scores.json'}, {table.FILE}")


def find_inputs(
    truth: Path,
    prediction: Path,
    probabilities: Path | None,
    images: Path | None,
    labels: maps.Kind,
    allow_missing: bool,
    allow: Collection[str] = (),
) -> Inputs:
    """Pair the folders, and read every file once to see that it is what it should be."""
    wanted = find_maps(check_root(truth, "check --truth"))
    found = find_maps(check_root(prediction, "check --prediction"), wanted)
    names = maps.pair(wanted, found, "--prediction", allow_missing)
    left_out = set(wanted) ^ set(found)
    probs: dict[str, Path] = {}
    if probabilities is not None:
        probs = find_maps(check_root(probabilities, "check --probabilities"), wanted)
        scored = {name: wanted[name] for name in names}
        common = maps.pair(scored, probs, "--probabilities", allow_missing)
        left_out |= set(scored) ^ set(probs)
        probs = {name: probs[name] for name in common}
    shown = {} if images is None else find_images(check_root(images, "check --images"))
    shown = {partner_of(name, wanted): path for name, path in shown.items()}
    if images is not None and not shown.keys() & set(names):
        raise UserError(
            f"--images: none of its {len(shown)} files has the name of one of --truth (such as "
            f"{next(iter(shown))} and {names[0]}); leave --images out, or rename them"
        )
    cautions = []
    if shown and (without := [name for name in names if name not in shown]):
        lacking = f"--images lacks {len(without)} of {len(names)} images ({without[0]}, say)"
        cautions.append(f"{lacking}: Otsu's threshold is not scored")
    facts: tuple[dict[Path, MaskFacts], dict[Path, MaskFacts]] = ({}, {})
    alike = True
    for name in progress(names, "checking"):
        pixels = [read_mask(side[name]) for side in (wanted, found)]
        for side, files, ids in zip(facts, (wanted, found), pixels, strict=True):
            side[files[name]] = facts_of(ids, ids=True)
        _check_size(found[name], pixels[1], wanted[name], pixels[0].shape)
        alike = alike and np.array_equal(*pixels)
        if name in probs:
            pixels[1] = maps.read_probability(probs[name])
            _check_size(probs[name], pixels[1], wanted[name], pixels[0].shape)
    if probs:
        maps.check_probabilities(list(probs.values()))
    true, unlikely = maps.holds_instances(facts[0], labels, "--truth", allow)
    predicted, more = maps.holds_instances(facts[1], labels, "--prediction", allow)
    if alike:
        cautions.append(
            "every prediction is equal to its truth: is it the truth itself, or a copy?"
        )
    sides, doubts = (wanted, found, probs, shown), [*unlikely, *more, *cautions]
    return Inputs(names, *sides, (true, predicted), sorted(left_out), doubts)


def _check_size(path: Path, pixels: np.ndarray, truth: Path, size: tuple[int, ...]) -> None:
    if pixels.shape[:2] != size:
        here, there = (f"{height}×{width}" for height, width in (pixels.shape[:2], size))
        raise UserError(
            f"{path}: is {here} (H×W) but its truth {truth} is {there}; export both at one size"
        )


def _scored(inputs: Inputs) -> tuple[list[pd.DataFrame], Curves | None]:
    """The table of the prediction and, with an image for each, of Otsu's threshold; the curves."""
    methods = [METHOD, *([BASELINE] if inputs.images.keys() >= set(inputs.names) else [])]
    tables = {method: ScoreTable(boundary=True) for method in methods}
    counted: dict[str, tuple[np.ndarray, np.ndarray]] = {}
    for name in progress(inputs.names, "scoring"):
        truth, prediction = inputs.labels(name)
        for method, scored in tables.items():
            found = prediction if method == METHOD else inputs.otsu(name, truth)
            both = torch.from_numpy(truth)[None], torch.from_numpy(found)[None]
            scored.update(*both, ids=[name], groups=[name.rpartition("/")[0]])
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
        return frames, None
    hists, counts = (np.stack(some) for some in zip(*counted.values(), strict=True))
    ranked = pd.DataFrame(_curve_scores(hists, counts), index=list(counted))
    frames[0] = frames[0].join(ranked, on="id")
    return frames, (list(counted), hists, counts)


def _totals(frame: pd.DataFrame, curves: Curves | None) -> dict[str, Any]:
    """Scores over all images with their intervals."""
    scores, groups = scores_of(table.columns(frame)), table.clusters(frame)
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
