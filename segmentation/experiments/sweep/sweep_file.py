"""A sweep file in W&B's schema: what is searched, how, and the command of one run."""

import difflib
import json
import os
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from segmentation.errors import UserError
from segmentation.experiments.sweep.parameters import Parameter, read_parameter

COMMAND = ("${env}", "${interpreter}", "${program}", "${args}")  # W&B's default
ARGS = (
    "args", "args_no_equals", "args_no_hyphens", "args_no_boolean_flags", "args_json",
    "args_json_file", "args_append_hydra", "args_override_hydra",
)  # fmt: skip
_SEARCH = {"method", "metric", "parameters", "early_terminate", "command", "program"}
_KEYS = _SEARCH | {"run_cap", "name", "description", "project", "entity", "apiVersion", "kind"}
_ENVIRONMENT = re.compile(r"\$\{envvar:([A-Z0-9_]*)\}")


@dataclass(frozen=True)
class Hyperband:
    """W&B's early termination: at each band, what is not among the best 1/eta runs ends.

    Attributes:
        bands: Counts of earlier values of the metric after which a run is compared, ascending.
        eta: Above 1.
        strict: Compare the value at the band rather than the best one so far.
    """

    bands: tuple[int, ...]
    eta: float
    strict: bool


@dataclass(frozen=True)
class Sweep:
    """What a sweep file says.

    Attributes:
        path: Of the file.
        method: ``grid``, ``random`` or ``bayes``.
        parameters: In the order in which they become arguments: by name, as W&B's server does it.
        metric: A column of ``metrics.csv``.
        maximize: Whether more of it is better.
        target: No trial is begun after one has reached this; ``None`` for none.
        run_cap: At most so many trials; ``None`` for no limit.
        hyperband: Early termination.
        command: Of a run, with W&B's macros.
        program: Of the macro ``${program}``.
        search: All that decides which trials there are, as in the file: a storage holds one such.
    """

    path: Path
    method: str
    parameters: tuple[Parameter, ...]
    metric: str
    maximize: bool
    target: float | None
    run_cap: int | None
    hyperband: Hyperband | None
    command: tuple[str, ...]
    program: str
    search: dict[str, Any]

    @property
    def count(self) -> int | None:
        """How many runs there are, or ``None`` where nothing ends the sweep."""
        if self.method != "grid":
            return self.run_cap
        total = 1
        for parameter in self.parameters:
            total *= len(parameter.values() or ())
        return min(total, self.run_cap or total)

    def combination(self, number: int) -> dict[str, Any]:
        """Values of the grid's run ``number`` (0 … count - 1); the last parameter runs fastest."""
        chosen: dict[str, Any] = {}
        for parameter in reversed(self.parameters):
            values = parameter.values() or ()
            number, index = divmod(number, len(values))
            chosen[parameter.name] = values[index]
        return {parameter.name: chosen[parameter.name] for parameter in self.parameters}

    def command_line(self, values: Mapping[str, Any], json_file: Path) -> list[str]:
        """The command of one run, its macros replaced as ``wandb agent`` does it.

        Args:
            values: By parameter.
            json_file: Written if the command asks for ``${args_json_file}``.

        Raises:
            UserError: The command names a macro or an environment variable that is not there.
        """
        plain = [f"{name}={value}" for name, value in values.items()]
        macros: dict[str, list[str]] = {
            "env": ["/usr/bin/env"],
            "interpreter": [sys.executable],  # W&B's agent: the first python on the PATH
            "program": [self.program],
            "args": [f"--{word}" for word in plain],
            "args_no_hyphens": plain,
            "args_no_equals": [w for n, v in values.items() for w in (f"--{n}", str(v))],
            "args_no_boolean_flags": [
                f"--{name}" if value is True else f"--{name}={value}"
                for name, value in values.items()
                if value is not False
            ],
            "args_append_hydra": [f"+{word}" for word in plain],
            "args_override_hydra": [f"++{word}" for word in plain],
            "args_json": [json.dumps(dict(values))],
            "args_json_file": [str(json_file)],
        }
        words: list[str] = []
        for word in self.command:
            if word.startswith("${") and word.endswith("}") and not _ENVIRONMENT.fullmatch(word):
                words += macros[word[2:-1]]
            else:
                words.append(_ENVIRONMENT.sub(self._variable, word))
        if "${args_json_file}" in self.command:
            json_file.write_text(json.dumps(dict(values)))
        return words

    def _variable(self, match: re.Match[str]) -> str:
        try:
            return os.environ[match[1]]
        except KeyError:
            raise UserError(
                f"{self.path}: command: the environment variable {match[1]} is not set; set it"
            ) from None


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
        raise UserError(
            f"{path}: not valid YAML ({' '.join(str(error).split())}); correct it"
        ) from None
    if not isinstance(content, dict):
        raise UserError(f"{path}: a sweep is a mapping with method and parameters; correct it")
    for key in content:
        if key not in _KEYS:
            near = difflib.get_close_matches(str(key), _KEYS, 1)
            hint = f"did you mean {near[0]}?" if near else "only W&B's own server can; leave it out"
            raise UserError(f"{path}: {key}: cannot be executed here; {hint}")
    method = content.get("method")
    if method not in ("grid", "random", "bayes"):
        raise UserError(f"{path}: method: {method!r} cannot be mapped; use grid, random or bayes")
    given = content.get("parameters")
    if not isinstance(given, dict) or not given:
        raise UserError(f"{path}: parameters: is empty, so there is nothing to search; name some")
    parameters = tuple(
        read_parameter(f"{path}: parameters.{name}", str(name), given[name])
        for name in sorted(given, key=str)
    )
    if method == "grid":
        for parameter in parameters:
            if parameter.values() is None:
                raise UserError(
                    f"{path}: parameters.{parameter.name}: a grid has no {parameter.kind}; list "
                    "values, or use method random"
                )
            if not parameter.values():
                raise UserError(f"{path}: parameters.{parameter.name}: holds no value at all")
    metric = _metric(path, content.get("metric"))
    cap = content.get("run_cap")
    if cap is not None and (isinstance(cap, bool) or not isinstance(cap, int) or cap < 1):
        raise UserError(f"{path}: run_cap: must be a whole number above 0, not {cap!r}")
    return Sweep(
        path,
        method,
        parameters,
        metric["name"],
        metric["goal"] == "maximize",
        metric.get("target"),
        cap,
        _hyperband(path, content.get("early_terminate")),
        *_command(path, content),
        {key: content[key] for key in sorted(_SEARCH & content.keys())},
    )


