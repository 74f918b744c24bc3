"""Whether ``fit`` knows the parameters of a sweep and takes their values, before the first trial.

The parser needs everything that can be named in a config, which takes seconds to import: it runs
in a process of its own, so that agents stay small.
"""

import difflib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from segmentation.errors import UserError
from segmentation.experiments.sweep.sweep_file import Sweep


def fit_arguments(sweep: Sweep) -> list[str] | None:
    """What the command says to ``fit`` beside the parameters; ``None``: it is no ``fit``."""
    words = list(sweep.command)
    for index, word in enumerate(words):
        ours = word.endswith("segmentation")  # -m segmentation, or the console script's path
        if ours and words[index + 1 : index + 2] == ["fit"]:
            return [word for word in words[index + 2 :] if not word.startswith("${")]
    return None


def check_parameters(sweep: Sweep, extra: Sequence[str] = ()) -> None:
    """Parse each parameter with each of its values (of a range, the ends).

    Commands that are not this package's ``fit`` are not checked.

    Args:
        sweep: The sweep.
        extra: More arguments of each run.

    Raises:
        UserError: A parameter is unknown (the nearest name is told) or a value is refused.
    """
    base = fit_arguments(sweep)
    if base is None:
        return
    asked = {
        "base": [*base, *extra],
        "parameters": {p.name: p.examples() for p in sweep.parameters},
    }
    done = subprocess.run(
        [sys.executable, "-m", "segmentation.experiments.sweep.check"],
        input=json.dumps(asked),
        capture_output=True,
        text=True,
    )
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
            names.update(_plain(key) for key, _ in self.config["fit"].items(branches=True))
            raise _Parsed

    def parses(chosen: Mapping[str, Any]) -> None:
        words = [f"--{name}={value}" for name, value in chosen.items()]
        try:
            cli.run(["fit", *base, *words], cls=Parsing)
        except _Parsed:
            return

    # All values in as few configs as hold them; only where one is refused, one by one.
    try:
        for turn in range(max(map(len, parameters.values()))):
            parses({name: values[turn % len(values)] for name, values in parameters.items()})
    except UserError:
        pass
    else:
        return None
    try:
        parses({})
    except UserError as error:
        return f"command: {error}"
    first: dict[str, Any] = {}
    for name, values in parameters.items():  # sorted: a class comes before its arguments
        for value in reversed(values):
            try:
                parses({**first, name: value})
            except UserError as error:
                near = difflib.get_close_matches(name, names - {name}, 1, 0.5)
                hint = f"; the nearest is {near[0]}" if near and name not in names else ""
                return f"parameters.{name}: {error}{hint}"
        first[name] = values[0]
    return "parameters: some of their values are refused together"


class _Parsed(Exception):
    """The arguments are as they should be, and nothing is built of them."""


def _plain(key: str) -> str:
    return key.replace(".init_args", "").removesuffix(".class_path")


def _main() -> int:
    asked = json.load(sys.stdin)
    message = refused(asked["base"], asked["parameters"])
    if message is None:
        return 0
    print(message, file=sys.stderr)
    return 2


if __name__ == "__main__":
    sys.path.insert(0, str(Path.cwd()))  # classes of one's own, as in `python -m segmentation`
    sys.exit(_main())
