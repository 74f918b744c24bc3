"""Runs and evaluations beside each other, paired over the same images."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.errors import UserError
from segmentation.evaluation.bootstrap import percentile_interval, rank_test
from segmentation.evaluation.images import resampled
from segmentation.evaluation.scores import Score, better, resample, scores_of
from segmentation.evaluation.tables import COUNTS, FILE, Images, read_images
from segmentation.io.files import write_bytes, write_table

SUBJECTS = ("network", "prediction")  # the method of `test`, and that of `evaluate`
DEFAULT = ("image_iou", "iou", "image_ap", "ap50", "seg")  # printed, of those there are
FIELDS = (
    *("score", "better", "name", "runs", "images", "value", "low", "high", "sd_over_runs"),
    *("difference", "difference_low", "difference_high", "p"),
)


@dataclass(frozen=True)
class Entry:
    """A row of the comparison: one run, or several that differ in their seed, or a baseline."""

    name: str
    paths: tuple[str, ...]
    runs: tuple[Images, ...]
    is_baseline: bool = False


def compare(
    specs: Sequence[str], output: Path | None = None, shown: Sequence[str] = ()
) -> dict[str, Any]:
    """Set runs beside each other; the first is what the others are compared with.

    The score of several runs is the mean of their scores, and beside it stands the standard
    deviation between them. Baselines (Otsu's threshold and the like) are taken from the first run
    that recorded them. Intervals and the rank test speak of other images, not of other seeds; p is
    that of a single comparison.

    Args:
        specs: ``RUN`` or ``NAME=RUN,RUN,…`` each, the folders of runs or evaluations.
        output: Folder for ``compare.csv``, ``compare.json`` and ``compare.html``, if any.
        shown: Scores to print; all that there are go into the files.

    Returns:
        What ``compare.json`` holds.

    Raises:
        UserError: A run cannot be read, images or truth differ, there is nothing to compare, a
            score is unknown, or the output cannot be written.
    """
    entries = read_entries(specs)
    groups = next((run.clusters for e in entries for run in e.runs if run.clusters), None)
    tables = _comparable(entries)
    names = [
        name
        for name in tables[0][0]
        if all(name in run for entry, runs in zip(entries, tables, strict=True)
               if not entry.is_baseline for run in runs)
    ]  # fmt: skip
    for name in shown:
        if name not in names:
            raise UserError(f"--score {name}: not recorded by all; choose from {', '.join(names)}")
    rows = _rows(entries, tables, names, groups)
    first = entries[0]
    report = {
        "reference": first.name,
        "images": len(first.runs[0].ids),
        "runs": {entry.name: entry.paths for entry in entries},
        "resampled": resampled(replace(first.runs[0], groups=groups or first.runs[0].groups)),
        "shown": list(shown) or [name for name in DEFAULT if name in names],
        "scores": rows,
    }
    if output is not None:
        from segmentation.evaluation.compare_page import page

        plain = [{k: "" if v is None else v for k, v in row.items()} for row in rows]
        write_table(output / "compare.csv", FIELDS, plain)
        write_bytes(output / "compare.json", json.dumps(report, indent=1).encode())
        write_bytes(output / "compare.html", page(report).encode())
    return report


def read_entries(specs: Sequence[str]) -> list[Entry]:
    """The runs, and after them the baselines; all on the same images with the same truth.

    Raises:
        UserError: As :func:`compare`.
    """
    entries: list[Entry] = []
    others: dict[str, Entry] = {}
    used: dict[Path, str] = {}
    for spec in specs:
        name, paths = _parse(spec)
        if name in [entry.name for entry in entries]:
            raise UserError(f"{name}: is the name of two rows; name each differently")
        runs = []
        for path in paths:
            folder = Path(path).expanduser()
            if (place := folder.resolve()) in used:
                raise UserError(f"{path}: is given twice; give each run once")
            used[place] = path
            methods = read_images(folder / FILE)
            method = next((method for method in SUBJECTS if method in methods), None)
            if method is None:
                raise UserError(f"{folder / FILE}: has no rows of method network or prediction")
            runs.append(methods.pop(method))
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


def format_comparison(report: dict[str, Any]) -> str:
    """The tables that are printed."""
    drawn, reference = report["resampled"], report["reference"]
    lines = [
        f"{report['images']} images, all rows on the same; difference to {reference}; 95 % "
        f"bootstrap intervals over {drawn['how_many']} {drawn['what']}, paired;",
        "p: Wilcoxon's signed-rank test of the images' own scores, not corrected for several "
        "comparisons; ±: standard deviation between runs (seeds)",
    ]
    if caution := drawn["caution"]:
        lines.append(f"caution: {caution}")
    width = max(len(name) for name in report["runs"]) + 2
    for score in report["shown"]:
        lines.append(f"\n{score} ({better(score)} is better)")
        for row in (row for row in report["scores"] if row["score"] == score):
            text = f"  {row['name']:{width}}{_number(row['value'])} "
            text += f"[{_number(row['low'])}, {_number(row['high'])}]"
            text += "" if row["sd_over_runs"] is None else f" ± {_number(row['sd_over_runs'])}"
            if row["difference"] is not None:
                low, high = (_number(row[f"difference_{end}"], "+") for end in ("low", "high"))
                text = f"{text:{width + 40}}{_number(row['difference'], '+')} [{low}, {high}]"
                p = row["p"]
                text += "" if p is None else "  p < 0.0001" if p < 1e-4 else f"  p {p:.2g}"
            lines.append(text)
    return "\n".join(lines)


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


def _check_same(path: str, found: Images, other: str, wanted: Images) -> None:
    """Raise :class:`UserError` unless two runs were scored on the same images and truth."""
    lacks, more = (
        sorted(set(one) - set(two))
        for one, two in ((wanted.ids, found.ids), (found.ids, wanted.ids))
    )
    if lacks or more:
        says = [f"lacks {_some(lacks)}"] if lacks else []
        says += [f"has {_some(more)} besides"] if more else []
        raise UserError(
            f"{path}: its test images are not those of {other}: it {' and '.join(says)}; compare "
            "runs on one split"
        )
    for what, names in (
        ("foreground of the truth", ("tp", "fn")),
        ("number of pixels", COUNTS),
        ("number of true objects", ("true_objects",)),
    ):
        if not all(name in side.columns for name in names for side in (found, wanted)):
            continue
        one, two = (np.sum([side.columns[n] for n in names], axis=0) for side in (found, wanted))
        if odd := [found.ids[place] for place in np.flatnonzero(one != two)]:
            raise UserError(
                f"{path}: the {what} differs from that in {other} for {_some(odd)}; score both "
                "against the same masks at the same size"
            )


def _rows(
    entries: Sequence[Entry],
    tables: Sequence[Sequence[dict[str, Score]]],
    common: Sequence[str],
    groups: Sequence[str] | None,
) -> list[dict[str, Any]]:
    """A row for each common score and entry."""
    flat = [run[name] for name in common for runs in tables for run in runs if name in run]
    drawn = {id(s): several for s, several in zip(flat, resample(flat, groups), strict=True)}
    rows = []
    for name in common:
        first: np.ndarray | None = None
        for entry, runs in zip(entries, tables, strict=True):
            if name not in runs[0]:
                continue
            scores = [run[name] for run in runs]
            row = _row(entry, name, scores)
            several = np.mean([drawn[id(score)] for score in scores], axis=0)
            row["low"], row["high"] = percentile_interval(several)
            if first is None:
                first, start = several, row["value"]
            else:
                row["difference"] = row["value"] - start
                ends = percentile_interval(several - first)
                row["difference_low"], row["difference_high"] = ends
                row["p"] = _rank(entry, entries[0], name, groups)
            rows.append({k: _plain(v) for k, v in row.items()})
    return rows


def _row(entry: Entry, name: str, scores: Sequence[Score]) -> dict[str, Any]:
    values = [score.value for score in scores]
    row: dict[str, Any] = dict.fromkeys(FIELDS)
    row |= {"score": name, "better": better(name), "name": entry.name, "runs": len(scores)}
    row |= {"images": scores[0].images, "value": float(np.mean(values))}
    if len(values) > 1:
        row["sd_over_runs"] = float(np.std(values, ddof=1))
    return row


def _comparable(entries: Sequence[Entry]) -> list[list[dict[str, Score]]]:
    """The scores of each run, every one from the images that have it in all runs."""
    runs = [run for entry in entries for run in entry.runs]
    known: dict[str, np.ndarray] = {}
    for run in runs:
        for name, values in run.columns.items():
            known[name] = known.get(name, np.array(True)) & np.isfinite(values)
    return [
        [
            scores_of({k: np.where(known[k], v, math.nan) for k, v in run.columns.items()})
            for run in entry.runs
        ]
        for entry in entries
    ]


def _rank(entry: Entry, reference: Entry, score: str, groups: Sequence[str] | None) -> float | None:
    """p of the rank test of the images' own scores; ``None`` where they have none of this name."""
    column = score.removeprefix("image_")
    if not all(column in run.columns for one in (entry, reference) for run in one.runs):
        return None
    one, two = (
        np.mean([run.columns[column] for run in some.runs], axis=0) for some in (entry, reference)
    )
    with np.errstate(invalid="ignore"):
        return rank_test(one - two, groups)


def _some(names: Sequence[str]) -> str:
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    return f"{', '.join(names[:3])}{more}"


def _plain(value: Any) -> Any:
    if isinstance(value, float):
        return round(value, 6) if math.isfinite(value) else None
    return value


def _number(value: float | None, sign: str = "") -> str:
    return "–" if value is None else f"{value:{sign}.4f}"
