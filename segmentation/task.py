"""The one LightningModule: network, loss, target, preprocessing and optimiser, all injected."""

import inspect
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from lightning import Callback, LightningModule
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau
from torchmetrics import MeanMetric

from segmentation import __version__
from segmentation.data.diameters import MOST, TrainingDiameters
from segmentation.data.examples import Batch
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import thinned
from segmentation.data.seen import Division, trained_on
from segmentation.errors import UserError
from segmentation.fitting import check_fit
from segmentation.losses import as_number
from segmentation.losses.annotated import annotated_weight, as_background
from segmentation.metrics import ScoreTable
from segmentation.predictor import Prediction, Predictor
from segmentation.schedules import PerStep
from segmentation.targets import Target

OptimizerFactory = Callable[[Any], Optimizer]
SchedulerFactory = Callable[[Optimizer], LRScheduler | ReduceLROnPlateau]


@dataclass(frozen=True)
class Schedule:
    """When the learning-rate scheduler steps.

    Attributes:
        interval: After each epoch or optimizer step; this package's shapes over steps, each step.
        frequency: Every so many of them.
        monitor: The logged value that ``ReduceLROnPlateau`` looks at.
    """

    interval: Literal["epoch", "step"] = "epoch"
    frequency: int = 1
    monitor: str = "val/loss"


class Evaluated(TypedDict):
    """What an evaluation step gives to callbacks, at the size that is scored."""

    probs: Tensor  # (B, K, H, W) float32, as the target decodes them
    foreground: Tensor  # (B, H, W) float32 probabilities
    instances: Tensor  # (B, H, W) int32 ids of the predicted objects, on the CPU
    classes: list[np.ndarray | None]  # (n + 1,) class of each, where classes are told apart
    scale: float  # by which the image was magnified for the network


