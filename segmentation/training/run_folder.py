"""The folder of a run: a new one or an unfinished one to go on with, its lock, and its records."""

import contextlib
import hashlib
import json
import os
import secrets
import subprocess
import sys
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout
from lightning import Callback, LightningModule, Trainer

from segmentation.card.record import began, scored_as, versions
from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError
from segmentation.io.files import read_json, write_bytes, write_json

RUN_FOLDER = "SEGMENTATION_RUN_FOLDER"  # how the processes of one run agree on its folder
RESUME, PREVIOUS = "resume.ckpt", "resume.previous.ckpt"
# In the folder of a run from its start to its end: its W&B id and what its config was; and the
# lock, held by the process that works on it for as long as that lives.
MARKER, LOCK = "unfinished", "unfinished.lock"
LARGEST_DIFF = 1_000_000  # bytes; data or notebooks under version control can make it huge
_locks: dict[Path, FileLock] = {}  # of this process
_made: list[Path] = []  # folders above that of the last run, which were not there before


def make(root: Path, name: str, command: str) -> Path:
    """Make a new folder for this run; every process of the run gets the same one."""
    if chosen := os.environ.get(RUN_FOLDER):
        return Path(chosen)
    home, suffix = root / name, "" if command == "fit" else f"-{command}"
    job = os.environ.get("SLURM_JOB_ID") or os.environ.get("TORCHELASTIC_RUN_ID")
    try:
        _made[:] = [place for place in home.parents if not place.exists()]
        home.mkdir(parents=True, exist_ok=True)
        if job and int(os.environ.get("WORLD_SIZE", os.environ.get("SLURM_NTASKS", 1))) > 1:
            # Started by a cluster's launcher, each process on its own: the job's name is shared.
            step = os.environ.get("SLURM_STEP_ID", "")
            folder = home / f"job-{job}{step and '.' + step}{suffix}"
            folder.mkdir(exist_ok=True)
        else:
            stem = f"{datetime.now():%Y%m%d-%H%M%S}{suffix}"
            for number in range(1000):
                folder = home / (f"{stem}-{number}" if number else stem)
                with contextlib.suppress(FileExistsError):
                    folder.mkdir()
                    break
    except OSError as error:
        raise UserError(
            f"{home}: the run's folder cannot be made ({error.strerror}); choose another --run.root"
        ) from None
    os.environ[RUN_FOLDER] = str(folder)
    return folder


def first_process() -> bool:
    """Whether this is the first process of a run, as far as launchers have said so."""
    ranks = ("RANK", "LOCAL_RANK", "SLURM_PROCID", "NODE_RANK", "GROUP_RANK")
    return all(os.environ.get(name, "0") == "0" for name in ranks)


def unfinished(home: Path, config: dict[str, Any]) -> Path | None:
    """The newest unfinished run in ``home`` with this config that nobody works on, if any.

    Where W&B's agent has named the run, it must be that one.
    """
    wanted, digest = os.environ.get("WANDB_RUN_ID"), _config_digest(config)
    first = first_process()  # of several that a launcher starts: it alone holds the lock
    markers = sorted(home.glob(f"*/{MARKER}"), key=lambda m: m.stat().st_mtime_ns, reverse=True)
    for marker in markers:
        run_id, _, known = marker.read_text().strip().partition(" ")
        if wanted in (None, run_id) and known == digest and (not first or _lock(marker.parent)):
            return marker.parent
    if first and markers and wanted is None:
        what = "has another config or is at work; this run starts from the beginning"
        print(f"{home}: each of the {len(markers)} unfinished run(s) {what}", flush=True)
    return None


def mark(folder: Path, config: dict[str, Any]) -> str:
    """Mark a run as unfinished, and as at work until this process ends; returns its W&B id."""
    if not _lock(folder):
        raise UserError(f"{folder}: another process is at work on this run; wait for it")
    for partial in folder.glob("**/.*.part"):  # what a killed process was writing
        partial.unlink()
    marker = folder / MARKER
    if not marker.exists():
        run_id = os.environ.get("WANDB_RUN_ID") or secrets.token_hex(4)
        write_bytes(marker, f"{run_id} {_config_digest(config)}".encode())
    return marker.read_text().partition(" ")[0]


def _config_digest(config: dict[str, Any]) -> str:
    """What must be the same to go on; a run may have been started without the word to go on."""
    if isinstance(run := config.get("run"), dict):
        config = config | {"run": run | {"resume": True}}
    return hashlib.sha256(json.dumps(config, sort_keys=True, default=str).encode()).hexdigest()


def _lock(folder: Path) -> bool:
    # The system gives it up when the process ends, however it does.
    lock = _locks.setdefault(folder.resolve(), FileLock(folder / LOCK))
    with contextlib.suppress(Timeout):
        lock.acquire(timeout=0)
    return lock.is_locked


