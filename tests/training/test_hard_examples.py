"""Hard images are drawn more often, and an interrupted training goes on exactly."""

import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from lightning import Callback

from segmentation.__main__ import main
from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError
from segmentation.training.hard_examples import HardExamples
from tests.helpers import arguments

HARD = "--trainer.callbacks+=segmentation.training.hard_examples.HardExamples"
DRAWN: list[list[str]] = []
STOP: list[int] = []  # steps after which to end; not in the config, which must stay the same


class Interrupt(Callback):
    """Notes what is drawn, and ends the process with a signal after some steps."""

    def on_train_batch_end(
        self, trainer: Any, pl_module: Any, outputs: Any, batch: Any, batch_idx: int
    ) -> None:
        DRAWN.append(list(batch["id"]))
        if trainer.global_step in STOP:
            os.kill(os.getpid(), signal.SIGTERM)


def test_factors_follow_the_losses_within_bounds() -> None:
    callback = HardExamples(power=0.5, most=2.0)
    assert callback.factors() == {}
    callback.losses = {"a": 1.0, "b": 0.25, "c": 6.75, "d": 0.0}
    assert callback.factors() == pytest.approx({"a": 0.5**0.5, "b": 0.5, "c": 3.375**0.5, "d": 0.5})


@pytest.mark.parametrize("settings", [{"power": -1.0}, {"most": 0.5}, {"power": float("nan")}])
def test_values_out_of_range(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=r"HardExamples\.(power|most): .* must be at least"):
        HardExamples(**settings)


@pytest.mark.filterwarnings("ignore:You're resuming from a checkpoint that ended before")
def test_what_is_drawn_follows_the_losses_and_goes_on_exactly(
    dsb_root: Path, tmp_path: Path
) -> None:
    def fit(name: str, *stop: int) -> tuple[Any, list[list[str]]]:
        DRAWN.clear()
        STOP[:] = stop
        more = [HARD, "--trainer.callbacks.power=2", f"--trainer.callbacks+={__name__}.Interrupt"]
        more += ["--trainer.max_epochs=3", "--data.batch_size=2", "--run.resume=true"]
        try:
            status: Any = main(arguments("fit", dsb_root, tmp_path / name, *more))
        except SystemExit as interrupted:
            status = interrupted.code
        return status, [*DRAWN]

    status, whole = fit("whole")
    assert status == 0 and len(whole) == 12
    (folder,) = (tmp_path / "whole").glob("*/*")
    (stored,) = (
        state
        for name, state in read_checkpoint(folder / "checkpoints/last.ckpt")["callbacks"].items()
        if "HardExamples" in name
    )
    assert stored["losses"].keys() >= {name for batch in whole[:8] for name in batch}
    status, first = fit("cut", 6)
    assert status == 143
    status, second = fit("cut")
    assert status == 0 and first + second == whole
    weights = []
    for name in ("whole", "cut"):
        (folder,) = (tmp_path / name).glob("*/*")
        weights.append(read_checkpoint(folder / "checkpoints/last.ckpt")["state_dict"])
    assert all(torch.equal(a, weights[1][name]) for name, a in weights[0].items())
