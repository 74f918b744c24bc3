"""Progress of training and scoring in a log, where a bar would be drawn once, at the end."""

import math
from typing import Any

from lightning import Callback, Trainer

from segmentation.progress import progress


class LogProgress(Callback):
    """Says now and then on stderr how far a training, validation or test is."""

    def on_train_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(trainer, "training", trainer.estimated_stepping_batches, trainer.global_step)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        self.bar.update(trainer.global_step - self.bar.n)

    def on_validation_start(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate":
            self._begin(trainer, "validating", sum(trainer.num_val_batches))

    def on_validation_batch_end(self, trainer: Trainer, *_: Any) -> None:
        if trainer.state.fn == "validate":
            self.bar.update()

    def on_test_start(self, trainer: Trainer, *_: Any) -> None:
        self._begin(trainer, "testing", sum(trainer.num_test_batches))

    def on_test_batch_end(self, *_: Any) -> None:
        self.bar.update()

    def _begin(self, trainer: Trainer, title: str, total: float, done: int = 0) -> None:
        quiet, end = not trainer.is_global_zero, total if math.isfinite(total) else None
        self.bar = progress(None, title, end, initial=done, disable=quiet)
