"""Which folder a run gets: a new one, or that of an unfinished run to go on with."""

import contextlib
import fcntl
import hashlib
import json
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import IO, Any

from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError

RUN_FOLDER = "SEGMENTATION_RUN_FOLDER"  # how the processes of one run agree on its folder
FILE, PREVIOUS = "resume.ckpt", "resume.previous.ckpt"
# In the folder of a run from its start to its end; holds its W&B id, and what its config was.
MARKER = "unfinished"


def run_folder(root: Path, name: str, command: str) -> Path:
    """Make a new folder for this run; every process of the run gets the same one.

    Raises:
        UserError: It cannot be made.
    """
    if chosen := os.environ.get(RUN_FOLDER):
        return Path(chosen)
    suffix = "" if command == "fit" else f"-{command}"
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
    try:
        if job and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) > 1:
            # Started by a cluster's launcher, each process on its own: the job's name is shared.
            step = os.environ.get("SLURM_STEP_ID", "")
            folder = root / name / f"job-{job}{step and '.' + step}{suffix}"
            folder.mkdir(parents=True, exist_ok=True)
        else:
            stem = f"{datetime.now():%Y%m%d-%H%M%S}{suffix}"
            for attempt in range(1000):
                folder = root / name / (f"{stem}-{attempt}" if attempt else stem)
                try:
                    folder.mkdir(parents=True)
                    break
                except FileExistsError:
                    if not folder.is_dir():
                        raise
    except OSError as error:
        raise UserError(
            f"{root / name}: the run's folder cannot be made ({error.strerror}); choose another "
            "--run.root"
        ) from None
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def first_process() -> bool:
    """Whether this is the first process of a run, as far as launchers have said so."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def unfinished(home: Path, config: dict[str, Any], chosen: str | None = None) -> Path | None:
    """The folder of the newest unfinished run in ``home`` with this config; none: begin anew.

    A run that a process works on is left alone. Where W&B's agent has named the run, it must be
    that one.

    Args:
        home: The folder of the runs of one name.
        config: All plain values.
        chosen: The folder, where another process of the run has chosen it already.
    """
    if chosen is not None:
        return Path(chosen)
    wanted, own = os.environ.get("WANDB_RUN_ID"), _digest(config)
    first = first_process()  # of several that a launcher starts: it alone holds the lock
    files = sorted(home.glob(f"*/{MARKER}"), key=lambda f: f.stat().st_mtime_ns, reverse=True)
    for file in files:
        with file.open("r+") as marker:
            run_id, _, digest = marker.read().strip().partition(" ")
            if wanted in (None, run_id) and digest == own and (not first or _lock(marker)):
                return file.parent
    return None


def mark(folder: Path, config: dict[str, Any]) -> str:
    """Mark a run as unfinished, and as at work until this process ends; returns its W&B id.

    Args:
        folder: The run's.
        config: All plain values; a run that ended before it began is known by them.

    Raises:
        UserError: Another process is at work on it.
    """
    file = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)  # left open: it holds the lock
    if not _lock(file):
        os.close(file)
        raise UserError(f"{folder}: another process is at work on this run; wait for it")
    if not os.fstat(file).st_size:
        run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        os.write(file, f"{run_id} {_digest(config)}".encode())
    return os.pread(file, 400, 0).decode().partition(" ")[0]


def _digest(config: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _lock(file: int | IO[str]) -> bool:
    try:
        # Of the process, not of the file's handle: loading workers that outlive a killed run do
        # not hold it, and it works on network file systems.
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError:
        return False
    return True


def checkpoint_of(folder: Path) -> Path | None:
    """The checkpoint to go on from, the previous one where the last is broken; none: step 0."""
    for name in (FILE, PREVIOUS):
        path = folder / "checkpoints" / name
        if path.exists():
            try:
                read_checkpoint(path, tuned=False)
                return path
            except UserError as error:
                print(f"{error}; going on from the one before it")
    return None


def forsake() -> None:
    """Remove the folder of a run that ended before anything was written into it."""
    chosen = os.environ.get(RUN_FOLDER)
    if chosen is None or not first_process():
        return
    folder = Path(chosen)
    with contextlib.suppress(OSError):
        if {path.name for path in folder.iterdir()} <= {MARKER}:
            (folder / MARKER).unlink(missing_ok=True)
            folder.rmdir()
            folder.parent.rmdir()  # unless there are others


def finish(folder: Path) -> None:
    """The run is over: take away what only an unfinished one needs."""
    for path in (folder / MARKER, *(folder / "checkpoints" / name for name in (FILE, PREVIOUS))):
        path.unlink(missing_ok=True)
