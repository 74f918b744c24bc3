"""``segmentation fit`` as a process of its own, and the file of those that are finished."""

import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from tqdm import tqdm

from segmentation.errors import UserError
from segmentation.io.files import read_json, unwritten

FINISHED = "scores.json"  # a run that has it was trained and tested


def run_fit(
    arguments: Sequence[str],
    home: Path,
    log: Path,
    title: str,
    bar: "tqdm[Any]",
    tick: Callable[[float], None] = lambda _: None,
) -> tuple[Path, float] | None:
    """Train and test, and wait for it.

    Args:
        arguments: Of ``fit``; they say ``--run.root`` and ``--run.name``.
        home: The folder of that name, in which the run makes its own.
        log: Gets what is printed; a ``UserError`` if it cannot be written.
        title: What it is called in the bar, and when it fails, which is said in one line.
        bar: Counts such runs.
        tick: Is told every second how far the training is, 0…1.

    Returns:
        The run's folder and its seconds; ``None`` if it failed.
    """
    argv = [sys.executable, "-m", "segmentation", "fit", "--run.resume=true", *arguments]
    before, begun = set(home.glob(f"*/{FINISHED}")), bar.n
    bar.set_description(title)
    start = time.monotonic()
    with unwritten(log):
        log.parent.mkdir(parents=True, exist_ok=True)
        with log.open("wb") as file:
            process = subprocess.Popen(argv, stdout=file, stderr=subprocess.STDOUT)
    try:
        while process.poll() is None:
            with suppress(subprocess.TimeoutExpired):
                process.wait(1)
            trained = _trained(log)
            bar.update(begun + trained - bar.n)
            tick(trained)
    finally:  # interrupted: it leaves a checkpoint to go on from
        process.terminate()
        with suppress(subprocess.TimeoutExpired):
            process.wait(60)
        process.kill()
    bar.update(begun + 1 - bar.n)
    folders = [f.parent for f in set(home.glob(f"*/{FINISHED}")) - before]
    if process.returncode or len(folders) != 1:
        lines = log.read_text(errors="replace").strip().splitlines() or ["nothing was printed"]
        bar.write(f"failed    {title}: {lines[-1]} (log: {log})", sys.stderr)
        return None
    return folders[0], time.monotonic() - start


def _trained(log: Path) -> float:
    """How far the training is that writes a log, 0…1."""
    with log.open("rb") as file:
        file.seek(max(0, log.stat().st_size - 4096))
        found = re.findall(rb"^Epoch +(\d+) of (\d+)(?:: (\d+) %)?", file.read(), re.MULTILINE)
    if not found:
        return 0.0
    epoch, epochs, share = (int(number or 100) for number in found[-1])
    return (epoch - 1 + share / 100) / epochs


def read_finished(path: Path, names: Sequence[str] = ()) -> dict[str, Any]:
    """What an earlier call kept in a JSON file; nothing if it is absent.

    A :class:`UserError` if it cannot be read, or lacks one of ``names``.
    """
    try:
        found: dict[str, Any] = read_json(path)
        return {**found} if not names else {name: found[name] for name in names}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path}: cannot be read ({error}); choose another --output") from None
