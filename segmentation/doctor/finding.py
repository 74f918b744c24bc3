"""A line of the page."""

from dataclasses import dataclass
from typing import Literal

GIB = 2**30

Status = Literal["ok", "warning", "error"]


@dataclass(frozen=True, slots=True)
class Finding:
    """A line of the page.

    Attributes:
        status: An ``error`` stops a training, a ``warning`` slows it down or may stop it.
        name: What was looked at.
        text: What was found.
        remedy: What to do about it.
    """

    status: Status
    name: str
    text: str
    remedy: str = ""

    def __str__(self) -> str:
        line = f"{self.status if self.status == 'ok' else self.status.upper():8} {self.name:10} "
        return line + self.text + (f"\n{'':20}► {self.remedy}" if self.remedy else "")
