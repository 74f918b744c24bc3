"""What cannot work: names that are never logged, and what a part of the config raises, as one line.

The trial is the beginning of the training itself: Lightning validates two images, then comes the
first batch. So nothing is computed twice, and nothing has to be put back.
"""

import re
import traceback
from inspect import signature
from pathlib import Path
from types import FrameType
from typing import Any

import lightning
import pandas as pd
import torch
from lightning import Callback, LightningDataModule, LightningModule, Trainer
from lightning.fabric.utilities.exceptions import MisconfigurationException
from lightning.pytorch.callbacks import BatchSizeFinder, LearningRateFinder, ModelCheckpoint
from lightning.pytorch.loggers import Logger
from lightning.pytorch.profilers import Profiler
from torch import nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segmentation.errors import UserError, first_of
from segmentation.score_names import LOSSES, check_logged, logged
from segmentation.training import messages

# Whose classes need no place in a file: nobody who reads the line is going to mend them.
_KNOWN = ("segmentation", "lightning", "torch", "segmentation_models_pytorch", "torchvision")
# What a part says, as a pattern ► what it means for the config.
_REMEDIES = {
    "model.net": {
        "more than 1 value per channel": (
            "it normalises over a single value: raise data.batch_size or data.crop"
        ),
        r"Half|BFloat16|Float8|should be the same|same dtype|expected .*scalar type": (
            "this precision does not do here: set trainer.precision to 32-true or bf16-mixed"
        ),
        r"to have \d+ channels": "set its in_channels to model.preprocess.channels",
        r"[Kk]ernel size|too small|must match|[Ww]rong input shape|divisible|[Pp]adding": (
            "set data.crop to a greater multiple of 32"
        ),
    },
    "model.loss": {
        "'list' object": (
            "the network gives several answers: take segmentation.losses.DeepSupervision"
        ),
        "shape|size": (
            "model.net must answer at the size of its input, with the channels of model.target"
        ),
    },
}
_OTHERWISE = {
    "model.net": "choose another network or other settings of it",
    "model.loss": "choose one that fits model.target",
    "trainer.callbacks": "change its settings, or leave it out",
}
_KINDS: dict[str, type] = {
    "model.optimizer": Optimizer,
    "model.lr_scheduler": LRScheduler,
    "trainer.callbacks": Callback,
    "trainer.logger": Logger,
    "trainer.profiler": Profiler,
}


def check_monitors(trainer: Trainer, task: Any, best: ModelCheckpoint) -> None:
    """Raise :class:`UserError` for a metric that somebody waits for and nobody logs.

    A callback from elsewhere may log what it likes: where there is one, nothing is refused.
    """
    callbacks: list[Callback] = trainer.callbacks  # type: ignore[attr-defined]
    if any(not _is_known(part) for part in (task, *callbacks)):
        return
    validated = trainer.limit_val_batches != 0
    of_val = ("val/loss", *(f"val/{name}" for name in logged(task.target.class_names)))
    every = (*of_val, "train/loss", *LOSSES)
    waiting: list[tuple[str, Any, Callback | None]] = [
        (f"trainer.callbacks: {type(callback).__name__}.monitor", monitor, callback)
        for callback in callbacks
        if callback is not best and (monitor := getattr(callback, "monitor", None)) is not None
    ]
    if task.lr_scheduler is not None:
        waiting.append(("model.schedule.monitor", task.schedule.monitor, None))
    if best.monitor is not None:
        check_logged("checkpoint.monitor", best.monitor, every)
    for key, monitor, callback in waiting:
        check_logged(key, monitor, every)
        stops = not isinstance(callback, ModelCheckpoint) and callback is not None
        if stops and not validated and monitor in of_val:
            raise UserError(
                f"{key}: {monitor} is not logged, for nothing is validated "
                "(trainer.limit_val_batches: 0); choose train/loss_epoch, or leave it out"
            )


def without_finders(callbacks: list[Callback]) -> list[Callback]:
    """The callbacks of a training that goes on: what was found for it is found.

    One whose find no checkpoint keeps is a :class:`UserError`.
    """
    if any(isinstance(callback, BatchSizeFinder) for callback in callbacks):
        raise UserError(
            "trainer.callbacks: BatchSizeFinder: a training goes on with the size that it began "
            "with, which was printed then; set data.batch_size to it, and begin anew without it"
        )
    return [callback for callback in callbacks if not isinstance(callback, LearningRateFinder)]


def refuse_other_optimizer(typed: dict[str, Any], known: dict[str, Any]) -> None:
    """Resuming restores the optimiser's state, and with it the old values, in silence."""
    for part in ("optimizer", "lr_scheduler"):
        values: list[Any] = [
            pd.json_normalize({part: model.get("init_args", {}).get(part)}).to_dict("records")[0]
            for model in (typed, known)
        ]
        new, old = values
        for key in sorted(new.keys() | old.keys()):
            if new.get(key) != old.get(key):
                raise UserError(
                    f"model.{key.replace('init_args.', '')} is {new.get(key)} but the checkpoint's "
                    f"is {old.get(key)}, which resuming restores; leave it, or train anew from the "
                    "weights with --run.weights FILE"
                )


