"""What ``metrics.csv`` tells: the course of each metric, its best value, and a drawing."""

import csv
import io
import math
from collections.abc import Mapping
from html import escape
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.evaluation.scores import better

Points = list[tuple[float, float]]  # x, y
_COLOURS = ("#4a78b5", "#d2691e", "#2a7a2a", "#8e44ad", "#b00020", "#777")


class Series:
    """One column of ``metrics.csv`` where it has numbers: steps, epochs and values.

    Attributes:
        steps, epochs, values: Lists of one length; an epoch is NaN where the log has none.
    """

    def __init__(self) -> None:
        self.steps: list[float] = []
        self.epochs: list[float] = []
        self.values: list[float] = []

    def by(self, axis: str) -> Points:
        """(``steps`` or ``epochs``, value) of all that can be drawn."""
        pairs = zip(getattr(self, axis), self.values, strict=True)
        return [pair for pair in pairs if all(map(math.isfinite, pair))]


def read_metrics(path: Path) -> dict[str, Series]:
    """``metrics.csv`` by column; empty if there is none. What is no number is left out."""
    log: dict[str, Series] = {}
    text = path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""
    for row in csv.DictReader(io.StringIO(text)):
        step, epoch = (_number(row.get(name)) for name in ("step", "epoch"))
        for name, cell in row.items():
            value = _number(cell)
            if name and name not in ("step", "epoch") and math.isfinite(value):
                series = log.setdefault(name, Series())
                series.steps.append(step)
                series.epochs.append(epoch)
                series.values.append(value)
    return log


def extremes(log: Mapping[str, Series]) -> dict[str, dict[str, float | None]]:
    """First, last and, where one can say so, best value of each metric, and the best's epoch."""
    result: dict[str, dict[str, float | None]] = {}
    for name, series in sorted(log.items()):
        values = series.values
        kept: dict[str, float | None] = {"last": values[-1]}
        stage, _, score = name.partition("/")
        is_loss = score.startswith("loss")
        if is_loss or (stage == "val" and better(score) != "near 0"):
            low = is_loss or better(score) == "lower"
            place = (np.argmin if low else np.argmax)(values)
            epoch = series.epochs[place]
            kept |= {"best": values[place], "epoch": epoch if math.isfinite(epoch) else None}
        result[name] = kept
    return result


def chart(title: str, x_name: str, lines: Mapping[str, Points], log: bool = False) -> str:
    """An SVG of several lines over a common axis; nothing where there are no points.

    Args:
        title: Written above.
        x_name: Of the horizontal axis.
        lines: Points by name, in order of x.
        log: Draw y on a logarithmic axis where all values are positive.
    """
    lines = {name: points for name, points in lines.items() if points}
    if not lines:
        return ""
    values = [y for points in lines.values() for _, y in points]
    log = log and min(values) > 0
    scaled = {
        name: [(x, math.log10(y) if log else y) for x, y in points[:: len(points) // 500 + 1]]
        for name, points in lines.items()
    }
    every = [point for points in scaled.values() for point in points]
    (left, right), (low, high) = ((min(axis), max(axis)) for axis in zip(*every, strict=True))
    width, height, x0, y0 = 400, 150, 56, 24

    def place(x: float, y: float) -> tuple[float, float]:
        across = (x - left) / (right - left) if right > left else 0.5
        up = (y - low) / (high - low) if high > low else 0.5
        return x0 + across * width, y0 + (1 - up) * height

    shapes = [f'<text x="{x0}" y="12" class="t">{escape(title)}</text>']
    for y in np.linspace(low, high, 4 if high > low else 1):
        _, py = place(left, y)
        label = f"{10**y if log else y:.3g}"
        shapes.append(f'<line x1="{x0}" x2="{x0 + width}" y1="{py:.1f}" y2="{py:.1f}" class="g"/>')
        shapes.append(f'<text x="{x0 - 4}" y="{py + 3:.1f}" class="r">{label}</text>')
    for x in dict.fromkeys((left, right)):
        px, _ = place(x, low)
        shapes.append(
            f'<text x="{px:.1f}" y="{y0 + height + 14}" text-anchor="middle">{x:g}</text>'
        )
    shapes.append(
        f'<text x="{x0 + width / 2}" y="{y0 + height + 14}" text-anchor="middle">'
        f"{escape(x_name)}</text>"
    )
    for i, (name, points) in enumerate(scaled.items()):
        colour, row = _COLOURS[i % len(_COLOURS)], y0 + height + 32 + 14 * (i // 2)
        placed = [place(*point) for point in points]
        path = " ".join(f"{a:.1f},{b:.1f}" for a, b in placed)
        shapes.append(
            f'<polyline points="{path}" fill="none" stroke="{colour}" stroke-width="1.5"/>'
        )
        if len(placed) == 1:
            a, b = placed[0]
            shapes.append(f'<circle cx="{a:.1f}" cy="{b:.1f}" r="3" fill="{colour}"/>')
        key = x0 + (i % 2) * width / 2
        shapes.append(
            f'<line x1="{key}" x2="{key + 16}" y1="{row - 3}" y2="{row - 3}" stroke="{colour}" '
            f'stroke-width="3"/><text x="{key + 22}" y="{row}">{escape(name)}</text>'
        )
    bottom = y0 + height + 40 + 14 * ((len(scaled) - 1) // 2)
    return f'<svg viewBox="0 0 {x0 + width + 12} {bottom}" role="img">{"".join(shapes)}</svg>'


def _number(cell: Any) -> float:
    try:
        return float(cell)
    except (TypeError, ValueError):
        return math.nan
