"""One parameter of a sweep: W&B's distributions, drawn from by Optuna.

Optuna has uniform, log-uniform and categorical distributions. What W&B has beside these is drawn
through its quantile function: Optuna draws the quantile, the argument is computed from it. Values
that are quantized are rounded after they were drawn, as W&B does it, so that Optuna sees the value
before rounding.

The distributions follow https://docs.wandb.ai/guides/sweeps/sweep-config-keys.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from statistics import NormalDist
from typing import TYPE_CHECKING, Any

from segmentation.errors import UserError

if TYPE_CHECKING:
    from optuna import Trial

TAIL = 1e-6  # quantiles are drawn from TAIL … 1 - TAIL: a normal distribution ends at 4.75 sigma
_RANGE = {"min": None, "max": None}
_NORMAL = {"mu": 0.0, "sigma": 1.0}
_BETA = {"a": 1.0, "b": 1.0}
_Q = {"q": 1}
# Settings of each distribution with their defaults; None: must be given.
DISTRIBUTIONS: dict[str, dict[str, Any]] = {
    "constant": {"value": None},
    "categorical": {"values": None},
    "categorical_w_probabilities": {"values": None, "probabilities": None},
    "int_uniform": _RANGE,
    "uniform": _RANGE,
    "q_uniform": _RANGE | _Q,
    "log_uniform": _RANGE,  # of the exponents of e
    "log_uniform_values": _RANGE,
    "q_log_uniform": _RANGE | _Q,
    "q_log_uniform_values": _RANGE | _Q,
    "inv_log_uniform": _RANGE,
    "inv_log_uniform_values": _RANGE,
    "normal": _NORMAL,
    "q_normal": _NORMAL | _Q,
    "log_normal": _NORMAL,
    "q_log_normal": _NORMAL | _Q,
    "beta": _BETA,
    "q_beta": _BETA | _Q,
}


@dataclass(frozen=True)
class Parameter:
    """A parameter and how its values are drawn.

    Attributes:
        name: As ``fit`` takes it, such as ``model.optimizer.lr``.
        kind: W&B's name of the distribution, a key of `DISTRIBUTIONS`.
        settings: Of the distribution, complete.
    """

    name: str
    kind: str
    settings: Mapping[str, Any]

    def values(self) -> list[Any] | None:
        """All values in a grid, or ``None`` for what W&B cannot put into a grid."""
        settings = self.settings
        if self.kind == "constant":
            return [settings["value"]]
        if self.kind == "categorical":
            return list(settings["values"])
        if self.kind == "int_uniform":
            return list(range(settings["min"], settings["max"] + 1))
        if self.kind == "q_uniform":  # W&B leaves the end out
            low, high, q = settings["min"], settings["max"], settings["q"]
            return [_tidy(low + i * q) for i in range(math.ceil((high - low) / q - 1e-9))]
        return None

    def examples(self) -> list[Any]:
        """Values to try the parser with: all of a list, the ends of a range."""
        if "values" in self.settings or self.kind == "constant":
            return list(self.settings.get("values", [self.settings.get("value")]))
        low, high = self._span()
        return [self.value(low), self.value(high)]

    def suggest(self, trial: "Trial") -> Any:
        """Draw a value, or get the one that the trial has already."""
        if self.kind == "constant":
            return self.settings["value"]
        if self.kind == "categorical":
            # JSON tells 1, 1.0, True and "1" apart, and Optuna stores it.
            choices = [json.dumps(value) for value in self.settings["values"]]
            return json.loads(trial.suggest_categorical(self.name, choices))
        low, high = self._span()
        if self.kind == "int_uniform":
            return trial.suggest_int(self.name, int(low), int(high))
        return self.value(trial.suggest_float(self.name, low, high, log="log_u" in self.kind))

    def encoded(self, value: Any) -> Any:
        """What Optuna stores for a value of a grid."""
        return json.dumps(value) if self.kind == "categorical" else value

    def value(self, drawn: float) -> Any:
        """The argument for what Optuna drew: the value itself, or its quantile (0…1)."""
        settings = self.settings
        if self.kind == "int_uniform":
            return int(drawn)
        if self.kind == "categorical_w_probabilities":
            total = 0.0
            for value, share in zip(settings["values"], settings["probabilities"], strict=True):
                total += share
                if drawn < total:
                    return value
            return settings["values"][-1]
        if "normal" in self.kind:
            drawn = settings["mu"] + settings["sigma"] * NormalDist().inv_cdf(drawn)
            drawn = math.exp(drawn) if "log" in self.kind else drawn
        elif "beta" in self.kind:
            from scipy.special import betaincinv

            drawn = float(betaincinv(settings["a"], settings["b"], drawn))
        if self.kind.startswith("q_"):
            q = settings["q"]
            return _tidy(round(drawn / q) * q)
        return drawn

    def _span(self) -> tuple[float, float]:
        """The ends of what Optuna draws."""
        if "min" not in self.settings:
            return TAIL, 1 - TAIL
        low, high = self.settings["min"], self.settings["max"]
        if self.kind == "inv_log_uniform":  # 1/x has the exponents
            low, high = -high, -low
        exponents = self.kind in ("log_uniform", "q_log_uniform", "inv_log_uniform")
        return (math.exp(low), math.exp(high)) if exponents else (low, high)


def read_parameter(where: str, name: str, content: Any) -> Parameter:
    """A parameter from a sweep file.

    Args:
        where: File and key, for messages.
        name: Of the parameter.
        content: What the file says of it.

    Raises:
        UserError: It is not in W&B's schema, or a setting cannot be.
    """
    if not isinstance(content, dict):
        raise UserError(f"{where}: must be a mapping such as values: [1, 2], not {content!r}")
    if "parameters" in content:
        first = next(iter(content["parameters"] or {"KEY": None}))
        raise UserError(
            f"{where}: nested parameters arrive as one argument, which fit cannot read; write "
            f"flat dotted names such as {name}.{first}"
        )
    given = dict(content)
    kind = given.pop("distribution", None) or _kind(where, given)
    if kind not in DISTRIBUTIONS:
        raise UserError(
            f"{where}.distribution: {kind!r} is none of W&B's; choose from "
            + ", ".join(DISTRIBUTIONS)
        )
    known = DISTRIBUTIONS[kind]
    for key in given:
        if key not in known:
            raise UserError(f"{where}.{key}: {kind} has {', '.join(known)} alone; leave it out")
    settings = {key: given.get(key, default) for key, default in known.items()}
    for key, value in settings.items():
        if key == "value":
            if key not in given:
                raise UserError(f"{where}.value: is missing; give the constant")
        elif key in ("values", "probabilities"):
            if not isinstance(value, list) or not value:
                raise UserError(f"{where}.{key}: is empty; list at least one value")
        elif isinstance(value, bool) or not isinstance(value, int | float):
            raise UserError(
                f"{where}.{key}: must be a number, not {value!r} (YAML wants 1.0e-5, not 1e-5)"
            )
    _check(where, kind, settings)
    return Parameter(name, kind, settings)


def _kind(where: str, given: Mapping[str, Any]) -> str:
    """W&B's defaults: what a parameter is that does not name its distribution."""
    if "value" in given:
        return "constant"
    if "values" in given:
        return "categorical_w_probabilities" if "probabilities" in given else "categorical"
    kinds = {type(given.get(key)) for key in ("min", "max")}
    if kinds == {int}:
        return "int_uniform"
    if kinds == {float}:
        return "uniform"
    raise UserError(
        f"{where}: names no distribution; give value, values, distribution, or min and max that "
        "are both whole numbers or both decimals"
    )