def told(error: Exception, trainer: Trainer, task: LightningModule) -> UserError | None:
    """One line for what a part of the config raised: its key, its class and what to do.

    ``None`` where no such part is at fault, so that its traceback has to be read.
    """
    if isinstance(error, RuntimeError) and messages.machine_gist(error):
        return None  # told in a better way
    frames = [frame for frame, _ in traceback.walk_tb(error.__traceback__)]
    gist = messages.root_cause(error)
    for code in (frame.f_code for frame in frames):
        restores = code.co_name.startswith(("restore", "_restore", "resume_start"))
        if restores and "checkpoint_connector" in code.co_filename:
            return UserError(
                f"{trainer.ckpt_path}: does not fit this config ({gist}); give the model that it "
                "was trained with, or another checkpoint"
            )
    for frame in reversed(frames):
        part = frame.f_locals.get("self")
        if frame.f_code.co_name == "backward":
            key, part = "model.loss", getattr(task, "loss", None)
            gist = f"it has no gradient for model.net: {gist}"
        elif (found := _key(part, task)) is None:
            continue
        else:
            key = found
            if isinstance(part, nn.Module):
                part = getattr(task, key.removeprefix("model."))  # rather than a layer of it
        place = f" in {Path(frame.f_code.co_filename).name}, line {frame.f_lineno}"
        name = type(part).__name__ + ("" if _is_known(part) else place)
        seen = f" on {shape}" if key == "model.net" and (shape := _shape(frames)) else ""
        known = (do for pattern, do in _REMEDIES.get(key, {}).items() if re.search(pattern, gist))
        remedy = next(known, _OTHERWISE.get(key, "change its settings"))
        return UserError(f"{key}: {name} fails{seen} ({gist}); {remedy}")
    inside = Path(lightning.__file__).parent in Path(frames[-1].f_code.co_filename).parents
    if inside or isinstance(error, MisconfigurationException):
        return UserError(f"trainer: {gist.rstrip('.')}; change its settings")
    return None


def unbuilt(error: Exception) -> UserError:
    """One line for a class of the config that could not be built."""
    first = first_of(error)
    if isinstance(first, UserError):
        return first
    gist = messages.root_cause(error)
    kinds = {**_KINDS, "trainer": Trainer, "data": LightningDataModule, "model": nn.Module}
    for frame, _ in reversed([*traceback.walk_tb(first.__traceback__)]):
        part = frame.f_locals.get("self")
        for key in (key for key, kind in kinds.items() if isinstance(part, kind)):
            name = type(part).__name__
            if key == "trainer":
                said = [n for n in re.findall(r"\w+", gist) if n in signature(Trainer).parameters]
                name = (said or ["accelerator" if "backend" in gist else ""])[0]
                return UserError(f"trainer{'.' * bool(name)}{name}: {gist.rstrip('.!')}; change it")
            if key == "model":
                key = "model.loss" if "loss" in type(part).__module__ else "model.net"
            return UserError(f"{'checkpoint' if name == 'RunCheckpoint' else key}: {name}: {gist}")
    return UserError(f"the config cannot be built ({gist})")


def check_optimizer(task: Any) -> None:
    """Raise :class:`UserError` for what the optimizer or the schedule refuses."""
    key = "model.optimizer"
    try:
        optimizer = task.optimizer([nn.Parameter(torch.zeros(1))])
        if task.lr_scheduler is not None:
            key = "model.lr_scheduler"
            task.lr_scheduler(optimizer)
    except UserError:
        raise
    except Exception as error:  # whatever they raise
        raise UserError(f"{key}: {messages.root_cause(error)}; change its settings") from error


def _key(part: Any, task: Any) -> str | None:
    """Where the config has this object; ``None``: not there."""
    if isinstance(part, nn.Module):
        for key in ("net", "loss"):
            if any(part is module for module in getattr(task, key).modules()):
                return f"model.{key}"
    if isinstance(part, Callback | Logger) and type(part).__module__.startswith("segmentation."):
        return None  # of every run, whatever the config says
    return next((key for key, kind in _KINDS.items() if isinstance(part, kind)), None)


def _is_known(part: Any) -> bool:
    return type(part).__module__.partition(".")[0] in _KNOWN


def _shape(frames: list[FrameType]) -> str | None:
    """The size of the images that the step of the task was given."""
    for frame in frames:
        batch = frame.f_locals.get("batch")
        if isinstance(batch, dict) and "image" in batch:
            return "images of shape " + "×".join(map(str, batch["image"].shape))
    return None
