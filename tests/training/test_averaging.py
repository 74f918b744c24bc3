"""Averages of weights, against the same averages by hand."""

from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback, Trainer
from lightning.pytorch.callbacks import ModelCheckpoint
from torch import Tensor

from segmentation.errors import UserError
from segmentation.training.averaging import AveragedWeights
from tests import tiny

BATCHES = [tiny.batch(seed=seed) for seed in range(3)]


class Watch(Callback):
    """The weight after each step, and the one that each validation and test saw."""

    def __init__(self) -> None:
        self.steps: list[Tensor] = []
        self.seen: list[Tensor] = []

    def on_train_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        self.steps.append(weight(pl_module))

    def on_validation_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        self.seen.append(weight(pl_module))

    def on_test_batch_end(self, trainer: Trainer, pl_module: Any, *rest: Any) -> None:
        self.seen.append(weight(pl_module))


def weight(task: Any) -> Tensor:
    value: Tensor = task.net.body.weight.detach().clone()
    return value


def fitted(
    averaged: AveragedWeights, tmp_path: Path, epochs: int = 3, start: Path | None = None
) -> tuple[Any, Watch, Any]:
    watch, task = Watch(), tiny.task()
    callbacks = [averaged, watch, ModelCheckpoint(tmp_path, "last", monitor=None)]
    quiet = dict.fromkeys(("logger", "enable_progress_bar", "enable_model_summary"), False)
    more: dict[str, Any] = {"accelerator": "cpu", "num_sanity_val_steps": 0, **quiet}
    trainer = Trainer(max_epochs=epochs, callbacks=callbacks, **more)
    loaders = tiny.loader(*BATCHES), tiny.loader(BATCHES[0])
    trainer.fit(task, *loaders, ckpt_path=start)
    return task, watch, trainer


def test_exponential_average_is_what_it_says_and_what_is_seen(tmp_path: Path) -> None:
    _, watch, _ = fitted(AveragedWeights(decay=0.3), tmp_path)
    average, expected = watch.steps[0], [watch.steps[0]]
    for n, now in enumerate(watch.steps[1:], start=1):
        decay = min(0.3, (1 + n) / (10 + n))  # the limit holds for the first two: 2/11 and 3/12
        average = decay * average + (1 - decay) * now
        expected.append(average)
    assert len(watch.seen) == 3
    for epoch, seen in enumerate(watch.seen):
        torch.testing.assert_close(seen, expected[3 * epoch + 2])
    assert not torch.equal(watch.seen[-1], watch.steps[-1])


def test_plain_mean_over_epochs_begins_where_it_is_told(tmp_path: Path) -> None:
    _, watch, _ = fitted(AveragedWeights(decay=None, start_epoch=1), tmp_path, epochs=4)
    ends = watch.steps[2::3]
    wanted = [ends[0], ends[1], (ends[1] + ends[2]) / 2, (ends[1] + ends[2] + ends[3]) / 3]
    for seen, expected in zip(watch.seen, wanted, strict=True):
        torch.testing.assert_close(seen, expected)


@pytest.mark.filterwarnings("ignore:The dirpath has changed")
def test_the_checkpoint_is_tested_with_its_average_and_resumed_with_both(tmp_path: Path) -> None:
    task, watch, trainer = fitted(AveragedWeights(decay=0.9), tmp_path)
    average, last = watch.seen[-1], watch.steps[-1]
    stored = torch.load(tmp_path / "last.ckpt", weights_only=True)
    torch.testing.assert_close(stored["state_dict"]["net.body.weight"], average)
    torch.testing.assert_close(stored["current_model_state"]["net.body.weight"], last)

    trainer.test(task, tiny.loader(BATCHES[0]), ckpt_path=tmp_path / "last.ckpt", verbose=False)
    torch.testing.assert_close(watch.seen[-1], average)  # Lightning's own would show the last

    whole = fitted(AveragedWeights(decay=0.9), tmp_path / "whole", 5)[1]
    start = tmp_path / "last.ckpt"
    again = fitted(AveragedWeights(decay=0.9), tmp_path / "resumed", 5, start)[1]
    assert len(again.steps) == 6
    torch.testing.assert_close(again.steps[-1], whole.steps[-1])
    torch.testing.assert_close(again.seen[-1], whole.seen[-1])


def test_accumulated_gradients_count_as_one_step(tmp_path: Path) -> None:
    watch, task = Watch(), tiny.task()
    trainer = tiny.trainer(callbacks=[AveragedWeights(decay=0.5), watch], accumulate_grad_batches=2)
    trainer.fit(task, tiny.loader(*BATCHES, BATCHES[0]), tiny.loader(BATCHES[0]))
    first, second = watch.steps[1], watch.steps[3]
    torch.testing.assert_close(weight(task), 2 / 11 * first + 9 / 11 * second)


@pytest.mark.parametrize("settings", [{"decay": 1.0}, {"decay": 0.0}, {"start_epoch": -1}])
def test_values_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"AveragedWeights\.(decay|start_epoch): "):
        AveragedWeights(**settings)
