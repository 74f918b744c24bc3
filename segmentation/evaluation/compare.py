"""Runs and evaluations beside each other, paired over the same images."""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segmentation.errors import UserError
from segmentation.evaluation import intervals, table
from segmentation.evaluation.pages import render
from segmentation.evaluation.plots import forest
from segmentation.io.files import write_bytes, write_json, write_table
from segmentation.io.listing import some_of
from segmentation.metrics.counts import PIXELS
from segmentation.metrics.scores import Score, better, scores_of

SUBJECTS = ("network", "prediction")  # the method of `test`, and that of `evaluate`
# Printed, of those there are.
DEFAULT = ("image_iou", "iou", "image_ap", "ap50", "seg", "class_iou", "class_pq")
FIELDS = (
    *("score", "better", "name", "runs", "images", "value", "low", "high", "sd_over_runs"),
    *("difference", "difference_low", "difference_high", "p"),
)


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: one run, or several that differ in their seed, or a baseline."""

    name: str
    paths: tuple[str, ...]
    runs: tuple[pd.DataFrame, ...]
    is_baseline: bool = False


def compare(runs: list[str], /, score: list[str] | None = None, output: Path | None = None) -> None:
    """Set runs and evaluations beside each other, paired over the same images.

    The score of several runs is the mean of their scores, and beside it stands the standard
    deviation between them. Baselines (Otsu's threshold and the like) are taken from the first run
    that recorded them. Intervals and the rank test speak of other images, not of other seeds; p is
    that of a single comparison.

    Args:
        runs: Folders of runs that were tested, or outputs of evaluate; NAME=RUN,RUN,… pools the
            seeds of one experiment. The others are compared with the first.
        score: Print these, such as image_iou. The files hold all.
        output: Gets compare.csv, compare.json, compare.html.
    """
    report = comparison(runs, score or ())
    rows = report["scores"]
    shown = {name: [row for row in rows if row["score"] == name] for name in report["shown"]}
    print(render("compare.txt", report=report, shown=shown), end="")
    if output is None:
        return
    page = render("compare.html", report=report, shown=shown, forest=forest)
    plain = [{k: "" if v is None else v for k, v in row.items()} for row in rows]
    write_bytes(output / "compare.html", page.encode())  # the largest first: whole or not at all
    write_json(output / "compare.json", report)
    write_table(output / "compare.csv", FIELDS, plain)
    print(f"\npage      {output / 'compare.html'}, compare.csv, compare.json")


def comparison(runs: Sequence[str], shown: Sequence[str] = ()) -> dict[str, Any]:
    """What ``compare.json`` holds; what cannot be read or compared is a :class:`UserError`."""
    entries = read_entries(runs)
    first, every = entries[0], [run for entry in entries for run in entry.runs]
    groups = next((found for run in every if (found := table.groups_in(run))), None)
    tables = _comparable(entries)
    subjects = [t for e, t in zip(entries, tables, strict=True) if not e.is_baseline]
    names = [name for name in tables[0][0] if all(name in run for runs in subjects for run in runs)]
    for name in shown:
        if name not in names:
            raise UserError(f"--score {name}: not recorded by all; choose from {', '.join(names)}")
    drawn = first.runs[0] if groups is None else first.runs[0].assign(group=groups)
    return {
        "reference": first.name,
        "images": len(first.runs[0]),
        "runs": {entry.name: entry.paths for entry in entries},
        "resampled": table.resampled(drawn),
        "shown": list(shown) or [name for name in DEFAULT if name in names],
        "scores": _score_rows(entries, tables, names, groups),
    }


def read_entries(specs: Sequence[str]) -> list[Entry]:
    """The runs, and after them the baselines; all on the same images with the same truth."""
    entries: list[Entry] = []
    others: dict[str, Entry] = {}
    used: dict[Path, str] = {}
    for spec in specs:
        name, paths = _parse(spec)
        if name in [entry.name for entry in entries]:
            raise UserError(f"{name}: is the name of two rows; name each differently")
        runs: list[pd.DataFrame] = []
        for path in paths:
            folder = Path(path).expanduser()
            if (place := folder.resolve()) in used:
                raise UserError(f"{path}: is given twice; give each run once")
            used[place] = path
            groups = table.read_images(file := folder / table.FILE).groupby("method", sort=False)
            # A column without a number is a score of other methods.
            methods = {str(m): rows.dropna(axis=1, how="all") for m, rows in groups}
            methods = {m: rows.sort_values("id", ignore_index=True) for m, rows in methods.items()}
            if not (found := [method for method in SUBJECTS if method in methods]):
                raise UserError(f"{file}: has no rows of method network or prediction")
            runs.append(methods.pop(found[0]))
            methods.pop("as trained", None)  # the same network, decoded otherwise: no baseline
            reference = entries[0].runs[0] if entries else runs[0]
            _check_same(path, runs[-1], next(iter(used.values())), reference)
            for other, images in methods.items():
                _check_same(f"{path} ({other})", images, path, runs[-1])
                others.setdefault(other, Entry(other, (path,), (images,), True))
        entries.append(Entry(name, tuple(paths), tuple(runs)))
    if len(entries) + len(others) < 2:
        raise UserError(f"{specs[0]}: nothing to compare with; give a second run")
    names = [entry.name for entry in entries]
    for name, entry in others.items():
        entries.append(replace(entry, name=f"{name} (baseline)") if name in names else entry)
    return entries


def _parse(spec: str) -> tuple[str, list[str]]:
    """``NAME=RUN,RUN`` ► the name and the paths; a folder that exists is itself."""
    if Path(spec).expanduser().is_dir():
        return spec, [spec]
    name, equals, rest = spec.partition("=")
    paths = [path for path in (rest if equals else spec).split(",") if path]
    if not paths or (equals and not name):
        raise UserError(f"{spec}: is neither a run's folder nor NAME=RUN,RUN,…")
    if len(paths) > 1 and not equals:
        raise UserError(f"{spec}: several runs need a name in front, as in NAME={spec}")
    return (name if equals else spec), paths


def _check_same(path: str, found: pd.DataFrame, other: str, wanted: pd.DataFrame) -> None:
    """Raise :class:`UserError` unless two runs were scored on the same images and truth."""
    one, two = set(wanted["id"]), set(found["id"])
    if one != two:
        says = [f"lacks {some_of(sorted(one - two))}"] if one - two else []
        says += [f"has {some_of(sorted(two - one))} besides"] if two - one else []
        what = f"its test images are not those of {other}: it {' and '.join(says)}"
        raise UserError(f"{path}: {what}; compare runs on one split")
    for what, names in (
        ("foreground of the truth", ["tp", "fn"]),
        ("number of pixels", [*PIXELS]),
        ("number of true objects", ["true_objects"]),
    ):
        if not set(names) <= set(found) & set(wanted):
            continue
        odd = found["id"][found[names].sum(axis=1) != wanted[names].sum(axis=1)].tolist()
        if odd:
            raise UserError(
                f"{path}: the {what} differs from that in {other} for {some_of(odd)}; score both "
                "against the same masks at the same size"
            )


def _score_rows(
    entries: Sequence[Entry],
    tables: Sequence[Sequence[dict[str, Score]]],
    common: Sequence[str],
    groups: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """A row for each common score and entry."""
    runs = [run for scored in tables for run in scored]
    every = {id(s): s for run in runs for name, s in run.items() if name in common}
    drawn = intervals.resample(every, groups)
    rows = []
    for name in common:
        first: np.ndarray | None = None
        for entry, scored in zip(entries, tables, strict=True):
            if name not in scored[0]:
                continue
            scores = [run[name] for run in scored]
            values = [score.value for score in scores]
            several = np.mean([drawn[id(score)] for score in scores], axis=0)
            row: dict[str, Any] = dict.fromkeys(FIELDS)
            row |= {"score": name, "better": better(name), "name": entry.name, "runs": len(scored)}
            row |= {"images": scores[0].images, "value": float(np.mean(values))}
            row["low"], row["high"] = intervals.percentile_interval(several)
            if len(values) > 1:
                row["sd_over_runs"] = float(np.std(values, ddof=1))
            if first is None:
                first, start = several, row["value"]
            else:
                row["difference"] = row["value"] - start
                ends = intervals.percentile_interval(several - first)
                row["difference_low"], row["difference_high"] = ends
                row["p"] = _rank(entry, entries[0], name.removeprefix("image_"), groups)
            short = {k: round(v, 6) if isinstance(v, float) else v for k, v in row.items()}
            rows.append(table.finite(short))
    return rows


def _comparable(entries: Sequence[Entry]) -> list[list[dict[str, Score]]]:
    """The scores of each run, every one from the images that have it in all runs."""
    tables = [[table.columns(run) for run in entry.runs] for entry in entries]
    known: dict[str, np.ndarray] = {}
    for run in (run for runs in tables for run in runs):
        for name, values in run.items():
            known[name] = known.get(name, np.array(True)) & np.isfinite(values)
    return [
        [scores_of({k: np.where(known[k], v, math.nan) for k, v in run.items()}) for run in runs]
        for runs in tables
    ]


def _rank(entry: Entry, first: Entry, column: str, groups: Sequence[str] | None) -> float | None:
    """p of the rank test of the images' own scores; ``None`` where they have none of this name."""
    if not all(column in run for one in (entry, first) for run in one.runs):
        return None
    one, two = (np.mean([r[column] for r in some.runs], axis=0) for some in (entry, first))
    with np.errstate(invalid="ignore"):
        return intervals.rank_test(one - two, groups)
