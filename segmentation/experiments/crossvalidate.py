"""k-fold cross-validation as one command: every fold trained and tested, all of them pooled."""

import itertools
import json
import shlex
import statistics
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from segmentation.data.splits import PARTS
from segmentation.errors import UserError
from segmentation.evaluation.table import FILE, finite, read_images, summary, write_images
from segmentation.experiments.process import run_fit
from segmentation.io.files import write_bytes, write_table
from segmentation.training.arguments import composed

STATE = "crossvalidation.json"


def output_folder(arguments: Sequence[str], folds: int) -> Path:
    """A folder for all folds beside the runs of ``fit``, by the configs' ``run``."""
    found: dict[str, Any] = {"root": "runs", "name": "unnamed"}
    words = composed(["fit", *arguments])
    for word, part in itertools.pairwise(words):
        if word == "--config" and isinstance(run := yaml.safe_load(part).get("run"), dict):
            found |= run
    return Path(found["root"]) / f"{found['name']}-{folds}fold"


def crossvalidate(arguments: Sequence[str], folds: int, output: Path) -> int:
    """Run the folds that have not been run yet, then pool them, write and print the table.

    Each fold is a ``segmentation fit`` of its own. The finished ones are kept in
    ``crossvalidation.json`` and not run again when the command is started again.

    The standard deviation is that between folds. It is no standard error: the folds share most of
    their training images, and no unbiased estimate of the variance exists (Bengio & Grandvalet,
    JMLR 2004).

    Args:
        arguments: Of ``fit``, its configs among them.
        folds: How many, ≥ 2.
        output: Gets the runs, their logs, ``crossvalidation.json`` and ``.csv``; and, as a run's
            folder, ``per_image.csv`` of all images and their ``scores.json``.

    Returns:
        0, or 1 when a fold failed; then nothing is pooled.

    Raises:
        UserError: The output cannot be written, or holds something else; or an image was not tested
            exactly once.
    """
    words = composed(["fit", *arguments])
    done = _read(output, words, folds)
    missing = 0
    for fold in range(folds):
        if str(fold) in done:
            continue
        print(f"fold {fold} of {folds} …", flush=True)
        found = _run(arguments, fold, folds, output)
        if found is None:
            missing += 1
            if missing > 1 and not done:
                break  # the others would most likely fail for the same reason
            continue
        done[str(fold)] = found
        _write_state(output, words, folds, done)
    if missing:
        print(
            f"{len(done)} of {folds} folds are done and kept; nothing is pooled before all "
            "are. The same command goes on with the others."
        )
        return 1
    runs = [output / done[str(fold)]["run"] for fold in range(folds)]
    summary = _pool(runs, output)
    _write_state(output, words, folds, done, summary)
    print(table(summary, folds))
    print(f"\nscores    {output / 'crossvalidation.csv'}, {STATE}; per_image.csv for compare")
    if weights := [str(path) for run in runs for path in _weights(run)]:
        print(
            f"ensemble  segmentation predict --ckpt_path {shlex.join(weights)} --data.images DIR "
            "--output DIR"
        )
    return 0


def _read(output: Path, words: list[str], folds: int) -> dict[str, dict[str, Any]]:
    """The finished folds, if they are those of this very cross-validation."""
    path = output / STATE
    try:
        found: Any = json.loads(path.read_text())
        made = (found["arguments"], found["folds"])
        done = {k: v for k, v in found["runs"].items() if (output / v["run"] / FILE).exists()}
    except FileNotFoundError:
        if (output / FILE).exists():
            raise UserError(
                f"{output / FILE}: is not of a cross-validation; choose another --output"
            ) from None
        return {}
    except NotADirectoryError:
        raise UserError(f"{output}: is not a folder; choose another --output") from None
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --output") from None
    if made != (words, folds):
        raise UserError(
            f"{path}: is of other options or another config; give those again to go on with it, or "
            "choose another --output"
        )
    return done


def _write_state(output: Path, words: list[str], folds: int, runs: Any, scores: Any = None) -> None:
    state = {"arguments": words, "folds": folds, "runs": runs, "scores": scores}
    write_bytes(output / STATE, json.dumps(state, indent=1).encode())


def _run(arguments: Sequence[str], fold: int, folds: int, output: Path) -> dict[str, Any] | None:
    """Train and test on one fold; ``None`` if that failed, which is said in a line."""
    log, home = output / "logs" / f"fold{fold}.log", output / f"fold{fold}"
    found = run_fit(
        [
            *arguments,
            *(f"--data.fold={fold}", f"--data.folds={folds}"),
            # The name that trackers show is that of the experiment, and then of the fold.
            *(f"--run.root={output.parent}", f"--run.name={output.name}/{home.name}"),
        ],
        home,
        log,
        f"fold {fold}",
    )
    if found is None:
        return None
    folder, seconds = found
    return {"run": str(folder.relative_to(output)), "seconds": round(seconds, 1)}


