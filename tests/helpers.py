"""Running the command line inside a test, on a network small enough to train in a second."""

import contextlib
import io
import json
import subprocess
import sys
import zipfile
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from segmentation.__main__ import main

CONFIGS = Path(__file__).parents[1] / "configs"
TINY = [
    "--model.net.width=4",
    "--model.net.depth=3",
    "--data.crop=32",
    "--data.batch_size=4",
    "--data.num_workers=0",
    "--data.split.val=2",
    "--data.split.test=3",
    "--data.sampling.length=8",
    "--trainer.max_epochs=1",
    "--trainer.accelerator=cpu",
    "--run.wandb=off",
    "--trainer.enable_progress_bar=false",
    "--run.tune=false",
    "--trainer.enable_model_summary=false",
    "--trainer.log_every_n_steps=1",
]


def arguments(
    command: str, root: Path, runs: Path, *more: str, config: str = "quickstart.yaml"
) -> list[str]:
    """The command on tiny settings; what is in ``more`` wins."""
    data = [f"--data.root={root}", f"--run.root={runs}"]
    return [command, f"--config={CONFIGS / config}", *TINY, *data, *more]


def smp_arguments(root: Path, runs: Path, *more: str) -> list[str]:
    """``fit`` of segmentation-models-pytorch's smallest U-Net on the same settings."""
    smp = [
        "--model.net=segmentation_models_pytorch.Unet",
        "--model.net.encoder_name=resnet18",
        "--model.net.decoder_channels=[16,8,4,4,4]",
    ]
    ours = ("--model.net.width", "--model.net.depth")  # which it does not have
    return [a for a in arguments("fit", root, runs, *smp, *more) if not a.startswith(ours)]


def fit(root: Path, runs: Path, *more: str) -> Path:
    """Train for an epoch and return the run's folder."""
    before = set(runs.glob("*/*"))
    assert main(arguments("fit", root, runs, *more)) == 0
    (folder,) = set(runs.glob("*/*")) - before
    return folder


def run_here(patch: pytest.MonkeyPatch) -> None:
    """Let commands that start ``segmentation`` as a process run it in this one: no new imports."""
    begin = subprocess.Popen

    def popen(argv: Any, *args: Any, **options: Any) -> Any:
        if [*argv[:3]] != [sys.executable, "-m", "segmentation"]:
            return begin(argv, *args, **options)
        said = io.TextIOWrapper(options["stdout"], encoding="utf-8", write_through=True)
        with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
            status = main(argv[3:])
        said.detach()
        return Mock(returncode=status, **{"poll.return_value": status})

    patch.setattr(subprocess, "Popen", popen)


def refusal(capsys: pytest.CaptureFixture[str], argv: list[str]) -> str:
    """Run a command that must fail with one line, and return that line."""
    capsys.readouterr()
    assert main(argv) == 2
    errors = [line for line in capsys.readouterr().err.splitlines() if "error:" in line]
    assert len(errors) == 1
    return errors[0]


def scores(run: Path) -> dict[str, Any]:
    """The run's scores."""
    found: dict[str, Any] = json.loads((run / "scores.json").read_text())
    return found


def zip_folder(folder: Path, archive: Path, top: str = "") -> Path:
    """Pack what is in a folder, below ``top`` in the archive, with the junk that macOS adds."""
    archive.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(archive, "w") as file:
        for path in sorted(folder.rglob("*")):
            file.write(path, f"{top}{path.relative_to(folder).as_posix()}")
        file.writestr("__MACOSX/._junk.png", b"junk")
    return archive
