"""The run's own folder: the config and the split that made it, and what it cost."""

import json
import resource
import sys
import time
from pathlib import Path

import torch
from lightning import Callback, LightningModule, Trainer

from segmentation.data.images import write_bytes


class RunFolder(Callback):
    """Writes ``config.yaml``, ``split.json`` and ``resources.json`` beside the logs of a run.

    Args:
        folder: The run's folder, made for this run alone.
        config: The whole config as YAML; ``segmentation fit --config`` repeats the run with it.
    """

    def __init__(self, folder: Path, config: str) -> None:
        self.folder, self.config = folder, config

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        """After the data module has split the data, and before anything is trained."""
        if not trainer.is_global_zero or (self.folder / "config.yaml").exists():
            return
        write_bytes(self.folder / "config.yaml", self.config.encode())
        split = getattr(trainer.datamodule, "split", None)  # type: ignore[attr-defined]
        if split is not None:
            write_bytes(self.folder / "split.json", split.to_json().encode())

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Start the clocks."""
        self._start = time.monotonic(), time.process_time()

    def on_fit_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Wall and processor time of the training (validation included), and peak memory."""
        if not trainer.is_global_zero:
            return
        wall, cpu = self._start
        unit = 1 if sys.platform == "darwin" else 1024  # of ru_maxrss
        used = {
            "fit_seconds": round(time.monotonic() - wall, 1),
            "cpu_seconds": round(time.process_time() - cpu, 1),
            "peak_memory_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit,
            "steps": trainer.global_step,
            "parameters": sum(p.numel() for p in pl_module.parameters()),
            "device": torch.cuda.get_device_name() if pl_module.device.type == "cuda" else "cpu",
            "processes": trainer.world_size,
        }
        if pl_module.device.type == "cuda":
            used["peak_gpu_memory_bytes"] = torch.cuda.max_memory_allocated()
        write_bytes(self.folder / "resources.json", json.dumps(used, indent=1).encode())
