"""A network of a published table in numbers of fewer bits: size, score and latency."""

import shutil
import subprocess
import sys
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from segmentation.errors import UserError
from segmentation.io.files import read_json

# Published for each precision: size of the file, score in 0…1, seconds an image.
Published = dict[str, dict[str, float | None]]
HEADER = ("row", "precision", "MB", "mean IoU", "s an image")
SCORE, RUNTIME = "mean_iou", "onnxruntime"
NEEDED = ("onnx", RUNTIME)


def measure_exports(run: Path, published: Published, log: Path) -> Published | None:
    """Export a run's best network in each precision, and measure it on the validation images.

    The exports go into ``exports/`` of the run's folder, what is printed to ``log``. ``None`` where
    the runtimes are not installed; an export that failed is a :class:`UserError`.
    """
    if not all(map(find_spec, NEEDED)):
        return None
    found: Published = {}
    for precision in published:
        folder = run / "exports" / precision
        shutil.rmtree(folder, ignore_errors=True)  # of an earlier try
        words = [f"--ckpt_path={run / 'checkpoints' / 'best.ckpt'}", f"--output={folder}"]
        # Whatever is lost is to be shown, not refused.
        words += ["--format", "onnx", "--precision", precision, "--tolerance", "1", "--most=1000"]
        argv = [sys.executable, "-m", "segmentation", "export", *words]
        with log.open("ab") as file:
            done = subprocess.run(argv, stdout=file, stderr=subprocess.STDOUT)
        if done.returncode:
            raise UserError(f"{folder}: the export to {precision} failed; see {log}")
        found[precision] = read_export(folder)
    return found


def read_export(folder: Path) -> dict[str, float | None]:
    """Size, seconds an image and score of an export, as ONNX Runtime runs it."""
    rows = read_json(folder / "export.json")["rows"]
    (row,) = (row for row in rows if row["runtime"].endswith(RUNTIME))
    about = {"megabytes": row["megabytes"], "seconds": row["ms"] / 1000}
    return {**about, SCORE: row["scores"][SCORE]}


def markdown(title: str, head: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """A line and a table below it."""
    table = [" | ".join(cells) for cells in (head, *rows)]
    table = [f"| {line} |" for line in table]
    return "\n".join([title, "", table[0], f"|{'---|' * len(head)}", *table[1:]])


def quantised_table(rows: Mapping[str, tuple[Published, Any]]) -> str:
    """Published and measured, as Markdown: both by the names of the rows; what was not measured
    is ``None``.
    """

    def cell(values: Any, form: str) -> str:
        published, measured = ("–" if v is None else form % v for v in values)
        return f"{published} / {measured}"

    found = []
    for name, (published, measured) in rows.items():
        for precision in published:
            both = [one.get(precision, {}) for one in (published, measured or {})]
            forms = {"megabytes": "%.1f", SCORE: "%.3f", "seconds": "%.3f"}
            cells = [cell([one.get(key) for one in both], form) for key, form in forms.items()]
            found.append([name, precision, *cells])
    title = "Exports to ONNX, run by ONNX Runtime on the validation images: published / measured."
    return markdown(title, HEADER, found)
