"""The ``segmentation`` command. Nothing heavy is imported before a command needs it."""

import io
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from difflib import get_close_matches

from segmentation import __version__
from segmentation.commands import call, first_line
from segmentation.errors import UserError
from segmentation.terminal import coloured, take_level, verbose
from segmentation.training.signals import STATUS, leaving

COMMANDS = {
    "fit": "segmentation.training.cli:fit",
    "validate": "segmentation.training.cli:validate",
    "test": "segmentation.training.cli:test",
    "predict": "segmentation.predict.folder:predict",
    "serve": "segmentation.app.server:serve",
    "tune": "segmentation.experiments.tune:tune",
    "prune": "segmentation.experiments.prune:prune",
    "export": "segmentation.export.command:export",
    "card": "segmentation.card:card",
    "crossvalidate": "segmentation.experiments.crossvalidate:crossvalidate",
    "reproduce": "segmentation.experiments.reproduce:reproduce",
    "weights": "segmentation.targets.border_weights:weights",
    "prepare": "segmentation.datasets.download:prepare",
    "synthetic": "segmentation.datasets.synthetic:synthetic",
    "init": "segmentation.experiments.plan.command:init",
    "evaluate": "segmentation.evaluation.evaluate:evaluate",
    "compare": "segmentation.evaluation.compare:compare",
    "audit": "segmentation.evaluation.audit:audit",
    "doctor": "segmentation.doctor:doctor",
    "sweep count": "segmentation.experiments.sweep.commands:count",
    "sweep run": "segmentation.experiments.sweep.commands:run_sweep",
    "sweep status": "segmentation.experiments.sweep.commands:status",
    "sweep best": "segmentation.experiments.sweep.commands:best",
}


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit status, as the overview explains it."""
    words = take_level(sys.argv[1:] if argv is None else argv)
    if not words or words[0] in ("-h", "--help", "help"):
        print(_overview([*COMMANDS]))
        return 0 if words else 2
    if words[0] == "--version":
        print(__version__)
        return 0
    try:
        for word in words:
            if any("\ud800" <= sign <= "\udfff" for sign in word):
                raise UserError(f"{word}: is not UTF-8; rename it, or give a link to it")
        return _dispatch(words)
    except UserError as error:
        if verbose():
            traceback.print_exc()
        return _refused(_error_line(error))
    except (RuntimeError, OSError) as error:
        from segmentation.training.messages import machine_gist

        if (line := machine_gist(error)) is None:
            raise
        return _refused(line)
    except KeyboardInterrupt:
        return _interrupted()
    except SystemExit as left:
        if left.code == STATUS:
            print("segmentation: interrupted", file=sys.stderr)
        if not isinstance(left.__context__, KeyboardInterrupt):
            raise
        signal.signal(signal.SIGINT, signal.default_int_handler)
        return _interrupted()  # Lightning made an exit of it


def entry() -> None:
    """The console script."""
    if isinstance(sys.stdout, io.TextIOWrapper):  # names, and signs that a terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        status = main()
        sys.stdout.flush()
    except BrokenPipeError:  # its reader, `head` perhaps, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # else leaving fails, too
        status = 128 + getattr(signal, "SIGPIPE", 13)
    sys.exit(status)


def _overview(names: list[str]) -> str:
    lines = [f"  {name:<16}{first_line(COMMANDS[name])}" for name in names]
    return "\n".join(
        [
            f"segmentation {__version__}: train, compare and apply segmentation networks\n",
            "usage: segmentation COMMAND [options]\n",
            *lines,
            "\nsegmentation COMMAND --help tells more. With any command:",
            "  -q, --quiet     results, warnings and errors alone",
            "  -v, --verbose   what libraries say, too, and where an error came from\n",
            "Exit status: 0 all is done; 1 something was left out, and is named; 2 bad input, told",
            "in one line; 130 interrupted by Ctrl-C, 143 by another signal.",
        ]
    )


def _dispatch(words: list[str]) -> int:
    for count in (2, 1):  # `sweep run` is a command of two words
        name = " ".join(words[:count])
        if name in COMMANDS:
            with leaving():  # the imports take seconds, too
                return call(name, COMMANDS[name], words[count:])
    below = [name for name in COMMANDS if name.startswith(f"{words[0]} ")]
    if below and words[1:2] in ([], ["-h"], ["--help"], ["help"]):
        print(_overview(below))
        return 0 if words[1:] else 2
    near = below or get_close_matches(words[0], COMMANDS, 1) or COMMANDS
    raise UserError(f"no command is called {' '.join(words[:2])!r}; choose from {', '.join(near)}")


def _refused(line: str) -> int:
    line = f"segmentation: {coloured('error:', 'red', sys.stderr)} {line}"
    if tqdm := sys.modules.get("tqdm"):
        tqdm.tqdm.write(line, sys.stderr)  # on a line of its own, if a progress bar stands there
    else:
        print(line, file=sys.stderr)
    return 2


def _interrupted() -> int:
    print("segmentation: interrupted", file=sys.stderr)
    return 130


def _error_line(error: UserError) -> str:
    """The error's line, also where a loading process met it.

    PyTorch raises that anew with the whole traceback as its text, which ends in the line.
    """
    kind = type(error)
    return str(error).rpartition(f"{kind.__module__}.{kind.__qualname__}: ")[2].strip()


if __name__ == "__main__":
    entry()
