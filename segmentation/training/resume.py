"""What an exact resume needs beside Lightning's checkpoint; files that a kill leaves whole."""

import contextlib
import csv
import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch
from lightning import LightningModule, Trainer
from lightning.fabric.plugins.io import TorchCheckpointIO
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.loggers import CSVLogger
from lightning.pytorch.loggers.csv_logs import ExperimentWriter
from lightning.pytorch.utilities import rank_zero_only

from segmentation.data.samplers import TrainSampler
from segmentation.training.run_folder import FILE, PREVIOUS


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and PyTorch's global generators, of this process's GPU too.

    Tensors and plain values only, as checkpoints have to be.
    """
    name, key, *rest = np.random.get_state(legacy=True)
    state = {
        "python": random.getstate(),
        "numpy": (name, torch.from_numpy(np.asarray(key).astype(np.int64)), *rest),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict[str, Any]) -> None:
    """Go on from a :func:`random_state`."""
    random.setstate(state["python"])
    name, key, *rest = state["numpy"]
    np.random.set_state((name, key.numpy().astype(np.uint32), *rest))
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def process_state(trainer: Trainer, module: LightningModule, rng: dict[str, Any]) -> dict[str, Any]:
    """What each process has of its own: random state, batch norm's statistics, means of the epoch.

    Args:
        trainer: In ``fit``.
        module: The task.
        rng: The random state to go on with.
    """
    return {
        "rng": rng,
        "buffers": [{n: b.cpu() for n, b in m.named_buffers()} for m in _modules(trainer, module)],
        "means": _means(trainer),
    }


def set_process_state(trainer: Trainer, module: LightningModule, state: dict[str, Any]) -> None:
    """Put a :func:`process_state` back, but for the random state."""
    for part, stored in zip(_modules(trainer, module), state["buffers"], strict=True):
        for name, buffer in part.named_buffers():
            buffer.copy_(stored[name])
    results = trainer.fit_loop.epoch_loop._results
    for mean in state["means"]:
        # Registered by the same call that `self.log` makes, then set to what was stored.
        results.log(
            value=torch.zeros((), device=module.device),
            sync_dist_fn=trainer.strategy.reduce,
            reduce_fx=getattr(torch, mean["reduce"]),
            **mean["log"],
        )
        metric = results[f"{mean['log']['fx']}.{mean['log']['name']}"]
        metric._computed, metric.has_reset = None, mean["has_reset"]
        for name, value in mean["values"].items():
            setattr(metric, name, value.to(module.device))


def _modules(trainer: Trainer, module: LightningModule) -> list[torch.nn.Module]:
    averages = [c._average_model for c in trainer.callbacks if isinstance(c, WeightAveraging)]  # type: ignore[attr-defined]
    return [module, *(average for average in averages if average is not None)]


def _means(trainer: Trainer) -> list[dict[str, Any]]:
    """What ``self.log`` has gathered in this epoch's training so far."""
    means = []
    for metric in trainer.fit_loop.epoch_loop._results.values():
        meta = metric.meta
        if not metric.is_tensor:
            continue  # a metric object; it belongs to the task
        same = ("fx", "name", "prog_bar", "logger", "on_step", "on_epoch", "enable_graph")
        log = {name: getattr(meta, name) for name in same}
        log |= {"sync_dist": meta.sync.should, "rank_zero_only": meta.sync.rank_zero_only}
        values = {name: getattr(metric, name).cpu() for name in metric._defaults}
        means.append(
            {
                "log": log,
                "reduce": meta.reduce_fx.__name__,
                "values": values,
                "has_reset": metric.has_reset,
            }
        )
    return means


def skip_batches(trainer: Trainer, epoch: int, batches: int) -> None:
    """Let the training loader go on in ``epoch`` after so many batches of it."""
    loader: Any = trainer.train_dataloader
    sampler = getattr(loader, "sampler", None)
    if isinstance(sampler, TrainSampler):
        fetcher: Any = trainer.fit_loop._data_fetcher
        sampler.skip(epoch, batches * loader.batch_size)
        # Its workers have fetched ahead already: from the start, and in the first epoch's order.
        iter(fetcher)


class AtomicCheckpointIO(TorchCheckpointIO):
    """Writes checkpoints beside their place, flushes them to the disk and renames them.

    Lightning's own writes to the system's temporary folder and copies from there, where a kill
    leaves half a file.
    """

    def save_checkpoint(
        self, checkpoint: dict[str, Any], path: str | os.PathLike[str], storage_options: Any = None
    ) -> None:
        target = Path(path)
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(f".{target.name}.part")
        try:
            with partial.open("wb") as file:
                torch.save(checkpoint, file)
                file.flush()
                os.fsync(file.fileno())
            if target.name == FILE and target.exists():
                target.replace(target.with_name(PREVIOUS))
            partial.replace(target)
        except BaseException:
            with contextlib.suppress(OSError):
                partial.unlink(missing_ok=True)
            raise


class _Writer(ExperimentWriter):
    """Goes on with the file that is there, and never leaves half a one."""

    def __init__(self, log_dir: str) -> None:
        super().__init__(log_dir)
        self.path = Path(self.metrics_file_path)
        self.rows = 0
        if self.path.exists():
            header, rows = self._read()
            self.metrics_keys, self.rows = header, len(rows)

    def _check_log_dir_exists(self) -> None:
        """Lightning's own deletes what is there."""

    def save(self) -> None:
        self.rows += len(self.metrics)
        super().save()

    def keep(self, count: int) -> None:
        """Drop what was logged after the first ``count`` rows: it is about to be done again."""
        if self.path.exists():
            header, rows = self._read()
            self.metrics, self.metrics_keys, self.rows = [], header, min(count, len(rows))
            self._write(header, rows[:count])

    def _rewrite_with_new_header(self, fieldnames: list[str]) -> None:
        self._write(fieldnames, self._read()[1])

    def _read(self) -> tuple[list[str], list[dict[str, str]]]:
        with self.path.open(newline="") as file:
            reader = csv.DictReader(file)
            rows = list(reader)
            # Here, where the file is open: of an empty one the reader looks for a header once more.
            return list(reader.fieldnames or ()), rows

    def _write(self, header: list[str], rows: list[dict[str, str]]) -> None:
        partial = self.path.with_name(f".{self.path.name}.part")
        with partial.open("w", newline="") as file:
            writer = csv.DictWriter(file, header)
            writer.writeheader()
            writer.writerows(rows)
        partial.replace(self.path)


class ContinuedCSVLogger(CSVLogger):
    """``metrics.csv`` of a run, which may have begun in another process.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        super().__init__(folder, name="", version="", flush_logs_every_n_steps=50)

    @property
    def experiment(self) -> Any:
        """The writer, on the first process; elsewhere something that does nothing."""
        if self._experiment is None:
            if getattr(rank_zero_only, "rank", 0) != 0:
                return super().experiment  # which does nothing
            self._experiment = _Writer(self.log_dir)
        return self._experiment
