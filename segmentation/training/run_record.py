"""The run's own folder: the config, the split, the code and the command that made it."""

import json
import os
import platform
import subprocess
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, LightningModule, Trainer

import segmentation
from segmentation.io.files import write_bytes

LARGEST_DIFF = 1_000_000  # bytes; data or notebooks under version control can make it huge


class RunFolder(Callback):
    """Writes ``config.yaml``, ``split.json``, ``run.json`` and ``git.diff`` beside a run's logs.

    ``run.json`` holds the command, versions, the split's hash and the state of the git repository
    that the command was typed in, if it was in one; ``git.diff`` what was not committed there.

    Args:
        folder: The run's folder, made for this run alone.
        config: The whole config as YAML; ``segmentation fit --config`` repeats the run with it.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the data module has split the data, and before anything is trained."""
        if not trainer.is_global_zero or (self.folder / "config.yaml").exists():
            return
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        about: dict[str, Any] = {
            "started": datetime.now().astimezone().isoformat(timespec="seconds"),
            "command": sys.argv,
            "versions": {
                "segmentation": segmentation.__version__,
                "torch": str(torch.__version__),
                "python": platform.python_version(),
            },
            "git": None,
        }
        if split is not None:
            text = split.to_json()
            about["split_sha256"] = json.loads(text)["sha256"]
            write_bytes(self.folder / "split.json", text.encode())
        if (state := git_state(Path.cwd())) is not None:
            about["git"], diff = state
            if diff:
                write_bytes(self.folder / "git.diff", diff)
        write_bytes(self.folder / "run.json", json.dumps(about, indent=1).encode())
        # Last: where it is, the others are.
        write_bytes(self.folder / "config.yaml", self.config.encode())


def git_state(folder: Path) -> tuple[dict[str, Any], bytes] | None:
    """Commit and uncommitted changes of the git repository around ``folder``.

    Returns:
        ``commit``, ``branch``, whether tracked files are ``changed`` and the first 20 ``untracked``
        files or folders; and the changes as a diff, cut off at a megabyte. ``None`` without a
        repository with a commit, or without git.
    """
    try:
        commit = _git(folder, "rev-parse", "HEAD").decode().strip()
        branch = _git(folder, "rev-parse", "--abbrev-ref", "HEAD").decode().strip()
        diff = _git(folder, "diff", "--no-color", "--no-ext-diff", "HEAD")
        listed = _git(folder, "ls-files", "--others", "--exclude-standard", "--directory")
    except (OSError, subprocess.SubprocessError):
        return None
    untracked = listed.decode(errors="replace").splitlines()[:20]
    if len(diff) > LARGEST_DIFF:
        cut = f"\n… {len(diff) - LARGEST_DIFF:,} bytes more\n"
        diff = diff[:LARGEST_DIFF] + cut.encode()
    about = {"commit": commit, "branch": branch, "changed": bool(diff), "untracked": untracked}
    return about, diff


def _git(folder: Path, *arguments: str) -> bytes:
    environment = {**os.environ, "GIT_OPTIONAL_LOCKS": "0"}  # others may be at work there
    command = ["git", "-C", str(folder), *arguments]
    done = subprocess.run(command, capture_output=True, check=True, timeout=20, env=environment)
    return done.stdout
