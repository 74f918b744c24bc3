"""Progress with the time that is left: a bar on a terminal, a line now and then in a log."""

import sys
import time
from collections.abc import Iterable, Iterator
from typing import Any

from tqdm import tqdm

from segmentation.errors import printable
from segmentation.terminal import quiet


def progress(
    items: Iterable[Any] | None, title: str, total: float | None = None, **options: Any
) -> "tqdm[Any]":
    """Iterate over ``items``, or count by ``update``, and say on stderr how far it is.

    In a log the first line comes after two seconds, or the option ``delay``, the next ones at ever
    longer intervals. With ``--quiet`` nothing is said. Other options are tqdm's.

    >>> list(progress("abc", "spelling"))
    ['a', 'b', 'c']
    """
    kind: Any = tqdm if sys.stderr.isatty() else _Lines
    options |= {"delay": 0} if kind is tqdm else {}
    options = {"dynamic_ncols": True, "disable": quiet(), **options}
    bar: tqdm[Any] = kind(items, printable(title), total, **options)
    return bar


class _Lines(tqdm):  # type: ignore[type-arg]
    """Writes whole lines, at intervals of 2 s, 4 s, … to a minute."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **{"delay": 2, **options, "mininterval": 2, "miniters": 0})

    def __iter__(self) -> Iterator[Any]:
        with self:
            for item in self.iterable:
                yield item
                self.update()

    def display(self, *_: Any, **__: Any) -> None:
        share = "{percentage:.0f} % in {elapsed}, {remaining} left"
        self.desc = self.desc.removesuffix(": ")  # set_description adds one
        self.bar_format = "{desc}: " + (share if self.total else "{n_fmt} in {elapsed}")
        self.fp.write(f"{self}\n")
        self.fp.flush()
        self.mininterval = min(60, 2 * self.mininterval)

    def refresh(self, nolock: bool = False, lock_args: Any = None) -> None:
        late = time.time() - self.start_t >= (self.delay or 0)
        if late and not nolock:  # of tqdm.write: not again
            super().refresh(lock_args=lock_args)

    def clear(self, *_: Any, **__: Any) -> None:
        """There is nothing to clear: what stands in a log stays."""

    def close(self) -> None:
        if not self.disable:
            self.disable = True
            self._decr_instances(self)  # type: ignore[attr-defined]
