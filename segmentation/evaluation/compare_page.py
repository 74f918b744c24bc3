"""A comparison as one HTML page that needs nothing else."""

from html import escape
from typing import Any

from segmentation.evaluation.html import caution, document, table


def page(report: dict[str, Any]) -> str:
    """The HTML of what ``compare.json`` holds: each shown score as a table and a picture."""
    drawn = report["resampled"]
    body = (
        f"<h1>Comparison</h1><p>{report['images']:,} images, all rows on the same, each compared "
        f"with {escape(report['reference'])}. Intervals hold the middle 95 % of "
        f"{drawn['times']:,} bootstrap resamples of the {drawn['how_many']:,} {drawn['what']}, the "
        "same for all rows. p is that of Wilcoxon’s signed-rank test of the images’ own scores, "
        f"not corrected for several comparisons.</p>{caution(drawn)}"
    )
    for score in report["shown"]:
        rows = [row for row in report["scores"] if row["score"] == score]
        cells = [
            (
                escape(row["name"]),
                str(row["runs"]),
                _number(row["value"]),
                f"{_number(row['low'])} … {_number(row['high'])}",
                _number(row["sd_over_runs"]),
                _number(row["difference"]),
                f"{_number(row['difference_low'])} … {_number(row['difference_high'])}",
                _number(row["p"]),
            )
            for row in rows
        ]
        head = ("", "runs", "value", "95 %", "sd over runs", "difference", "95 %", "p")
        body += f"<h2>{escape(score)} ({rows[0]['better']} is better)</h2>"
        body += table(head, cells, "compare.csv") + _forest(rows)
    files = "".join(
        f"<li>{escape(name)}: {escape(', '.join(paths))}</li>"
        for name, paths in report["runs"].items()
    )
    return document("Comparison", f"{body}<h2>Runs</h2><ul>{files}</ul>")


def _forest(rows: list[dict[str, Any]]) -> str:
    """An SVG of the differences with their intervals and a line at 0."""
    rows = [row for row in rows if row["difference_low"] is not None]
    if not rows:
        return ""
    low: float = min(0.0, *(row["difference_low"] for row in rows))
    high: float = max(0.0, *(row["difference_high"] for row in rows))
    left, width = 160, 300

    def place(value: float) -> float:
        return left + width * (value - low) / ((high - low) or 1)

    base = 22 * len(rows) + 4
    shapes = [f'<line x1="{place(0):.1f}" x2="{place(0):.1f}" y1="0" y2="{base}" class="m"/>']
    for i, row in enumerate(rows):
        y, (start, end) = 22 * i + 13, (place(row[f"difference_{e}"]) for e in ("low", "high"))
        shapes.append(f'<text x="{left - 8}" y="{y + 4}" class="r">{escape(row["name"])}</text>')
        shapes.append(
            f'<line x1="{start:.1f}" x2="{end:.1f}" y1="{y}" y2="{y}" stroke="#4a78b5" '
            f'stroke-width="2"/><circle cx="{place(row["difference"]):.1f}" cy="{y}" r="4" '
            'fill="#4a78b5"/>'
        )
    ends = [end for end in (low, high) if abs(place(end) - place(0)) > 36]  # else they overlap
    for value in (0.0, *ends):
        shapes.append(
            f'<text x="{place(value):.1f}" y="{base + 12}" text-anchor="middle">{value:+.3g}</text>'
        )
    return f'<svg viewBox="0 0 {left + width + 30} {base + 16}" role="img">{"".join(shapes)}</svg>'


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4g}"
