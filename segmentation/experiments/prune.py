"""U-Net++'s fast mode: the head that validation prefers, and the network pruned to it."""

import copy
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from lightning import Callback, Trainer
from torchmetrics import MeanMetric

from segmentation.checkpoints import read_checkpoint
from segmentation.data.examples import Batch
from segmentation.errors import UserError
from segmentation.metrics import ScoreTable
from segmentation.models import UNetPlusPlus
from segmentation.predict.export import save_for_inference
from segmentation.predictor import Predictor
from segmentation.training.cli import run
from segmentation.trust import class_names


def prune(*options: str, ckpt_path: Path, output: Path, level: int | None = None) -> None:
    """Score every head of a deeply supervised U-Net++ on the validation set, keep the best.

    All other options (--config, --data.…, --trainer.…) are those of validate.

    Args:
        ckpt_path: The trained U-Net++.
        output: Checkpoint of the pruned network, for predict and test.
        level: Keep this head instead of the best.
    """
    run(["validate", "--ckpt_path", str(ckpt_path), *options], [ChooseHead(output, level)])


class ChooseHead(Callback):
    """During a validation: score each pruned network beside the whole one, save the best.

    Zhou et al., "UNet++", 2018, section 3.2: *fast* mode takes the output of one branch, and the
    choice (the highest IoU, or ``level``) decides how far the network is pruned.
    """

    def __init__(self, output: Path, level: int | None = None) -> None:
        self.output, self.level = output, level

    def on_validation_start(self, trainer: Trainer, pl_module: Any) -> None:
        """Prune the network to each of its heads."""
        net = pl_module.net
        if not isinstance(net, UNetPlusPlus) or not net.deep_supervision:
            raise UserError("prune needs a UNetPlusPlus trained with deep_supervision: true")
        if self.level is not None and self.level not in net.levels:
            raise UserError(f"--level {self.level}: the network has the heads {net.levels}")
        self.nets = {str(level): net.pruned(level).eval() for level in net.levels} | {"all": net}
        table = ScoreTable(pl_module.target.threshold, objects=False).to(pl_module.device)
        self.scores = {name: table.clone() for name in self.nets}
        self.seconds = {name: MeanMetric().to(pl_module.device) for name in self.nets}

    def on_validation_batch_end(
        self, trainer: Trainer, pl_module: Any, outputs: Any, batch: Batch, *_: int
    ) -> None:
        """Score and time every network on the same image."""
        for name, net in self.nets.items():
            _wait_for(pl_module.device)
            start = time.perf_counter()
            predictor = Predictor(net, pl_module.preprocess, pl_module.target)
            probs = predictor.probabilities(batch["image"])
            foreground = pl_module.target.foreground(pl_module.as_scored(probs, batch["labels"]))
            _wait_for(pl_module.device)
            self.seconds[name].update(time.perf_counter() - start)
            self.scores[name].update(batch["labels"], probs=foreground)

    def on_validation_end(self, trainer: Trainer, pl_module: Any) -> None:
        """Print the table and save."""
        rows = {name: table.compute() for name, table in self.scores.items()}
        seconds = {name: float(mean.compute()) for name, mean in self.seconds.items()}
        levels = pl_module.net.levels
        best = self.level or max(levels, key=lambda level: rows[str(level)]["iou"])
        if not trainer.is_global_zero:
            return
        print(f"\n{'':18}{'parameters':>12}{'ms/image':>10}{'IoU':>9}{'IoU/image':>11}{'F1':>9}")
        for name, net in self.nets.items():
            title = "all (accurate)" if name == "all" else f"L{name}{' *' * (name == str(best))}"
            iou, each, f1 = (float(rows[name][score]) for score in ("iou", "image_iou", "f1"))
            numbers = f"{sum(p.numel() for p in net.parameters()):12,}{seconds[name] * 1e3:10.1f}"
            print(f"{title:18}{numbers}{iou:9.4f}{each:11.4f}{f1:9.4f}")
        self._save(trainer.ckpt_path, best, class_names(pl_module.config))
        print(f"\nL{best} is kept in {self.output}")

    def _save(self, source: Any, level: int, trust: Iterable[str]) -> None:
        checkpoint = read_checkpoint(Path(source), False, trust)
        about = copy.deepcopy(checkpoint["segmentation"])
        if about.get("config") is None:
            raise UserError(
                f"{source}: was trained without a config; use UNetPlusPlus.pruned in Python"
            )
        about.get("record", {}).pop("scores", None)  # they are of the whole network
        net = about["config"]["init_args"]["net"]["init_args"]
        net.update(depth=level + 1, deep_supervision=False, mode="accurate", head=None)
        state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("net.")}
        weights = self.nets[str(level)].state_dict()
        state |= {f"net.{name}": value for name, value in weights.items()}
        save_for_inference(checkpoint | {"segmentation": about, "state_dict": state}, self.output)


def _wait_for(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
