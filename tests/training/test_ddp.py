"""One, two and three processes: the same scores, and every network trains."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from segmentation.__main__ import main
from segmentation.checkpoints import read_checkpoint
from tests.helpers import CONFIGS, TINY, arguments, scores

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


@pytest.mark.parametrize("devices", [2, 3])
def test_scores_do_not_depend_on_the_number_of_processes(
    trained: Path, devices: int, tmp_path: Path
) -> None:
    """5 images on 2 and 3 processes: uneven shares, no padding, the loss included."""
    run(
        [
            "test",
            f"--config={trained / 'config.yaml'}",
            f"--ckpt_path={trained / 'checkpoints/best.ckpt'}",
            f"--run.root={tmp_path}",
            *DDP,
            f"--trainer.devices={devices}",
        ]
    )
    (tested,) = tmp_path.glob("*/*")
    assert scores(tested) == scores(trained)
    assert (tested / "per_image.csv").read_text() == (trained / "per_image.csv").read_text()
    losses = []
    for folder in (trained, tested):
        rows = [r.split(",") for r in (folder / "metrics.csv").read_text().splitlines()]
        column = rows[0].index("test/loss")
        losses.append(next(float(r[column]) for r in rows[1:] if r[column]))
    assert losses[0] == pytest.approx(losses[1], rel=1e-6)


@pytest.mark.parametrize(
    ("config", "net"),
    [
        ("dsb2018/unetpp_small.yaml", ["--model.net.width=4", "--model.net.depth=3"]),
        (
            "dsb2018/unetpp_small.yaml",
            [
                "--model.net.width=4",
                "--model.net.depth=3",
                "--model.net.mode=fast",
                "--model.net.head=1",
            ],
        ),
        (
            "dsb2018/unetpp_small.yaml",
            ["--model.net.width=4", "--model.net.depth=3", "--model.net.deep_supervision=false"],
        ),
    ],
    ids=["accurate", "fast", "one head"],
)
def test_deep_supervision_trains_on_two_processes(
    config: str, net: list[str], dsb_root: Path, tmp_path: Path
) -> None:
    """DDP fails at a parameter without gradient. The other networks: see tests/models."""
    typed = [w for w in TINY if not w.startswith("--model.net.")]
    run(
        [
            "fit",
            f"--config={CONFIGS / config}",
            *typed,
            *net,
            *DDP,
            "--trainer.devices=2",
            f"--data.root={dsb_root}",
            f"--run.root={tmp_path}",
            "--data.batch_size=2",
        ]
    )
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
        run(
            [
                *arguments(
                    "fit",
                    dsb_root,
                    runs,
                    "--model.net.batch_norm=false",
                    f"--data.batch_size={batch}",
                    "--model.loss.per_image=true",
                    f"--trainer.devices={devices}",
                ),
                *DDP,
            ]
        )
        (folder,) = runs.glob("*/*")
        weights.append(read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"])
    assert all(
        torch.allclose(a, b, atol=2e-4) for a, b in zip(*(w.values() for w in weights), strict=True)
    )
