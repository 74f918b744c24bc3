"""Which folder a run gets: a new one, or that of an unfinished run to go on with."""

import fcntl
import os
import secrets
from datetime import datetime
from pathlib import Path
from typing import IO, Any

import yaml

from segmentation.checkpoint import read_checkpoint
from segmentation.errors import UserError

RUN_FOLDER = "SEGMENTATION_RUN_FOLDER"  # how the processes of one run agree on its folder
FILE, PREVIOUS = "resume.ckpt", "resume.previous.ckpt"
MARKER = "unfinished"  # in the folder of a run from its start to its end; holds its W&B id


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
        config: As it was written to ``config.yaml``.
        chosen: The folder, where another process of the run has chosen it already.
    """
    if chosen is not None:
        return Path(chosen)
    files = [file for file in home.glob("*/config.yaml") if (file.parent / MARKER).exists()]
    wanted = os.environ.get("WANDB_RUN_ID")
    first = first_process()  # of several that a launcher starts: it alone holds the lock
    for file in sorted(files, key=lambda file: file.stat().st_mtime_ns, reverse=True):
        with (file.parent / MARKER).open("r+") as marker:
            if wanted not in (None, marker.read().strip()):
                continue
            if yaml.safe_load(file.read_text()) == config and (not first or _lock(marker)):
                return file.parent
    return None


def mark(folder: Path) -> str:
    """Mark a run as unfinished, and as at work until this process ends; returns its W&B id.

    Raises:
        UserError: Another process is at work on it.
    """
    file = os.open(folder / MARKER, os.O_RDWR | os.O_CREAT, 0o666)  # left open: it holds the lock
    if not _lock(file):
        os.close(file)
        raise UserError(f"{folder}: another process is at work on this run; wait for it")
    if not os.fstat(file).st_size:
        os.write(file, (os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)).encode())
    return os.pread(file, 200, 0).decode().strip()


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


def finish(folder: Path) -> None:
    """The run is over: take away what only an unfinished one needs."""
    for path in (folder / MARKER, *(folder / "checkpoints" / name for name in (FILE, PREVIOUS))):
        path.unlink(missing_ok=True)
