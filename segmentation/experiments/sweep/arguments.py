"""What W&B's agents type, as the parser of ``fit`` reads it."""

import ast
import json
from collections.abc import Sequence


def plain_arguments(arguments: Sequence[str]) -> list[str]:
    """Rewrite the values that an agent prints as Python does, and drop what it adds itself.

    A sweep's null arrives as ``--x=None``, a list as ``--x=['a', None]``: both become JSON, which
    the parser reads. A run that was requeued may get ``--_wandb=…``, which is W&B's own.

    Args:
        arguments: Everything after the command's name.
    """
    words: list[str] = []
    own = False  # whether this word is the value of an option of W&B's
    for word in arguments:
        option, equals, value = word.partition("=")
        if option == "--_wandb" or option.startswith("--_wandb."):
            own = not equals
        elif own and not word.startswith("--"):
            own = False
        elif word.startswith("--") and equals:
            own = False
            words.append(f"{option}={_json(value)}")
        else:
            own = False
            words.append(_json(word))
    return words


def _json(value: str) -> str:
    if value == "None":
        return "null"
    if value[:1] not in ("[", "{", "("):
        return value
    try:
        return json.dumps(ast.literal_eval(value), ensure_ascii=False)
    except (ValueError, SyntaxError, TypeError):  # YAML, or text
        return value
