"""k-fold cross-validation as one command: every fold trained and tested, all of them pooled."""

import json
import shlex
from collections import Counter
from collections.abc import Sequence
from itertools import product
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from segmentation.config_files import find_config, read_parts
from segmentation.data.sample import PARTS
from segmentation.errors import UserError
from segmentation.evaluation.table import FILE, finite, read_images, summary, write_images
from segmentation.experiments.process import run_fit
from segmentation.io.files import write_bytes

STATE = "crossvalidation.json"


def crossvalidate(
    *options: str, config: Sequence[str], folds: int = 5, output: Path | None = None
) -> int:
    """Train and test on every fold of a cross-validation, and pool the scores.

    All other options (--data.…, --model.…, --trainer.…) are those of fit, which each fold is one
    of. The finished ones are kept and not run again when the command is started again. The status
    is 1 when a fold failed; the others are done all the same, and then nothing is pooled.

    The standard deviation is that between folds. It is no standard error: the folds share most of
    their training images, and no unbiased estimate of the variance exists (Bengio & Grandvalet,
    JMLR 2004).

    Args:
        config: Config files, as for fit.
        folds: How many.
        output: Folder for the runs, their logs, crossvalidation.json and .csv, and per_image.csv
            and scores.json of all images as a run has them; beside the config's runs by default.

    Raises:
        UserError: The output cannot be written, or holds something else; or an image was not tested
            exactly once.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: must be at least 2")
    for name in (word.partition("=")[0] for word in options):
        if name in ("--data.fold", "--run.root", "--run.name", "--ckpt_path"):
            raise UserError(f"{name}: is not for all folds; leave it out, give --folds or --output")
    parts = [part for name in config for part in read_parts(find_config(name))]
    if output is None:
        where = {"root": "runs", "name": "unnamed"}
        for part in parts:
            where |= part.get("run") or {}
        output = Path(where["root"]) / f"{where['name']}-{folds}fold"
    words = [*(yaml.safe_dump(part, sort_keys=False) for part in parts), *options]
    done, missing = _finished(output, words, folds), 0
    state = {"arguments": words, "folds": folds, "runs": done}
    for fold in (fold for fold in range(folds) if str(fold) not in done):
        print(f"fold {fold} of {folds} …", flush=True)
        if found := _run([*(f"--config={c}" for c in config), *options], fold, folds, output):
            done[str(fold)] = found
            _keep(output, state)
        else:
            missing += 1
            if missing > 1 and not done:
                break  # the others would most likely fail for the same reason
    if missing:
        print(
            f"{len(done)} of {folds} folds are done and kept; nothing is pooled before all "
            "are. The same command goes on with the others."
        )
        return 1
    runs = [output / done[str(fold)]["run"] for fold in range(folds)]
    scores = _pool(runs, output)
    _keep(output, state | {"scores": _as_json(scores)})
    print(f"\nScores of {folds} folds, by fold and pooled over all images\n{folds_table(scores)}")
    print(f"\nscores    {output / 'crossvalidation.csv'}, {STATE}; per_image.csv for compare")
    if weights := [str(path) for run in runs for path in _weights(run)]:
        print(
            f"ensemble  segmentation predict --ckpt_path {shlex.join(weights)} --data.images DIR "
            "--output DIR"
        )
    return 0


def _finished(output: Path, words: list[str], folds: int) -> dict[str, dict[str, Any]]:
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
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --output") from None
    if made != (words, folds):
        raise UserError(
            f"{path}: is of other options or another config; give those again to go on with it, or "
            "choose another --output"
        )
    return done


def _keep(output: Path, state: dict[str, Any]) -> None:
    write_bytes(output / STATE, json.dumps(state, indent=1).encode())


def _run(arguments: Sequence[str], fold: int, folds: int, output: Path) -> dict[str, Any] | None:
    """Train and test on one fold; ``None`` if that failed, which is said in a line."""
    home = output / f"fold{fold}"
    # The name that trackers show is that of the experiment, and then of the fold.
    own = (f"--run.root={output.parent}", f"--run.name={output.name}/{home.name}")
    words = [*arguments, f"--data.fold={fold}/{folds}", *own]
    found = run_fit(words, home, output / "logs" / f"{home.name}.log", f"fold {fold}")
    return found and {"run": str(found[0].relative_to(output)), "seconds": round(found[1], 1)}


def _pool(runs: Sequence[Path], output: Path) -> pd.DataFrame:
    """Write the pooled tables.

    Returns:
        A row by method and score: ``fold0``, …, their ``mean`` and ``sd``, and ``pooled``.
    """
    tables = [read_images(run / FILE) for run in runs]
    _check_once(runs, tables)
    rows = pd.concat(tables)
    methods = [*rows["method"].unique()]
    parts = [rows[rows["method"] == method].sort_values("id") for method in methods]
    rows = pd.concat(parts, ignore_index=True)
    write_images(output / FILE, rows)
    pooled = finite(summary(rows))
    write_bytes(output / "scores.json", json.dumps(pooled, indent=1).encode())
    reports = [json.loads((run / "scores.json").read_text()) for run in runs]
    found = {f"fold{i}": _by_score(report, methods) for i, report in enumerate(reports)}
    scores = pd.DataFrame(found).reindex(list(dict.fromkeys(k for f in found.values() for k in f)))
    mean, sd = scores.mean(axis=1), scores.std(axis=1)
    scores = scores.assign(mean=mean, sd=sd, pooled=pd.Series(_by_score(pooled, methods)))
    scores.index = scores.index.set_names(["method", "score"])
    write_bytes(output / "crossvalidation.csv", scores.round(6).to_csv().encode())
    return scores


def _by_score(report: dict[str, Any], methods: Sequence[str]) -> dict[tuple[str, str], float]:
    every = {(m, name): value for m in methods for name, value in report.get(m, {}).items()}
    return {key: float(value) for key, value in every.items() if isinstance(value, (int, float))}


def _as_json(scores: pd.DataFrame) -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = {}
    for key, row in scores.iterrows():
        method, name = key  # type: ignore[misc]
        *folds, mean, sd, pooled = row.tolist()
        about = {"folds": folds, "mean": mean, "sd": sd, "pooled": pooled}
        found.setdefault(method, {})[name] = finite(about)
    return found


def _check_once(runs: Sequence[Path], tables: Sequence[pd.DataFrame]) -> None:
    """Every image of every part of every split is tested once by each method."""
    tested = Counter(row for part in tables for row in zip(part["method"], part["id"], strict=True))
    splits = [json.loads((run / "split.json").read_text()) for run in runs]
    images = sorted({name for split in splits for part in PARTS for name in split[part]})
    for method, name in product(sorted({method for method, _ in tested}), images):
        if (count := tested[method, name]) != 1:
            raise UserError(
                f"{name}: was tested {count} times by {method}, and each image must be once; "
                "leave data and splits as they are between folds, and test on all images"
            )


def folds_table(scores: pd.DataFrame) -> str:
    """The network's scores by fold, over the folds and pooled; beside them the other methods'.

    Theirs are pooled, or the mean over folds of what ``per_image.csv`` does not let pool.
    """
    ours: pd.DataFrame = scores.loc["network"]
    shown: Any = ours.map(_shown)
    spread = ["" if sd == "–" else f" ± {sd}" for sd in shown.pop("sd")]
    shown.insert(shown.columns.get_loc("mean"), "mean ± sd", shown.pop("mean") + spread)
    shown = shown.rename(columns=lambda name: name.replace("fold", "fold "))
    for other in scores.index.unique("method").drop("network"):
        theirs = scores.loc[other]
        shown[other] = theirs["pooled"].fillna(theirs["mean"]).reindex(ours.index).map(_shown)
    return shown.rename_axis(None).to_string()


def _shown(value: float) -> str:
    return "–" if pd.isna(value) else format(value, ".4f" if abs(value) < 10 else ".1f")


def _weights(run: Path) -> list[Path]:
    """The checkpoint that a run was tested with: the best one, or the last without validation."""
    every = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
    return ([path for path in every if path.stem != "last"] or every)[-1:]
