"""Averages of the weights over training: what is validated, kept as the best, and tested."""

from functools import partial
from typing import Any

from lightning import LightningModule, Trainer
from lightning.pytorch.callbacks import WeightAveraging
from lightning.pytorch.trainer.states import TrainerFn
from torch import Tensor

from segmentation.errors import UserError


class AveragedWeights(WeightAveraging):
    """Validate, keep and test the average of the weights instead of the last ones.

    With ``decay`` d an exponential moving average over steps (Polyak & Juditsky 1992), average ►
    d · average + (1 - d) · weights; after n steps d is at most (1 + n) / (10 + n), or a short
    training would end with an average of what it began with. Without, the plain mean of the weights
    after each epoch (Izmailov et al. 2018, arXiv:1803.05407). Checkpoints hold the average where
    ``predict`` and ``test`` look for weights, and the last weights beside it, to go on from.

    Lightning's own callback restores the *last* weights when the best checkpoint is tested at the
    end of ``fit``: the score would be of other weights than ``predict`` uses. This one does not.

    >>> AveragedWeights(decay=0.99).start_epoch
    0

    Args:
        decay: In 0…1, or ``null``.
        start_epoch: Average from this epoch on, counted from 0; until then it is the last weights.
    """

    def __init__(self, decay: float | None = 0.998, start_epoch: int = 0) -> None:
        if decay is not None and not 0 < decay < 1:
            raise UserError(f"AveragedWeights.decay: {decay} is not between 0 and 1")
        if start_epoch < 0:
            raise UserError(f"AveragedWeights.start_epoch: {start_epoch} must not be negative")
        # Batch norm's statistics are averaged like the weights that they belong to.
        super().__init__(use_buffers=True, avg_fn=decay and partial(_moved, decay))
        self.decay, self.start_epoch = decay, start_epoch

    def on_train_batch_end(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        """Update the average, so that the validation which may follow sees it up to date."""
        average, epoch = self._average_model, trainer.current_epoch
        if average is None or trainer.global_step == self._latest_update_step:
            return  # gradients are being accumulated
        copied = epoch < self.start_epoch
        last = trainer.fit_loop.epoch_loop.batch_progress.is_last_batch
        if self.decay is not None or copied or last:
            if copied or (self.decay is None and epoch == self.start_epoch):
                average.n_averaged.zero_()  # nothing averaged so far: the next update copies
            average.update_parameters(pl_module)
            self._latest_update_step = trainer.global_step

    def on_train_epoch_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Nothing: the epoch's last step did it."""

    def on_load_checkpoint(
        self, trainer: Trainer, pl_module: LightningModule, checkpoint: dict[str, Any]
    ) -> None:
        """To go on training, the last weights and their average; to test, the average alone."""
        if trainer.state.fn == TrainerFn.FITTING:
            super().on_load_checkpoint(trainer, pl_module, checkpoint)


def _moved(decay: float, average: Tensor, now: Tensor, steps: Tensor) -> Tensor:
    """The next average, ``steps`` after the first; no value is asked of the device, which waits."""
    d = ((1 + steps) / (10 + steps)).clamp(max=decay)
    return d * average + (1 - d) * now