def checkpoint_of(folder: Path, trust: Iterable[str] = ()) -> Path | None:
    """The checkpoint to go on from, the previous one where the last is broken; none: step 0."""
    for name in (RESUME, PREVIOUS):
        path = folder / "checkpoints" / name
        if path.exists():
            try:
                read_checkpoint(path, False, trust)
                return path
            except UserError as error:
                print(f"{error}; going on from the one before it")
    return None


def remove_if_empty() -> None:
    """Remove the folder of a run that ended before anything was written into it."""
    folder = Path(os.environ.get(RUN_FOLDER, ""))
    with contextlib.suppress(OSError):
        if folder.name and first_process() and set(os.listdir(folder)) <= {MARKER, LOCK}:
            finish(folder)
            for place in (folder, folder.parent, *_made):
                place.rmdir()  # unless there are others


def finish(folder: Path) -> None:
    """The run is over: take away what only an unfinished one needs."""
    if lock := _locks.pop(folder.resolve(), None):
        lock.release(force=True)
    for path in (MARKER, f"checkpoints/{RESUME}", f"checkpoints/{PREVIOUS}", LOCK):
        (folder / path).unlink(missing_ok=True)


class RunRecord(Callback):
    """Writes ``config.yaml``, ``split.json``, ``run.json`` and ``git.diff`` into a run's folder.

    ``config`` is the whole one, which repeats the run; ``run.json`` holds the command, versions,
    the split's hash and the state of the git repository that the command was typed in, if it was in
    one; ``git.diff`` what was not committed there. ``split.json`` holds the key of the data's
    content: to go on with the run on other data is a :class:`UserError`.

    The checkpoints of a training get the same as the task's ``record``, without the command and
    folders, for they are given away; and ``run.json`` says which checkpoint was tested.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the data module has split the data, and before anything is trained."""
        if not trainer.is_global_zero:
            return
        data: Any = trainer.datamodule  # type: ignore[attr-defined]
        content, path = getattr(data, "content", None), self.folder / "split.json"
        if (self.folder / "config.yaml").exists():
            known = json.loads(path.read_text()).get("data") if path.exists() else None
            if None not in (content, known) and content != known:
                raise UserError(
                    f"{self.folder}: this run began with other images or masks ({known}, these are "
                    f"{content}); bring them back, or begin anew with --run.resume false"
                )
            if stage == "fit":
                pl_module.record = began(read_json(self.folder / "run.json"), self.config, content)  # type: ignore[assignment]
            return
        about: dict[str, Any] = {
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv,
            "versions": versions(),
            "git": None,
        }
        split = getattr(data, "split", None)
        if split is not None:
            parts = {"data": content, **json.loads(split.to_json())}
            about["split_sha256"] = parts["sha256"]
            write_json(path, parts)
        if (state := git_state(Path.cwd())) is not None:
            about["git"], diff = state
            if diff:
                write_bytes(self.folder / "git.diff", diff)
        write_json(self.folder / "run.json", about)
        if stage == "fit":
            pl_module.record = began(about, self.config, content)  # type: ignore[assignment]
        # Last: where it is, the others are.
        write_bytes(self.folder / "config.yaml", self.config.encode())

    def on_test_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Say which checkpoint the scores are of, and how it was tuned."""
        path = trainer.ckpt_path
        if not path or not Path(path).exists():  # BatchSizeFinder tests one that it removes
            return
        if trainer.is_global_zero and (self.folder / "run.json").exists():
            about = read_json(self.folder / "run.json") | {"tested": scored_as(Path(path))}
            write_json(self.folder / "run.json", about)


def git_state(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """The git repository around ``folder``, if any, and uncommitted changes, up to a megabyte."""

    def git(arguments: str) -> bytes:
        command = ["git", "-C", str(folder), *arguments.split()]
        others = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # who may be at work there
        return subprocess.check_output(command, stderr=subprocess.DEVNULL, timeout=20, env=others)

    try:
        commit = git("rev-parse HEAD").decode().strip()
        branch = git("rev-parse --abbrev-ref HEAD").decode().strip()
        diff = git("diff --no-color --no-ext-diff HEAD")
        listed = git("ls-files --others --exclude-standard --directory")
    except (OSError, subprocess.SubprocessError):
        return None
    untracked = listed.decode(errors="replace").splitlines()[:20]
    about = {"commit": commit, "branch": branch, "changed": bool(diff), "untracked": untracked}
    if (more := len(diff) - LARGEST_DIFF) > 0:
        diff = diff[:LARGEST_DIFF] + f"\n… {more:,} bytes more\n".encode()
    return about, diff
