"""Cellpose 3: its network from scratch, as its command trains by default (SGD at .2, batches of 8).

Images are learned and segmented at their own size (`rescale` off, magnified by .5 to 1.5): objects
of these images differ several times in size, and the model of their size that would be needed
otherwise takes more time than the budget. Cellpose has no search of thresholds: both are chosen on
the validation images by its own average precision.
"""

import itertools
import logging
from pathlib import Path
from typing import Any

import cellpose
import numpy as np
import peer
import torch
from cellpose import train as cellpose_train
from cellpose.dynamics import compute_masks, labels_to_flows
from cellpose.metrics import average_precision
from cellpose.models import CellposeModel

BATCH, EPOCHS = 8, 150  # over 100 epochs its learning rate falls in the last 50
FLOWS, PROBABILITIES = (0.2, 0.4, 0.6, 0.8, 0.0), (0.0, -2.0, -1.0, 1.0, 2.0)  # 0: no flow check


class TimeUp(Exception):
    """The budget is spent before the last epoch."""


def train(job: peer.Job) -> dict[str, Any]:
    """Measure its step, then train for as many as fit."""
    torch.manual_seed(0)
    logging.getLogger("cellpose").setLevel(logging.WARNING)
    images, masks = job.pairs("train")
    flows = labels_to_flows(masks, files=None, device=torch.device("cpu"))
    ticks: list[float] = []
    limit = float("inf")
    loss = cellpose_train._loss_fn_seg

    def counted(*arguments: Any) -> Any:
        """Its loss, once a step: the place to look at the clock."""
        if job.spent() > limit:
            raise TimeUp
        ticks.append(job.spent())
        return loss(*arguments)

    cellpose_train._loss_fn_seg = counted

    def learn(epochs: int, each: int) -> CellposeModel:
        model = CellposeModel(gpu=False, pretrained_model=False, model_type=None)
        try:
            cellpose_train.train_seg(
                model.net, images, flows, channels=[0, 0], rescale=False, SGD=True,
                learning_rate=0.2, batch_size=BATCH, n_epochs=epochs, nimg_per_epoch=each,
                min_train_masks=1, save_path=job.work, model_name="network",
            )  # fmt: skip
        except TimeUp:
            model.net.save_model(job.work / "models" / "network")
        return model

    with job.not_counted():
        start = job.spent()
        learn(1, 6 * BATCH)
    step, steps = float(np.median(np.diff(ticks))), len(ticks)
    prepared = max(0.0, ticks[0] - start - step)
    fitting = max(1, int((0.97 * job.left() - prepared) / step))
    each = max(1, round(fitting / EPOCHS))
    limit = job.budget
    learn(max(1, fitting // each), BATCH * each)
    done = len(ticks) - steps
    return {"steps": done, "planned": fitting, "batch": BATCH, "cellpose": cellpose.version}


def model_of(work: Path) -> CellposeModel:
    logging.getLogger("cellpose").setLevel(logging.WARNING)
    path = work / "models" / "network"
    if not path.exists():  # it would take a pretrained network
        raise FileNotFoundError(path)
    return CellposeModel(gpu=False, pretrained_model=str(path))


def outputs(model: CellposeModel, image: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Flows (2, H, W) and logits of being a cell (H, W)."""
    flows = model.eval(image, channels=[0, 0], rescale=1.0, compute_masks=False)[1]
    return flows[1], flows[2]


def decoded(found: tuple[np.ndarray, np.ndarray], flow: float, probability: float) -> np.ndarray:
    masks = compute_masks(*found, flow_threshold=flow, cellprob_threshold=probability, niter=200)
    return np.asarray(masks[0] if isinstance(masks, tuple) else masks)


def tune(job: peer.Job) -> dict[str, Any]:
    """Both thresholds, by the mean of its average precision over images and its thresholds."""
    images, masks = job.pairs("val")
    model = model_of(job.work)
    found = [outputs(model, image) for image in images]
    scores = {}
    for pair in itertools.product(FLOWS, PROBABILITIES):
        labels = [decoded(one, *pair) for one in found]
        scores[pair] = float(average_precision([m.astype(int) for m in masks], labels)[0].mean())
    flow, probability = max(scores, key=lambda pair: scores[pair])
    best = scores[flow, probability]
    return {"thresholds": {"flow": flow, "probability": probability}, "score": best}


def load(job: peer.Job) -> peer.Predict:
    """A function from an image to its labels."""
    model, chosen = model_of(job.work), job.result("tune")["thresholds"]
    return lambda image: decoded(outputs(model, image), chosen["flow"], chosen["probability"])


if __name__ == "__main__":
    peer.run(train, tune, load)
