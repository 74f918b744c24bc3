"""Commands are functions: their signatures and docstrings are the options and the help.

Both are read from the source, so that help and a typing error need none of the heavy imports. How a
parameter is typed on the command line:

- before ``/``: by its place (``prepare DATASET``)
- ``bool``: a switch; ``list``: one or more values
- ``Literal[…] | None``: alone, it means the first of its values
- ``data_x``, ``run_x``, ``trainer_x``: ``--data.x`` and so on, as in a config; others ``--name``
- ``*options``: whatever the function does not name itself, handed on as typed
"""

import ast
import inspect
import os
import re
import sys
import types
from collections.abc import Callable, Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from pathlib import Path
from typing import Any, Literal, Union, get_args, get_origin

from segmentation import keys
from segmentation.errors import UserError, printable
from segmentation.networks import find_checkpoint
from segmentation.source import module_tree
from segmentation.terminal import quiet

_AT_FAULT = re.compile(r'Parser key "([^"]+)":.* value: (.*)')
_PLAIN = {"Path": Path, "Literal": Literal, "Sequence": Sequence}  # what a signature may name


def first_line(function: str) -> str:
    """The first line of the docstring of ``module:name``; the module is not imported."""
    return (inspect.getdoc(_signature(function)) or "").partition("\n")[0]


def help_text(name: str, function: str) -> str:
    """What ``segmentation NAME --help`` shows of ``module:name``; the module is not imported."""
    stub = _signature(function)
    if named := _named(stub):
        return str(_parser(name, stub, named).format_help())
    return f"usage: segmentation {name} [--KEY VALUE ...]\n\n{inspect.getdoc(stub)}\n"


def call(name: str, function: str, words: Sequence[str]) -> int:
    """Call ``module:name`` with the options that were typed, and return its exit status.

    ``name`` is the command, for messages. An option that is unknown, missing or of the wrong kind
    is a :class:`UserError`. The function returns its status, or ``None`` for 0.
    """
    stub = _signature(function)
    named = _named(stub)
    rest: list[str] = []
    if len(named) < len(inspect.signature(stub).parameters):
        words, rest = _divided(words, [_option(p) for p in named])
    if {"--help", "-h"} & {*words, *(() if named else rest)}:
        print(help_text(name, function), end="")
        return 0
    values = _parsed(name, stub, named, words) if named else {}
    if name in keys.COMMANDS:
        configs = (f"--config={path}" for path in values.get("config", ()))
        if (shown := keys.answer(keys.COMMANDS[name], [*configs, *rest])) is not None:
            print(shown)
            return 0
    _announce(name, stub, values, rest)
    module, _, attribute = function.partition(":")
    placed = [values.pop(p.name) for p in named if p.kind is p.POSITIONAL_ONLY]
    result: int | None = getattr(import_module(module), attribute)(*placed, *rest, **values)
    return result or 0


def _announce(
    name: str, stub: Callable[..., Any], values: Mapping[str, Any], rest: Sequence[str]
) -> None:
    """Say on stderr what begins and where it writes, for importing what is needed takes seconds."""
    first = all(os.environ.get(name, "0") == "0" for name in ("LOCAL_RANK", "RANK", "SLURM_PROCID"))
    if quiet() or not first or any(word.startswith(("--print_config", "--help")) for word in rest):
        return
    what, place = (inspect.getdoc(stub) or "").partition("\n")[0], None
    if "options" in inspect.signature(stub).parameters:
        from segmentation.config_files import run_home

        place = run_home(rest, values.get("config", ()), values.get("folds"))
    place = next((values[key] for key in ("output", "root", "html") if values.get(key)), place)
    where = "" if place is None else f" Output: {place}"
    print(printable(f"{name}: {what}{where}"), file=sys.stderr, flush=True)


