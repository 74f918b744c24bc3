"""What SIGTERM and SIGUSR1 do where nothing can be saved."""

import contextlib
import signal
from collections.abc import Iterator
from types import FrameType
from typing import NoReturn

STATUS = 143  # 128 + SIGTERM: what schedulers take for an interruption
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


@contextlib.contextmanager
def leaving() -> Iterator[None]:
    """Within, a signal ends the process with exit status 143, where no callback takes it over."""
    try:
        before = {number: signal.signal(number, _leave) for number in SIGNALS}
    except ValueError:  # not the main thread
        before = {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _leave(number: int, frame: FrameType | None) -> NoReturn:
    raise SystemExit(STATUS)
