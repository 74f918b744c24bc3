"""``segmentation fit`` as a process of its own, and the file of those that are finished."""

import json
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation.errors import UserError

FINISHED = "scores.json"  # a run that has it was trained and tested


def run_fit(
    arguments: Sequence[str], home: Path, log: Path, title: str
) -> tuple[Path, float] | None:
    """Train and test, and wait for it.

    Args:
        arguments: Of ``fit``; they say ``--run.root`` and ``--run.name``.
        home: The folder of that name, in which the run makes its own.
        log: Gets what is printed; a ``UserError`` if it cannot be written.
        title: What it is called when it fails, which is said in one line.

    Returns:
        The run's folder and how long it took in seconds; ``None`` if it failed.
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


def read_finished(path: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """What an earlier call kept in a JSON file; nothing if it is absent.

    Raises:
        UserError: It cannot be read, or lacks one of ``names``.
    """
    try:
        found: dict[str, Any] = json.loads(path.read_text())
        return {**found} if not names else {name: found[name] for name in names}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --output") from None
