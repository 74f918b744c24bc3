import math
from collections.abc import Callable
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.samplers import RandomSampler
from scipy import stats

from segmentation.errors import UserError
from segmentation.experiments.sweep.parameters import DISTRIBUTIONS, Parameter, read_parameter


def drawn(parameter: Parameter, count: int = 400) -> list[Any]:
    study = optuna.create_study(sampler=RandomSampler(seed=0))
    return [parameter.suggest(study.ask()) for _ in range(count)]


LOG = stats.loguniform(1e-3, 10)
CONTINUOUS: list[tuple[dict[str, Any], Callable[[Any], Any]]] = [
    ({"distribution": "uniform", "min": -2, "max": 3}, stats.uniform(-2, 5).cdf),
    ({"min": 0.5, "max": 1.5}, stats.uniform(0.5, 1).cdf),
    ({"distribution": "log_uniform_values", "min": 0.001, "max": 10}, LOG.cdf),
    ({"distribution": "inv_log_uniform_values", "min": 0.001, "max": 10}, LOG.cdf),
    (
        {"distribution": "log_uniform", "min": math.log(1e-3), "max": math.log(10)},
        LOG.cdf,
    ),
    (
        {"distribution": "inv_log_uniform", "min": -math.log(10), "max": -math.log(1e-3)},
        LOG.cdf,
    ),
    ({"distribution": "normal", "mu": 2, "sigma": 3}, stats.norm(2, 3).cdf),
    ({"distribution": "normal"}, stats.norm.cdf),
    ({"distribution": "log_normal", "mu": 1, "sigma": 0.5}, stats.lognorm(0.5, scale=math.e).cdf),
    ({"distribution": "beta", "a": 2, "b": 5}, stats.beta(2, 5).cdf),
]


@pytest.mark.parametrize(("content", "cdf"), CONTINUOUS, ids=[str(c) for c, _ in CONTINUOUS])
def test_continuous_draws_follow_scipys_distribution(
    content: dict[str, Any], cdf: Callable[[Any], Any]
) -> None:
    values = drawn(read_parameter("f", "x", content))
    assert stats.kstest(values, cdf).pvalue > 0.01


@pytest.mark.parametrize(
    "content",
    [
        {"distribution": "q_uniform", "min": 0, "max": 10, "q": 4},
        {"distribution": "q_log_uniform_values", "min": 1, "max": 100, "q": 4},
        {"distribution": "q_log_uniform", "min": 0, "max": 4.6, "q": 4},
        {"distribution": "q_normal", "sigma": 10, "q": 4},
        {"distribution": "q_log_normal", "mu": 3, "q": 4},
        {"distribution": "q_beta", "q": 0.25},
    ],
    ids=lambda content: content["distribution"],
)
def test_quantized_draws_are_rounded_ones(content: dict[str, Any]) -> None:
    plain = {key: value for key, value in content.items() if key != "q"}
    plain["distribution"] = content["distribution"].removeprefix("q_")
    q = content["q"]
    values = drawn(read_parameter("f", "x", content), 50)
    smooth = np.array(drawn(read_parameter("f", "x", plain), 50))  # the same random numbers
    assert np.allclose(values, np.round(smooth / q) * q)
    assert all(isinstance(value, type(q)) for value in values)


def test_probabilities() -> None:
    content = {"values": ["a", None, 3], "probabilities": [0.7, 0.2, 0.1]}
    values = drawn(read_parameter("f", "x", content))
    counts = [values.count("a"), values.count(None), values.count(3)]
    assert stats.chisquare(counts, [280, 80, 40]).pvalue > 0.01


def test_values_keep_their_types() -> None:
    values = [1, 1.5, True, "1", None, [1, 2], "None"]
    parameter = read_parameter("f", "x", {"values": values})
    found = drawn(parameter, 60)
    assert {repr(v) for v in found} == {repr(v) for v in values}


def test_whole_numbers_include_both_ends() -> None:
    parameter = read_parameter("f", "x", {"min": 3, "max": 6})
    assert set(drawn(parameter, 60)) == {3, 4, 5, 6} == set(parameter.values() or ())


def test_grids() -> None:
    quantized = {"distribution": "q_uniform", "min": 0.1, "max": 0.5, "q": 0.1}
    assert read_parameter("f", "x", quantized).values() == [0.1, 0.2, 0.3, 0.4]
    assert read_parameter("f", "x", {"value": None}).values() == [None]
    assert read_parameter("f", "x", {"min": 0.0, "max": 1.0}).values() is None


@pytest.mark.parametrize("kind", DISTRIBUTIONS)
def test_every_distribution_has_examples_that_it_can_draw(kind: str) -> None:
    settings = {
        "value": 1, "values": [1, 2], "probabilities": [0.5, 0.5], "min": 1, "max": 2,
    }  # fmt: skip
    content = {k: settings[k] for k, v in DISTRIBUTIONS[kind].items() if k in settings}
    parameter = read_parameter("f", "x", {"distribution": kind, **content})
    assert parameter.kind == kind
    low, *_, high = sorted([*parameter.examples(), *parameter.examples()])
    assert all(low - 1e-9 <= value <= high + 1e-9 for value in drawn(parameter, 20))


@pytest.mark.parametrize(
    ("content", "line"),
    [
        (3, "must be a mapping"),
        ({"values": []}, "is empty"),
        ({"values": [1, 2, 1]}, "lists 1 twice"),
        ({"min": 1, "max": 2.5}, "both whole numbers or both decimals"),
        ({"distribution": "gamma", "min": 1, "max": 2}, "'gamma' is none of W&B's"),
        ({"distribution": "uniform", "min": 1}, "max: must be a number"),
        ({"distribution": "uniform", "min": "1e-5", "max": 1}, "YAML wants 1.0e-5"),
        ({"distribution": "uniform", "min": 2, "max": 1}, "min 2 is above max 1"),
        ({"distribution": "log_uniform_values", "min": 0, "max": 1}, "no logarithm"),
        ({"distribution": "normal", "min": 0}, "normal has mu, sigma alone"),
        ({"distribution": "q_normal", "q": 0}, "must be above 0"),
        ({"values": [1, 2], "probabilities": [0.5, 0.4]}, "1 in sum"),
        ({"parameters": {"lr": {"value": 1}}}, "flat dotted names such as x.lr"),
        ({}, "names no distribution"),
    ],
    ids=str,
)
def test_refused(content: Any, line: str) -> None:
    with pytest.raises(UserError, match=r"^f: parameters\.x") as caught:
        read_parameter("f: parameters.x", "x", content)
    assert line in str(caught.value)
    assert "\n" not in str(caught.value)
