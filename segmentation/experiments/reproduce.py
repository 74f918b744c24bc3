"""Published experiments as one command: every row trained, tested and set beside its source.

A row is an experiment's config with a block ``reproduces`` that says what it reproduces:

    reproduces:
      row: with augmentation           # as the table is to call it
      published: {iou: 0.770}          # names of scores.json; null where nothing was published
      protocol: random frames          # how the data were divided
      leak: true                       # whether that lets test images be known in training
      budgets: {cpu: [--trainer.max_epochs=3]}   # what to type for a smaller budget
"""

import json
import re
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

from segmentation.errors import UserError
from segmentation.experiments.process import run_fit
from segmentation.io.files import write_bytes

SMOKE = (
    "--trainer.max_epochs=1",
    "--trainer.limit_train_batches=2",
    "--trainer.limit_val_batches=2",
    "--trainer.limit_test_batches=2",
    "--trainer.val_check_interval=null",
)
HEADER = (
    "row", "protocol", "leak", "score", "published", "measured", "Otsu", "n", "minutes",
    "memory MB", "parameters",
)  # fmt: skip


@dataclass(frozen=True)
class Row:
    """One row of a published table.

    Attributes:
        path: Of its config.
        name: As the table calls it.
        published: Scores as published, by their names in ``scores.json``, 0…1; ``None`` for what
            is of interest and was not published.
        protocol: How the data were divided, in words.
        leak: Whether that lets test images be known in training.
        budgets: Arguments that make the experiment smaller, by the budget's name.
    """

    path: Path
    name: str
    published: dict[str, float | None]
    protocol: str
    leak: bool
    budgets: dict[str, list[str]] = field(default_factory=dict)

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


def find_rows(configs: Path, what: str) -> list[Row]:
    """The rows of a system (``"b"``), or the one of ``"b/augmentation"``.

    Raises:
        UserError: There is no such system or row, or a config does not say what it reproduces.
    """
    system, _, name = what.partition("/")
    folder = configs / system
    # What begins with an underscore is shared by the rows and is none itself.
    paths = sorted(folder.glob("[!_]*.yaml"), key=_natural) if system else []
    if not paths:
        there = ", ".join(sorted(p.name for p in configs.glob("*/"))) or "none"
        raise UserError(
            f"{folder}: no published system is called {system!r} (there: {there}); set --configs "
            "if it lies elsewhere"
        )
    if name:
        paths = [path for path in paths if path.stem == name] or paths
        if len(paths) != 1:
            raise UserError(
                f"{folder}: no row is called {name!r}; choose from "
                + ", ".join(path.stem for path in paths)
            )
    return [_row(path) for path in paths]


def _natural(path: Path) -> list[str]:
    """``batch_22`` before ``batch_121``."""
    return [part.zfill(9) if part.isdigit() else part for part in re.split(r"(\d+)", path.stem)]


def _row(path: Path) -> Row:
    try:
        content: Any = yaml.safe_load(path.read_text())
    except yaml.YAMLError as error:
        raise UserError(f"{path}: not valid YAML ({' '.join(str(error).split())})") from None
    about: Any = content.get("reproduces") if isinstance(content, dict) else None
    try:
        return Row(
            path,
            about["row"],
            dict(about["published"]),
            about["protocol"],
            bool(about["leak"]),
            dict(about.get("budgets") or {}),
        )
    except (TypeError, KeyError) as error:
        raise UserError(
            f"{path}: its block reproduces lacks {error}; it needs row, published, protocol, leak"
        ) from None


