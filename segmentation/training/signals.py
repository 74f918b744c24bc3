"""The signals by which schedulers interrupt, and what they do where nothing can be saved."""

import contextlib
import signal
from collections.abc import Callable, Iterator
from types import FrameType
from typing import Any, NoReturn

STATUS = 143  # 128 + SIGTERM: what schedulers take for an interruption
SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGUSR1") if hasattr(signal, name)]


def handle(handler: Callable[[int, FrameType | None], None]) -> dict[int, Any]:
    """Let ``handler`` answer the signals; returns who did before."""
    try:
        return {number: signal.signal(number, handler) for number in SIGNALS}
    except ValueError:  # not the main thread
        return {}


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Within, a signal ends the process with exit status 143, where no callback takes it over."""
    before = handle(_leave)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(STATUS)
