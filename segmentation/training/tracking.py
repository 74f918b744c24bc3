"""What a training measures of itself, for W&B and the run's own folder alike."""

import json
import resource
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import Callback, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from segmentation.data.examples import Batch
from segmentation.data.preprocess import resize_image
from segmentation.evaluation.overlays import error_overlay
from segmentation.evaluation.scores import better
from segmentation.io.files import write_bytes
from segmentation.io.images import write_image
from segmentation.metrics.matching import SCORES
from segmentation.training.run_logger import RunLogger, layered, log_curves, upload

CURVES = "test_curves.json"
Picture = tuple[np.ndarray, np.ndarray, np.ndarray]  # image, prediction, truth
VALIDATION = "validation"  # the folder of the same images over time


class Tracking(Callback):
    """Throughput, gradient norm, memory, the same validation images over time, test curves.

    Each is logged where the training logs anyway, so that a GPU is never waited for in between:

    - ``train/images_per_second`` of all processes, loading included, validation left out;
    - ``train/grad_norm``, the 2-norm over all parameters that clipping compares with its limit;
    - ``memory/cpu_gib`` and ``memory/gpu_gib``, the peaks so far of the first process.

    Some validation images are shown every few epochs, in W&B with its own mask layers and as files
    ``validation/NAME_epoch0004.png``; after a test, W&B gets precision-recall and ROC curves, of
    which ``test_curves.json`` keeps the counts. ``resources.json`` says what the training cost,
    those before an interruption included.

    Args:
        folder: The run's folder.
        artifact: Give W&B the best checkpoint at the end.
        pictures: How many validation images; evenly spaced, the same ones every time.
        every: Epochs from one picture to the next.
    """

    def __init__(
        self, folder: Path, artifact: bool = False, pictures: int = 4, every: int = 5
    ) -> None:
        self.folder, self.pictures, self.every = folder, pictures, every
        self.artifact = artifact
        # Over all parts of an interrupted training.
        self.spent = {"fit_seconds": 0.0, "cpu_seconds": 0.0, "train_seconds": 0.0, "images": 0.0}
        self._window = 0.0, 0.0  # images and seconds at the last log
        self._norm: Tensor | None = None
        self._shown: dict[str, Picture] = {}
        self._start: tuple[float, float] | None = None
        self._told = False

    def setup(self, trainer: Trainer, pl_module: Any, stage: str) -> None:
        """Tell W&B once what the run is made of, and which values of its scores are the best."""
        if self._told or not trainer.is_global_zero:
            return
        self._told = True
        for logger in _loggers(trainer):
            logger.attempt(self._describe, logger, pl_module)

    def _describe(self, logger: RunLogger, task: Any) -> None:
        run = logger.experiment
        about = json.loads((self.folder / "run.json").read_text())
        keep = {name: about[name] for name in ("git", "split_sha256", "versions") if name in about}
        run.config.update(keep, allow_val_change=True)
        if (diff := self.folder / "git.diff").exists():
            copy = Path(run.dir) / diff.name
            copy.write_bytes(diff.read_bytes())
            run.save(str(copy), base_path=run.dir, policy="now")
        for name, best in best_of(task).items():
            run.define_metric(name, step_metric="trainer/global_step", summary=best)

    def on_fit_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Start the clocks; a training that is resumed within an epoch begins none."""
        self._start = time.monotonic(), time.process_time()
        self._mark = self._start[0]

    def on_train_epoch_start(self, trainer: Trainer, pl_module: Any) -> None:
        self._mark = time.monotonic()

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._mark = time.monotonic()

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
        self,
        trainer: Trainer,
        pl_module: Any,
        outputs: Any,
        batch: Batch,
        batch_idx: int,
        dataloader_idx: int = 0,
    ) -> None:
        """Keep what is to be shown; by place, since copies of an image share its name."""
        due = trainer.current_epoch % self.every == 0
        if not due or not trainer.is_global_zero or trainer.sanity_checking:
            return
        count = int(trainer.num_val_batches[0])
        places = np.linspace(0, count - 1, min(self.pictures, count)).round().astype(int)
        if batch_idx in places:
            mask = (outputs["foreground"][0] > pl_module.target.threshold).cpu().numpy()
            truth = batch["labels"][0].cpu().numpy() > 0
            image = _picture(trainer, batch)
            self._shown[batch["id"][0]] = image, mask, truth

    def on_validation_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        shown, self._shown = self._shown, {}
        if not shown:
            return
        for place, (name, picture) in enumerate(shown.items(), start=1):
            stem = f"{place}_{name.replace('/', '_')[:40]}_epoch{trainer.current_epoch:04}"
            write_image(self.folder / VALIDATION / f"{stem}.png", error_overlay(*picture))
        for logger in _loggers(trainer):
            logger.attempt(_show, logger, shown, trainer.global_step)

    def on_fit_end(self, trainer: Trainer, pl_module: Any) -> None:
        self._write_resources(trainer, pl_module)
        best = getattr(trainer.checkpoint_callback, "best_model_path", "")
        if self.artifact and best and trainer.is_global_zero:
            for logger in _loggers(trainer):
                logger.attempt(upload, logger, Path(best))

    def on_exception(self, trainer: Trainer, pl_module: Any, exception: BaseException) -> None:
        if trainer.state.fn == TrainerFn.FITTING:
            self._write_resources(trainer, pl_module)

    def on_test_epoch_end(self, trainer: Trainer, pl_module: Any) -> None:
        """The counts that the curves are drawn from, of all processes."""
        metric = pl_module.test_metrics["auroc"]
        with metric.sync_context():  # the task resets it after this hook
            counts = metric.histogram.cpu().numpy()
        if not trainer.is_global_zero:
            return
        text = json.dumps({"foreground": counts[0].tolist(), "background": counts[1].tolist()})
        write_bytes(self.folder / CURVES, text.encode())
        for logger in _loggers(trainer):
            logger.attempt(log_curves, logger, counts)

    def state_dict(self) -> dict[str, Any]:
        """What was spent until now, for a training that is interrupted and goes on."""
        return {"spent": self._so_far()}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.spent = dict(state_dict["spent"])
        self._window = self.spent["images"], self.spent["train_seconds"]

    def _so_far(self) -> dict[str, float]:
        wall, cpu = self._start or (time.monotonic(), time.process_time())
        return self.spent | {
            "fit_seconds": self.spent["fit_seconds"] + time.monotonic() - wall,
            "cpu_seconds": self.spent["cpu_seconds"] + time.process_time() - cpu,
        }

    def _write_resources(self, trainer: Trainer, task: Any) -> None:
        """Wall and processor time of the training (validation included), peak memory, speed."""
        if not trainer.is_global_zero or self._start is None:
            return
        spent = self._so_far()
        seconds = spent["train_seconds"]
        used = {
            "fit_seconds": round(spent["fit_seconds"], 1),
            "cpu_seconds": round(spent["cpu_seconds"], 1),
            "images_per_second": round(spent["images"] / seconds, 2) if seconds else None,
            "peak_memory_bytes": peak_memory(),
            "steps": trainer.global_step,
            "parameters": sum(p.numel() for p in task.parameters()),
            "device": torch.cuda.get_device_name() if task.device.type == "cuda" else "cpu",
            "processes": trainer.world_size,
        }
        if task.device.type == "cuda":
            used["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        write_bytes(self.folder / "resources.json", json.dumps(used, indent=1).encode())


def best_of(task: Any) -> dict[str, str]:
    """``max`` or ``min`` by logged name, of all for which there is a best value."""
    objects = [f"val/{mean}{score}" for score in SCORES for mean in ("", "image_")]
    names = [*task.val_metrics.keys(), *objects]
    kinds = {"higher": "max", "lower": "min"}
    found = {name: better(name.removeprefix("val/")) for name in names}
    scores = {name: kinds[kind] for name, kind in found.items() if kind in kinds}
    return scores | {"val/loss": "min", "train/loss_epoch": "min"}


def peak_memory() -> int:
    """Bytes that this process had in memory at most."""
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def _show(logger: RunLogger, shown: dict[str, Picture], step: int) -> None:
    # A key each: images of one key should have one size.
    pictures = enumerate(shown.items(), start=1)
    logger.log_metrics({f"val/image_{i}": layered(*p, name) for i, (name, p) in pictures}, step)


def _picture(trainer: Trainer, batch: Batch) -> np.ndarray:
    """The (only) image of a batch as (H, W, C) uint8, as scored."""
    data: Any = trainer.datamodule  # type: ignore[attr-defined]
    try:
        image: np.ndarray = data.shown(batch["id"][0])[0]
    except KeyError:  # a copy, which has no file of its own
        image = batch["image"][0].permute(1, 2, 0).cpu().numpy()
    size: tuple[int, ...] = tuple(batch["labels"].shape[1:])
    return image if image.shape[:2] == size else resize_image(image, (size[0], size[1]))


def _loggers(trainer: Trainer) -> list[RunLogger]:
    return [logger for logger in trainer.loggers if isinstance(logger, RunLogger)]
