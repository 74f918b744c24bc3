"""Plots of the pages: SVG in the page's own colours, light or dark, whose points tell their values.

A run's page is drawn anew after each epoch. Here a plot takes about a millisecond; matplotlib takes
more than a hundred, and half a second to be imported.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Literal

import numpy as np
from markupsafe import Markup, escape

# Of the style sheet: Okabe and Ito's, without the yellow that nobody sees on white.
COLOURS = (*(f"var(--line-{i})" for i in range(1, 7)), "currentColor")
_WIDTH, _LEFT, _TOP, _BOTTOM, _RIGHT = 468, 58, 28, 40, 14
_POINTS, _HOVERED = 500, 120  # of a line, drawn and with a value each

Ticks = Iterable[tuple[float, str]]  # their places and names
Scale = Literal["linear", "log", "count"]  # count: from 0 on, then like a logarithm


class Axis:
    """Where values lie between two ends, 0…1, and which round ones are named."""

    def __init__(self, low: float, high: float, scale: Scale = "linear") -> None:
        self.low, self.high, self.scale = low, high if high > low else low + 1, scale

    def place(self, value: float) -> float:
        """0…1 between the ends."""
        low, high, here = map(self._scaled, (self.low, self.high, value))
        return (here - low) / (high - low)

    def _scaled(self, value: float) -> float:
        shift = 1 if self.scale == "count" else 0
        return value if self.scale == "linear" else math.log10(max(value + shift, 1e-300))

    def ticks(self, most: int = 6, whole: bool = False) -> list[float]:
        """Round values within the ends, at most about so many; ``whole`` ones where they count.

        >>> Axis(0, 29).ticks(), Axis(0.04, 300, "log").ticks()
        ([0.0, 5.0, 10.0, 15.0, 20.0, 25.0], [0.1, 1.0, 10.0, 100.0])
        """
        if self.scale == "linear":
            step = round_step((self.high - self.low) / most)
            step = max(1.0, step) if whole else step
            first, last = math.ceil(self.low / step - 1e-9), math.floor(self.high / step + 1e-9)
            return [round(i * step, 12) for i in range(first, last + 1)]
        low = 0 if self.scale == "count" else math.floor(math.log10(self.low))
        decades = [10.0**i for i in range(low, math.floor(math.log10(self.high)) + 1)]
        parts = (1, 2, 5) if len(decades) < 3 else (1,)
        found = [part * ten for ten in decades for part in parts]
        found = [value for value in found if self.low <= value <= self.high]
        found = [0.0, *found] if self.scale == "count" else found
        return found[:: len(found) // (most + 1) + 1]


def round_step(step: float) -> float:
    """The smallest of 1, 2, 5, 10, … times a power of ten that is no less.

    >>> round_step(0.13), round_step(6)
    (0.2, 10.0)
    """
    ten = 10.0 ** math.floor(math.log10(step))
    return float(f"{next(m for m in (1, 2, 5, 10) if m * ten >= step * (1 - 1e-9)) * ten:.6g}")


class Plot:
    """A frame with two axes, to draw on; its text is escaped.

    Args:
        title: Of the plot.
        x, y: The axes.
        names: Of the axes.
        height: In pixels of the page; it is 468 wide.
        left, right: Pixels beside the axes.
    """

    def __init__(
        self,
        title: str,
        x: Axis,
        y: Axis,
        names: tuple[str, str] = ("", ""),
        height: int = 230,
        left: int = _LEFT,
        right: int = _RIGHT,
    ) -> None:
        self.title, self.x, self.y, self.height, self.left = title, x, y, height, left
        self.wide, self.high = _WIDTH - left - right, height - _TOP - _BOTTOM
        self.parts = [_text(4, 16, title, "start", ' font-weight="600"')]
        if names[0]:
            self.parts.append(_text(left + self.wide / 2, height - 6, names[0]))
        if names[1]:
            middle = _TOP + self.high / 2
            turned = f' transform="rotate(-90 12 {middle:.1f})"'
            self.parts.append(_text(12, middle, names[1], "middle", turned))

    def at(self, x: float, y: float) -> tuple[float, float]:
        """Values in pixels, from the upper left."""
        return (self.left + self.wide * self.x.place(x), _TOP + self.high * (1 - self.y.place(y)))

    def grid(self, x: Ticks | None = None, y: Ticks | None = None) -> "Plot":
        """Draw lines and names of the ticks of both axes: as given, else round ones."""
        for place, name in [(v, tick_name(v)) for v in self.x.ticks()] if x is None else x:
            left = self.at(place, self.y.low)[0]
            self.line([(left, _TOP), (left, _TOP + self.high)], "grid")
            self.parts.append(_text(left, _TOP + self.high + 14, name))
        for place, name in [(v, tick_name(v)) for v in self.y.ticks()] if y is None else y:
            top = self.at(self.x.low, place)[1]
            self.line([(self.left, top), (self.left + self.wide, top)], "grid")
            self.parts.append(_text(self.left - 6, top + 4, name, "end"))
        return self

    def line(self, pixels: Iterable[tuple[float, float]], style: str, colour: str = "") -> None:
        """Join pixels by a line; ``style`` is a class of the style sheet."""
        stroke = f' stroke="{colour}"' if colour else ""
        path = " ".join(f"{x:.1f},{y:.1f}" for x, y in pixels)
        self.parts.append(f'<polyline class="{style}"{stroke} points="{path}"/>')

    def dot(self, x: float, y: float, says: str, style: str, colour: str = COLOURS[0]) -> None:
        """A point that tells its value under the mouse; style ``hit`` shows it only then."""
        left, top = self.at(x, y)
        self.parts.append(
            f'<circle class="{style}" cx="{left:.1f}" cy="{top:.1f}" r="4" fill="{colour}">'
            f"<title>{escape(says)}</title></circle>"
        )

    def svg(self) -> Markup:
        """The whole plot, to stand inside a page."""
        head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {_WIDTH} {self.height}"'
        head += f' role="img" aria-label="{escape(self.title)}" fill="currentColor">'
        return Markup(head + "".join(self.parts) + "</svg>")


def tick_name(value: float) -> str:
    """A tick's name.

    >>> tick_name(0.25), tick_name(20000), tick_name(0.00001)
    ('0.25', '20,000', '1e-05')
    """
    return f"{value:,.0f}" if 1000 <= abs(value) < 1e7 else f"{value:g}"


def _text(x: float, y: float, text: str, anchor: str = "middle", more: str = "") -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" text-anchor="{anchor}"{more}>{escape(text)}</text>'


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
    plot = Plot(title, Axis(0, 1), Axis(0, 1), (x_name, y_name), height=_TOP + _BOTTOM + 300)
    plot.wide = plot.high
    plot.grid()
    if diagonal:
        plot.line([plot.at(0, 0), plot.at(1, 1)], "mark")
    points = [(a, b) for a, b in zip(x, y, strict=True) if math.isfinite(a + b)]
    points = points[:: len(points) // _POINTS + 1]
    plot.line([plot.at(*point) for point in points], "curve", COLOURS[0])
    for a, b in points[:: len(points) // _HOVERED + 1]:
        plot.dot(a, b, f"{x_name} {a:.4g}, {y_name} {b:.4g}", "" if dots else "hit")
    return plot.svg()


def chart(
    title: str, x_name: str, lines: Mapping[str, Sequence[tuple[float, float]]], log: bool = False
) -> Markup:
    """Several lines, points (x, y) by name, over a common axis; nothing where there are none.

    With ``log`` the vertical axis is logarithmic where all values are positive and differ enough:
    within a power of ten it would have few numbers.
    """
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return Markup()
    every = np.array([point for points in lines.values() for point in points], float)
    (left, low), (right, high) = every.min(axis=0), every.max(axis=0)
    log = log and 0 < 10 * low < high
    gap = 0 if log else 0.04 * (high - low)
    x, y = Axis(left, right), Axis(low - gap, high + gap, "log" if log else "linear")
    legend = min(190, 30 + round(6.2 * max(map(len, lines))))
    plot = Plot(title, x, y, (x_name, ""), right=legend)
    plot.grid([(v, tick_name(v)) for v in x.ticks(5, whole=True)])
    for place, (name, points) in enumerate(lines.items()):
        colour, top = COLOURS[place % len(COLOURS)], _TOP + 10 + 16 * place
        style = "curve" if place < len(COLOURS) else "curve dashed"
        points = points[:: len(points) // _POINTS + 1]
        plot.line([plot.at(*point) for point in points], style, colour)
        for a, b in points[:: len(points) // _HOVERED + 1]:
            says = f"{name}: {b:.4g} ({x_name} {a:g})"
            plot.dot(a, b, says, "" if len(points) == 1 else "hit", colour)
        edge = _WIDTH - legend + 8
        plot.line([(edge, top - 4), (edge + 12, top - 4)], style, colour)
        plot.parts.append(_text(edge + 16, top, name, "start"))
    return plot.svg()


def forest(rows: Sequence[Mapping[str, Any]]) -> Markup:
    """Differences with their intervals and a line at 0; rows of ``compare.json``."""
    rows = [row for row in rows if row["difference_low"] is not None]
    if not rows:
        return Markup()
    low = min(0, *(row["difference_low"] for row in rows))
    high = max(0, *(row["difference_high"] for row in rows))
    gap = 0.05 * (high - low or 1)
    x, y = Axis(low - gap, high + gap), Axis(0, len(rows))
    title = f"Difference of {rows[0]['score']} with its 95 % interval"
    plot = Plot(title, x, y, height=_TOP + _BOTTOM + 26 * len(rows), left=160)
    names = [row["name"] if len(row["name"]) < 26 else f"…{row['name'][-24:]}" for row in rows]
    plot.grid(y=[(len(rows) - i - 0.5, name) for i, name in enumerate(names)])
    plot.line([plot.at(0, 0), plot.at(0, len(rows))], "mark")
    for i, row in enumerate(rows):
        middle, ends = row["difference"], (row["difference_low"], row["difference_high"])
        place = len(rows) - i - 0.5
        plot.line([plot.at(end, place) for end in ends], "curve", COLOURS[0])
        plot.dot(middle, place, f"{middle:+.4f} [{ends[0]:+.4f}, {ends[1]:+.4f}]", "")
    return plot.svg()


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], mark: float | None = None
) -> Markup:
    """Counts between edges, on a log scale, every bin equally wide; ``mark`` is a line's place."""
    x, y = Axis(0, len(counts)), Axis(0, 1.3 * max(1, *counts), "count")
    even = math.isclose(edges[1] - edges[0], edges[-1] - edges[-2], rel_tol=1e-3)
    axis = Axis(edges[0], edges[-1]) if even else Axis(edges[0] or edges[1], edges[-1], "log")
    plot, bins = Plot(title, x, y, height=200), range(len(edges))
    plot.grid((float(np.interp(value, edges, bins)), tick_name(value)) for value in axis.ticks())
    for i, count in enumerate(counts):
        (left, top), (right, bottom) = plot.at(i, count), plot.at(i + 1, 0)
        says = f"{edges[i]:.4g} … {edges[i + 1]:.4g}: {count:,}"
        plot.parts.append(
            f'<rect class="bar" x="{left + 0.5:.1f}" y="{top:.1f}" width="{right - left - 1:.1f}" '
            f'height="{bottom - top:.1f}"><title>{says}</title></rect>'
        )
    if mark is not None:
        place = float(np.interp(mark, edges, bins))
        plot.line([plot.at(place, 0), plot.at(place, y.high)], "mark")
    return plot.svg()


def histogram_of(title: str, values: Sequence[float], log: bool = False) -> Markup:
    """The histogram of numbers, at least one; ``log`` makes bins of equal ratio, from 1 on."""
    low, high = min(values), max(values)
    edges: np.ndarray
    if log:
        edges = np.geomspace(max(1, low), max(2, high, low + 1), 31)
    else:
        step = round_step((high - low or 1) / 30)
        first = math.floor(low / step + 1e-9)
        count = max(1, math.ceil((high - first * step) / step - 1e-9))
        edges = (first + np.arange(count + 1)) * step
        edges[-1] = max(edges[-1], high)
    counts = np.histogram(np.clip(values, edges[0], edges[-1]), edges)[0]
    return histogram(title, edges.tolist(), counts.tolist())
