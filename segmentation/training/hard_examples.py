"""Images whose loss is high are drawn more often."""

from typing import Any

import torch
import torch.distributed as dist
from lightning import Callback, LightningModule, Trainer
from torch import Tensor

from segmentation.data.samplers import TrainSampler
from segmentation.errors import UserError

_KEPT = 0.5  # of an image's earlier losses, when it is seen again
Losses = list[tuple[list[str], list[float]]]


class HardExamples(Callback):
    """From the second epoch on, images are drawn with probability ∝ (their loss / mean)^``power``.

    It multiplies what ``data.sampling`` says. An image's loss is a moving average over the windows
    that were drawn of it; images that were not seen yet count as the mean. Hard may also mean
    wrongly annotated: look at the worst images of the report first.

    Args:
        power: 0 changes nothing, 1 draws an image of twice the loss twice as often; ≥ 0.
        most: No image is drawn more than so many times as often as the mean, or less often than
            its inverse; ≥ 1.

    >>> callback = HardExamples(power=1.0, most=3.0)
    >>> callback.losses = {"easy": 0.1, "usual": 0.4, "hard": 4.0}
    >>> callback.factors()
    {'easy': 0.3333333333333333, 'usual': 0.3333333333333333, 'hard': 2.6666666666666665}
    """

    def __init__(self, power: float = 1.0, most: float = 4.0) -> None:
        if not power >= 0:
            raise UserError(f"HardExamples.power: {power} must be at least 0")
        if not most >= 1:
            raise UserError(f"HardExamples.most: {most} must be at least 1")
        self.power, self.most = power, most
        self.losses: dict[str, float] = {}  # as of the epoch's start
        self._seen: list[tuple[list[str], Tensor]] = []  # since then, by this process
        self._restored: list[Losses] = []  # the same of each process, from a checkpoint
        self._output: Any = None
        self._hook: Any = None
        self._data: Any = None  # the data module

    def factors(self) -> dict[str, float]:
        """By which each image is drawn more or less often."""
        mean = sum(self.losses.values()) / max(len(self.losses), 1)
        relative = {name: (loss / mean) ** self.power for name, loss in self.losses.items() if mean}
        return {k: min(max(v, 1 / self.most), self.most) for k, v in relative.items()}

    def setup(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._data = trainer.datamodule  # type: ignore[attr-defined]

    def on_fit_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        if len(self._restored) == trainer.world_size:
            self._seen = [(ids, torch.tensor(v)) for ids, v in self._restored[trainer.global_rank]]
        self._hook = pl_module.net.register_forward_hook(self._keep)  # type: ignore[union-attr]

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if self._hook is not None:
            self._hook.remove()
            self._hook = self._output = None

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Take in what all processes saw in the last epoch."""
        for ids, values in (pair for process in _gathered(self._plain()) for pair in process):
            for name, value in zip(ids, values, strict=True):
                self.losses[name] = _KEPT * self.losses.get(name, value) + (1 - _KEPT) * value
        self._seen.clear()
        self._data.drawn_more = self.factors()
        sampler = getattr(trainer.train_dataloader, "sampler", None)
        if isinstance(sampler, TrainSampler):  # not one that Lightning put in its place
            sampler.weights = self._data.drawn()

    @torch.no_grad()
    def on_train_batch_end(
        self, trainer: Trainer, pl_module: LightningModule, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        logits, self._output = self._output, None
        loss: Any = pl_module.batch_loss
        each = [loss(_one(logits, i), _one(batch, i)) for i in range(len(batch["id"]))]
        self._seen.append((list(batch["id"]), torch.stack(each)))

    def state_dict(self) -> dict[str, Any]:
        return {"losses": self.losses, "seen": _gathered(self._plain())}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        self.losses, self._restored = dict(state_dict["losses"]), state_dict["seen"]
        self._data.drawn_more = self.factors()  # before the data are loaded

    def _keep(self, module: Any, inputs: Any, output: Any) -> None:
        if module.training:
            self._output = output

    def _plain(self) -> Losses:
        return [(ids, values.tolist()) for ids, values in self._seen]


def _one(several: Any, i: int) -> Any:
    """What belongs to image ``i`` of a batch, as a batch of one."""
    if isinstance(several, dict):
        return {name: _one(value, i) for name, value in several.items()}
    if isinstance(several, Tensor):
        return several[i : i + 1].detach()
    # Heads of deep supervision are a list of tensors; ids are a list of texts.
    heads = isinstance(several[0], Tensor)
    return [_one(head, i) for head in several] if heads else several[i : i + 1]


def _gathered(mine: Losses) -> list[Losses]:
    """The same of all processes."""
    if not (dist.is_available() and dist.is_initialized()):
        return [mine]
    every: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(every, mine)
    return every
