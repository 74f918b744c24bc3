"""One, two and three processes: the same scores, and every network trains."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pandas as pd
import pytest
import torch

from segmentation.__main__ import main
from segmentation.checkpoints import read_checkpoint
from tests.helpers import CONFIGS, arguments, scores

DDP = ["--trainer.strategy=ddp", "--trainer.accelerator=cpu"]


def run(argv: list[str]) -> None:
    """Lightning starts the other processes with the command line, so it has to be a real one."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-m", "segmentation", *argv],
        cwd=CONFIGS.parent,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr[-3000:]


@pytest.fixture(scope="module")
def trained(dsb_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    runs = tmp_path_factory.mktemp("runs")
    assert main(arguments("fit", dsb_root, runs, "--data.split.test=5")) == 0
    (folder,) = runs.glob("*/*")
    return folder


def test_scores_do_not_depend_on_the_number_of_processes(trained: Path, tmp_path: Path) -> None:
    """5 images on 3 processes: uneven shares, no padding, the loss included.

    That the table is the same on 1, 2 and 3: see tests/metrics.
    """
    files = [f"--config={trained / 'config.yaml'}", f"--run.root={tmp_path}"]
    best = f"--ckpt_path={trained / 'checkpoints/best.ckpt'}"
    run(["test", *files, best, *DDP, "--trainer.devices=3"])
    (tested,) = tmp_path.glob("*/*")
    assert scores(tested) == scores(trained)
    for path in ("per_image.csv", "test_curves.json", *trained.glob("overlays/*.png")):
        name = path if isinstance(path, str) else path.relative_to(trained)
        assert (tested / name).read_bytes() == (trained / name).read_bytes(), name
    logs = [pd.read_csv(folder / "metrics.csv") for folder in (trained, tested)]
    losses = [float(log["test/loss"].dropna().item()) for log in logs]
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


def test_deep_supervision_trains_on_two_processes(dsb_root: Path, tmp_path: Path) -> None:
    """DDP fails at a parameter without gradient; fast mode has the most that could lack one.

    That all parameters of all networks get one: see tests/models.
    """
    more = ["--model.net.mode=fast", "--model.net.head=1", *DDP]
    more += ["--trainer.devices=2", "--data.batch_size=2"]
    run(arguments("fit", dsb_root, tmp_path, *more, config="dsb2018/unetpp_small.yaml"))
    (folder,) = tmp_path.glob("*/*")
    assert scores(folder)["images"] == 3
    assert (folder / "checkpoints/best.ckpt").exists()


def test_one_and_two_processes_learn_the_same(dsb_root: Path, tmp_path: Path) -> None:
    """The same global batch, the same samples in the same step: the same weights but for rounding.

    Without batch norm, whose statistics are those of a process's own share.
    """
    weights = []
    for devices, batch in ((1, 4), (2, 2)):
        runs = tmp_path / str(devices)
        more = ["--model.net.batch_norm=false", "--model.loss.per_image=true", *DDP]
        more += [f"--data.batch_size={batch}", f"--trainer.devices={devices}"]
        run(arguments("fit", dsb_root, runs, *more, "--run.tune=image_iou"))
        (folder,) = runs.glob("*/*")
        tuned = json.loads((folder / "checkpoints/best.tuned.json").read_text())
        assert tuned["images"] == 2, "both, whoever saw them"
        weights.append(read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"])
    assert all(
        torch.allclose(a, b, atol=2e-4) for a, b in zip(*(w.values() for w in weights), strict=True)
    )
