"""Published experiments as one command: every row trained, tested and set beside its source.

A row is an experiment's config with a block ``reproduces`` that says what it reproduces:

    reproduces:
      row: with augmentation           # as the table is to call it
      published: {iou: 0.770}          # names of scores.json; null where nothing was published
      protocol: random frames          # how the data were divided
      leak: true                       # whether that lets test images be known in training
      budgets: {cpu: [--trainer.max_epochs=3]}   # what to type for a smaller budget
      quantised: {fp16: {megabytes: 14}}         # of exports; also mean_iou and seconds an image
"""

import re
import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from tqdm import tqdm

from segmentation.config_files import find_config, read_parts, read_yaml
from segmentation.errors import UserError
from segmentation.experiments.page import RunsPage
from segmentation.experiments.process import FINISHED, read_finished, run_fit
from segmentation.experiments.quantised import (
    Published,
    markdown,
    measure_exports,
    quantised_table,
)
from segmentation.io.files import read_json, write_bytes, write_json
from segmentation.progress import progress
from segmentation.terminal import quiet

SMOKE = (
    "--trainer.max_epochs=1",
    *(f"--trainer.limit_{part}_batches=2" for part in ("train", "val", "test")),
    "--trainer.val_check_interval=null",
)
HEADER = (
    "row", "protocol", "leak", "score", "published", "measured", "Otsu", "n", "minutes",
    "memory MB", "parameters",
)  # fmt: skip
COSTS = (("fit_seconds", 60, ".1f"), ("peak_memory_bytes", 1e6, ".0f"), ("parameters", 1, ",.0f"))


@dataclass(frozen=True)
class PublishedRow:
    """One row of a published table: the block ``reproduces`` of the config at ``path``."""

    path: Path
    row: str
    published: dict[str, float | None]
    protocol: str
    leak: bool
    budgets: dict[str, list[str]] = field(default_factory=dict)
    quantised: Published = field(default_factory=dict)

    @property
    def key(self) -> str:
        """Such as ``b/augmentation``."""
        return f"{self.path.parent.name}/{self.path.stem}"

    def arguments(self, budget: str) -> list[str]:
        """What to type after the config for a budget."""
        if budget == "smoke":
            return [*self.budgets.get("cpu", []), *SMOKE]
        return self.budgets.get(budget, [])

    def divided(self, budget: str) -> str:
        """How the data are divided at a budget, in words."""
        other = any(word.startswith("--data.split=") for word in self.arguments(budget))
        return f"random, not the {self.protocol}" if other else self.protocol


def reproduce(
    what: str,
    /,
    output: Path,
    budget: Literal["smoke", "cpu", "full"] = "full",
    seeds: Sequence[int] | None = None,
    data: Path = Path("data"),
    configs: Path = Path("configs/reproduce"),
) -> int:
    """Run published experiments and set their scores beside the published ones.

    Each run is a `segmentation fit` of its own. What is done is kept and not done again when the
    command is started again. The status is 1 when a run failed.

    Args:
        what: A system, such as b, or one of its rows: b/augmented.
        output: Folder for the runs, their logs, results.json, a table, and a page that is rewritten
            while they run.
        budget: smoke is two steps of each; cpu what two cores can bear; full as published.
        seeds: Of training, 0 by default; the split stays.
        data: Folder that holds dsb2018, bbbc039, …
        configs: Folder of the systems.
    """
    rows = find_rows(find_config(configs), what)
    results = output / "results.json"
    done = read_finished(results)
    failed = False
    every = {f"{row.key} {budget} {seed}": (row, seed) for row in rows for seed in seeds or [0]}
    missing = [key for key in every if key not in done]
    path = output / f"{rows[0].path.parent.name}-{budget}"
    page = RunsPage(path.with_suffix(".html"), f"Reproduction: {what}, {budget}", [*every])
    page.more = {"title": "Published and measured, scores in %", "head": HEADER}
    page.more["rows"] = published_rows(rows, budget, done)
    for key in every.keys() - set(missing):
        page.end(key, (output / done[key]["run"], done[key]["seconds"]))
    if not quiet():
        print(f"page      {page.path} (rewritten while the runs do)", flush=True)
    with page, progress(None, "", len(missing), smoothing=0) as bar:
        for key in missing:
            row, seed = every[key]
            page.begin(key, output / "runs" / _run_name(row, budget, seed))
            if found := _run(row, seed, budget, data, output, bar, page.tick):
                done[key] = found
                write_json(results, done)
            failed |= found is None
            page.more["rows"] = published_rows(rows, budget, done)
            page.end(key, (output / found["run"], found["seconds"]) if found else None)
    text = published_table(rows, budget, done)
    exported = (row for row in rows if row.quantised)
    if smaller := {r.row: (r.quantised, measured(r, budget, done)) for r in exported}:
        text += f"\n\n{quantised_table(smaller)}"
    print(text)
    write_bytes(path.with_suffix(".md"), f"{text}\n".encode())
    return int(failed)