def _check(where: str, kind: str, settings: Mapping[str, Any]) -> None:
    if "values" in settings:
        texts = [json.dumps(value, default=str) for value in settings["values"]]
        for text in texts:
            if texts.count(text) > 1:
                raise UserError(f"{where}.values: lists {text} twice; leave one out")
    if "probabilities" in settings:
        shares = settings["probabilities"]
        if len(shares) != len(settings["values"]) or not math.isclose(sum(shares), 1, abs_tol=1e-6):
            raise UserError(f"{where}.probabilities: must be one for each value, and 1 in sum")
    if "min" in settings:
        low, high = settings["min"], settings["max"]
        if low > high:
            raise UserError(f"{where}: min {low} is above max {high}; exchange them")
        if kind.endswith("log_uniform_values") and low <= 0:
            raise UserError(f"{where}.min: {low} has no logarithm; it must be above 0")
        if kind == "int_uniform" and not (isinstance(low, int) and isinstance(high, int)):
            raise UserError(f"{where}: int_uniform needs whole numbers as min and max")
    for key, floor in (("q", 0), ("a", 0), ("b", 0), ("sigma", 0)):
        if key in settings and settings[key] <= floor:
            raise UserError(f"{where}.{key}: {settings[key]} must be above 0")


def _tidy(value: float) -> float:
    """Without the dust of multiplying: .3 for .30000000000000004."""
    return value if isinstance(value, int) else float(f"{value:.12g}")
