"""Roughly how long a sweep takes: short trials, timed, and drawn out to full length."""

import random
import re
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from segmentation.errors import UserError
from segmentation.experiments.sweep.check import fit_arguments
from segmentation.experiments.sweep.sweep_file import Sweep


def estimate(sweep: Sweep, trials: int, extra: Sequence[str]) -> list[float]:
    """Seconds of whole runs, each from a run of one epoch and one of two.

    What they have in common is start and test, the difference is an epoch. Runs whose length is
    given in steps are timed at 10 and 20 steps likewise.

    Args:
        sweep: A grid is sampled evenly, other searches at random.
        trials: How many runs to time.
        extra: More arguments of each run.

    Raises:
        UserError: The command is not this package's ``fit``, or a run fails.
    """
    if fit_arguments(sweep) is None:
        raise UserError(f"{sweep.path}: command: only runs of segmentation fit can be timed")
    return [_whole(sweep, values, extra) for values in _samples(sweep, trials)]


def _samples(sweep: Sweep, trials: int) -> list[dict[str, Any]]:
    if sweep.method == "grid":
        count = sweep.count or 1
        numbers = random.Random(0).sample(range(count), min(trials, count))
        return [sweep.combination(number) for number in numbers]
    from optuna import create_study, logging
    from optuna.samplers import RandomSampler

    logging.set_verbosity(logging.ERROR)
    study = create_study(sampler=RandomSampler(seed=0))
    asked = [study.ask() for _ in range(trials)]
    return [{p.name: p.suggest(trial) for p in sweep.parameters} for trial in asked]


def _whole(sweep: Sweep, values: dict[str, Any], extra: Sequence[str]) -> float:
    with TemporaryDirectory() as folder:
        argv = [*sweep.command_line(values, Path(folder, "args.json")), *extra]
        printed = _run(sweep, [*argv, "--print_config"])[1]
        config = yaml.safe_load(re.sub(r"^(?!\S+:|\s).*\n", "", printed, flags=re.MULTILINE))
        epochs, steps = (config["trainer"].get(key) or -1 for key in ("max_epochs", "max_steps"))
        if epochs > 0 and steps <= 0:
            key, short, whole = "max_epochs", 1, epochs
        elif steps > 0:
            key, short, whole = "max_steps", 10, steps
        else:
            raise UserError(f"{sweep.path}: runs have no end: set trainer.max_epochs or max_steps")
        rest = [f"--run.root={folder}", "--run.wandb=off", "--trainer.enable_progress_bar=false"]
        once, twice = (
            _run(sweep, [*argv, *rest, f"--trainer.{key}={n}"])[0] for n in (short, 2 * short)
        )
    unit = max(twice - once, 0) / short
    return once + unit * (whole - short)


def _run(sweep: Sweep, argv: list[str]) -> tuple[float, str]:
    start = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing was printed"]
        raise UserError(f"{sweep.path}: a timed run failed: {lines[-1]}")
    return time.monotonic() - start, done.stdout
