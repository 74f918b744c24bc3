"""What is typed after ``fit``, ``validate`` and ``test``, as LightningCLI's parser reads it."""

import argparse
import ast
import json
import re
from collections.abc import Sequence

import yaml

from segmentation.checkpoints import model_config
from segmentation.config_files import check_typed, find_config, read_parts
from segmentation.errors import UserError
from segmentation.trust import class_names, renamed, without_download


def composed(arguments: Sequence[str], tuned: bool = True) -> list[str]:
    """Put the configs first, each replaced by the parts that it names, and what is typed last.

    An experiment lists its parts under ``compose``, relative to itself; what it says beside that
    wins over them, and later files win over earlier ones. To score a checkpoint is to score the
    model that it holds: its model comes after the files, before what is typed.

    Raises:
        UserError: A file is missing or not YAML, or files name each other in a circle.
    """
    command, rest = list(arguments[:1]), plain_arguments(arguments[1:])
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("-c", "--config", action="append", default=[])
    try:
        files, typed = parser.parse_known_args(rest)
        parser.add_argument("--ckpt_path")
        parser.add_argument("--trust", nargs="+", action="extend", default=[])
        known = parser.parse_known_args(rest)[0]
    except argparse.ArgumentError as error:
        raise UserError(f"{error}; see segmentation {command[0]} --help") from None
    checkpoint = known.ckpt_path
    # Configs of older runs name classes where they were.
    parts = [renamed(part) for name in files.config for part in read_parts(find_config(name))]
    for part in parts if checkpoint is None else ():
        checkpoint = part.get("ckpt_path") or checkpoint
    if checkpoint and command != ["fit"]:
        words = re.split(r"[^\w./-]+", " ".join(typed))  # what the user names is trusted
        trust = class_names([parts, words]).union(known.trust)
        model = model_config(checkpoint, tuned, trust)
        parts += [{"model": without_download(model)}] if model else []
    texts = [yaml.safe_dump(part, sort_keys=False) for part in parts]
    return [*command, *(word for text in texts for word in ("--config", text)), *typed]


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrite the values that W&B's agent prints as Python does, and drop what it adds itself.

    A sweep's null arrives as ``--x=None``, a list as ``--x=['a', None]``: both become JSON, which
    the parser reads. A run that was requeued may get ``--_wandb=…``, which is W&B's own.

    >>> plain_arguments(["--x=None", "--y=['a', None]", "--_wandb", "z"])
    ['--x=null', '--y=["a", null]']
    """
    words: list[str] = []
    skip = False  # this word: the value of an option of W&B's
    for word in arguments:
        option, equals, value = word.partition("=")
        if skip and not word.startswith("--"):
            skip = False
        elif option == "--_wandb" or option.startswith("--_wandb."):
            skip = not equals
        else:
            skip = False
            named = word.startswith("--") and equals
            check_typed(option if named else "", value if named else word)
            words.append(f"{option}={_as_json(value)}" if named else _as_json(word))
    return words


def _as_json(value: str) -> str:
    if value == "None":
        return "null"
    if value[:1] not in ("[", "{", "("):
        return value
    try:
        return json.dumps(ast.literal_eval(value), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError, RecursionError, MemoryError):  # YAML, or text
        return value
