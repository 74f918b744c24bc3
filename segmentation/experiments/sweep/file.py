"""A sweep file in W&B's schema: what is searched, how, and the command of one run.

Executed here are the distributions that Optuna has, too: lists, uniform and log-uniform, whole or
quantized. See https://docs.wandb.ai/guides/sweeps/sweep-config-keys for those that only W&B has.
"""

import itertools
import json
import math
import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    Field,
    ValidationError,
    field_validator,
    model_validator,
)

from segmentation.config_files import read_yaml
from segmentation.errors import UserError
from segmentation.score_names import (
    LOSSES,
    MEASURED,
    TESTED,
    VALIDATED,
    check_logged,
    of_class,
)

if TYPE_CHECKING:
    from optuna import Trial

# Settings of each distribution.
DISTRIBUTIONS: dict[str, tuple[str, ...]] = {
    **{"constant": ("value",), "categorical": ("values",)},
    **dict.fromkeys(("int_uniform", "uniform", "log_uniform_values"), ("min", "max")),
    **dict.fromkeys(("q_uniform", "q_log_uniform_values"), ("min", "max", "q")),
}
_BY_SETTING = {"value": "constant", "values": "categorical"}
ARGS = (
    "args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json",
    "args_json_file", "args_append_hydra", "args_override_hydra",
)  # fmt: skip
_SEARCH = ("command", "early_terminate", "method", "metric", "parameters", "program")
_WANDB_ONLY = {"name", "description", "project", "entity", "apiVersion", "kind"}
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(?!envvar:)(.*)\}")


def _is_number(value: Any) -> Any:
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ValueError(f"must be a number, not {value!r}")
    return value


Number = Annotated[Any, AfterValidator(_is_number)]  # keeps 1 and 1.0 apart
_Positive = Annotated[Number, Field(gt=0)]
_AtLeast1 = Annotated[Number, Field(ge=1)]


class Parameter(BaseModel, extra="forbid", frozen=True):
    """A parameter and how its values are drawn; the fields beside the name are the file's own.

    >>> Parameter(name="data.crop", min=64, max=66).values_of_grid()
    [64, 65, 66]
    """

    name: str  # as fit takes it, such as model.optimizer.lr
    distribution: str = ""  # by default what the settings belong to
    value: Any = None
    values: list[Any] = []
    min: Number = None
    max: Number = None
    q: _Positive = 1

    @model_validator(mode="before")
    @classmethod
    def _completed(cls, given: dict[str, Any]) -> dict[str, Any]:
        for nested in given.get("parameters") or ():
            raise ValueError(
                "nested parameters arrive as one argument, which fit cannot read; write flat "
                f"dotted names such as {given['name']}.{nested}"
            )
        ends = {type(given.get(key)) for key in ("min", "max")}
        chosen = "int_uniform" if ends == {int} else "uniform" if ends == {float} else ""
        chosen = next((k for v, k in _BY_SETTING.items() if v in given), chosen)
        kind = given.get("distribution", chosen)
        if kind not in DISTRIBUTIONS:
            raise ValueError(
                f"{kind!r} cannot be drawn from here; give one of {', '.join(DISTRIBUTIONS)}, or "
                "value, values, or min and max that are both whole numbers or both decimals"
            )
        return {**given, "distribution": kind}

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        kind, low, high = self.distribution, self.min, self.max
        known, given = DISTRIBUTIONS[kind], self.model_fields_set - {"name", "distribution"}
        texts, wrong = [json.dumps(value, default=str) for value in self.values], ""
        if given - {*known} or {*known} & {"min", "max", "value"} - given:
            wrong = f"{kind} has {' and '.join(known)}, not {', '.join(given) or 'none'}"
        elif "values" in known and not texts:
            wrong = "values is empty; list at least one"
        elif len({*texts}) < len(texts):
            wrong = f"values lists {max(texts, key=texts.count)} twice; leave one out"
        elif "min" in known and low > high:
            wrong = f"min {low} is above max {high}; exchange them"
        elif kind.endswith("log_uniform_values") and low <= 0:
            wrong = f"min {low} has no logarithm; it must be above 0"
        elif kind == "int_uniform" and (type(low), type(high)) != (int, int):
            wrong = "int_uniform needs whole numbers as min and max"
        if wrong:
            raise ValueError(wrong)
        return self

    def values_of_grid(self) -> list[Any] | None:
        """All values in a grid, or ``None`` for what W&B cannot put into a grid."""
        if self.distribution == "int_uniform":
            return list(range(self.min, self.max + 1))
        if self.distribution == "q_uniform":  # W&B leaves the end out
            steps = math.ceil((self.max - self.min) / self.q - 1e-9)
            return [_tidy(self.min + i * self.q) for i in range(steps)]
        return {"constant": [self.value], "categorical": self.values}.get(self.distribution)

    def examples(self) -> list[Any]:
        """Values to try the parser with: all of a list, the ends of a range."""
        listed = [self.value] if self.distribution == "constant" else self.values
        return listed or [self.min, self.max]

    def suggest(self, trial: "Trial") -> Any:
        """Draw a value, or get the one that the trial has already."""
        if self.distribution == "constant":
            return self.value
        if self.distribution == "categorical":
            choices = [self.stored(value) for value in self.values]
            return json.loads(trial.suggest_categorical(self.name, choices))
        if self.distribution == "int_uniform":
            return trial.suggest_int(self.name, self.min, self.max)
        log = "log" in self.distribution
        drawn = trial.suggest_float(self.name, self.min, self.max, log=log)
        quantized = self.distribution.startswith("q_")  # after it was drawn, as W&B does it
        return _tidy(round(drawn / self.q) * self.q) if quantized else drawn

    def stored(self, value: Any) -> Any:
        """A value of a grid as Optuna stores it: JSON, where 1, 1.0, True and "1" differ."""
        return json.dumps(value) if self.distribution == "categorical" else value


