"""Sweeps of a moment, and the command line in a process of its own."""

import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[3]
FAST = str(Path(__file__).with_name("fast.py"))
SPEC: dict[str, Any] = {
    "method": "grid",
    "metric": {"name": "val/iou", "goal": "maximize"},
    "command": ["${interpreter}", FAST, "${args}"],
    "parameters": {"x": {"values": [1, 2, 3, 4]}},
}
PATIENCE = 300  # seconds that another process may take: machines are busy, and Torch starts slowly
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}


def sweep_file(folder: Path, name: str = "sweep.yaml", **more: Any) -> Path:
    """Write a sweep file: four runs of `fast.py`, unless told otherwise."""
    path = folder / name
    path.write_text(yaml.safe_dump({**SPEC, **more}))
    return path


def start(*words: str | Path) -> subprocess.Popen[str]:
    """Start ``segmentation sweep``, which imports nothing of torch."""
    return subprocess.Popen(
        [sys.executable, "-m", "segmentation", "sweep", *map(str, words)],
        env=ENVIRONMENT,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


def wait_until(condition: Callable[[], Any], seconds: float = PATIENCE) -> Any:
    """Wait for something that another process does."""
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)
    return found


@contextmanager
def postgresql() -> Iterator[str]:
    """A PostgreSQL server of one's own: the URL of its database."""
    debian = sorted(Path("/usr/lib/postgresql").glob("*/bin"))
    places = os.pathsep.join([*map(str, debian[-1:]), os.environ["PATH"]])
    initdb, postgres = (shutil.which(name, path=places) for name in ("initdb", "postgres"))
    user = ["setpriv", "--reuid=nobody", "--regid=nogroup", "--clear-groups"]
    root = hasattr(os, "getuid") and os.getuid() == 0  # whom the server refuses
    if None in (initdb, postgres) or (root and not shutil.which("setpriv")):
        pytest.skip("no PostgreSQL: apt-get install postgresql")
    pytest.importorskip("psycopg")
    with TemporaryDirectory(prefix="pg", dir="/tmp") as folder:  # sockets have short names
        if root:
            shutil.chown(folder, "nobody")
        run = user if root else []
        data = [*run, str(initdb), f"{folder}/data", "--username=sweep", "--auth=trust"]
        subprocess.run(data, check=True, cwd=folder, stdout=subprocess.DEVNULL)
        argv = [*run, str(postgres), "-D", f"{folder}/data", "-k", folder, "-h", ""]
        server = subprocess.Popen(argv, cwd=folder, stderr=subprocess.DEVNULL)
        try:
            wait_until(Path(folder, ".s.PGSQL.5432").exists)
            yield f"postgresql://sweep@/postgres?host={folder}"
        finally:
            server.send_signal(signal.SIGINT)  # a fast shutdown
            server.wait(60)
