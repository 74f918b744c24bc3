"""Other people's error messages, cut down to one line that says what is wrong."""

import logging
import re
import warnings

from segmentation.errors import UserError

HELP_ALL = "segmentation fit --help-all"


def parser_gist(message: str) -> str:
    """The gist of the parser's nested message: which option, and what is wrong with it."""
    text = one_line(message)
    keys = re.findall(r'Parser key "([\w.]+)":', text)
    nested = re.search(r"NestedArg\(key='([^']+)', val='([^']*)'\)", text)
    value = nested[2] if nested else (re.findall(r"Given value: (\S+)$", text) or [""])[0]
    option = f"--{keys[0]}{'.' + nested[1] if nested else ''} {value}: " if keys else ""
    text = text.split("Given value type:")[0]
    for start in ("Errors: ", "Problem with given class_path "):
        text = text.rpartition(start)[2]
    text = re.sub(
        r'^\S+ Parser key "[\w.]+": |Parser key "[\w.]+": |Expected a <class \'NoneType\'>',
        "",
        text,
    )
    text = re.sub(
        r"(Expected a path but \S+ either not accessible or invalid )?"
        r"Expected a dot import path string: (\S+)",
        r"no class is called \2; write it as module.Class",
        text,
    )
    return shortened(f"{option}{text.strip()}; see the names and types in {HELP_ALL}")


def root_cause(error: BaseException) -> str:
    """What first went wrong, of an error that others were raised from; a `UserError` says it."""
    while not isinstance(error, UserError):
        if (cause := error.__cause__ or error.__context__) is None:
            break
        error = cause
    return shortened(one_line(str(error.args[0]) if error.args else repr(error)))


def one_line(message: str) -> str:
    """A text without line breaks, indents and terminal colours."""
    return " ".join(re.sub(r"\x1b\[[0-9;]*m", "", message).replace(" - ", " ").split())


def shortened(text: str, limit: int = 400) -> str:
    """A text of at most ``limit`` characters."""
    return text if len(text) <= limit else text[: limit - 1] + "…"


def silence_noise() -> None:
    """Leave out what Lightning says in every run, and need not."""
    for message in (
        "The dirpath has changed",  # a run's checkpoints are in its own folder
        "Checkpoint directory .* exists and is not empty",  # of a run that goes on
        r"It is recommended to use `self\.log\(.*sync_dist",  # scores are sums over processes
        ".*LeafSpec",  # Lightning itself, on torch 2.15
    ):
        warnings.filterwarnings("ignore", message=message)
    logging.getLogger("lightning.pytorch.utilities.rank_zero").addFilter(_is_no_tip)


def _is_no_tip(record: logging.LogRecord) -> bool:
    """Lightning praises its services in every run."""
    return "Tip:" not in record.getMessage()
