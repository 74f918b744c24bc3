"""One self-contained page of a sweep: parallel coordinates, importance, and all trials."""

import html
import json
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import optuna
from optuna.trial import TrialState

from segmentation.evaluation.html import document
from segmentation.experiments.sweep.status import Row, clock, counts, maximizes, megabytes
from segmentation.experiments.sweep.store import Store
from segmentation.io.files import write_bytes

WIDTH, HEIGHT, TOP, SIDE = 1100, 420, 40, 70  # of the drawing, in pixels
STYLE = """
svg { width: 100%; } svg text { font-size: 11px; } td { text-align: right; }
path { fill: none; stroke-width: 1.5; opacity: .55; } path:hover { stroke-width: 4; opacity: 1; }
td.text { text-align: left; } .wide { overflow-x: auto; }
.wide td, .wide th { white-space: nowrap; text-align: right; }
.bar { background: #4477aa; height: 1em; display: inline-block; }
"""


def write_page(path: Path, store: Store, rows: Sequence[Row]) -> None:
    """Write the page.

    Raises:
        UserError: It cannot be written.
    """
    metric = html.escape(store.search["metric"]["name"])
    title = str(store.study.user_attrs.get("file", "sweep"))
    scored = [row for row in rows if row.score is not None and math.isfinite(row.score)]
    body = (
        f"<h1>{html.escape(title)}</h1><p>{html.escape(counts(list(rows)))}</p>"
        f"<h2>Parallel coordinates</h2>{parallel(scored, metric, maximizes(store))}"
        f"<h2>Importance</h2>{_importance(store)}<h2>Trials</h2>{_table(rows, metric)}"
    )
    write_bytes(path, document(title, body, STYLE).encode())


def parallel(rows: Sequence[Row], metric: str, maximize: bool) -> str:
    """A drawing (SVG): an axis for each parameter that varies, a line for each trial.

    Better trials are drawn last and darker. Numbers keep their order along an axis, on a
    logarithmic one where they are positive and span more than a factor of 50; other values are
    spread evenly.
    """
    names = sorted({name for row in rows for name in row.values})
    axes: dict[str, dict[str, float]] = {}
    for name in names:
        values = [row.values[name] for row in rows if name in row.values]
        places = _places(values)
        if len(places) > 1:
            axes[name] = places
    if not axes or len(rows) < 2:
        return "<p>Two trials with a score and different values are needed.</p>"
    scores = [row.score or 0.0 for row in rows]
    axes_all: dict[str, dict[str, float]] = {**axes, metric: _places(scores)}
    step = (WIDTH - 2 * SIDE) / (len(axes_all) - 1)
    parts = []
    for index, (name, places) in enumerate(axes_all.items()):
        x = SIDE + index * step
        parts.append(
            f'<line x1="{x:.0f}" x2="{x:.0f}" y1="{TOP}" y2="{HEIGHT - TOP}" stroke="#999"/>'
            f'<text x="{x:.0f}" y="{18 + 12 * (index % 2)}" text-anchor="middle">'
            f"{html.escape(name)}</text>"
        )
        shown = sorted(places.items(), key=lambda item: item[1])
        if len(shown) > 8:
            shown = [shown[0], shown[len(shown) // 2], shown[-1]]
        parts += [
            f'<text x="{x + 4:.0f}" y="{_y(place):.0f}">{html.escape(_short(value))}</text>'
            for value, place in shown
        ]
    low, high = min(scores), max(scores)
    for row in sorted(rows, key=lambda r: r.score or 0.0, reverse=not maximize):
        share = ((row.score or 0.0) - low) / (high - low) if high > low else 1.0
        share = share if maximize else 1 - share
        points = [
            f"{SIDE + index * step:.1f} {_y(places[_key(value)]):.1f}"
            for index, (name, places) in enumerate(axes_all.items())
            if (value := row.score if name == metric else row.values.get(name, ...)) is not ...
        ]
        label = html.escape(f"trial {row.number}: {metric} {row.score:.4g} {row.values}")
        parts.append(
            f'<path d="M{" L".join(points)}" stroke="hsl(215,70%,{80 - 50 * share:.0f}%)">'
            f"<title>{label}</title></path>"
        )
    return f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img">{"".join(parts)}</svg>'


def _places(values: Sequence[Any]) -> dict[str, float]:
    """Where each value lies on its axis, 0 (bottom) … 1 (top)."""
    numbers = [v for v in values if isinstance(v, int | float) and not isinstance(v, bool)]
    if len(numbers) < len(values):
        keys = sorted({_key(value) for value in values})
        return {key: i / max(len(keys) - 1, 1) for i, key in enumerate(keys)}
    low, high = min(numbers), max(numbers)
    if low > 0 and high / low > 50:
        span = math.log(high / low)
        return {_key(value): math.log(value / low) / span for value in numbers}
    return {_key(value): (value - low) / (high - low) if high > low else 0.5 for value in numbers}


def _key(value: Any) -> str:
    return json.dumps(value, default=str)


def _short(key: str) -> str:
    value = json.loads(key)
    if isinstance(value, float):
        return f"{value:.3g}"
    text = str(value)
    return text if len(text) <= 18 else f"…{text[-17:]}"


def _y(place: float) -> float:
    return HEIGHT - TOP - place * (HEIGHT - 2 * TOP)


def _importance(store: Store) -> str:
    """How much of the score's spread each parameter explains (PED-ANOVA, arXiv:2304.10255)."""
    complete = store.study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len({trial.value for trial in complete}) < 2:
        return "<p>Two complete trials with different scores are needed.</p>"
    found = optuna.importance.get_param_importances(store.study)
    lines = [
        f'<tr><td class="text">{html.escape(name)}</td><td>{share:.3f}</td><td class="text">'
        f'<span class="bar" style="width: {400 * share:.0f}px"></span></td></tr>'
        for name, share in found.items()
    ]
    note = f"<p>From {len(complete)} complete trials; with few of them it is a guess.</p>"
    return f"{note}<table>{''.join(lines)}</table>"


def _table(rows: Sequence[Row], metric: str) -> str:
    names = sorted({name for row in rows for name in row.values})
    heads = ["trial", "state", "time", "CPU time", "memory", "GPU memory", metric, *names, ""]
    lines = [f"<tr>{''.join(f'<th>{html.escape(head)}</th>' for head in heads)}</tr>"]
    for row in rows:
        cells = [
            *(str(row.number), row.state, clock(row.seconds), clock(row.cpu)),
            *(megabytes(row.memory), megabytes(row.gpu_memory)),
            "–" if row.score is None else f"{row.score:.4g}",
            *(_short(_key(row.values[name])) if name in row.values else "" for name in names),
            row.reason,
        ]
        lines.append(f"<tr>{''.join(f'<td>{html.escape(cell)}</td>' for cell in cells)}</tr>")
    return f'<div class="wide"><table>{"".join(lines)}</table></div>'
