"""How long a person waits for ``segmentation --help``, beside Python alone and ``import torch``.

Each is a new process. Fair because all are run by the same interpreter in turn, after one round
that brings their files into the page cache.
"""

import os
import subprocess
import sys
from collections.abc import Callable

from common import HERE, Report, alternate, arguments, ratio, seconds

COMMANDS = {
    "python -c pass": ["-c", "pass"],
    "python -c 'import torch'": ["-c", "import torch"],
    "segmentation --help": ["-m", "segmentation", "--help"],
    "segmentation fit --help": ["-m", "segmentation", "fit", "--help"],
    "segmentation predict --help": ["-m", "segmentation", "predict", "--help"],
}


def main() -> None:
    args = arguments("startup", __doc__).parse_args()
    report = Report(
        "startup", "help in under 0.2 s: no command imports torch to explain itself", {}
    )
    arms: dict[str, Callable[[], float]] = {}
    for name, command in COMMANDS.items():
        if (status := run(command)) == 0:
            arms[name] = lambda command=command: seconds(lambda: run(command))  # type: ignore[misc]
        else:
            report.note(f"{name} was left out: it ended with status {status}.")
    taken = alternate(arms, args.repeats)
    for name, values in taken.items():
        report.add(name, "s", values)
    torch_s, pass_s = taken["python -c 'import torch'"], taken["python -c pass"]
    for name in list(taken)[2:]:
        report.add(f"{name} / python -c pass", "×", ratio(taken[name], pass_s))
        report.add(f"import torch / {name}", "×", ratio(torch_s, taken[name]))
    report.finish(args.output)


def run(command: list[str]) -> int:
    """Exit status of the interpreter with these arguments."""
    search = os.pathsep.join([str(HERE.parent), os.environ.get("PYTHONPATH", "")])
    environment = os.environ | {"PYTHONPATH": search.rstrip(os.pathsep)}
    done = subprocess.run(
        [sys.executable, *command], env=environment, capture_output=True, check=False
    )
    return done.returncode


if __name__ == "__main__":
    main()
