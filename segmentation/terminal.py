"""How much a command tells, and in which colours."""

import logging
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TextIO

_LEVELS = {"-q": -1, "--quiet": -1, "-v": 1, "--verbose": 1}
_COLOURS = {"bold": 1, "red": 31, "green": 32}
_level = 0


def take_level(words: Sequence[str]) -> list[str]:
    """Take ``-q``, ``--quiet``, ``-v`` and ``--verbose`` out of what was typed, and follow them.

    What stands after ``--`` is left as it is.
    """
    global _level
    end = words.index("--") if "--" in words else len(words)
    _level = next((_LEVELS[word] for word in reversed(words[:end]) if word in _LEVELS), 0)
    return [*(word for word in words[:end] if word not in _LEVELS), *words[end:]]


def quiet() -> bool:
    """Whether only results, warnings and errors are wanted."""
    return _level < 0


def verbose() -> bool:
    """Whether all is wanted: what libraries say, too, and where an error came from."""
    return _level > 0


@contextmanager
def lightning_quiet() -> Iterator[None]:
    """Lightning's own lines are left out meanwhile, but for warnings."""
    log = logging.getLogger("lightning.pytorch")
    level = log.level
    log.setLevel(logging.WARNING)
    try:
        yield
    finally:
        log.setLevel(level)


def coloured(text: str, colour: str, stream: TextIO | None = None) -> str:
    """The text in a colour where the stream (stdout) is a terminal; https://no-color.org is kept.

    >>> import io
    >>> coloured("best", "green", io.StringIO())
    'best'
    """
    terminal = (stream or sys.stdout).isatty() and os.environ.get("TERM") != "dumb"
    shows = os.name != "nt" or "WT_SESSION" in os.environ  # older consoles print the codes
    if not terminal or not shows or os.environ.get("NO_COLOR"):
        return text
    return f"\x1b[{_COLOURS[colour]}m{text}\x1b[0m"
