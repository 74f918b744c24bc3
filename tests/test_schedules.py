"""The shape over a run is the formula's, also in a run that was resumed or made longer."""

import math

import pytest
import torch
from torch.optim import SGD

from segmentation.errors import UserError
from segmentation.schedules import WarmupCosine


def optimizer(*rates: float) -> SGD:
    groups = [{"params": [torch.zeros(1, requires_grad=True)], "lr": rate} for rate in rates]
    return SGD(groups, lr=1.0)


def run(scheduler: WarmupCosine, steps: int) -> list[list[float]]:
    """The rates of every step, and those after the last."""
    rates = [scheduler.get_last_lr()]
    for _ in range(steps):
        scheduler.optimizer.step()
        scheduler.step()
        rates.append(scheduler.get_last_lr())
    return [[float(rate) for rate in step] for step in rates]


def first_group(rates: list[list[float]]) -> list[float]:
    return [step[0] for step in rates]


def formula(step: int, steps: int, warmup: float, start: float, final: float) -> float:
    progress = step / steps
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    fall = (progress - warmup) / (1 - warmup)
    return final + (1 - final) * 0.5 * (1 + math.cos(math.pi * fall))


@pytest.mark.parametrize(
    ("warmup", "start", "final"), [(0.1, 0.04, 0.0), (0.3, 0.0, 0.1), (0.0, 0.5, 0.0), (0.5, 1, 1)]
)
def test_closed_form(warmup: float, start: float, final: float) -> None:
    scheduler = WarmupCosine(optimizer(0.2, 0.01), warmup, start, final)
    scheduler.total_steps = 40
    for step, rates in enumerate(run(scheduler, 40)):
        factor = formula(step, 40, warmup, start, final)
        assert rates == pytest.approx([0.2 * factor, 0.01 * factor], abs=1e-12)


def test_landmarks() -> None:
    scheduler = WarmupCosine(optimizer(1.0))
    scheduler.total_steps = 100
    rates = first_group(run(scheduler, 120))
    assert rates[0] == pytest.approx(0.04) and rates[10] == pytest.approx(1.0) == max(rates)
    assert rates[55] == pytest.approx(0.5)
    assert rates[100:] == pytest.approx([0.0] * 21)  # and no further


def test_warmup_alone() -> None:
    scheduler = WarmupCosine(optimizer(1.0), warmup=1.0)
    scheduler.total_steps = 10
    assert run(scheduler, 10)[-1] == pytest.approx([1.0])


def test_state_goes_on_where_it_stopped() -> None:
    whole = WarmupCosine(optimizer(0.1))
    whole.total_steps = 20
    wanted = first_group(run(whole, 20))
    first = WarmupCosine(optimizer(0.1))
    first.total_steps = 20
    run(first, 8)
    state = first.state_dict()
    assert "total_steps" not in state
    second = WarmupCosine(optimizer(0.1))
    second.total_steps = 20
    second.load_state_dict(state)
    assert first_group(run(second, 12)) == pytest.approx(wanted[8:])
    longer = WarmupCosine(optimizer(0.1))
    longer.total_steps = 40  # a resumed run may be longer than it was
    longer.load_state_dict(state)
    assert longer.total_steps == 40
    assert run(longer, 1)[-1] == pytest.approx([0.1 * formula(9, 40, 0.1, 0.04, 0.0)])


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"warmup": -0.1}, "warmup: -0.1 is not a share"),
        ({"warmup": 5.0}, "warmup: 5.0 is not a share"),
        ({"start": -1.0}, "start: -1.0 must not be negative"),
        ({"final": float("nan")}, "final"),
    ],
)
def test_bad_settings(settings: dict[str, float], says: str) -> None:
    with pytest.raises(UserError, match=f"^lr_scheduler\\.{says}"):
        WarmupCosine(optimizer(0.1), **settings)
