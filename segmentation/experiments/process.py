"""One ``segmentation fit`` as a process of its own, its output in a log."""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from segmentation.errors import UserError

FINISHED = "scores.json"  # a run that has it was trained and tested


def run_fit(
    arguments: Sequence[str], home: Path, log: Path, title: str
) -> tuple[Path, float] | None:
    """Train and test, and wait for it.

    Args:
        arguments: Of ``fit``; they say ``--run.root`` and ``--run.name``.
        home: The folder of that name, in which the run makes its own.
        log: Gets what is printed.
        title: What it is called when it fails, which is said in one line.

    Returns:
        The run's folder and how long it took in seconds; ``None`` if it failed.

    Raises:
        UserError: The log cannot be written.
    """
    argv = [sys.executable, "-m", "segmentation", "fit", "--trainer.enable_progress_bar=false"]
    before = set(home.glob("*"))
    start = time.monotonic()
    try:
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            done = subprocess.run([*argv, *arguments], stdout=file, stderr=subprocess.STDOUT)
    except OSError as error:
        raise UserError(
            f"{log}: cannot be written ({error.strerror}); choose another --output"
        ) from None
    folders = [f for f in set(home.glob("*")) - before if (f / FINISHED).exists()]
    if done.returncode or len(folders) != 1:
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"]
        print(f"failed    {title}: {lines[-1]} (log: {log})", file=sys.stderr)
        return None
    return folders[0], time.monotonic() - start
