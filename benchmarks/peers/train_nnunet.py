"""nnU-Net v2, 2D, the smallest plan that its planner makes, as border and core of each object.

Planning, preparation, augmentation, network, loss and inference (with mirrored images) are its own.
Its 1,000 epochs of 250 steps do not fit: the learning rate falls by its polynomial with the budget
that is left, and an epoch has 50 steps and 10 of validation. Objects become border and core and
these objects again by the functions of its authors (acvl_utils); two sizes are chosen on the
validation images by Cellpose's average precision.
"""

import itertools
import json
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import peer
import torch
from acvl_utils.instance_segmentation import instance_as_semantic_seg as border_core
from cellpose.metrics import average_precision
from PIL import Image

NAME, MEMORY = "Dataset001_objects", 0.34  # GB: batches of two, the least that it plans
STEPS, VALIDATION = 50, 10
CORES, BORDERS = (5, 0, 10, 20, 40), (15, 0, 30, 60)  # pixels below which one is dropped


class Falling:
    """Its polynomial learning rate, by the share of the budget that is spent."""

    def __init__(self, optimizer: torch.optim.Optimizer, rate: float, job: peer.Job) -> None:
        self.optimizer, self.rate, self.job, self.begun = optimizer, rate, job, job.spent()

    def step(self, epoch: int | None = None) -> None:
        left = self.job.left() / (self.job.budget - self.begun)
        for group in self.optimizer.param_groups:
            group["lr"] = self.rate * max(0.0, left) ** 0.9


def folders(work: Path) -> None:
    """Tell nnU-Net where to work, before it is imported."""
    for kind in ("raw", "preprocessed", "results"):
        os.environ[f"nnUNet_{kind}"] = str(work / kind)
    # The planner passes this number to torch, which refuses 0; the training takes 0.
    os.environ |= {"nnUNet_n_proc_DA": "1", "nnUNet_def_n_proc": "1", "nnUNet_compile": "f"}


def write_raw(job: peer.Job) -> None:
    """Training and validation images in its layout: 0 background, 1 core, 2 border."""
    shutil.rmtree(job.work / "raw", ignore_errors=True)
    raw = job.work / "raw" / NAME
    for folder in ("imagesTr", "labelsTr"):
        (raw / folder).mkdir(parents=True)
    splits = {part: job.names(part) for part in ("train", "val")}
    for part, names in splits.items():
        for name, image, mask in zip(names, *job.pairs(part), strict=True):
            parts = border_core.convert_instanceseg_to_semantic_patched(mask[None])[0]
            Image.fromarray(image).save(raw / "imagesTr" / f"{name}_0000.png")
            Image.fromarray(parts).save(raw / "labelsTr" / f"{name}.png")
    about = {
        "channel_names": {"0": "fluorescence"},
        "labels": {"background": 0, "core": 1, "border": 2},
        "numTraining": sum(map(len, splits.values())),
        "file_ending": ".png",
    }
    (raw / "dataset.json").write_text(json.dumps(about))
    (job.work / "preprocessed" / NAME).mkdir(parents=True, exist_ok=True)
    (job.work / "preprocessed" / NAME / "splits_final.json").write_text(json.dumps([splits]))


def train(job: peer.Job) -> dict[str, Any]:
    """Plan and prepare, then train until the budget is spent."""
    folders(job.work)
    from nnunetv2.experiment_planning import plan_and_preprocess_api as planning
    from nnunetv2.run.run_training import get_trainer_from_args

    torch.manual_seed(0)
    np.random.seed(0)
    write_raw(job)
    planning.extract_fingerprints([1], num_processes=1)
    planning.plan_experiments([1], gpu_memory_target_in_gb=MEMORY)
    planning.preprocess([1], configurations=("2d",), num_processes=(1,))
    os.environ |= {"nnUNet_n_proc_DA": "0"}  # augmented in this process
    trainer = get_trainer_from_args("1", "2d", 0, device=torch.device("cpu"))
    trainer.on_train_start()
    trainer.lr_scheduler = Falling(trainer.optimizer, trainer.initial_lr, job)

    def step() -> Any:
        trainer.lr_scheduler.step()
        return trainer.train_step(next(trainer.dataloader_train))

    steps, validation = 0, 0.0
    while steps == 0 or job.left() > validation:
        trainer.on_epoch_start()
        trainer.on_train_epoch_start()
        found = [step()]
        while len(found) < STEPS and job.left() > validation:
            found.append(step())
        steps += len(found)
        trainer.on_train_epoch_end(found)
        start = job.spent()
        with torch.no_grad():
            trainer.on_validation_epoch_start()
            batches = (next(trainer.dataloader_val) for _ in range(VALIDATION))
            trainer.on_validation_epoch_end([trainer.validation_step(b) for b in batches])
        validation = job.spent() - start
        trainer.on_epoch_end()
    trainer.on_train_end()
    plan = trainer.configuration_manager
    parameters = sum(p.numel() for p in trainer.network.parameters())
    return {
        "steps": steps,
        "batch": plan.batch_size,
        "patch": [int(side) for side in plan.patch_size],
        "parameters": parameters,
    }


def predictor(work: Path) -> Any:
    """A function from an image to background, core and border."""
    folders(work)
    from nnunetv2.inference.predict_from_raw_data import nnUNetPredictor

    model = nnUNetPredictor(device=torch.device("cpu"), allow_tqdm=False)
    trained = work / "results" / NAME / "nnUNetTrainer__nnUNetPlans__2d"
    model.initialize_from_trained_model_folder(str(trained), (0,))
    return lambda image: model.predict_single_npy_array(
        image[None, None].astype(np.float32), {"spacing": (999, 1, 1)}
    ).astype(np.uint8)


def decoded(parts: np.ndarray, core: float, border: float) -> np.ndarray:
    labels = border_core.convert_semantic_to_instanceseg(
        parts.copy(), small_center_threshold=core,
        isolated_border_as_separate_instance_threshold=border,
    )  # fmt: skip
    return np.asarray(labels[0])


def tune(job: peer.Job) -> dict[str, Any]:
    """The two sizes of the decoding, by the mean of average precision over images."""
    images, masks = job.pairs("val")
    predict = predictor(job.work)
    found = [predict(image) for image in images]
    scores = {}
    for pair in itertools.product(CORES, BORDERS):
        labels = [decoded(one, *pair).astype(int) for one in found]
        scores[pair] = float(average_precision([m.astype(int) for m in masks], labels)[0].mean())
    core, border = max(scores, key=lambda pair: scores[pair])
    return {"thresholds": {"core": core, "border": border}, "score": scores[core, border]}


def load(job: peer.Job) -> peer.Predict:
    """A function from an image to its labels."""
    predict, chosen = predictor(job.work), job.result("tune")["thresholds"]
    return lambda image: decoded(predict(image), chosen["core"], chosen["border"])


if __name__ == "__main__":
    peer.run(train, tune, load)
