"""A sweep file in W&B's schema: what is searched, how, and the command of one run."""

import json
import os
import re
import sys
from collections.abc import Mapping
from difflib import get_close_matches
from math import prod
from pathlib import Path
from typing import Annotated, Any, Literal, Self

import yaml
from pydantic import BaseModel, Field, ValidationError, field_validator, model_validator

from segmentation.errors import UserError
from segmentation.experiments.sweep.parameters import Number, Parameter

ARGS = (
    "args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json",
    "args_json_file", "args_append_hydra", "args_override_hydra",
)  # fmt: skip
_SEARCH = {"method", "metric", "parameters", "early_terminate", "command", "program"}
_WANDB_ONLY = {"name", "description", "project", "entity", "apiVersion", "kind"}
_VARIABLE = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")
_MACRO = re.compile(r"\$\{(?!envvar:)(.*)\}")


class Metric(BaseModel, extra="forbid", frozen=True):
    """What runs are judged by: a column of ``metrics.csv``; none begins after one at the target."""

    name: str
    goal: Literal["minimize", "maximize"] = "minimize"
    target: Number = None


class Hyperband(BaseModel, extra="forbid", frozen=True):
    """Early termination: after ``first`` values, times ``eta``, … all but the best 1/eta end."""

    type: Literal["hyperband"]
    min_iter: Annotated[Number, Field(ge=1)] = None
    max_iter: Annotated[Number, Field(ge=1)] = None
    s: Annotated[Number, Field(ge=1)] = None
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
    """What a sweep file says, read by :func:`read_sweep`.

    Args:
        path: Of the file.
        search: All that decides which trials there are, as in the file.
    """

    path: Path
    search: dict[str, Any]
    method: Literal["grid", "random", "bayes"]
    metric: Metric
    parameters: list[Parameter]  # by name, as W&B's server passes them on
    early_terminate: Hyperband | None = None
    run_cap: Annotated[int, Field(gt=0, strict=True)] | None = None
    command: Annotated[list[str], Field(min_length=1)] = [
        *("${env}", "${interpreter}", "${program}", "${args}")
    ]
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
        for word in self.command:
            macro = _MACRO.fullmatch(word)
            if macro and macro[1] not in ("env", "interpreter", "program", *ARGS):
                raise ValueError(f"command: {word} is none of W&B's macros; use ${{args}}")
        if not any(f"${{{name}}}" in self.command for name in ARGS):
            raise ValueError("command: ${args} is missing: all runs would be the same")
        if "${program}" in self.command and self.program is None:
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
        total = prod(len(parameter.values_of_grid() or ()) for parameter in self.parameters)
        return min(total, self.run_cap or total)

    def combination(self, number: int) -> dict[str, Any]:
        """Values of the grid's run ``number`` (0 … count - 1); the last parameter runs fastest."""
        chosen: dict[str, Any] = {}
        for parameter in reversed(self.parameters):
            values = parameter.values_of_grid() or ()
            number, index = divmod(number, len(values))
            chosen[parameter.name] = values[index]
        return dict(reversed(chosen.items()))

    def command_line(self, values: Mapping[str, Any], json_file: Path) -> list[str]:
        """The command of one run, its macros replaced as ``wandb agent`` does it.

        Args:
            values: By parameter.
            json_file: Written if the command asks for ``${args_json_file}``.

        Raises:
            UserError: The command names an environment variable that is not there.
        """
        plain = [f"{name}={value}" for name, value in values.items()]
        flags = [
            f"--{n}" if v is True else f"--{n}={v}" for n, v in values.items() if v is not False
        ]
        macros: dict[str, list[str]] = {
            "env": [] if os.name == "nt" else ["/usr/bin/env"],
            "interpreter": [sys.executable],  # W&B's agent: the first python on the PATH
            "program": [str(self.program)],
            "args": [f"--{word}" for word in plain],
            "args_no_hyphens": plain,
            "args_no_equals": [w for n, v in values.items() for w in (f"--{n}", str(v))],
            "args_no_boolean_flags": flags,
            "args_append_hydra": [f"+{word}" for word in plain],
            "args_override_hydra": [f"++{word}" for word in plain],
            "args_json": [json.dumps(dict(values))],
            "args_json_file": [str(json_file)],
        }
        if "${args_json_file}" in self.command:
            json_file.write_text(json.dumps(dict(values)))
        words: list[str] = []
        for word in self.command:
            for variable in _VARIABLE.findall(word):
                if variable not in os.environ:
                    raise UserError(f"{self.path}: command: variable {variable} is not set; set it")
            macro = _MACRO.fullmatch(word)
            words += macros[macro[1]] if macro else [
                _VARIABLE.sub(lambda found: os.environ[found[1]], word)
            ]  # fmt: skip
        return words


def read_sweep(path: Path) -> Sweep:
    """Read and check a sweep file.

    Raises:
        UserError: It cannot be read, is not in W&B's schema, or asks for what only W&B can do.
    """
    try:
        content = yaml.safe_load(path.read_text())
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not valid YAML ({reason}); correct it") from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a sweep is a mapping with method and parameters; correct it")
    given = {key: value for key, value in content.items() if key not in _WANDB_ONLY}
    search = {key: given[key] for key in sorted(_SEARCH & given.keys())}
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
    where = f"{'.'.join(place)}: " if place else ""
    raise UserError(f"{path}: {where}{reason}")