def _pool(runs: Sequence[Path], output: Path) -> dict[str, Any]:
    """Write the pooled tables, and return what :func:`table` shows."""
    tables = [read_images(run / FILE) for run in runs]
    reports = [json.loads((run / "scores.json").read_text()) for run in runs]
    _check_once(runs, tables)
    rows = pd.concat(tables)
    methods = [*rows["method"].unique()]
    parts = [rows[rows["method"] == method].sort_values("id") for method in methods]
    rows = pd.concat(parts, ignore_index=True)
    scores = finite(summary(rows))
    shown: dict[str, dict[str, Any]] = {}
    for method in methods:
        each = [_numbers(report.get(method, {})) for report in reports]
        shown[method] = {
            name: _spread([found.get(name) for found in each], scores[method].get(name))
            for name in dict.fromkeys(name for found in each for name in found)
        }
    write_images(output / FILE, rows)
    write_bytes(output / "scores.json", json.dumps(scores, indent=1).encode())
    _write_summary(output / "crossvalidation.csv", shown, len(runs))
    return shown


def _write_summary(path: Path, summary: dict[str, dict[str, Any]], folds: int) -> None:
    each = [f"fold{i}" for i in range(folds)]
    lines: list[dict[str, Any]] = [
        {"method": method, "score": name, **dict(zip(each, about["folds"], strict=True))}
        | {key: about[key] for key in ("mean", "sd", "pooled")}
        for method, scores in summary.items()
        for name, about in scores.items()
    ]
    for line in lines:
        line |= {k: round(v, 6) for k, v in _numbers(line).items()}
    write_table(path, ["method", "score", *each, "mean", "sd", "pooled"], lines)


def _numbers(found: dict[str, Any]) -> dict[str, float]:
    return {name: value for name, value in found.items() if isinstance(value, (int, float))}


def _check_once(runs: Sequence[Path], tables: Sequence[pd.DataFrame]) -> None:
    """Every image of every part of every split is tested once by each method."""
    tested = Counter(
        pair for part in tables for pair in zip(part["method"], part["id"], strict=True)
    )
    splits = [json.loads((run / "split.json").read_text()) for run in runs]
    images = sorted({name for split in splits for part in PARTS for name in split[part]})
    for method in sorted({method for method, _ in tested}):
        for name in images:
            if (count := tested[method, name]) != 1:
                raise UserError(
                    f"{name}: was tested {count} times by {method}, and each image must be once; "
                    "leave data and splits as they are between folds, and test on all images"
                )


def _spread(values: Sequence[float | None], pooled: float | None) -> dict[str, Any]:
    """Of one score: its value in each fold, their mean and standard deviation, and pooled."""
    numbers = [value for value in values if value is not None]
    return {
        "folds": list(values),
        "mean": statistics.fmean(numbers) if numbers else None,
        "sd": statistics.stdev(numbers) if len(numbers) > 1 else None,
        "pooled": pooled,
    }


def table(summary: dict[str, Any], folds: int) -> str:
    """The network's scores by fold, over the folds and pooled; beside them the other methods'.

    Theirs are pooled, or the mean over folds of what ``per_image.csv`` does not let pool.

    Args:
        summary: By method and score: ``folds``, ``mean``, ``sd`` and ``pooled``.
        folds: How many.
    """
    ours, others = summary["network"], [name for name in summary if name != "network"]
    cells = [["", *(f"fold {i}" for i in range(folds)), "mean ± sd", "pooled", *others]]
    for name, about in ours.items():
        row = [name, *map(_shown, about["folds"]), _shown(about["mean"])]
        row[-1] += "" if about["sd"] is None else f" ± {_shown(about['sd'])}"
        theirs = (summary[other].get(name, {"pooled": None, "mean": None}) for other in others)
        best = (t["mean"] if t["pooled"] is None else t["pooled"] for t in theirs)
        cells.append([*row, *map(_shown, (about["pooled"], *best))])
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
    lines = [
        row[0].ljust(widths[0])
        + "".join(f"  {cell:>{width}}" for cell, width in zip(row[1:], widths[1:], strict=True))
        for row in cells
    ]
    title = f"\nScores of {folds} folds, by fold and pooled over all images"
    return "\n".join([title, *lines])


def _shown(value: float | None) -> str:
    return "–" if value is None else format(value, ".4f" if abs(value) < 10 else ".1f")


def _weights(run: Path) -> list[Path]:
    """The checkpoint that a run was tested with: the best one, or the last without validation."""
    every = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return ([path for path in every if path.stem != "last"] or every)[-1:]
