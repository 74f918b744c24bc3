"""HTML pages that need nothing else: no network, no script, no other file."""

import base64
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from typing import Any

import cv2
import numpy as np

ROWS = 60  # of a table; a file beside the page holds all
STYLE = """
body{font:15px/1.45 system-ui,sans-serif;max-width:1080px;margin:2em auto;padding:0 1em;color:#222}
h1,h2,h3{line-height:1.2}h2{margin-top:2em;border-bottom:1px solid #ccc}code{font-size:.9em}
table{border-collapse:collapse;margin:.6em 0;font-size:.88em}td,th{padding:.2em .7em;
text-align:left;border-bottom:1px solid #e4e4e4;vertical-align:top}th{background:#f4f4f4}
td:first-child,.facts td{overflow-wrap:anywhere}.facts td:first-child{white-space:nowrap}
figure{margin:1em 0;display:inline-block;max-width:100%}figcaption{font-size:.85em;max-width:964px;
overflow-wrap:anywhere}img{max-width:100%}.close{width:192px;margin:.4em}svg{width:468px;
max-width:100%;margin:.5em 1em .5em 0}rect{fill:#4a78b5}text{font-size:10px;fill:#444}
.t{font-size:13px;fill:#000}.r{text-anchor:end}.g{stroke:#e8e8e8}.m{stroke:#d22;stroke-dasharray:4}
.bad{color:#b00020;font-weight:600}.ok{color:#2a7a2a}
"""


def document(title: str, body: str, style: str = "") -> str:
    """A whole page; ``title`` is text, ``body`` HTML, ``style`` what it adds to the style sheet."""
    return (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}{style}</style></head><body>{body}</body></html>\n"
    )


def table(head: Iterable[str], rows: Sequence[Iterable[str]], file: str) -> str:
    """A table of at most ``ROWS`` rows of HTML; the rest is said to be in ``file``."""
    text = f"<tr>{''.join(f'<th>{escape(cell)}</th>' for cell in head)}</tr>"
    for row in rows[:ROWS]:
        text += f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>"
    more = f"<p>… and {len(rows) - ROWS:,} more in {file}.</p>" if len(rows) > ROWS else ""
    return f"<table>{text}</table>{more}"


def facts(rows: Iterable[tuple[str, str]]) -> str:
    """A table of two columns: what it is, and its value, HTML; the first is never broken."""
    cells = "".join(f"<tr><td>{name}</td><td>{value}</td></tr>" for name, value in rows)
    return f'<table class="facts">{cells}</table>'


def figure(url: str, about: str, style: str = "") -> str:
    """A picture with its caption, HTML; ``style`` is a class of the style sheet."""
    image = f'<img src="{url}" alt="">'
    return f'<figure class="{style}">{image}<figcaption>{about}</figcaption></figure>'


def data_url(rgb: np.ndarray, lossless: bool = False) -> str:
    """(H, W, 3) uint8 inside a URL: as a JPEG, or a PNG where colours have a meaning."""
    kind = "png" if lossless else "jpeg"
    options = [] if lossless else [cv2.IMWRITE_JPEG_QUALITY, 80]
    done, data = cv2.imencode(f".{kind}", np.ascontiguousarray(rgb[..., ::-1]), options)
    assert done
    return f"data:image/{kind};base64," + base64.b64encode(data.tobytes()).decode()


def caution(resampled: Mapping[str, Any]) -> str:
    """A red line where intervals are not to be trusted; what ``scores.json`` says of them."""
    text: str = resampled.get("caution", "")
    return f'<p class="bad">{escape(text[0].upper() + text[1:])}.</p>' if text else ""


def histogram(
    title: str, edges: Sequence[float], counts: Sequence[int], mark: float | None = None
) -> str:
    """An SVG of counts between edges, the counts on a log scale; every bin is equally wide.

    Args:
        title: Written above.
        edges: One more than counts.
        counts: At least one.
        mark: A value to draw a line at.
    """
    width, height, left, base = 470, 150, 50, 150  # 100,000 fits beside it
    heights = np.log10(np.array(counts, float) + 1)
    top = max(1.0, float(np.ceil(heights.max())))
    step = (width - left) / len(counts)
    shapes = [f'<text x="{left}" y="12" class="t">{escape(title)}</text>']
    for power in range(int(top) + 1):
        y = base - (height - 24) * float(np.log10(10**power + 1)) / top
        shapes.append(f'<text x="{left - 4}" y="{y + 4:.1f}" class="r">{10**power:,}</text>')
        shapes.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" class="g"/>')
    for i, (count, tall) in enumerate(zip(counts, heights * (height - 24) / top, strict=True)):
        if count:
            about = f"{edges[i]:.3g} – {edges[i + 1]:.3g}: {count:,}"
            shapes.append(
                f'<rect x="{left + i * step:.1f}" y="{base - tall:.1f}" width="{step - 1:.1f}" '
                f'height="{tall:.1f}"><title>{about}</title></rect>'
            )
    for i in np.linspace(0, len(counts), 6).round().astype(int):
        x, anchor = left + i * step, "end" if i == len(counts) else "middle"
        shapes.append(
            f'<text x="{x:.1f}" y="{base + 14}" text-anchor="{anchor}">{edges[i]:.3g}</text>'
        )
    if mark is not None:
        x = left + step * float(np.interp(mark, edges, range(len(edges))))
        shapes.append(f'<line x1="{x:.1f}" x2="{x:.1f}" y1="18" y2="{base}" class="m"/>')
    return f'<svg viewBox="0 0 {width + 8} {base + 20}" role="img">{"".join(shapes)}</svg>'


def histogram_of(title: str, values: Sequence[float], log: bool = False) -> str:
    """The histogram of numbers, at least one; ``log`` makes bins of equal ratio, from 1 on."""
    low, high = min(values), max(values)
    if log:
        edges = np.geomspace(max(1, low), max(2, high, low + 1), 31)
        counts = np.histogram(np.maximum(values, 1), edges)[0]
    else:
        edges = np.linspace(low, high if high > low else low + 1, 31)
        counts = np.histogram(values, edges)[0]
    return histogram(title, edges.tolist(), counts.tolist())