def _tidy(value: float) -> float:
    """Without the dust of multiplying: .3 for .30000000000000004."""
    return value if isinstance(value, int) else float(f"{value:.12g}")


class Metric(BaseModel, extra="forbid", frozen=True):
    """What runs are judged by: a column of ``metrics.csv``; none begins after one at the target."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: Number = None


class Hyperband(BaseModel, extra="forbid", frozen=True):
    """Early termination: after ``first`` values, times ``eta``, … all but the best 1/eta end."""

    type: Literal["hyperband"]
    min_iter: _AtLeast1 = None
    max_iter: _AtLeast1 = None
    s: _AtLeast1 = None
    eta: Annotated[int, Field(ge=2)] = 3
    strict: bool = True

    @model_validator(mode="after")
    def _has_a_band(self) -> Self:
        if not (self.min_iter or (self.max_iter and self.s)):
            raise ValueError("needs min_iter, or max_iter and s")
        return self

    @property
    def first(self) -> int:
        """How many values are logged before runs are compared for the first time."""
        brackets = (int(self.max_iter / self.eta**k) for k in range(int(self.s or 0), 0, -1))
        return next((first for first in brackets if first), 0) or int(self.min_iter or 1)


class Sweep(BaseModel, extra="forbid", frozen=True):
    """What a sweep file says, read by :func:`read_sweep`."""

    path: Path
    search: dict[str, Any]  # all that decides which trials there are, as in the file
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: list[Parameter]  # by name, as W&B's server passes them on
    early_terminate: Hyperband | None = None
    run_cap: Annotated[int, Field(gt=0, strict=True)] | None = None
    command: list[str] = ["${env}", "${interpreter}", "${program}", "${args}"]
    program: str | None = None

    @field_validator("parameters", mode="before")
    @classmethod
    def _named(cls, given: Any) -> list[Any]:
        if not isinstance(given, dict) or not given:
            raise ValueError("is empty, so there is nothing to search; name some")
        items = sorted((str(name), content) for name, content in given.items())
        return [{**c, "name": name} if isinstance(c, dict) else c for name, c in items]

    @model_validator(mode="after")
    def _sensible(self) -> Self:
        for parameter in self.parameters if self.method == "grid" else ():
            if not parameter.values_of_grid():
                raise ValueError(
                    f"parameters.{parameter.name}: a grid has no {parameter.distribution}, or it "
                    "holds no value; list values, or use method random"
                )
        words = " ".join(self.command)
        # A callback of the user's may log what it likes, and so may another program; and names of
        # classes are only known to the runs.
        elsewhere = "callbacks" in words or of_class(self.metric.name)
        if "segmentation" in words and not elsewhere:
            check_logged("metric.name", self.metric.name, (*VALIDATED, *LOSSES, *TESTED, *MEASURED))
        macros = [macro[1] for word in self.command if (macro := _MACRO.fullmatch(word))]
        for name in set(macros) - {"env", "interpreter", "program", *ARGS}:
            raise ValueError(f"command: ${{{name}}} is none of W&B's macros; use ${{args}}")
        if not {*ARGS} & {*macros}:
            raise ValueError("command: ${args} is missing: all runs would be the same")
        if "program" in macros and self.program is None:
            raise ValueError("program: is missing, which the command names")
        return self

    @property
    def maximize(self) -> bool:
        """Whether more of the metric is better."""
        return self.metric.goal == "maximize"

    @property
    def count(self) -> int | None:
        """How many runs there are, or ``None`` where nothing ends the sweep."""
        if self.method != "grid":
            return self.run_cap
        total = math.prod(len(parameter.values_of_grid() or ()) for parameter in self.parameters)
        return min(total, self.run_cap or total)

    def combination(self, number: int) -> dict[str, Any]:
        """Values of the grid's run ``number`` (0 … count - 1); the last parameter runs fastest."""
        grids = [parameter.values_of_grid() or () for parameter in self.parameters]
        chosen = next(itertools.islice(itertools.product(*grids), number, None))
        return {p.name: value for p, value in zip(self.parameters, chosen, strict=True)}

    def command_line(self, values: Mapping[str, Any], json_file: Path) -> list[str]:
        """The command of one run, its macros replaced as ``wandb agent`` does it.

        ``json_file`` is written if the command asks for ``${args_json_file}``.
        """
        from wandb.sdk.launch.sweeps.utils import create_sweep_command_args

        macros = create_sweep_command_args({"args": {n: {"value": v} for n, v in values.items()}})
        macros |= {
            "env": [] if os.name == "nt" else ["/usr/bin/env"],
            "interpreter": [sys.executable],  # W&B's agent: the first python on the PATH
            "program": [self.program],
            "args_json_file": [str(json_file)],
        }
        if "${args_json_file}" in self.command:
            json_file.write_text(macros["args_json"][0])
        words: list[str] = []
        for word in self.command:
            for variable in set(_VARIABLE.findall(word)) - os.environ.keys():
                raise UserError(f"{self.path}: command: variable {variable} is not set; set it")
            macro = _MACRO.fullmatch(word)
            filled = _VARIABLE.sub(lambda found: os.environ[found[1]], word)
            words += macros[macro[1]] if macro else [filled]
        return words


def read_sweep(path: Path) -> Sweep:
    """Read a sweep file; what is not in W&B's schema, or only W&B can do, is refused."""
    content = read_yaml(path)
    given = {key: value for key, value in content.items() if key not in _WANDB_ONLY}
    search = {key: given[key] for key in _SEARCH if key in given}
    try:
        return Sweep(**{**given, "path": path, "search": search})
    except ValidationError as error:
        wrong = error.errors()[0]
    place, reason = [str(key) for key in wrong["loc"]], wrong["msg"].removeprefix("Value error, ")
    if place[:1] == ["parameters"] and len(place) > 1:
        place[1] = sorted(map(str, content["parameters"]))[int(place[1])]
    if wrong["type"] == "extra_forbidden":
        near = get_close_matches(place[-1], Sweep.model_fields, 1)
        hint = f"did you mean {near[0]}?" if near else "leave it out"
        reason = f"cannot be executed here; {hint}"
    raise UserError(f"{path}: {'.'.join(place)}{': ' * bool(place)}{reason}")
