"""Plots of the pages: SVG made by matplotlib, in the page's own colours, light or dark."""

import io
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from markupsafe import Markup

if TYPE_CHECKING:  # importing matplotlib takes half a second
    from matplotlib.axes import Axes

_INK = "#010203"  # replaced by the colour of the page's text
_STYLE: dict[Any, Any] = {
    "svg.fonttype": "none",  # text remains text
    "svg.hashsalt": "segmentation",  # the same plot is the same file
    "text.parse_math": False,  # others' words may hold dollar signs; and it is slow
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor"), _INK),
    **dict.fromkeys(("xtick.color", "ytick.color"), _INK),
    **{"axes.grid": True, "grid.alpha": 0.25, "grid.color": _INK, "axes.axisbelow": True},
    **{"axes.spines.top": False, "axes.spines.right": False},
    **{"font.size": 9.0, "axes.titlesize": 10.0, "grid.linewidth": 0.5},
}


def axes(
    title: str,
    x_name: str = "",
    y_name: str = "",
    scale: str = "linear",
    size: tuple[float, float] = (4.6, 2.4),
) -> "Axes":
    """Empty axes in the style of the pages, of some inches; draw on them, then :func:`svg`."""
    import matplotlib
    from matplotlib.figure import Figure

    with matplotlib.rc_context(_STYLE):
        figure = Figure(size)
        figure.subplots_adjust(0.16, 0.45 / size[1], 0.97, 1 - 0.25 / size[1])
        drawn = figure.add_subplot()
        drawn.set_title(title, loc="left")
        drawn.set(xlabel=x_name, ylabel=y_name)
        if scale != "linear":
            drawn.set_yscale(scale, **({"linthresh": 1} if scale == "symlog" else {}))
            drawn.yaxis.set_major_formatter("{x:,.9g}")
            drawn.yaxis.set_minor_formatter("")
    return drawn


def svg(figure: Any) -> Markup:
    """A figure of matplotlib as SVG to stand inside a page."""
    import matplotlib

    file = io.StringIO()
    nothing = dict.fromkeys(("Date", "Creator", "Format", "Type"))
    with matplotlib.rc_context(_STYLE):
        figure.savefig(file, format="svg", transparent=True, metadata=nothing)
    text = file.getvalue()
    return Markup(text[text.index("<svg") :].replace(_INK, "currentColor"))


def curve(
    title: str,
    x_name: str,
    y_name: str,
    x: np.ndarray,
    y: np.ndarray,
    diagonal: bool = False,
    dots: bool = False,
) -> Markup:
    """A curve in the unit square; points (x, y) that are NaN are left out."""
    drawn = axes(title, x_name, y_name, size=(4.0, 3.8))
    drawn.set(xlim=(0, 1), ylim=(0, 1), aspect="equal")
    if diagonal:
        drawn.plot([0, 1], [0, 1], "--", color="tab:red", linewidth=1)
    drawn.plot(x, y, ".-" if dots else "-", clip_on=False)
    return svg(drawn.figure)


def chart(
    title: str,
    x_name: str,
    lines: Mapping[str, Sequence[tuple[float, float]]],
    log: bool = False,
) -> Markup:
    """Several lines, points (x, y) by name, over a common axis; nothing where there are none.

    With ``log`` the vertical axis is logarithmic where all values are positive and differ enough:
    within a power of ten it would have no numbers.
    """
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup()
    values = [y for points in lines.values() for _, y in points]
    log = log and 0 < 10 * min(values) < max(values)
    drawn = axes(title, x_name, scale="log" if log else "linear")
    for name, points in lines.items():
        x, y = np.array(points[:: len(points) // 500 + 1], float).T
        drawn.plot(x, y, "." if len(x) == 1 else "-", label=name, linewidth=1.5)
    where: dict[str, Any] = {}
    if len(lines) > 3:  # beside the lines, which they would hide
        where = {"loc": "center left", "bbox_to_anchor": (1, 0.5)}
        drawn.figure.subplots_adjust(right=0.66)
    for text in drawn.legend(labelcolor=_INK, frameon=False, **where).get_texts():
        text.set_parse_math(False)
    return svg(drawn.figure)


def forest(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Differences with their intervals and a line at 0; rows of ``compare.json``."""
    rows = [row for row in rows if row["difference_low"] is not None][::-1]
    if not rows:
        return Markup()
    drawn = axes("", size=(4.6, 0.8 + 0.3 * len(rows)))
    middle, low, high = (
        np.array([row[f"difference{end}"] for row in rows]) for end in ("", "_low", "_high")
    )
    drawn.errorbar(middle, range(len(rows)), xerr=(middle - low, high - middle), fmt="o")
    drawn.axvline(0, color="tab:red", linestyle="--")
    drawn.set_yticks(range(len(rows)), [row["name"] for row in rows], parse_math=False)
    drawn.figure.subplots_adjust(left=0.35)
    return svg(drawn.figure)


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], mark: float | None = None
) -> Markup:
    """Counts between edges, on a log scale, every bin equally wide; ``mark`` is a line's place."""
    drawn = axes(title, scale="symlog")
    drawn.stairs(counts, fill=True)
    drawn.set(xlim=(0, len(counts)), ylim=(0, 1.3 * max(1, *counts)))
    shown = np.linspace(0, len(counts), 6).round().astype(int)
    drawn.set_xticks(shown, [f"{edges[i]:.3g}" for i in shown])
    if mark is not None:
        drawn.axvline(np.interp(mark, edges, range(len(edges))), color="tab:red", linestyle="--")
    return svg(drawn.figure)


def histogram_of(title: str, values: Sequence[float], log: bool = False) -> Markup:
    """The histogram of numbers, at least one; ``log`` makes bins of equal ratio, from 1 on."""
    low, high = min(values), max(values)
    if log:
        edges = np.geomspace(max(1, low), max(2, high, low + 1), 31)
    else:
        edges = np.linspace(low, high if high > low else low + 1, 31)
    counts = np.histogram(np.maximum(values, edges[0]), edges)[0]
    return histogram(title, edges.tolist(), counts.tolist())