def _signature(function: str) -> Callable[..., Any]:
    """A function of the same name, signature and docstring that does nothing."""
    module, _, name = function.partition(":")
    found = module_tree(module)
    assert found is not None
    tree = found[0]
    (node,) = (n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
    node.body, node.decorator_list, node.returns = node.body[:1], [], None
    named = {n.id for n in ast.walk(node) if isinstance(n, ast.Name)}
    # What a signature names beside them is assigned in its module: choices, default numbers.
    constants = [n for n in tree.body if isinstance(n, ast.Assign) and _assigns(n, named)]
    scope: dict[str, Any] = dict(_PLAIN)
    exec(compile(ast.Module([*constants, node], []), module, "exec"), scope)
    stub: Callable[..., Any] = scope[name]
    return stub


def _assigns(node: ast.Assign, names: set[str]) -> bool:
    return any(isinstance(target, ast.Name) and target.id in names for target in node.targets)


def _named(stub: Callable[..., Any]) -> list[inspect.Parameter]:
    parameters = inspect.signature(stub).parameters.values()
    return [p for p in parameters if p.kind is not p.VAR_POSITIONAL]


def _option(parameter: inspect.Parameter) -> str:
    group, _, rest = parameter.name.partition("_")
    grouped = group in ("data", "run", "trainer") and rest
    return f"--{group}.{rest}" if grouped else f"--{parameter.name}"


def _divided(words: Sequence[str], known: Sequence[str]) -> tuple[list[str], list[str]]:
    """Words of known options (and those before any option), and all others; what follows -- too."""
    ours: list[str] = []
    others: list[str] = []
    into = ours
    for number, word in enumerate(words):
        if word == "--":
            return ours, [*others, *words[number + 1 :]]
        if word.startswith("-") and not word[1:2].isdigit():
            into = ours if word.partition("=")[0] in (*known, "--help", "-h") else others
        into.append(word)
    return ours, others


def _parser(name: str, stub: Callable[..., Any], named: list[inspect.Parameter]) -> Any:
    from docstring_parser import parse
    from jsonargparse import ArgumentParser

    doc = parse(inspect.getdoc(stub) or "")
    about = {p.arg_name: " ".join((p.description or "").split()) for p in doc.params}
    text = "\n\n".join(part for part in (doc.short_description, doc.long_description) if part)
    parser = ArgumentParser(
        f"segmentation {name}", description=text, exit_on_error=False, allow_abbrev=False
    )
    for parameter in named:
        kind = parameter.annotation
        options: dict[str, Any] = {"help": about.get(parameter.name, "")}
        optional = get_origin(kind) in (Union, types.UnionType) and type(None) in get_args(kind)
        inner = get_args(kind)[0] if optional else kind
        if kind is bool:
            options |= {"action": "store_true"}
        elif get_origin(inner) in (list, Sequence):
            (item,) = get_args(inner)
            among = {"choices": get_args(item)} if get_origin(item) is Literal else {"type": item}
            options |= among | {"nargs": "+", "action": "extend"}
        elif optional and get_origin(inner) is Literal:
            options |= {"type": kind, "nargs": "?", "const": get_args(inner)[0]}
        else:
            options |= {"type": kind}
        if parameter.kind is parameter.POSITIONAL_ONLY:
            if parameter.default is not parameter.empty:
                options |= {"nargs": "?", "default": parameter.default}
            parser.add_argument(parameter.name, **options)
            continue
        if parameter.default is parameter.empty:
            options["required"] = True
        elif kind is not bool:
            options["default"] = parameter.default
        parser.add_argument(_option(parameter), **options)
    return parser


def _parsed(
    name: str, stub: Callable[..., Any], named: list[inspect.Parameter], words: Sequence[str]
) -> dict[str, Any]:
    """Values by parameter."""
    from jsonargparse import ArgumentError

    known = {_option(p) for p in named}
    plain = [_underscored(word, known) for word in words]
    try:
        values = _parser(name, stub, named).parse_args(plain)
    except (ArgumentError, TypeError) as error:
        message = " ".join(str(error).split())
        if found := _AT_FAULT.search(message):
            (one,) = (p for p in named if _option(p).lstrip("-") == found[1])
            flag = found[1] if one.kind is one.POSITIONAL_ONLY else f"--{found[1]}"
            message = f"{flag} {found[2]}: must be {_kind_text(one.annotation)}"
        elif found := re.search(r"unrecognized arguments: (--[\w.-]+)", message):
            near = get_close_matches(found[1], [_option(p) for p in named], 1)
            hint = "".join(f" (did you mean {name}?)" for name in near)
            message = f"no option is called {found[1]}{hint}"
        raise UserError(f"{message}; see segmentation {name} --help") from None
    given = {p.name: values[_option(p).lstrip("-")] for p in named}
    if paths := given.get("ckpt_path"):
        several = isinstance(paths, list)
        given["ckpt_path"] = [*map(find_checkpoint, paths)] if several else find_checkpoint(paths)
    return given


def _underscored(word: str, known: set[str]) -> str:
    """``--allow-missing`` means ``--allow_missing``."""
    option, equals, value = word.partition("=")
    other = "--" + option[2:].replace("-", "_")
    return other + equals + value if word.startswith("--") and other in known else word


def _kind_text(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(map(str, get_args(kind)))
    if arguments := [a for a in get_args(kind) if a is not type(None)]:
        return " or ".join(map(_kind_text, arguments))
    return {int: "a whole number", float: "a number"}.get(kind, "text")
