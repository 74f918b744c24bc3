"""What a training, a validation or a test says as it goes on."""

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lightning import Callback, Trainer
from lightning.pytorch.callbacks import EarlyStopping, ModelCheckpoint, Timer
from lightning.pytorch.trainer.states import TrainerFn
from tqdm import tqdm

from segmentation.data.sample import PARTS
from segmentation.progress import progress
from segmentation.score_names import MEANS
from segmentation.terminal import coloured, quiet

SHOWN = ("val/iou", "val/ap50")  # of every epoch, beside what chooses the best
VALIDATED = ("image_iou", "image_f1", "image_ap", "iou", "mean_iou", "auroc", "ap50", "pq", "loss")
LONG = 60  # seconds of an epoch, from which on a log says how far it is


class Console(Callback):
    """One line an epoch on stdout, and on stderr how far the epoch, validation or test is.

    Args:
        best: Keeps the best checkpoint: its score is shown, and its epochs are marked.
        bars: Whether to draw bars, where stderr is a terminal; in a log, lines now and then.
    """

    def __init__(self, best: ModelCheckpoint, bars: bool = True) -> None:
        self.best, self.bars = best, bars
        self.bar: tqdm[Any] | None = None
        self.training: tqdm[Any] | None = None  # the bar of the epoch, while it is drawn

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Say what is trained on what."""
        self.began, self.first_step = time.monotonic(), trainer.global_step
        self.on_train_epoch_start(trainer, pl_module)  # one that goes on has no other
        if not trainer.is_global_zero or quiet():
            return
        if (split := getattr(trainer.datamodule, "split", None)) is not None:  # type: ignore[attr-defined]
            parts = (f"{len(getattr(split, part))} {part}" for part in PARTS)
            print(f"images    {', '.join(parts)}")
        size = sum(p.numel() for p in pl_module.net.parameters())
        name, many = type(pl_module.net).__name__, trainer.world_size
        where = f"{many} × {pl_module.device.type}" if many > 1 else str(pl_module.device)
        print(f"network   {name}, {size:,} parameters, on {where}", flush=True)

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self.epoch_began, self.score = time.monotonic(), self.best.best_model_score
        self.training, self.validated = None, False

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        if self.bar is None or self.bar is not self.training:  # there was a validation in between
            total, title = trainer.num_training_batches, _title(trainer)
            self.training = self._begin(trainer, title, total, batch_idx, LONG)
        self.training.update()

    def on_train_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """After the validation: the line of the epoch."""
        self._end()
        if trainer.is_global_zero and not quiet():
            print(self._line(trainer), flush=True)

    def on_train_end(self, trainer: Trainer, pl_module: Any) -> None:
        for callback in trainer.callbacks if trainer.is_global_zero else ():  # type: ignore[attr-defined]
            if isinstance(callback, EarlyStopping) and callback.stopping_reason_message:
                print(f"stopped   {callback.stopping_reason_message.partition(' Signal')[0]}")

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        if not trainer.sanity_checking:
            fitting = trainer.state.fn == TrainerFn.FITTING
            title = f"{_title(trainer)}, validating" if fitting else "validating"
            batches = sum(trainer.num_val_batches)
            self._begin(trainer, title, batches, 0, LONG if fitting else 2)

    def on_validation_batch_end(self, *_: Any) -> None:
        if self.bar is not None:
            self.bar.update()

    def on_validation_epoch_end(self, *_: Any) -> None:
        self.validated = True
        self._end()

    def on_test_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(trainer, "testing", sum(trainer.num_test_batches), 0, 2)

    on_test_batch_end = on_validation_batch_end  # type: ignore[assignment]

    def on_test_epoch_end(self, *_: Any) -> None:
        self._end()

    on_exception = on_test_epoch_end  # type: ignore[assignment]

    def _line(self, trainer: Trainer) -> str:
        values: Mapping[str, Any] = trainer.callback_metrics
        monitor = self.best.monitor or ""
        names = dict.fromkeys((*SHOWN, monitor) if self.validated else ())
        shown = {"loss": values.get("train/loss_epoch", math.nan)}
        shown |= {name: values[name] for name in names if name in values}
        now = time.monotonic()
        seconds = seconds_left(trainer, self.began, self.first_step)
        left = "" if seconds is None else f"  ETA {tqdm.format_interval(seconds)}"
        texts = "".join(f"  {name} {float(value):.4f}" for name, value in shown.items())
        score, sign = shown.get(monitor, math.nan), 1 if self.best.mode == "max" else -1
        before = -sign * math.inf if self.score is None else self.score
        mark = coloured("  best", "green") if sign * (score - before) > 0 else ""
        return f"{_title(trainer)}{texts}  {now - self.epoch_began:.0f} s{left}{mark}"

    def _begin(self, trainer: Trainer, title: str, total: float, done: int, delay: float) -> Any:
        self._end()
        off = not trainer.is_global_zero or not self.bars or quiet()
        end = total if math.isfinite(total) else None
        options = {"initial": done, "disable": off, "leave": False, "delay": delay}
        self.bar = progress(None, title, end, **options)
        return self.bar

    def _end(self) -> None:
        if self.bar is not None:
            self.bar.close()
            self.bar = None


def seconds_left(trainer: Trainer, began: float, first_step: int) -> float | None:
    """Until the end of a training that began at a time (monotonic) and step; unknown at first."""
    done, todo = trainer.global_step - first_step, trainer.estimated_stepping_batches
    todo -= trainer.global_step
    if not 0 < todo < math.inf or not done:
        return None
    seconds = (time.monotonic() - began) / done * todo
    for callback in trainer.callbacks:  # type: ignore[attr-defined]
        if isinstance(callback, Timer):
            seconds = min(seconds, callback.time_remaining() or seconds)
    return seconds


def print_validated(found: Mapping[str, Any], path: Path) -> None:
    """What ``validate`` says at its end: some scores, and the file that has all."""
    shown = [f"val/{name}" for name in (*VALIDATED, *MEANS) if f"val/{name}" in found]
    print("".join(f"\n{name:<18}{float(found[name]):8.4f}" for name in shown))
    print(f"\nall scores  {path}")


def _title(trainer: Trainer) -> str:
    epoch, most = trainer.current_epoch + 1, trainer.max_epochs
    return f"Epoch {epoch:{len(str(most))}} of {most}" if most and most > 0 else f"Epoch {epoch}"