def _metric(path: Path, metric: Any) -> dict[str, Any]:
    if not isinstance(metric, dict) or not isinstance(metric.get("name"), str):
        raise UserError(f"{path}: metric: name a column of metrics.csv, such as name: val/iou")
    for key in metric:
        if key not in ("name", "goal", "target"):
            raise UserError(f"{path}: metric.{key}: cannot be mapped; leave it out")
    goal = metric.get("goal", "minimize")
    if goal not in ("minimize", "maximize"):
        raise UserError(f"{path}: metric.goal: {goal!r} is neither minimize nor maximize")
    target = metric.get("target")
    if target is not None and (isinstance(target, bool) or not isinstance(target, int | float)):
        raise UserError(f"{path}: metric.target: must be a number, not {target!r}")
    return {**metric, "goal": goal}


def _hyperband(path: Path, content: Any) -> Hyperband | None:
    if content is None:
        return None
    where = f"{path}: early_terminate"
    if not isinstance(content, dict) or content.get("type") != "hyperband":
        kind = content.get("type") if isinstance(content, dict) else content
        raise UserError(f"{where}.type: {kind!r} cannot be mapped; W&B has hyperband alone")
    for key in content:
        if key not in ("type", "min_iter", "max_iter", "s", "eta", "strict"):
            raise UserError(f"{where}.{key}: cannot be mapped; leave it out")
    numbers = {key: content[key] for key in ("min_iter", "max_iter", "s", "eta") if key in content}
    eta = numbers.setdefault("eta", 3)
    for key, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or value < 1:
            raise UserError(f"{where}.{key}: must be a number of at least 1, not {value!r}")
    if eta <= 1:
        raise UserError(f"{where}.eta: must be above 1, not {eta}")
    if "max_iter" in numbers and "s" in numbers:
        bands = [int(numbers["max_iter"] / eta**k) for k in range(1, int(numbers["s"]) + 1)]
        bands = sorted(band for band in bands if band >= 1)
    elif "min_iter" in numbers:
        bands = [int(numbers["min_iter"] * eta**k) for k in range(100)]
    else:
        raise UserError(f"{where}: needs min_iter, or max_iter and s")
    if not bands:
        raise UserError(f"{where}: has no band; raise max_iter or lower eta")
    return Hyperband(tuple(bands), eta, bool(content.get("strict", False)))


def _command(path: Path, content: Mapping[str, Any]) -> tuple[tuple[str, ...], str]:
    command, program = content.get("command", COMMAND), content.get("program")
    if not isinstance(command, list | tuple) or not command:
        raise UserError(f"{path}: command: must be a list of words; see configs/sweeps")
    words = tuple(str(word) for word in command)
    known = ("env", "interpreter", "program", *ARGS)
    for word in words:
        macro = word.startswith("${") and word.endswith("}") and not _ENVIRONMENT.fullmatch(word)
        if macro and word[2:-1] not in known:
            raise UserError(f"{path}: command: {word} is none of W&B's macros; use ${{args}}")
    if not any(f"${{{name}}}" in words for name in ARGS):
        raise UserError(f"{path}: command: ${{args}} is missing: all runs would be the same")
    if "${program}" in words and not isinstance(program, str):
        raise UserError(f"{path}: program: is missing, which the command names")
    return words, str(program or "")
