"""The run's own folder: the config and the split that made it."""

from pathlib import Path

from lightning import Callback, LightningModule, Trainer

from segmentation.data.images import write_bytes


class RunFolder(Callback):
    """Writes ``config.yaml`` and ``split.json`` beside the logs and checkpoints of a run.

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
