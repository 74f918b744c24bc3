"""k-fold cross-validation as one command: every fold trained and tested, all of them pooled."""

import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from segmentation.config_files import find_config, read_parts, run_home
from segmentation.data.sample import PARTS
from segmentation.data.sources import APART, SHARED
from segmentation.errors import UserError
from segmentation.evaluation.table import FILE, all_scores, finite, read_images, write_images
from segmentation.experiments.page import RunsPage
from segmentation.experiments.process import FINISHED, read_finished, run_fit
from segmentation.io.files import read_json, write_bytes, write_json
from segmentation.progress import progress
from segmentation.terminal import quiet

STATE, PAGE = "crossvalidation.json", "crossvalidation.html"


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
        output: Folder for the runs, their logs, crossvalidation.html (rewritten while the folds
            run), .json and .csv, and per_image.csv and scores.json of all images as a run has
            them; beside the config's runs by default.
    """
    if folds < 2:
        raise UserError(f"--folds {folds}: must be at least 2")
    for name in (word.partition("=")[0] for word in options):
        if name in ("--data.fold", "--run.root", "--run.name", "--ckpt_path"):
            raise UserError(f"{name}: is not for all folds; leave it out, give --folds or --output")
    parts = [part for name in config for part in read_parts(find_config(name))]
    output = output or run_home(options, config, folds)
    words = [*(yaml.safe_dump(part, sort_keys=False) for part in parts), *options]
    done, failed = _finished(output, words, folds), 0
    state = {"arguments": words, "folds": folds, "runs": done}
    titles = [f"fold {fold + 1} of {folds}" for fold in range(folds)]
    page = RunsPage(output / PAGE, f"Cross-validation: {output.name}", titles)
    for number, known in done.items():
        page.end(titles[int(number)], (output / known["run"], known["seconds"]))
    if not quiet():
        print(f"page      {page.path} (rewritten while the folds run)", flush=True)
    with page, progress(None, "", folds, initial=len(done), smoothing=0) as bar:
        for fold in range(folds):
            home = output / f"fold{fold}"
            if str(fold) in done or (failed > 1 and not done):
                continue  # of others that fail, the reason is most likely the same
            arguments = [
                *(f"--config={c}" for c in config),
                *options,
                f"--data.fold={fold}/{folds}",
                # The name that trackers show is that of the experiment, and then of the fold.
                f"--run.root={output.parent}",
                f"--run.name={output.name}/{home.name}",
            ]
            log = output / "logs" / f"{home.name}.log"
            page.begin(titles[fold], home)
            fitted = run_fit(arguments, home, log, titles[fold], bar, page.tick)
            page.end(titles[fold], fitted)
            if fitted is None:
                failed += 1
                continue
            run, seconds = fitted
            done[str(fold)] = {"run": str(run.relative_to(output)), "seconds": round(seconds, 1)}
            write_json(output / STATE, state)
    if failed:
        print(
            f"{len(done)} of {folds} folds are done and kept; nothing is pooled before all "
            "are. The same command goes on with the others."
        )
        return 1
    runs = [output / done[str(fold)]["run"] for fold in range(folds)]
    scores = _pool(runs, output)
    about: dict[str, dict[str, Any]] = {method: {} for method, _ in scores.index}
    for method, name in scores.index:
        row: Any = scores.loc[method, name]
        about[method][name] = finite({"folds": row.iloc[:folds].tolist(), **row.iloc[folds:]})
    write_json(output / STATE, state | {"scores": about})
    page.scores = read_finished(output / FINISHED)
    ours: Any = scores.loc["network"]
    rows = [[name, *values] for name, values in zip(ours.index, ours.to_numpy(), strict=True)]
    page.more = {"title": "Scores by fold", "head": ["", *ours.columns], "rows": finite(rows)}
    page.write()
    print(f"\nScores of {folds} folds, by fold and pooled over all images\n{folds_table(scores)}")
    if says := page.scores.get("sources"):
        print(f"\n{says}")
    print(f"\nscores    {output / 'crossvalidation.csv'}, {STATE}; per_image.csv for compare")
    weights: list[str] = []
    for run in runs:  # each was tested with the best one, or the last without validation
        every = sorted((run / "checkpoints").glob("*.ckpt"), key=lambda path: path.stat().st_mtime)
        weights += map(str, ([path for path in every if path.stem != "last"] or every)[-1:])
    if weights:
        paths = shlex.join(weights)
        print(f"ensemble  segmentation predict --ckpt_path {paths} --data.images DIR --output DIR")
    return 0


def _finished(output: Path, words: list[str], folds: int) -> dict[str, dict[str, Any]]:
    """The finished folds, if they are those of this very cross-validation."""
    path = output / STATE
    found = read_finished(path, ("arguments", "folds", "runs"))
    if not found and (output / FILE).exists():
        raise UserError(f"{output / FILE}: is not of a cross-validation; choose another --output")
    if found and (found["arguments"], found["folds"]) != (words, folds):
        raise UserError(
            f"{path}: is of other options or another config; give those again to go on with it, or "
            "choose another --output"
        )
    runs = found.get("runs", {})
    return {k: v for k, v in runs.items() if (output / v["run"] / FILE).exists()}


def _pool(runs: Sequence[Path], output: Path) -> pd.DataFrame:
    """Write the pooled tables; a row by method and score: each fold, mean, sd, and ``pooled``."""
    rows = pd.concat([read_images(run / FILE) for run in runs])
    splits = [read_json(run / "split.json") for run in runs]
    if len({split.get("data") for split in splits}) > 1:
        raise UserError(
            f"{output}: images or masks changed between its folds (see data in their split.json); "
            "choose another --output"
        )
    images = sorted({name for split in splits for part in PARTS for name in split[part]})
    tested = rows.groupby(["method", "id"]).size().unstack(fill_value=0)
    counts: Any = tested.reindex(columns=images, fill_value=0).stack()
    for method, name in counts[counts != 1].index:
        raise UserError(
            f"{name}: was tested {counts[method, name]} times by {method}, and each image must be "
            "once; leave data and splits as they are between folds, and test on all images"
        )
    methods = [*rows["method"].unique()]
    parts = [rows[rows["method"] == method].sort_values("id") for method in methods]
    rows = pd.concat(parts, ignore_index=True)
    write_images(output / FILE, rows)
    finished = [read_json(run / FINISHED) for run in runs]
    pooled = finite(all_scores(rows))
    if all(told := [report.get("sources", "") for report in finished]):  # as each fold's test says
        pooled["sources"] = APART if {*told} == {APART} else f"test images {SHARED}"
    write_json(output / FINISHED, pooled)

    def by_score(report: dict[str, Any]) -> dict[tuple[str, str], float]:
        every = {(m, name): v for m in methods for name, v in report.get(m, {}).items()}
        return {key: float(v) for key, v in every.items() if isinstance(v, (int, float))}

    reports = [by_score(report) for report in finished]
    folds = {f"fold{i}": report for i, report in enumerate(reports)}
    scores = pd.DataFrame(folds).reindex(list(dict.fromkeys(k for r in reports for k in r)))
    mean, sd = scores.mean(axis=1), scores.std(axis=1)
    scores = scores.assign(mean=mean, sd=sd, pooled=pd.Series(by_score(pooled)))
    scores.index = scores.index.set_names(["method", "score"])
    write_bytes(output / "crossvalidation.csv", scores.round(6).to_csv().encode())
    return scores


def folds_table(scores: pd.DataFrame) -> str:
    """The network's scores by fold, over the folds and pooled; beside them the other methods'.

    Theirs are pooled, or the mean over folds of what ``per_image.csv`` does not let pool.
    """

    def number(value: float) -> str:
        return "–" if pd.isna(value) else format(value, ".4f" if abs(value) < 10 else ".1f")

    ours: Any = scores.loc["network"]
    shown = ours.map(number)
    spread = ["" if sd == "–" else f" ± {sd}" for sd in shown.pop("sd")]
    shown.insert(shown.columns.get_loc("mean"), "mean ± sd", shown.pop("mean") + spread)
    shown = shown.rename(columns=lambda name: name.replace("fold", "fold "))
    for other in scores.index.unique("method").drop("network"):
        theirs = scores.loc[other]
        shown[other] = theirs["pooled"].fillna(theirs["mean"]).reindex(ours.index).map(number)
    return str(shown.rename_axis(None).to_string())
