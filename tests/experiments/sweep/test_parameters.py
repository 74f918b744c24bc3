"""W&B's distributions that are drawn from here, against scipy's."""

from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from scipy import stats

from segmentation.experiments.sweep.file import DISTRIBUTIONS, Parameter

LOG = stats.loguniform(1e-3, 10)


def drawn(parameter: Parameter, count: int = 400) -> list[Any]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(count)]


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ({"distribution": "uniform", "min": -2, "max": 3}, stats.uniform(-2, 5)),
        ({"min": 0.5, "max": 1.5}, stats.uniform(0.5, 1)),
        ({"distribution": "log_uniform_values", "min": 0.001, "max": 10}, LOG),
    ],
    ids=lambda value: str(value)[:60] if isinstance(value, dict) else "scipy",
)
def test_continuous_draws_follow_scipys_distribution(
    content: dict[str, Any], expected: Any
) -> None:
    assert stats.kstest(drawn(Parameter(name="x", **content)), expected.cdf).pvalue > 0.01


@pytest.mark.parametrize("kind", [kind for kind in DISTRIBUTIONS if kind.startswith("q_")])
def test_quantized_draws_are_rounded_ones(kind: str) -> None:
    q, content = 4, {"min": 1, "max": 4.6}
    values = drawn(Parameter(name="x", distribution=kind, q=q, **content), 50)
    smooth = drawn(Parameter(name="x", distribution=kind[2:], **content), 50)  # the same quantiles
    assert np.allclose(values, np.round(np.array(smooth) / q) * q)
    assert all(isinstance(value, type(q)) for value in values)


def test_lists_keep_types() -> None:
    listed = [1, 1.5, True, "1", None, [1, 2], "None"]
    assert {repr(v) for v in drawn(Parameter(name="x", values=listed), 60)} == {*map(repr, listed)}


def test_grids() -> None:
    quantized = {"distribution": "q_uniform", "min": 0.1, "max": 0.5, "q": 0.1}
    assert Parameter(name="x", **quantized).values_of_grid() == [0.1, 0.2, 0.3, 0.4]
    assert Parameter(name="x", value=None).values_of_grid() == [None]
    assert Parameter(name="x", min=0.0, max=1.0).values_of_grid() is None
    whole = Parameter(name="x", min=3, max=6)
    assert {*drawn(whole, 60)} == {3, 4, 5, 6} == {*(whole.values_of_grid() or ())}


@pytest.mark.parametrize(
    ("content", "line"),
    [
        ({"values": []}, "is empty"),
        ({"values": [1, 2, 1]}, "lists 1 twice"),
        ({"min": 1, "max": 2.5}, "both whole numbers or both decimals"),
        ({"distribution": "beta", "a": 1, "b": 2}, "'beta' cannot be drawn from here"),
        ({"distribution": "uniform", "min": 1}, "uniform has min and max"),
        ({"distribution": "uniform", "min": "1e-5", "max": 1}, "must be a number"),
        ({"distribution": "uniform", "min": 2, "max": 1}, "min 2 is above max 1"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "no logarithm"),
        ({"distribution": "q_uniform", "min": 0, "max": 1, "q": 0}, "greater than 0"),
        ({"parameters": {"lr": {"value": 1}}}, "flat dotted names such as x.lr"),
        ({}, "cannot be drawn from here"),
    ],
    ids=str,
)
def test_refused(content: Any, line: str) -> None:
    with pytest.raises(ValueError) as caught:
        Parameter(name="x", **content)
    assert line in str(caught.value)