def reproduce(
    rows: Sequence[Row], budget: str, seeds: Sequence[int], data: Path, output: Path
) -> int:
    """Run what has not been run yet, then write and print the table.

    Each run is a ``segmentation fit`` of its own. What is done is kept in ``results.json`` and not
    done again when the command is started again.

    Args:
        rows: What to run.
        budget: ``smoke``, ``cpu`` or ``full``.
        seeds: Of training; the split stays.
        data: Folder that holds ``dsb2018``, ``bbbc039``, …
        output: Gets the runs, their logs, ``results.json`` and a table for each system.

    Returns:
        0, or 1 when a run failed.

    Raises:
        UserError: The output cannot be written or holds something else.
    """
    results = output / "results.json"
    done = _read(results)
    failed = 0
    for row in rows:
        for seed in seeds:
            key = f"{row.key} {budget} {seed}"
            if key in done:
                continue
            print(f"{row.key}, seed {seed}, budget {budget} …", flush=True)
            found = _run(row, budget, seed, data, output)
            if found is None:
                failed += 1
                continue
            done[key] = found
            write_bytes(results, json.dumps(done, indent=1).encode())
    text = table(rows, budget, done)
    print(text)
    if rows:
        write_bytes(output / f"{rows[0].path.parent.name}-{budget}.md", f"{text}\n".encode())
    return 1 if failed else 0


def _run(row: Row, budget: str, seed: int, data: Path, output: Path) -> dict[str, Any] | None:
    name = f"{row.key}/{budget}-seed{seed}"
    log = output / "logs" / f"{name.replace('/', '-')}.log"
    root = output / "runs"
    arguments = [
        *("--config", str(row.path)),
        *(f"--data.root={data / dataset(row.path)}", f"--run.root={root}", f"--run.name={name}"),
        *("--run.wandb=off", f"--seed_everything={seed}"),
        *row.arguments(budget),
    ]
    fitted = run_fit(arguments, root / name, log, row.key)
    if fitted is None:
        return None
    folder, seconds = fitted
    scores = json.loads((folder / "scores.json").read_text())
    resources = json.loads((folder / "resources.json").read_text())
    return {
        "run": str(folder.relative_to(output)),
        "arguments": row.arguments(budget),
        "images": scores["images"],
        "scores": scores["network"],
        "otsu": scores["otsu"],
        "seconds": round(seconds, 1),
        **resources,
    }


def table(rows: Sequence[Row], budget: str, done: dict[str, Any]) -> str:
    """The rows as a Markdown table: published beside measured (mean ± standard deviation).

    Args:
        rows: A line each.
        budget: Of which runs.
        done: Runs as :func:`reproduce` keeps them, by row, budget and seed.
    """
    lines = [
        f"Budget: {budget}. Scores in %, mean ± standard deviation over n seeds.",
        "",
        f"| {' | '.join(HEADER)} |",
        f"|{'---|' * len(HEADER)}",
    ]
    for row in rows:
        runs = [v for k, v in done.items() if k.startswith(f"{row.key} {budget} ")]
        names = list(row.published)
        cells = [
            *(row.name, row.divided(budget), "yes" if row.leak else "no", " / ".join(names)),
            " / ".join(_mean([row.published[name]]) for name in names),
            " / ".join(_mean([run["scores"].get(name) for run in runs]) for name in names),
            " / ".join(_mean([run["otsu"].get(name) for run in runs[:1]]) for name in names),
            str(len(runs)),
            _average(runs, "fit_seconds", 60, ".1f"),
            _average(runs, "peak_memory_bytes", 1e6, ".0f"),
            _average(runs, "parameters", 1, ",.0f"),
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _mean(values: Sequence[float | None]) -> str:
    known = [100 * value for value in values if value is not None]
    if not known:
        return "–"
    spread = f" ± {statistics.stdev(known):.1f}" if len(known) > 1 else ""
    return f"{statistics.mean(known):.1f}{spread}"


def _average(runs: list[dict[str, Any]], name: str, unit: float, form: str) -> str:
    return format(statistics.mean(r[name] for r in runs) / unit, form) if runs else "–"


def dataset(path: Path) -> str:
    """The folder of its data, by the last part of the config's own root."""
    from segmentation.training.arguments import composed

    root = ""
    for part in composed(["fit", "--config", str(path)])[2::2]:
        data = (yaml.safe_load(part) or {}).get("data") or {}
        root = (data.get("init_args") or data).get("root") or root
    if not root:
        raise UserError(f"{path}: names no data.root; add data.init_args.root: data/NAME")
    return Path(root).name


def _read(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(path.read_text())
    except FileNotFoundError:
        return {}
    except (OSError, ValueError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --output") from None
    return found
