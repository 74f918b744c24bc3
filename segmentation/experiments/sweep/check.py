"""Before the first trial: whether ``fit`` takes the parameters, and roughly how long runs are.

The parser needs everything that can be named in a config, which takes seconds to import: it runs
in a process of its own, so that agents stay small.
"""

import json
import random
import re
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml

from segmentation.errors import UserError
from segmentation.experiments.sweep.sweep_file import Sweep


def fit_arguments(sweep: Sweep) -> list[str] | None:
    """What the command says to ``fit`` beside the parameters; ``None``: it is no ``fit``."""
    words = sweep.command
    for index, word in enumerate(words):
        ours = word.endswith("segmentation")  # -m segmentation, or the console script's path
        if ours and words[index + 1 : index + 2] == ["fit"]:
            return [word for word in words[index + 2 :] if not word.startswith("${")]
    return None


def check_parameters(sweep: Sweep, extra: Sequence[str] = ()) -> None:
    """Let ``fit`` parse each parameter with each of its values (of a range, the ends).

    Raises:
        UserError: A parameter is unknown (the nearest name is told) or a value is refused.
    """
    base = fit_arguments(sweep)
    if base is None:
        return
    values = {parameter.name: parameter.examples() for parameter in sweep.parameters}
    argv = [sys.executable, "-m", "segmentation.experiments.sweep.check"]
    asked = json.dumps([[*base, *extra], values])
    done = subprocess.run(argv, input=asked, capture_output=True, text=True)
    if done.returncode == 2:
        raise UserError(f"{sweep.path}: {done.stderr.strip().splitlines()[-1]}")
    if done.returncode:
        raise RuntimeError(done.stderr)


def refused(base: Sequence[str], parameters: Mapping[str, Sequence[Any]]) -> str | None:
    """What ``fit`` refuses, in a line; the work of the process."""
    from segmentation.training import cli

    names: set[str] = set()

    class Parsing(cli.CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            super().parse_arguments(parser, args)
            keys = [key for key, _ in self.config["fit"].items(branches=True)]
            names.update(k.replace(".init_args", "").removesuffix(".class_path") for k in keys)
            raise _ParsedError

    def reason(chosen: Mapping[str, Any]) -> UserError | None:
        try:
            cli.run(["fit", *base, *(f"--{n}={v}" for n, v in chosen.items())], cls=Parsing)
        except _ParsedError:  # parsed, and nothing is built
            return None
        except UserError as error:
            return error
        raise AssertionError

    # All values in as few configs as hold them; only where one is refused, one by one.
    turns = range(max(map(len, parameters.values())))
    if not any(reason({n: v[i % len(v)] for n, v in parameters.items()}) for i in turns):
        return None
    if error := reason({}):
        return f"command: {error}"
    first: dict[str, Any] = {}
    for name, values in parameters.items():  # sorted: a class comes before its arguments
        for value in reversed(values):
            if error := reason({**first, name: value}):
                near = get_close_matches(name, names - {name}, 1, 0.5)
                hint = f"; the nearest is {near[0]}" if near and name not in names else ""
                return f"parameters.{name}: {error}{hint}"
        first[name] = values[0]
    return "parameters: some of their values are refused together"


class _ParsedError(Exception):
    """Nothing is wrong."""


def seconds_of_runs(sweep: Sweep, trials: int, extra: Sequence[str]) -> list[float]:
    """Seconds of whole runs, each from a run of one epoch (or 10 steps) and one of two (20).

    What they have in common is start and test, the difference is an epoch.

    Args:
        sweep: The values of each run are drawn at random.
        trials: How many runs to time.
        extra: More arguments of each run.

    Raises:
        UserError: The command is not this package's ``fit``, or a run fails.
    """
    if fit_arguments(sweep) is None:
        raise UserError(f"{sweep.path}: command: only runs of segmentation fit can be timed")
    import optuna

    from segmentation.experiments.sweep.study import sampler, silence_optuna

    silence_optuna()
    found = []
    total = max(sweep.count or 1000, trials)
    for number in random.Random(0).sample(range(total), trials):
        trial = optuna.create_study(sampler=sampler(sweep, number)).ask()
        values = {p.name: p.suggest(trial) for p in sweep.parameters}
        with TemporaryDirectory() as folder:
            argv = [*sweep.command_line(values, Path(folder, "args.json")), *extra]
            printed = _timed(sweep, [*argv, "--print_config"])[1]
            config = yaml.safe_load(re.sub(r"^(?!\S+:|\s).*\n", "", printed, flags=re.MULTILINE))
            lengths = {k: config["trainer"].get(k) or -1 for k in ("max_steps", "max_epochs")}
            key, whole = next(((k, n) for k, n in lengths.items() if n > 0), ("", 0))
            if not key:
                raise UserError(f"{sweep.path}: runs have no end: set trainer.max_epochs")
            argv += [
                f"--run.root={folder}",
                "--run.wandb=off",
                "--trainer.enable_progress_bar=false",
            ]
            short = 10 if key == "max_steps" else 1
            once, twice = (
                _timed(sweep, [*argv, f"--trainer.{key}={n}"])[0] for n in (short, 2 * short)
            )
        found.append(once + max(twice - once, 0) / short * (whole - short))
    return found


def _timed(sweep: Sweep, argv: list[str]) -> tuple[float, str]:
    start = time.monotonic()
    done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
    if done.returncode:
        lines = done.stderr.strip().splitlines() or ["nothing was printed"]
        raise UserError(f"{sweep.path}: a timed run failed: {lines[-1]}")
    return time.monotonic() - start, done.stdout


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # classes of one's own, as in `python -m segmentation`
    if message := refused(*json.load(sys.stdin)):
        print(message, file=sys.stderr)
        sys.exit(2)
