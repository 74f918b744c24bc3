"""One parameter of a sweep: W&B's distributions, drawn from by Optuna.

Optuna has uniform, log-uniform and categorical distributions. What W&B has beside these is drawn
through its quantile function: Optuna draws the quantile, the argument is computed from it. Values
that are quantized are rounded after they were drawn, as W&B does it.

The distributions follow https://docs.wandb.ai/guides/sweeps/sweep-config-keys.
"""

import json
import math
from bisect import bisect
from itertools import accumulate
from typing import TYPE_CHECKING, Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, Field, model_validator

if TYPE_CHECKING:
    from optuna import Trial

TAIL = 1e-6  # quantiles are drawn from TAIL … 1 - TAIL: a normal distribution ends at 4.75 sigma
_SMOOTH = {
    **dict.fromkeys(("uniform", "log_uniform", "log_uniform_values"), ("min", "max")),
    **dict.fromkeys(("normal", "log_normal"), ("mu", "sigma")),
    "beta": ("a", "b"),
}
# Settings of each distribution. The ends of log_uniform are exponents of e.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    **{"constant": ("value",), "categorical": ("values",)},
    "categorical_w_probabilities": ("values", "probabilities"),
    **dict.fromkeys(("int_uniform", "inv_log_uniform", "inv_log_uniform_values"), ("min", "max")),
    **_SMOOTH,
    **{f"q_{name}": (*settings, "q") for name, settings in _SMOOTH.items()},
}


def _number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r} (YAML wants 1.0e-5, not 1e-5)")
    return value


Number = Annotated[Any, AfterValidator(_number)]  # keeps 1 and 1.0 apart
_Positive = Annotated[Number, Field(gt=0)]


class Parameter(BaseModel, extra="forbid", frozen=True):
    """A parameter and how its values are drawn; the fields beside the name are the file's own.

    >>> Parameter(name="data.crop", min=64, max=66).values_of_grid()
    [64, 65, 66]
    """

    name: str  # as fit takes it, such as model.optimizer.lr
    distribution: str = ""  # by default what the settings belong to
    value: Any = None
    values: list[Any] = []
    probabilities: list[float] = []
    min: Number = None
    max: Number = None
    mu: Number = 0.0
    sigma: _Positive = 1.0
    a: _Positive = 1.0
    b: _Positive = 1.0
    q: _Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        for nested in given.get("parameters") or ():
            raise ValueError(
                "nested parameters arrive as one argument, which fit cannot read; write flat "
                f"dotted names such as {given['name']}.{nested}"
            )
        ends = [type(given.get(key)) for key in ("min", "max")]
        chosen = {int: "int_uniform", float: "uniform"}.get(ends[0] if len({*ends}) == 1 else str)
        if "values" in given:
            chosen = "categorical" + "_w_probabilities" * ("probabilities" in given)
        return {"distribution": "constant" if "value" in given else chosen or "", **given}

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        kind, low, high, total = self.distribution, self.min, self.max, sum(self.probabilities)
        known, given = DISTRIBUTIONS.get(kind, ()), self.model_fields_set - {"name", "distribution"}
        texts = [json.dumps(value, default=str) for value in self.values]
        if not known:
            raise ValueError(
                f"{kind!r} is none of W&B's distributions ({', '.join(DISTRIBUTIONS)}); give one, "
                "or value, values, or min and max that are both whole numbers or both decimals"
            )
        if given - {*known} or {*known} & {"min", "max", "value"} - given:
            raise ValueError(f"{kind} has {' and '.join(known)}, not {', '.join(given) or 'none'}")
        if "values" in known and not texts:
            raise ValueError("values is empty; list at least one")
        if len({*texts}) < len(texts):
            raise ValueError(f"values lists {max(texts, key=texts.count)} twice; leave one out")
        if total and (len(self.probabilities) != len(texts) or abs(total - 1) > 1e-6):
            raise ValueError("probabilities must be one for each value, and 1 in sum")
        if "min" in known and low > high:
            raise ValueError(f"min {low} is above max {high}; exchange them")
        if kind.endswith("log_uniform_values") and low <= 0:
            raise ValueError(f"min {low} has no logarithm; it must be above 0")
        if kind == "int_uniform" and (type(low), type(high)) != (int, int):
            raise ValueError("int_uniform needs whole numbers as min and max")
        return self

    def values_of_grid(self) -> list[Any] | None:
        """All values in a grid, or ``None`` for what W&B cannot put into a grid."""
        if self.distribution == "int_uniform":
            return list(range(self.min, self.max + 1))
        if self.distribution == "q_uniform":  # W&B leaves the end out
            steps = math.ceil((self.max - self.min) / self.q - 1e-9)
            return [_tidy(self.min + i * self.q) for i in range(steps)]
        listed = {"constant": [self.value], "categorical": self.values}
        return listed.get(self.distribution)

    def examples(self) -> list[Any]:
        """Values to try the parser with: all of a list, the ends of a range."""
        listed = [self.value] if self.distribution == "constant" else self.values
        return listed or [self._argument(end) for end in self._span()]

    def suggest(self, trial: "Trial") -> Any:
        """Draw a value, or get the one that the trial has already."""
        if self.distribution == "constant":
            return self.value
        if self.distribution == "categorical":
            choices = [self.stored(value) for value in self.values]
            return json.loads(trial.suggest_categorical(self.name, choices))
        low, high = self._span()
        if self.distribution == "int_uniform":
            return trial.suggest_int(self.name, int(low), int(high))
        log = "log_u" in self.distribution
        return self._argument(trial.suggest_float(self.name, low, high, log=log))

    def stored(self, value: Any) -> Any:
        """A value of a grid as Optuna stores it: JSON, where 1, 1.0, True and "1" differ."""
        return json.dumps(value) if self.distribution == "categorical" else value

    def _argument(self, drawn: float) -> Any:
        """The value for what Optuna drew: the value itself, or its quantile (0…1)."""
        from scipy.special import betaincinv, ndtri

        if self.distribution == "categorical_w_probabilities":
            place = bisect(list(accumulate(self.probabilities)), drawn)
            return self.values[min(place, len(self.values) - 1)]
        if "normal" in self.distribution:
            drawn = self.mu + self.sigma * float(ndtri(drawn))
            drawn = math.exp(drawn) if "log" in self.distribution else drawn
        elif "beta" in self.distribution:
            drawn = float(betaincinv(self.a, self.b, drawn))
        quantized = self.distribution.startswith("q_")
        return _tidy(round(drawn / self.q) * self.q) if quantized else drawn

    def _span(self) -> tuple[float, float]:
        """The ends of what Optuna draws."""
        if self.min is None:
            return TAIL, 1 - TAIL
        if self.distribution == "inv_log_uniform":  # 1/x has the exponents
            return math.exp(-self.max), math.exp(-self.min)
        exponents = self.distribution.endswith("log_uniform")
        return (math.exp(self.min), math.exp(self.max)) if exponents else (self.min, self.max)


def _tidy(value: float) -> float:
    """Without the dust of multiplying: .3 for .30000000000000004."""
    return value if isinstance(value, int) else float(f"{value:.12g}")