def find_rows(configs: Path, what: str) -> list[PublishedRow]:
    """The rows of a system (``"b"``), or the one of ``"b/augmented"``.

    A :class:`UserError` where there is none, or a config does not say what it reproduces.
    """
    system, _, name = what.partition("/")
    folder = configs / system
    # What begins with an underscore is shared by the rows and is none itself.
    paths = {path.stem: path for path in folder.glob("[!_]*.yaml")} if system else {}
    if not paths:
        there = ", ".join(sorted(p.name for p in configs.glob("*/"))) or "none"
        raise UserError(
            f"{folder}: no published system is called {system!r} (there: {there}); set --configs "
            "if it lies elsewhere"
        )
    # batch_22 before batch_121
    stems = sorted(paths, key=lambda stem: re.sub(r"\d+", lambda n: n[0].zfill(9), stem))
    if name and name not in paths:
        raise UserError(f"{folder}: no row is called {name!r}; choose from {', '.join(stems)}")
    return [_published_row(paths[stem]) for stem in ([name] if name else stems)]


def _published_row(path: Path) -> PublishedRow:
    try:
        return PublishedRow(path, **read_yaml(path)["reproduces"])
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: its block reproduces is not one ({error}); it needs row, published, "
            "protocol, leak"
        ) from None


def _run_name(row: PublishedRow, budget: str, seed: int) -> str:
    return f"{row.key}/{budget}-seed{seed}"


def _run(
    row: PublishedRow,
    seed: int,
    budget: str,
    data: Path,
    output: Path,
    bar: "tqdm[Any]",
    tick: Callable[[float], None],
) -> dict[str, Any] | None:
    name = _run_name(row, budget, seed)
    log = output / "logs" / f"{name.replace('/', '-')}.log"
    root = output / "runs"
    option, folder = data_root(row.path)
    title = f"{row.key}, seed {seed} ({int(bar.n) + 1} of {bar.total})"
    arguments = [
        *("--config", str(row.path), f"{option}={data / folder}"),
        *(f"--run.root={root}", f"--run.name={name}"),
        *("--run.wandb=off", f"--seed_everything={seed}"),
        *row.arguments(budget),
    ]
    if (fitted := run_fit(arguments, root / name, log, title, bar, tick)) is None:
        return None
    run, seconds = fitted
    scores = read_json(run / FINISHED)
    smaller = {"quantised": measure_exports(run, row.quantised, log)} if row.quantised else {}
    return {
        "run": str(run.relative_to(output)),
        "arguments": row.arguments(budget),
        "images": scores["images"],
        "scores": scores["network"],
        "otsu": scores["otsu"],
        "seconds": round(seconds, 1),
        **smaller,
        **read_json(run / "resources.json"),
    }


def measured(row: PublishedRow, budget: str, done: dict[str, Any]) -> Any:
    """What the exports of a row's first run measured, if they were made."""
    runs = [run for key, run in done.items() if key.startswith(f"{row.key} {budget} ")]
    return runs[0].get("quantised") if runs else None


def published_table(rows: Sequence[PublishedRow], budget: str, done: dict[str, Any]) -> str:
    """:func:`published_rows` as a Markdown table."""
    title = f"Budget: {budget}. Scores in %, mean ± standard deviation over n seeds."
    return markdown(title, HEADER, published_rows(rows, budget, done))


def published_rows(
    rows: Sequence[PublishedRow], budget: str, done: dict[str, Any]
) -> list[list[str]]:
    """The cells of each row: published beside measured (mean ± standard deviation), of the runs
    ``done``, as :func:`reproduce` keeps them, by row, budget and seed.
    """

    def percent(values: Sequence[float | None]) -> str:
        known = [100 * value for value in values if value is not None]
        spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
        return f"{statistics.mean(known):.1f}{spread}" if known else "–"

    found = []
    for row in rows:
        runs = [v for k, v in done.items() if k.startswith(f"{row.key} {budget} ")]
        names = list(row.published)
        means = [
            format(statistics.mean(run[name] for run in runs) / unit, form) if runs else "–"
            for name, unit, form in COSTS
        ]
        found.append(
            [
                *(row.row, row.divided(budget), "yes" if row.leak else "no", " / ".join(names)),
                " / ".join(percent([row.published[name]]) for name in names),
                " / ".join(percent([run["scores"].get(name) for run in runs]) for name in names),
                " / ".join(percent([run["otsu"].get(name) for run in runs[:1]]) for name in names),
                *(str(len(runs)), *means),
            ]
        )
    return found


def data_root(path: Path) -> tuple[str, str]:
    """The option that says where a config's data lie, and the name of the folder it names.

    >>> data_root(find_config("reproduce/a/sound"))
    ('--data.root', 'dsb2018')
    """
    found = []
    for part in read_parts(path):
        settings = (part.get("data") or {}).get("init_args") or {}
        source = (settings.get("source") or {}).get("init_args") or {}
        for option, about in (("--data.root", settings), ("--data.source.root", source)):
            found += [(option, Path(about["root"]).name)] if "root" in about else []
    if not found:
        raise UserError(f"{path}: names no data.root; add data.init_args.root: data/NAME")
    return found[-1]
