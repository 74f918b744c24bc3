"""Sweeps of a moment, and the command line in a process of its own."""

import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import yaml

ROOT = Path(__file__).parents[2]
FAST = str(Path(__file__).with_name("fast.py"))
SPEC: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/iou", "goal": "maximize"},
    "command": ["${interpreter}", FAST, "${args}"],
    "parameters": {"x": {"values": [1, 2, 3, 4]}},
}
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def sweep_file(folder: Path, name: str = "sweep.yaml", **more: Any) -> Path:
    """Write a sweep file: four runs of `fast.py`, unless told otherwise."""
    path = folder / name
    path.write_text(yaml.safe_dump({**SPEC, **more}))
    return path


def start(*words: str | Path, **environment: str) -> subprocess.Popen[str]:
    """Start ``segmentation sweep``, which imports nothing of torch."""
    return subprocess.Popen(
        [sys.executable, "-m", "segmentation", "sweep", *map(str, words)],
        env={**ENVIRONMENT, **environment},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], Any], seconds: float = 60) -> Any:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found
