"""HTML pages that need nothing else: no network, no other file. Their text is in ``templates/``."""

import math
from functools import cache
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined, select_autoescape


def render(template: str, **context: Any) -> str:
    """A page or a part of one, from a template of ``segmentation/evaluation/templates``.

    What the context gives is text and is escaped in HTML, unless it is :class:`markupsafe.Markup`
    (as the plots are). A whole page extends ``base.html``; tables, pictures and the like are macros
    of ``macros.html``. Filters: ``number`` (four digits), ``grouped`` (thousands).

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


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("segmentation.evaluation"),
        autoescape=select_autoescape(),
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "grouped": "{:,}".format}
    return environment
