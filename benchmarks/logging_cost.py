"""What tracking costs: a training step with ``Tracking`` and without it.

Both arms are ``Trainer.fit`` with the CSV log, the learning-rate monitor and gradient clipping that
the command gives them; one has the callback ``Tracking`` besides (throughput, gradient norm and
memory every ten steps), with ``--wandb`` also an offline run of W&B. They start from the same
weights, see the same batches and take turns in one process. A step is the time of an epoch's
training over its steps, loading included.

The callback's own milliseconds hardly depend on the network, and the noise of a large one hides
them: so they are also measured with a tiny network on one thread, and from within, as the time that
is spent in the callback's hooks, which no other process's noise can turn round.
"""

import copy
import functools
import logging
import statistics
import tempfile
import time
import warnings
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, add_root, alternate, arguments, device, dsb2018, now
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor
from lightning.pytorch.loggers import CSVLogger
from loop import module
from torch import nn

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.losses import BCEDice
from segmentation.models import UNet
from segmentation.targets import Foreground
from segmentation.task import SegmentationTask
from segmentation.training.loggers import RobustWandbLogger
from segmentation.training.run_folder import RunRecord
from segmentation.training.tracking import Tracking

HOOKS = ("on_before_optimizer_step", "on_train_batch_end")  # those of every step


@dataclass(frozen=True)
class Cost:
    """Of a training step, in seconds: all of it, and what the hooks of ``Tracking`` took."""

    step: float
    hooks: float


class Stopwatch(Callback):
    """When the epoch's training began and ended."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_validation_start(self, *_: Any) -> None:
        self.trained = now()


def main() -> None:
    parser = arguments("logging_cost", __doc__)
    add_root(parser)
    parser.add_argument("--steps", type=int, default=20, help="training steps an arm and round")
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--wandb", action="store_true", help="track in W&B, too, offline")
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as scratch:
        source, data, cache = dsb2018(args.root, Path(scratch))
        report = Report(
            "logging_cost",
            "tracking takes less than 2 % of a step of a real network, well under 1 ms",
            {"data": data, "unet_width": args.width, "batch_size": args.batch_size, "crop": 256,
             "steps": args.steps, "log_every_n_steps": 10, "wandb": args.wandb,
             "device": device().type},
        )  # fmt: skip
        real = module(source, cache, 256, args.steps, args.batch_size, held_out=1)
        net = UNet(3, 1, args.width)
        step = measure(report, f"U-Net {args.width}", net, real, args.repeats, args.wandb)
        torch.set_num_threads(1)
        small = module(source, cache, 32, 5 * args.steps, args.batch_size, held_out=1)
        tiny = UNet(3, 1, width=1, depth=2)
        measure(report, "tiny, 1 thread", tiny, small, 2 * args.repeats, args.wandb, step)
    report.finish(args.output)


def measure(
    report: Report,
    title: str,
    net: nn.Module,
    data: SegmentationDataModule,
    repeats: int,
    wandb: bool,
    real_step: float | None = None,
) -> float:
    """Both arms in turn; returns the median seconds of a step without tracking."""
    arms = {
        "with tracking": partial(fit, net, data, True, wandb),
        "without": partial(fit, net, data, False, False),
    }
    taken = alternate(arms, repeats)
    for name, rounds in taken.items():
        report.add(f"{title}: a step, {name}", "ms", [1000 * cost.step for cost in rounds])
    pairs = list(zip(taken["with tracking"], taken["without"], strict=True))
    report.add(f"{title}: difference", "%", [100 * (a.step / b.step - 1) for a, b in pairs])
    report.add(f"{title}: difference", "ms", [1000 * (a.step - b.step) for a, b in pairs])
    inside = [cost.hooks for cost in taken["with tracking"]]
    report.add(f"{title}: in the hooks, a step", "ms", [1000 * hooks for hooks in inside])
    shares = [100 * cost.hooks / cost.step for cost in taken["with tracking"]]
    report.add(f"{title}: in the hooks, of a step", "%", shares)
    if real_step is not None:
        shares = [100 * (a.step - b.step) / real_step for a, b in pairs]
        report.add(f"{title}: difference, of a step of the U-Net", "%", shares)
    return statistics.median(cost.step for cost in taken["without"])


def fit(net: nn.Module, data: SegmentationDataModule, tracked: bool, wandb: bool) -> Cost:
    """One epoch."""
    task = SegmentationTask(
        copy.deepcopy(net),
        BCEDice(),
        Foreground(),
        Preprocess(),
        lambda p: torch.optim.AdamW(p, 1e-3),
    )
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        loggers: list[Any] = [CSVLogger(folder, flush_logs_every_n_steps=50)]
        if wandb:
            loggers.append(RobustWandbLogger(folder, offline=True, settings={"silent": True}))
        callbacks: list[Callback] = [LearningRateMonitor("step"), stopwatch]
        spent = [0.0]
        if tracked:
            tracking = Tracking(folder)
            for hook in HOOKS:
                setattr(tracking, hook, timed(getattr(tracking, hook), spent))
            callbacks += [RunRecord(folder, ""), tracking]
        trainer = Trainer(
            accelerator=device().type, devices=1, max_epochs=1, log_every_n_steps=10,
            gradient_clip_val=1.0, num_sanity_val_steps=0, use_distributed_sampler=False,
            enable_progress_bar=False, enable_model_summary=False, enable_checkpointing=False,
            logger=loggers, callbacks=callbacks,
        )  # fmt: skip
        trainer.fit(task, data)
        if wandb:
            with suppress(Exception):
                loggers[1].experiment.finish()
    steps = trainer.global_step
    return Cost((stopwatch.trained - stopwatch.start) / steps, spent[0] / steps)


def timed(hook: Callable[..., None], spent: list[float]) -> Callable[..., None]:
    """The same, its seconds added to ``spent``."""

    @functools.wraps(hook)
    def wrapper(*arguments: Any, **more: Any) -> None:
        start = time.perf_counter()
        hook(*arguments, **more)
        spent[0] += time.perf_counter() - start

    return wrapper


if __name__ == "__main__":
    main()
