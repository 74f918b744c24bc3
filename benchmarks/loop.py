"""What ``fit`` costs beside a hand-written PyTorch loop: seconds per training step and per epoch.

``fit`` is Trainer + SegmentationTask + SegmentationDataModule with what the command gives them: CSV
log, best and last checkpoint, learning-rate monitor, nine metrics, gradient clipping; no progress
bar. The loop is what one writes by hand: the same network (a copy), loss, optimizer and clipping
over the same DataLoader in this process; then validation with loss and IoU, and one checkpoint.

A step is the time from the start of an epoch to its validation over the number of steps, loading
included; an epoch ends when its checkpoints are written. Fair because both arms start from the same
weights, see the same batches (their losses are compared), and take turns. What ``fit`` adds to a
step hardly depends on the network, and the noise of a large one hides it: so it is measured again
with a tiny network on 32×32 images and one thread, in milliseconds.
"""

import copy
import logging
import statistics
import tempfile
import warnings
from functools import partial
from pathlib import Path
from typing import Any

import torch
from common import Report, add_root, alternate, arguments, device, dsb2018, now
from hand_loop import Times, by_hand
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import LearningRateMonitor, ModelCheckpoint
from lightning.pytorch.loggers import CSVLogger
from torch import nn

from segmentation.data.datamodule import DataFiles, SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.data.samplers import Sampling
from segmentation.data.splits import RandomSplit
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.losses import BCEDice
from segmentation.models import UNet
from segmentation.targets import Foreground
from segmentation.task import SegmentationTask


class Stopwatch(Callback):
    """When the epoch, its validation and all of it were done; last in the list of callbacks."""

    def on_train_epoch_start(self, *_: Any) -> None:
        self.start = now()

    def on_validation_start(self, *_: Any) -> None:
        self.trained = now()

    def on_train_end(self, *_: Any) -> None:
        self.end = now()


def main() -> None:
    parser = arguments("loop", __doc__)
    add_root(parser)
    parser.set_defaults(repeats=4)
    parser.add_argument("--steps", type=int, default=16, help="training steps an arm and round")
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--batch-size", type=int, default=8)
    args = parser.parse_args()
    warnings.filterwarnings("ignore")
    for name in ("lightning.pytorch", "lightning.fabric"):
        logging.getLogger(name).setLevel(logging.ERROR)

    with tempfile.TemporaryDirectory() as scratch:
        source, data, cache = dsb2018(args.root, Path(scratch))
        report = Report(
            "loop",
            "fit takes less than 3 % longer than a hand-written loop with a real network",
            {"data": data, "unet_width": args.width, "batch_size": args.batch_size, "crop": 256,
             "steps": args.steps, "validation_images": 8, "device": device().type},
        )  # fmt: skip
        real = module(source, cache, 256, args.steps, args.batch_size)
        step, _ = measure(report, f"U-Net {args.width}", UNet(3, 1, args.width), real, args.repeats)
        torch.set_num_threads(1)
        small = module(source, cache, 32, 4 * args.steps, args.batch_size)
        tiny = UNet(3, 1, width=1, depth=2)
        _, extra = measure(report, "tiny, 1 thread", tiny, small, 2 * args.repeats)
        shares = [100 * ms / statistics.median(step) for ms in extra]
        report.add(f"the tiny one's extra ms in a step of U-Net {args.width}", "%", shares)
    report.finish(args.output)


def module(
    source: DSB2018, cache: str | None, crop: int, steps: int, batch_size: int, held_out: int = 8
) -> SegmentationDataModule:
    """``steps`` random batches an epoch; so many images to validate on, and as many to test."""
    return SegmentationDataModule(
        source, RandomSplit(held_out, held_out), crop=crop, batch_size=batch_size, num_workers=0,
        sampling=Sampling(length=steps * batch_size, seed=0), files=DataFiles(cache=cache),
    )  # fmt: skip


def measure(
    report: Report, title: str, net: nn.Module, data: SegmentationDataModule, repeats: int
) -> tuple[list[float], list[float]]:
    """Both arms in turn, after a short epoch of each: ms of a step by hand, and what fit adds."""
    arms = {"fit": partial(fit, net, data), "by hand": partial(by_hand, net, data)}
    usual, data.sampling = data.sampling, Sampling(length=2 * data.batch_size, seed=0)
    for arm in arms.values():
        arm()
    data.sampling = usual
    taken = alternate(arms, repeats, warm_up=False)
    for name, rounds in taken.items():
        report.add(f"{title}: a step, {name}", "ms", [1000 * times.step for times in rounds])
        report.add(f"{title}: an epoch, {name}", "s", [times.epoch for times in rounds])
    pairs = list(zip(taken["fit"], taken["by hand"], strict=True))
    steps = [100 * (ours.step / theirs.step - 1) for ours, theirs in pairs]
    epochs = [100 * (ours.epoch / theirs.epoch - 1) for ours, theirs in pairs]
    report.add(f"{title}: fit's overhead, a step", "%", steps)
    report.add(f"{title}: fit's overhead, an epoch", "%", epochs)
    extra = [1000 * (ours.step - theirs.step) for ours, theirs in pairs]
    report.add(f"{title}: fit's overhead, a step", "ms", extra)
    apart = [abs(ours.loss - theirs.loss) for ours, theirs in pairs]
    report.add(f"{title}: difference in training loss", "", apart)
    return [1000 * times.step for times in taken["by hand"]], extra


def fit(net: nn.Module, module: SegmentationDataModule) -> Times:
    """One epoch with the package."""
    task = SegmentationTask(
        copy.deepcopy(net),
        BCEDice(),
        Foreground(),
        Preprocess(),
        lambda p: torch.optim.AdamW(p, 1e-3),
    )
    stopwatch = Stopwatch()
    with tempfile.TemporaryDirectory() as folder:
        best = ModelCheckpoint(Path(folder), "best", "val/iou", mode="max", save_last=True)
        trainer = Trainer(
            accelerator=device().type, devices=1, max_epochs=1, log_every_n_steps=10,
            gradient_clip_val=1.0, num_sanity_val_steps=0, use_distributed_sampler=False,
            enable_progress_bar=False, enable_model_summary=False,
            logger=CSVLogger(folder, flush_logs_every_n_steps=50),
            callbacks=[LearningRateMonitor("step"), best, stopwatch],
        )  # fmt: skip
        trainer.fit(task, module)
        loss = float(trainer.callback_metrics["train/loss_epoch"])
    training, epoch = stopwatch.trained - stopwatch.start, stopwatch.end - stopwatch.start
    return Times(training / trainer.global_step, epoch, loss)


if __name__ == "__main__":
    main()
