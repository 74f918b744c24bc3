"""Train and test every row of a table of scores, and write the table: one command a study.

    python benchmarks/studies.py dsb2018_ablation --data DATA

Studies are described in ``studies.yaml``; DATA holds the folders ``dsb2018``, ``bbbc039``, … What
is done is kept in ``--work`` and not done again when the command is started again. With ``--jobs``
several rows are trained at a time, each with its share of the cores.
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml
from common import HERE, hardware, versions

from segmentation.checkpoints import sidecar
from segmentation.data.cache import usable_cores
from segmentation.experiments.process import run_fit
from segmentation.progress import progress

BASELINES = {"otsu": "Otsu's threshold", "nothing": "nothing"}


@dataclass(frozen=True)
class Row:
    """One row of a table.

    Attributes:
        name: As the table calls it.
        fit: What to type after the study's own arguments, or
        of: another row whose checkpoint is tested anew,
        tune: with the decoding chosen on the validation images, or not,
        half: exported in half precision, or not,
        test: and with these arguments,
        ensemble: averaged with those of these rows.
    """

    name: str
    fit: tuple[str, ...] = ()
    of: str | None = None
    tune: bool = False
    half: bool = False
    test: tuple[str, ...] = ()
    ensemble: tuple[str, ...] = ()


@dataclass(frozen=True)
class Study:
    """A table and how it is made.

    Attributes:
        about: What it shows.
        data: The folder below ``--data``.
        fit: Arguments of every training, the config first.
        rows: By their keys.
        tables: Of each, headings and what stands below them, see :func:`cell`.
        seeds: Each row is trained with each.
        baselines: Of those that every test has, which become rows.
    """

    about: str
    data: str
    fit: list[str]
    rows: dict[str, Row]
    tables: list[dict[str, str]]
    seeds: list[int] = field(default_factory=lambda: [0])
    baselines: list[str] = field(default_factory=list)


def read_studies() -> dict[str, Study]:
    """All studies by their names."""
    content = yaml.safe_load((HERE / "studies.yaml").read_text())
    return {
        name: Study(**about | {"rows": {key: Row(**row) for key, row in about["rows"].items()}})
        for name, about in content.items()
    }


def typed(study: Study, row: Row, seed: int) -> list[str]:
    """What makes a row: its training's arguments, or what is done with another checkpoint."""
    if row.of is None:
        return [*study.fit, f"--seed_everything={seed}", *row.fit]
    said = [f"of {row.of}", "tune" if row.tune else "", "export --half" if row.half else ""]
    return [*filter(None, said), *row.test, *row.ensemble]


class Runner:
    """Runs what a study still lacks. A result is kept as ``KEY-SEED.json`` in ``work``."""

    def __init__(self, study: Study, data: Path, work: Path, threads: int | None) -> None:
        self.study, self.data, self.work = study, data, work
        self.loading = [] if threads is None else ["--data.num_workers=0"]
        if threads is not None:
            os.environ["OMP_NUM_THREADS"] = str(threads)

    def file(self, key: str, seed: int) -> Path:
        return self.work / f"{key}-{seed}.json"

    def result(self, key: str, seed: int) -> dict[str, Any] | None:
        file = self.file(key, seed)
        return json.loads(file.read_text()) if file.exists() else None

    def train(self, key: str, seed: int) -> None:
        """Train a row, then test what needs nothing but its checkpoint."""
        row = self.study.rows[key]
        if self.result(key, seed) is None:
            name = f"{key}-{seed}"  # of its own: run_fit looks for the folder that is new there
            arguments = [*typed(self.study, row, seed), *self.common(name)]
            arguments.append("--run.tune=false")  # that is a row of its own
            with progress(None, "", 1) as bar:
                log = self.work / f"{name}.log"
                fitted = run_fit(arguments, self.work / name, log, f"{key}, seed {seed}", bar)
            if fitted is not None:
                self.keep(key, seed, fitted[0])
        for other, derived in self.study.rows.items():
            if derived.of == key and not derived.ensemble:
                self.test(other, seed)

    def test(self, key: str, seed: int) -> None:
        """Test a checkpoint anew."""
        row = self.study.rows[key]
        assert row.of is not None
        sources = [self.result(name, seed) for name in (row.of, *row.ensemble)]
        if None in sources or self.result(key, seed) is not None:
            return
        runs = [Path(source["run"]) for source in sources if source is not None]
        config = ["--config", str(runs[0] / "config.yaml")]
        checkpoints = [run / "checkpoints" / "best.ckpt" for run in runs]
        if row.tune:  # a copy: decoding that was tuned is kept beside it
            checkpoints = [self.tuned(config, checkpoints[0]), *checkpoints[1:]]
        if row.half:
            exported = runs[0] / "checkpoints" / "half.ckpt"
            if not exported.exists():
                self.call(
                    "export", f"--ckpt_path={checkpoints[0]}", f"--output={exported}", "--half"
                )
            checkpoints = [exported, *checkpoints[1:]]
        more = [str(checkpoint) for checkpoint in checkpoints[1:]]
        arguments = [f"--run.ensemble={json.dumps(more)}"] if more else []
        name = f"{key}-{seed}"
        before = set((self.work / name).glob("*"))
        self.call(
            *("test", *config, "--ckpt_path", str(checkpoints[0]), *arguments, *row.test),
            *self.common(name),
        )
        (run,) = set((self.work / name).glob("*")) - before
        self.keep(key, seed, run)

    def tuned(self, config: list[str], checkpoint: Path) -> Path:
        copy = checkpoint.parent / "tuned" / checkpoint.name
        if not sidecar(copy).exists():
            copy.parent.mkdir(exist_ok=True)
            shutil.copy(checkpoint, copy)
            self.call(
                "tune",
                *config,
                "--ckpt_path",
                str(copy),
                *self.common(f"tune-{checkpoint.parents[1].name}"),
            )
        return copy

    def common(self, name: str) -> list[str]:
        return [
            f"--data.root={self.data / self.study.data}",
            *(f"--run.root={self.work}", f"--run.name={name}", "--run.wandb=off"),
            *self.loading,
        ]

    def call(self, *arguments: str) -> None:
        command = [sys.executable, "-m", "segmentation", *arguments]
        done = subprocess.run(command, capture_output=True, text=True)
        if done.returncode:
            sys.exit(f"{' '.join(arguments[:1])} failed: {done.stderr.strip().splitlines()[-1]}")

    def keep(self, key: str, seed: int, run: Path) -> None:
        scores = json.loads((run / "scores.json").read_text())
        resources = run / "resources.json"
        result = {
            "run": str(run),
            "arguments": typed(self.study, self.study.rows[key], seed),
            **{name: scores[name] for name in ("images", "network", *BASELINES, "by_kind")},
            "intervals": scores["intervals"]["network"],
            "baseline_intervals": {name: scores["intervals"][name] for name in ("otsu",)},
            "resources": json.loads(resources.read_text()) if resources.exists() else None,
            "split": json.loads((run / "split.json").read_text())["sha256"],
        }
        self.file(key, seed).write_text(json.dumps(result))


