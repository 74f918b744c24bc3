"""Before the first trial: whether ``fit`` takes the parameters."""

from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
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
    """What ``fit`` refuses, in a line; all values are tried in as few configs as hold them."""
    from segmentation.training import cli

    class Parsing(cli.CLI):
        def parse_arguments(self, parser: Any, args: Any) -> None:
            super().parse_arguments(parser, args)
            raise _ParsedError

    for i in range(max(map(len, parameters.values()))):
        words = [f"--{name}={values[i % len(values)]}" for name, values in parameters.items()]
        try:
            cli.run(["fit", *base, *words], cls=Parsing)
        except _ParsedError:  # and nothing is built
            continue
        except UserError as error:
            return str(error)
    return None


class _ParsedError(Exception):
    """Nothing is wrong."""
