"""What a training measures of itself, for every logger and the run's own folder alike."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from segmentation.data.examples import Batch
from segmentation.data.resize import resize_image
from segmentation.evaluation.pictures import Colours, Picture, predicted_ids
from segmentation.io.files import write_bytes, write_json
from segmentation.io.images import write_image
from segmentation.metrics import better
from segmentation.score_names import logged
from segmentation.training.loggers import RobustWandbLogger
from segmentation.training.memory import peak_memory


class Tracking(Callback):
    """Throughput, gradient norm, memory, the same validation images over time, test curves.

    Logged with what the training logs anyway, so that a GPU is never waited for in between:
    ``train/images_per_second`` of all processes, loading included, validation left out;
    ``train/grad_norm``, the 2-norm over all parameters that clipping compares with its limit; and
    ``memory/cpu_gib`` and ``memory/gpu_gib``, the peaks so far of the first process.

    Some validation images are shown every few epochs, in W&B and as
    ``validation/NAME_epoch0004.png``; ``test_curves.json`` keeps the counts of a test's curves.
    ``resources.json`` says what the training cost, all parts of an interrupted one together.

    Args:
        folder: The run's folder.
        artifact: Give W&B the best checkpoint at the end.
        pictures: How many validation images; evenly spaced, the same ones every time.
        every: Epochs from one picture to the next.
        colours: What the colours of the pictures tell.
    """

    def __init__(
        self,
        folder: Path,
        artifact: bool = False,
        pictures: int = 4,
        every: int = 5,
        colours: Colours = "objects",
    ) -> None:
        self.folder, self.artifact, self.pictures, self.every = folder, artifact, pictures, every
        self.colours: Colours = colours
        # Over all parts of an interrupted training.
        self.spent = {"fit_seconds": 0.0, "cpu_seconds": 0.0, "train_seconds": 0.0, "images": 0.0}
        self._window = 0.0, 0.0  # images and seconds at the last log
        self._norm: Tensor | None = None
        self._shown: dict[str, Picture] = {}
        self._start: tuple[float, float] | None = None
        self._described = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        for logger in _wandb(trainer) if not self._described else ():
            names = pl_module.target.class_names
            logger.class_names = names or logger.class_names
            logger.describe(self.folder, best_of(names))
        self._described = True

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._start = time.monotonic(), time.process_time()

    def on_train_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._mark = time.monotonic()  # what follows is training

    on_train_epoch_start = on_validation_end = on_train_start

    def on_before_optimizer_step(self, trainer: Trainer, pl_module: Any, optimizer: Any) -> None:
        """The norm of the gradients: unscaled by now, not clipped yet."""
        every = trainer.log_every_n_steps  # type: ignore[attr-defined]
        if trainer.is_global_zero and every and (trainer.global_step + 1) % every == 0:
            gradients = [p.grad for p in pl_module.parameters() if p.grad is not None]
            self._norm = torch.nn.utils.get_total_norm(gradients)

    def on_train_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int
    ) -> None:
        """Count; and log, after the steps that the training itself logs."""
        now = time.monotonic()
        self.spent["images"] += len(batch["image"]) * trainer.world_size
        self.spent["train_seconds"] += now - self._mark
        self._mark = now
        if self._norm is None:
            return
        images, seconds = self.spent["images"], self.spent["train_seconds"]
        values = {
            "train/grad_norm": float(self._norm),
            "train/images_per_second": (images - self._window[0]) / (seconds - self._window[1]),
            "memory/cpu_gib": peak_memory() / 2**30,
        }
        if pl_module.device.type == "cuda":
            values["memory/gpu_gib"] = torch.cuda.max_memory_allocated() / 2**30
        self._norm, self._window = None, (images, seconds)
        for logger in trainer.loggers:
            logger.log_metrics(values, trainer.global_step - 1)  # the step that the loss goes by

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, batch_idx: int, *_: Any
    ) -> None:
        """Keep what is to be shown; by place, since copies of an image share its name."""
        due = trainer.current_epoch % self.every == 0 and not trainer.sanity_checking
        count = int(trainer.num_val_batches[0])
        places = np.linspace(0, count - 1, min(self.pictures, count)).round()
        if due and trainer.is_global_zero and batch_idx in places:
            labels = batch["labels"][0].cpu().numpy()
            classes = batch["classes"][0].cpu().numpy() if pl_module.target.class_names else None
            predicted = predicted_ids(outputs, pl_module.target.threshold, self.colours)[0]
            both = None if classes is None else (classes, outputs["classes"][0])
            shown = Picture(_as_scored(trainer, batch), labels, predicted, both, self.colours)
            self._shown[batch["id"][0]] = shown

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        shown, self._shown = self._shown, {}
        for place, (name, picture) in enumerate(shown.items(), start=1):
            stem = f"{place}_{name.replace('/', '_')[:40]}_epoch{trainer.current_epoch:04}"
            write_image(self.folder / "validation" / f"{stem}.png", picture.overlay())
        for logger in _wandb(trainer) if shown else ():
            logger.log_pictures(shown, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write_resources(trainer, pl_module)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        for logger in _wandb(trainer) if self.artifact and best else ():
            logger.upload(Path(best))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write_resources(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        table = pl_module.test_table
        with table.sync_context():  # the task resets it after this hook
            counts = table.histogram.cpu().numpy()
        if trainer.is_global_zero:
            text = json.dumps({"foreground": counts[0].tolist(), "background": counts[1].tolist()})
            write_bytes(self.folder / "test_curves.json", text.encode())
        for logger in _wandb(trainer):
            logger.log_curves(counts)

    def state_dict(self) -> dict[str, Any]:
        """What was spent until now, for a training that is interrupted and goes on."""
        return {"spent": self._so_far()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent = dict(state_dict["spent"])
        self._window = self.spent["images"], self.spent["train_seconds"]

    def _so_far(self) -> dict[str, float]:
        now = time.monotonic(), time.process_time()
        wall, cpu = self._start or now
        fit, processor = self.spent["fit_seconds"], self.spent["cpu_seconds"]
        more = {"fit_seconds": fit + now[0] - wall, "cpu_seconds": processor + now[1] - cpu}
        return self.spent | more

    def _write_resources(self, trainer: Trainer, task: Any) -> None:
        """Wall and processor time of the training (validation included), peak memory, speed."""
        if not trainer.is_global_zero or self._start is None:
            return
        spent, cuda = self._so_far(), task.device.type == "cuda"
        seconds = spent["train_seconds"]
        used = {
            **{name: round(spent[name], 1) for name in ("fit_seconds", "cpu_seconds")},
            "images_per_second": round(spent["images"] / seconds, 2) if seconds else None,
            "peak_memory_bytes": peak_memory(),
            "steps": trainer.global_step,
            "parameters": sum(p.numel() for p in task.parameters()),
            "device": torch.cuda.get_device_name() if cuda else "cpu",
            "processes": trainer.world_size,
        }
        if cuda:
            used["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        write_json(self.folder / "resources.json", used)


def best_of(names: Sequence[str] = ()) -> dict[str, str]:
    """``max`` or ``min`` by logged name, of all that have a best; ``names`` are of classes."""
    kinds = {"higher": "max", "lower": "min"}
    scores = {f"val/{name}": kinds[b] for name in logged(names) if (b := better(name)) in kinds}
    return scores | {"val/loss": "min", "train/loss_epoch": "min"}


def _as_scored(trainer: Trainer, batch: Batch) -> np.ndarray:
    """The (only) image of a batch as (H, W, C) uint8, as scored."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    try:
        image: np.ndarray = data.shown(batch["id"][0])[0]
    except KeyError:  # a copy, which has no file of its own
        image = batch["image"][0].permute(1, 2, 0).cpu().numpy()
    height, width = batch["labels"].shape[1:]
    return image if image.shape[:2] == (height, width) else resize_image(image, (height, width))


def _wandb(trainer: Trainer) -> list[RobustWandbLogger]:
    """On the first process, which alone talks to W&B."""
    loggers = trainer.loggers if trainer.is_global_zero else []
    return [logger for logger in loggers if isinstance(logger, RobustWandbLogger)]
