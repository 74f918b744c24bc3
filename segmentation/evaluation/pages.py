"""HTML pages that need nothing else: no network, no other file. Their text is in ``templates/``."""

import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape
from markupsafe import Markup


def render(template: str, **context: Any) -> str:
    """A page or a part of one, from a template of ``segmentation/evaluation/templates``.

    What the context gives is text and is escaped in HTML, unless it is :class:`markupsafe.Markup`
    (as the plots are). A whole page extends ``base.html``; tables, pictures and the like are macros
    of ``macros.html``. Filters: ``number`` (four digits), ``grouped`` (thousands), ``short``
    (of a long name its ends).

    Args:
        template: The file's name.
        context: What the template names; a name that it lacks is an error.
    """
    return _environment().get_template(template).render(**context)


def number(value: float | None, form: str = ".4g") -> str:
    """A number as text, a dash where there is none.

    >>> number(0.123456), number(float("nan")), number(None)
    ('0.1235', '–', '–')
    """
    return "–" if value is None or not math.isfinite(value) else format(value, form)


def duration(seconds: float) -> str:
    """Such as ``3 h 5 min``.

    >>> duration(11100), duration(130), duration(8)
    ('3 h 5 min', '2 min', '8 s')
    """
    minutes = round(seconds / 60)
    if minutes < 1:
        return f"{seconds:.0f} s"
    return f"{minutes // 60} h {minutes % 60} min" if minutes >= 60 else f"{minutes} min"


def short(text: Any, limit: int = 28) -> Any:
    """A word that is longer than ``limit`` by its two ends; the whole of it shows under the mouse.

    >>> print(short("3" * 40 + ".png seen"))
    <abbr title="3333333333333333333333333333333333333333.png">33333333333333333…333.png</abbr> seen
    """
    if not isinstance(text, str) or isinstance(text, Markup):
        return text
    keep = limit - 11
    return Markup(" ").join(
        Markup('<abbr title="{0}">{1}…{2}</abbr>').format(word, word[:keep], word[-7:])
        if len(word) > limit
        else word
        for word in text.split(" ")
    )


@cache
def _environment() -> Environment:
    settings: Any = {"autoescape": select_autoescape(), "undefined": StrictUndefined}
    settings |= {"trim_blocks": True, "lstrip_blocks": True}
    environment = Environment(loader=PackageLoader("segmentation.evaluation"), **settings)
    environment.filters |= {"number": number, "grouped": "{:,}".format, "short": short}
    return environment
