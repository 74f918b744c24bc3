"""What the machine measures decides the precision of a training on its processor."""

import logging
from pathlib import Path
from typing import Any

import pytest

from segmentation.experiments.plan import made
from segmentation.experiments.plan.budget import Speed
from segmentation.experiments.plan.facts import Machine

CPU = Machine(1, "cpu", "cpu", 16, False)


@pytest.mark.parametrize(
    ("native", "step", "precision"),
    [(True, 0.06, "bf16-mixed"), (True, 0.09, "32-true"), (False, 0.06, "32-true")],
)
def test_bfloat16_is_chosen_where_steps_are_faster(
    native: bool, step: float, precision: str, folder_root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def measure(config: dict[str, Any], **_: Any) -> Speed:
        half = config["trainer"]["precision"] == "bf16-mixed"
        return Speed(step if half else 0.1, 0.01 if half else 0.02, fill=1.0)

    monkeypatch.setattr(made, "measure", measure)
    monkeypatch.setattr(made, "bfloat16_is_fast", lambda: native)
    plan = made.make_plan("folder", ["--data.split.val=2"], 300, folder_root, machine=CPU)
    assert plan.config["trainer"]["precision"] == precision
    assert plan.speed.step == (step if precision == "bf16-mixed" else 0.1)


def test_what_lightning_says_is_heard_again_afterwards(folder_root: Path) -> None:
    log = logging.getLogger("lightning.pytorch")
    before = log.level
    made.make_plan("folder", ["--data.split.val=2"], 300, folder_root, machine=CPU)
    assert log.level == before
