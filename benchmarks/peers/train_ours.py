"""Our own rows: ``segmentation fit``, ``tune``, and the predictor of the best checkpoint.

Two short trainings, which do not count, tell what a step and a validation cost; the epochs then
fill the budget, so that the schedule of the learning rate ends on time. Options of a row are those
of ``fit``.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import peer

HERE = Path(__file__).resolve().parent
BATCH, EPOCHS = 4, 30
SHARE = 0.1  # of the time that validations may take
MEASURED = 64  # steps, twice: the first few are faster than the rest


def command(job: peer.Job, verb: str, name: str, *more: str) -> None:
    """Run a command of the package on this data and in this folder."""
    lists = [f"--data.split.{part}={job.data / part}.txt" for part in ("train", "val", "test")]
    words = [sys.executable, "-m", "segmentation", verb, f"--config={HERE / 'ours.yaml'}"]
    where = [f"--data.root={job.data}", f"--run.root={job.work}", f"--run.name={name}"]
    environment = os.environ | {"SEGMENTATION_CACHE": str(job.data.parent / "cache")}
    arguments = [*words, *where, *lists, "--run.wandb=off", *job.options, *more]
    subprocess.run(arguments, check=True, env=environment)


def fit(job: peer.Job, name: str, epochs: int, steps: int) -> tuple[Path, float]:
    """Train for so many epochs of so many steps: the run's folder and the seconds of the fit."""
    length = [f"--trainer.max_epochs={epochs}", f"--data.sampling.length={steps * BATCH}"]
    command(job, "fit", name, "--run.tune=false", *length)  # that is a phase of its own
    (run,) = (path.parent for path in (job.work / name).glob("*/resources.json"))
    return run, float(json.loads((run / "resources.json").read_text())["cpu_seconds"])


def train(job: peer.Job) -> dict[str, Any]:
    """Measure, then train."""
    with job.not_counted():
        start = peer.spent()
        short = fit(job, "one", 1, 4)[1]
        start_up = peer.spent() - start - short
        step = max(0.01, (fit(job, "two", 2, MEASURED)[1] - 2 * short) / (2 * MEASURED - 8))
    validation = max(0.0, short - 4 * step)
    seconds = max(step, 0.97 * job.left() - start_up)
    epochs = max(1, min(EPOCHS, int(SHARE * seconds / max(validation, 0.01))))
    steps = max(1, int((seconds / epochs - validation) / step))
    run, _ = fit(job, "full", epochs, steps)
    used = json.loads((run / "resources.json").read_text())
    about = {"steps": used["steps"], "batch": BATCH, "epochs": epochs, "run": run.name}
    return about | {"step_seconds": round(step, 3), "validation_seconds": round(validation, 1)}


def checkpoint(job: peer.Job) -> Path:
    run: str = job.result("train")["run"]
    return job.work / "full" / run / "checkpoints" / "best.ckpt"


def tune(job: peer.Job) -> dict[str, Any]:
    """``segmentation tune``."""
    command(job, "tune", "tune", f"--ckpt_path={checkpoint(job)}")
    chosen = json.loads(checkpoint(job).with_suffix(".tuned.json").read_text())
    return {"thresholds": chosen}


def load(job: peer.Job) -> peer.Predict:
    """A function from an image to its labels."""
    import segmentation

    model = segmentation.load(checkpoint(job), device="cpu")

    def predict(image: np.ndarray) -> np.ndarray:
        labels = model.predict(image)
        assert isinstance(labels, np.ndarray)
        return labels

    return predict


if __name__ == "__main__":
    peer.run(train, tune, load)