class SegmentationTask(LightningModule):
    """Train and evaluate any network that maps images to logits of the same height and width.

    Args:
        net: (B, in_channels, H, W) float32 ► logits (B, classes, H, W), or in training a list of
            such logits (deep supervision). Any segmentation-models-pytorch model fits.
        loss: (logits, target) ► scalar, and (logits, target, weight) where pixels are weighted.
        target: How labels are encoded and output is decoded.
        preprocess: What is done to every image; stored in the checkpoint.
        optimizer: Parameters ► optimizer.
        lr_scheduler: Optimizer ► scheduler; ``null`` keeps the learning rate.
        schedule: When the scheduler steps.
        channels_last: Keep tensors channels-last: faster on a CPU, and for tensor cores.
        compile: Compile the network with ``torch.compile``.
        tta: Test and predict (not validate) with the mean over an image's eight symmetries.

    Raises:
        UserError: Network, target and preprocessing do not fit together.
    """

    def __init__(
        self,
        net: nn.Module,
        loss: nn.Module,
        target: Target,
        preprocess: Preprocess,
        optimizer: OptimizerFactory,
        lr_scheduler: SchedulerFactory | None = None,
        schedule: Schedule = Schedule(),
        channels_last: bool = True,
        compile: bool = False,
        tta: bool = False,
    ) -> None:
        super().__init__()
        check_fit(net, target, preprocess)
        self.net = net.to(memory_format=torch.channels_last) if channels_last else net
        self.loss, self.target, self.preprocess = loss, target, preprocess
        self.optimizer, self.lr_scheduler, self.schedule = optimizer, lr_scheduler, schedule
        self.compile_net = compile
        # No module of its own: the network is registered once.
        self.predictor = Predictor(self.net, preprocess, target, tta, channels_last)
        self.config: dict[str, Any] | None = None  # how to build this task again: plain values
        one_head = getattr(loss, "loss", loss)  # DeepSupervision hands weights on
        one_head = getattr(one_head, "objects", one_head)  # as ObjectsAndClasses does
        self._weighs = "weight" in inspect.signature(one_head.forward).parameters
        self._sums = getattr(one_head, "sums", False)
        names = target.class_names
        self.val_table = ScoreTable(target.threshold, class_names=names)
        self.test_table = ScoreTable(target.threshold, boundary=True, class_names=names)
        self.val_loss, self.test_loss = MeanMetric(), MeanMetric()
        self.trained_on: dict[str, str] = {}  # what images the loaded weights have seen ► ids
        self.chosen_on: dict[str, str] = {}  # what images chose their epoch ► ids
        self.record: dict[str, Any] = {}  # how the training began: plain values
        self.data_split: Division | None = None
        self.shown_as: dict[str, int] = {}  # of training images, where it is decided for each
        self.members: list[SegmentationTask] = []  # no submodules: not in the state dict
        self._unchecked: tuple[Tensor, str] | None = None

    def setup(self, stage: str) -> None:
        if self.compile_net and stage != "predict":  # each size of image would be compiled
            self.net.compile()  # in place: the names in the state dict stay as they are

    def forward(self, image: Tensor) -> Tensor:
        """Prepared images, uint8 (B, C, H, W) of any size ► float32 probabilities (B, K, H, W)."""
        return self.predictor.probabilities(image)

    @property
    def lr(self) -> float:
        """The learning rate, which Lightning's LearningRateFinder reads and sets."""
        return float(self.trainer.optimizers[0].param_groups[0]["lr"])

    @lr.setter
    def lr(self, value: float) -> None:
        for optimizer in self.trainer.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = group["initial_lr"] = value
        for config in self.trainer.lr_scheduler_configs:  # or it would go back to the first one
            if hasattr(config.scheduler, "base_lrs"):
                config.scheduler.base_lrs = [value] * len(config.scheduler.base_lrs)

    @property
    def backbone(self) -> nn.Module:
        """The network's encoder, which Lightning's BackboneFinetuning freezes at first."""
        return self.net.get_submodule("encoder")

    def add_member(self, task: "SegmentationTask", name: str) -> None:
        """Average every answer but the loss with another task's, that prepares images alike."""
        for setting in self.preprocess.differences(task.preprocess):
            raise UserError(
                f"{name}: its preprocess.{setting} is {getattr(task.preprocess, setting)}, the "
                f"first's {getattr(self.preprocess, setting)}; an ensemble is tested on the same "
                "images"
            )
        self.predictor.add_member(task.predictor, name)
        self.members.append(task)

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        self._check_loss()
        image = batch["image"]
        height, width = image.shape[-2:]
        # A network that is trained on tiles of an image has another stride then.
        stride = getattr(self.net, "train_stride", self.predictor.stride)
        least = self.predictor.least // self.predictor.stride * stride
        if height % stride or width % stride or min(height, width) < least:
            up, across = (max(-(-side // stride) * stride, least) for side in (height, width))
            more = f" from {least} on" if least > stride else ""
            raise UserError(
                f"the network takes training windows whose sides are multiples of {stride}{more}, "
                f"not {height}×{width}; set data.crop to {up}×{across}, say"
            )
        loss = self.batch_loss(self.net(self.predictor.normalized(image)), batch)
        where = f"epoch {self.current_epoch}, batch {batch_idx} ({', '.join(batch['id'])})"
        self._unchecked = (loss.detach(), where)
        size = len(image)
        self.log("train/loss", loss, on_step=True, on_epoch=True, prog_bar=True, batch_size=size)
        return loss

    def configure_callbacks(self) -> list[Callback]:
        return [SplitRecord()]

    def on_train_start(self) -> None:
        self._check_leak("test")
        if self.data_split is not None and (leak := self.data_split.leak("val", self.trained_on)):
            rank_zero_warn(f"{leak}: their scores will be too good")

    def on_validation_start(self) -> None:
        if self.trainer.state.fn == TrainerFn.VALIDATING:  # not within a training
            self._check_leak("val")

    def on_test_start(self) -> None:
        self._check_leak("test")
        self.predictor.to(self.device)

    def on_predict_start(self) -> None:
        self.predictor.to(self.device)

    def on_train_epoch_end(self) -> None:
        self._check_loss()

    def validation_step(self, batch: Batch, batch_idx: int) -> Evaluated:
        return self._evaluate(batch, self.val_table, self.val_loss)

    def test_step(self, batch: Batch, batch_idx: int) -> Evaluated:
        return self._evaluate(batch, self.test_table, self.test_loss, self.predictor.tta)

    def predict_step(
        self, batch: Iterable[np.ndarray], batch_idx: int
    ) -> list[Prediction] | UserError:
        """Find the objects of images as read, (H, W, C) uint8 or uint16 each.

        The batch may have ``channels`` and ``pixel_size``, as :meth:`Predictor.maps` takes them.

        An image at fault gives its error, so that the next ones are done all the same.
        """
        try:
            about = getattr(batch, "channels", ()), getattr(batch, "pixel_size", None)
            return [self.predictor.find(image, *about) for image in batch]
        except UserError as error:
            return error

    def on_validation_epoch_end(self) -> None:
        self._log_scores("val", self.val_table, self.val_loss)

    def on_test_epoch_end(self) -> None:
        self._log_scores("test", self.test_table, self.test_loss)

    def configure_optimizers(self) -> Any:
        # A part that BackboneFinetuning has frozen comes to the optimizer when it is unfrozen.
        optimizer = self.optimizer([p for p in self.net.parameters() if p.requires_grad])
        if self.lr_scheduler is None:
            return optimizer
        scheduler = self.lr_scheduler(optimizer)
        # Where nothing was validated yet, a plateau waits.
        about = {"scheduler": scheduler, "strict": False, **asdict(self.schedule)}
        if isinstance(scheduler, PerStep):
            scheduler.total_steps = int(self.trainer.estimated_stepping_batches)
            about["interval"] = "step"
        return {"optimizer": optimizer, "lr_scheduler": about}

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Add what rebuilds the task, and which images it was trained on; plain values only."""
        split, known = self.data_split, self.predictor.training_diameters
        chosen_on = self.chosen_on | (split.keys("val") if split else {})
        checkpoint["segmentation"] = {
            "version": __version__,
            "config": self.config,
            "preprocess": self.preprocess.plain(),
            "trained_on": self.trained_on | (split.keys("train") if split else {}),
            **({"chosen_on": chosen_on} if chosen_on else {}),
            **({"record": self.record | split.about()} if self.record and split else {}),
            **({} if self.predictor.diameter is None else {"diameter": self.predictor.diameter}),
            **({} if known is None else {"training_diameters": known.plain()}),
            **({"shown": self.shown_as} if self.shown_as else {}),
        }

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        """Refuse weights that were trained with another preprocessing than this task's."""
        stored = checkpoint.get("segmentation")
        if stored is None:
            raise UserError("the checkpoint was not written by this package; train one with fit")
        theirs = Preprocess(**stored["preprocess"])
        for name in self.preprocess.differences(theirs):
            raise UserError(
                f"model.preprocess.{name} is {getattr(self.preprocess, name)} but the checkpoint "
                f"was trained with {getattr(theirs, name)}; leave it as trained"
            )
        self.trained_on = trained_on(stored)
        self.chosen_on = trained_on(stored, "chosen_on")

    def _evaluate(
        self, batch: Batch, table: ScoreTable, mean_loss: MeanMetric, tta: bool = False
    ) -> Evaluated:
        image = batch["image"]
        logits = self.predictor.logits(image)
        probs = self.predictor.probabilities(image, tta, logits)
        if torch.isnan(probs).any():  # an epoch's last step may have ruined the network
            early = self.trainer.sanity_checking
            why = "before it is trained" if early else "its training diverged"
            do = "look at model.net and its weights" if early else "lower model.optimizer.lr"
            raise UserError(
                f"the network answers NaN to {', '.join(batch['id'])}: {why}; {do}, or use "
                "--trainer.precision 32-true"
            )
        known = batch["annotated"].flatten(1).any(1).sum() if "annotated" in batch else len(logits)
        mean_loss.update(self.batch_loss(logits, batch), weight=known)
        probs = self.as_scored(probs, batch["labels"])
        foreground = self.target.foreground(probs)
        width = (self.preprocess.crop or probs.shape[-2:])[1]
        scale = image.shape[-1] / width if self.preprocess.rescales else 1.0
        instances, kinds = self.target.decode_batch(probs, scale)
        about = (batch["id"], batch.get("kind", ()), batch.get("group", ()))
        of_classes = (batch["classes"], kinds) if self.target.class_names else ()
        table.update(batch["labels"], instances, foreground, *about, *of_classes)
        return {
            "probs": probs,
            "foreground": foreground,
            "instances": instances,
            "classes": kinds,
            "scale": scale,
        }

    def as_scored(self, probs: Tensor, labels: Tensor) -> Tensor:
        """(B, K, H', W') probabilities at the size that is scored."""
        size = (labels.shape[-2], labels.shape[-1])
        if probs.shape[-2:] == size:  # scored as the network saw it
            return probs
        return self.preprocess.restore(probs, size)

    def batch_loss(self, logits: Any, batch: Batch) -> Tensor:
        """The loss of a network's answer to a batch; of pixels that are annotated alone."""
        # In float32 whoever wrote the loss: others' overflow in half precision.
        logits = logits.float() if isinstance(logits, Tensor) else [head.float() for head in logits]
        weights: tuple[Tensor, ...] = (batch["weight"],) if "weight" in batch else ()
        if weights and not self._weighs:
            raise UserError(
                f"data.weight: {type(self.loss).__name__} takes no weights of pixels; unset it or "
                "choose a loss with a third argument, weight"
            )
        if "annotated" in batch:
            logits = as_background(logits, ~batch["annotated"], self.target.background)
            if self._weighs:
                about = batch["annotated"], *(weights or (None,)), self._sums
                weights = (annotated_weight(*about),)
        with torch.autocast(self.device.type, enabled=False):
            head = logits if isinstance(logits, Tensor) else logits[0]
            loss: Tensor = self.loss(logits, as_number(batch["target"], head), *weights)
        return loss

    def _log_scores(self, stage: str, table: ScoreTable, mean_loss: MeanMetric) -> None:
        # Computed here rather than by self.log, on every process alike: rows are gathered as they
        # are, so uneven shares count as they should.
        scores = {f"{stage}/{name}": score.float() for name, score in table.compute().items()}
        scores[f"{stage}/loss"] = mean_loss.compute().float()
        table.reset()
        mean_loss.reset()
        shown = f"{stage}/iou"
        self.log(shown, scores.pop(shown), prog_bar=True)
        self.log_dict(scores)

    @property
    def seen(self) -> dict[str, str]:
        """What images the weights, its members' too, were trained on before ► ids."""
        tasks = (self, *self.members)
        return {key: image for task in tasks for key, image in task.trained_on.items()}

    def _check_leak(self, part: str) -> None:
        """Refuse to score what the weights were trained on, through another seed, list or name."""
        if self.data_split is None:
            return
        if leak := self.data_split.leak(part, self.seen):
            raise UserError(f"{leak}; use the split of its run (split.json)")
        tasks = (self, *self.members)
        chose = {key: image for task in tasks for key, image in task.chosen_on.items()}
        if part == "test" and (leak := self.data_split.leak(part, chose, "chose the epoch of")):
            rank_zero_warn(f"{leak}: their scores will be a little too good")
        if named := sum("/" in key for key in self.seen):
            rank_zero_warn(
                f"the checkpoint knows {named} of its training images by their names alone (older "
                f"ones do): under other names they would be among the {part} images unnoticed"
            )

    def _check_loss(self) -> None:
        """Stop at a loss that is not finite: looked at one step late, when it costs no waiting."""
        if (unchecked := self._unchecked) is not None:
            (loss, where), self._unchecked = unchecked, None
            if not torch.isfinite(loss):
                if self.trainer.global_step <= 1:  # before anything could diverge
                    raise UserError(
                        f"the loss of the first batch is {loss.item()}, before anything was "
                        f"learned ({where}); look at these images and at model.loss, or use "
                        "--trainer.precision 32-true"
                    )
                raise UserError(
                    f"the training loss became {loss.item()} in {where}; lower "
                    "model.optimizer.lr, look at these images, or use --trainer.precision 32-true"
                )


class SplitRecord(Callback):
    """Tells the task which images it is trained and tested on, for the record in its checkpoint."""

    def setup(self, trainer: Any, pl_module: LightningModule, stage: str) -> None:
        split = getattr(data := trainer.datamodule, "split", None)
        known = split and Division(data.source.name, split, getattr(data, "digests", {}))
        pl_module.data_split = known  # type: ignore[assignment]
        if stage == "fit" and (part := getattr(data, "parts", {}).get("train")):
            diameters = TrainingDiameters.of(part[i] for i in thinned(range(len(part)), MOST))
            pl_module.predictor.training_diameters = diameters  # type: ignore[union-attr]
            if pl_module.preprocess.decided:  # type: ignore[union-attr]
                ways = Counter(entry.channels[0] for entry in part.entries)
                pl_module.shown_as = dict(ways)  # type: ignore[assignment]
        if pl_module.preprocess.diameter is not None and stage == "fit":  # type: ignore[union-attr]
            pl_module.predictor.diameter = getattr(data, "diameter", None)  # type: ignore[union-attr]