def collected(runner: Runner) -> dict[str, Any]:
    """What there is, without paths, each baseline once."""
    rows: dict[str, Any] = {}
    shared: dict[str, Any] = {}
    for key in runner.study.rows:
        for seed in runner.study.seeds:
            result = runner.result(key, seed)
            if result is None:
                continue
            kinds = result.pop("by_kind")
            shared |= {name: {"scores": result.pop(name)} for name in BASELINES}
            shared["otsu"]["intervals"] = result.pop("baseline_intervals")["otsu"]
            for name in BASELINES:
                shared[name]["kinds"] = kinds.get(name)
            del result["run"]
            result["scores"], result["kinds"] = result.pop("network"), kinds["network"]
            rows.setdefault(key, {})[str(seed)] = result
    return {"baselines": shared, "rows": rows}


def cell(what: str, results: list[dict[str, Any]]) -> str:
    """A cell of the table.

    Args:
        what: A score; ``SCORE[]`` with its interval; ``SCORE@KIND`` of one kind of image.
        results: Of each seed: mean ± standard deviation of several.
    """
    name, _, kind = what.removesuffix("[]").partition("@")
    values = [(r["kinds"][kind] if kind else r["scores"]).get(name) for r in results]
    known = [value for value in values if value is not None]
    if not known:
        return "–"
    text = short(statistics.mean(known))
    if len(known) > 1:
        return f"{text} ± {short(statistics.stdev(known))}"
    if what.endswith("[]") and (interval := results[0].get("intervals", {}).get(name)):
        text += f" [{', '.join(map(short, interval))}]"
    return text


def short(value: float) -> str:
    """.847 for 0.8472."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"


def table(study: Study, found: dict[str, Any]) -> str:
    """The study's tables in Markdown."""
    parts = []
    for columns in study.tables:
        lines = [f"| | {' | '.join(columns)} |", f"|{'---|' * (len(columns) + 1)}"]
        entries = [(BASELINES[b], [found["baselines"][b]]) for b in study.baselines]
        for key, row in study.rows.items():
            entries.append((row.name, list(found["rows"].get(key, {}).values())))
        for name, results in entries:
            if results:
                cells = [cell(what, results) for what in columns.values()]
                lines.append(f"| {name} | {' | '.join(cells)} |")
        parts.append("\n".join(lines))
    return "\n\n".join(parts)


def main() -> None:
    """Run a study, write its results and print its tables."""
    studies = read_studies()
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("study", choices=studies)
    given = os.environ.get("SEGMENTATION_DATA")
    parser.add_argument("--data", type=Path, default=Path(given or "data"), metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("studies"), metavar="DIR")
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    parser.add_argument("--output", type=Path, metavar="FILE")
    options = parser.parse_args()
    study = studies[options.study]
    threads = None if options.jobs == 1 else max(1, usable_cores() // options.jobs)
    runner = Runner(study, options.data, options.work / options.study, threads)
    trained = [key for key, row in study.rows.items() if row.of is None]
    with ThreadPoolExecutor(options.jobs) as pool:
        list(
            pool.map(lambda job: runner.train(*job), [(k, s) for k in trained for s in study.seeds])
        )
    for key, row in study.rows.items():
        for seed in study.seeds:
            if row.ensemble:
                runner.test(key, seed)
    found = collected(runner)
    about = {
        "study": options.study,
        "about": study.about,
        "command": f"python benchmarks/studies.py {options.study} --jobs {options.jobs}",
        "hardware": hardware() | {"threads": threads or usable_cores()},
        "versions": versions(),
    }
    output = options.output or HERE / "results" / f"{options.study}.json"
    output.write_text(json.dumps(about | found, indent=1, ensure_ascii=False) + "\n")
    print(table(study, found))


if __name__ == "__main__":
    main()
