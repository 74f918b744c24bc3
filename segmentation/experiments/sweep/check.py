"""Before the first trial: whether ``fit`` takes the parameters, and roughly how long runs are."""

import random
import re
import subprocess
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from difflib import get_close_matches
from multiprocessing import get_context
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from segmentation import keys
from segmentation.errors import UserError
from segmentation.experiments.sweep.file import Sweep


def fit_arguments(sweep: Sweep) -> list[str] | None:
    """What the command says to ``fit`` beside the parameters; ``None``: it is no ``fit``."""
    words = sweep.command
    for index, word in enumerate(words):
        ours = word.endswith("segmentation")  # -m segmentation, or the console script's path
        if ours and words[index + 1 : index + 2] == ["fit"]:
            return [word for word in words[index + 2 :] if not word.startswith("${")]
    return None


def check_names(sweep: Sweep, extra: Sequence[str] = ()) -> None:
    """Raise :class:`UserError` for a parameter that is no key of ``fit``: nothing is imported."""
    if (base := fit_arguments(sweep)) is None:
        return
    chosen = [p.name for p in sweep.parameters if any("." in str(v) for v in p.examples())]
    words = [f"--{p.name}={p.examples()[0]}" for p in sweep.parameters]
    # What stands below a class that is searched may belong to any of them.
    below = tuple(f"--{name}." for name in chosen)
    try:
        keys.answer("fit", [*base, *extra, *(word for word in words if not word.startswith(below))])
    except UserError as error:
        raise UserError(f"{sweep.path}: {error}") from None


def check_parameters(sweep: Sweep, extra: Sequence[str] = ()) -> None:
    """Let ``fit`` parse each parameter with each of its values (of a range, the ends)."""
    if (base := fit_arguments(sweep)) is None:
        return
    values = {parameter.name: parameter.examples() for parameter in sweep.parameters}
    # The parser imports everything that a config can name: another process keeps agents small.
    with ProcessPoolExecutor(1, get_context("spawn")) as pool:
        if message := pool.submit(refused, [*base, *extra], values).result():
            raise UserError(f"{sweep.path}: {message}")


def refused(base: Sequence[str], parameters: Mapping[str, Sequence[Any]]) -> str | None:
    """What ``fit`` refuses, in a line."""
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
    """Seconds of whole runs with random values, each from one of 1 epoch (10 steps) and of 2 (20).

    What the two have in common is start and test, the difference is an epoch.
    """
    import optuna

    from segmentation.experiments.sweep.study import sampler, silence_optuna

    def timed(*argv: str) -> tuple[float, str]:
        start = time.monotonic()
        done = subprocess.run(argv, capture_output=True, text=True, errors="replace")
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["nothing was printed"]
            raise UserError(f"{sweep.path}: a timed run failed: {lines[-1]}")
        return time.monotonic() - start, done.stdout

    if fit_arguments(sweep) is None:
        raise UserError(f"{sweep.path}: command: only runs of segmentation fit can be timed")
    silence_optuna()
    found = []
    for number in random.Random(0).sample(range(max(sweep.count or 1000, trials)), trials):
        trial = optuna.create_study(sampler=sampler(sweep, number)).ask()
        values = {p.name: p.suggest(trial) for p in sweep.parameters}
        with TemporaryDirectory() as folder:
            argv = [*sweep.command_line(values, Path(folder, "args.json")), *extra]
            printed = timed(*argv, "--print_config")[1]
            lengths = re.findall(r"^  (max_epochs|max_steps): (\d+)$", printed, re.MULTILINE)
            if not lengths:
                raise UserError(f"{sweep.path}: runs have no end: set trainer.max_epochs")
            key, whole = max(lengths)  # steps, where both are set
            argv += [f"--run.root={folder}", "--run.wandb=off"]
            short = 10 if key == "max_steps" else 1
            once, twice = (timed(*argv, f"--trainer.{key}={n}")[0] for n in (short, 2 * short))
        found.append(once + max(twice - once, 0) / short * (int(whole) - short))
    return found
