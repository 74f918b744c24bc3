"""A run's own page: what it says is in the run's files, and whatever is missing does not matter."""

import json
import math
import re
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segmentation.io.images import write_image
from segmentation.training.run_log import chart, extremes, read_metrics
from segmentation.training.run_report import PAGE, SUMMARY, RunReport, write_report

METRICS = """epoch,lr-AdamW,step,train/grad_norm,train/loss_epoch,val/count_error,val/iou,val/loss
,0.1,0,,,,,
,,1,2.5,,,,
0,,1,,0.9,3,0.25,nan
1,,3,,0.5,-1,0.75,0.6
2,,5,,0.7,2,0.5,0.4
"""
SCORES = {
    "images": 2,
    "network": {"iou": 0.8125, "auroc": None, "image_count_error": 1.5},
    "otsu": {"iou": 0.4375},
    "nothing": {"iou": 0.0},
    "by_kind": {},
    "intervals": {"network": {"iou": [0.7, 0.9]}, "otsu": {"iou": [None, None]}, "nothing": {}},
}
TABLE = """method,id,kind,group,tp,fp,fn,tn,iou
network,<good>,x,,1,0,0,1,0.9
network,bad,x,,1,0,0,1,0.1
otsu,bad,x,,1,0,0,1,0.2
otsu,<good>,x,,1,0,0,1,0.2
"""


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was trained and tested."""
    folder = tmp_path / "name" / "time"
    about = {
        "started": "then", "command": ["segmentation", "fit"], "versions": {"torch": "9"},
        "git": {"commit": "abc123", "branch": "main", "changed": True, "untracked": ["new/"]},
    }  # fmt: skip
    resources = {"fit_seconds": 12.5, "images_per_second": 43.2, "peak_memory_bytes": 3 * 2**20}
    curves = {"foreground": [0, 1, 3], "background": [4, 1, 0]}
    split = {"sha256": "0123abcd", "counts": {"train": 7, "val": 2, "test": 3}}
    folder.mkdir(parents=True)
    for name, content in (
        ("metrics.csv", METRICS),
        ("scores.json", SCORES),
        ("per_image.csv", TABLE),
        ("run.json", about),
        ("resources.json", resources),
        ("test_curves.json", curves),
        ("split.json", split),
        ("config.yaml", "model: <lr>"),
        ("git.diff", "+ a & b"),
    ):
        text = content if isinstance(content, str) else json.dumps(content)
        (folder / name).write_text(text)
    picture = np.zeros((8, 20, 3), np.uint8)
    for name in ("worst-1_iou0.1_bad", "best-1_iou0.9_good", "best-2_iou0.1_bad"):
        write_image(folder / "overlays" / f"{name}.png", picture)
    for epoch in range(0, 40, 5):
        write_image(folder / "validation" / f"1_cell_epoch{epoch:04}.png", picture)
    return folder


def written(folder: Path) -> str:
    write_report(folder)
    return (folder / PAGE).read_text()


def test_the_page_says_what_the_files_say(run: Path) -> None:
    text = written(run)
    for fact in (
        "<h1>name/time</h1>", "segmentation fit", "abc123", "new/", "7 train, 2 val, 3 test",
        "0123abcd", "43.2 images/s", "3 MiB", "12.5 s", "model: &lt;lr&gt;", "+ a &amp; b",
        "torch 9",
    ):  # fmt: skip
        assert fact in text, fact
    row = re.search(r"<tr><td>iou</td>.*?</tr>", text)
    assert row is not None
    cells = re.findall(r"<td>(.*?)</td>", row[0])
    assert cells == ["iou", "0.8125", "0.7 … 0.9", "0.4375", "", "0", ""]
    assert "<td>auroc</td>" not in text  # there is none
    assert "0 is best" in text
    assert text.index("<td>bad</td>") < text.index("<td>&lt;good&gt;</td>")  # the worst first
    for title in ("Loss", "Validation, pixels", "Learning rate", "Gradient norm", "ROC"):
        assert f'class="t">{title}' in text
    assert "Validation, objects" not in text  # nothing of them was logged


def test_the_page_needs_nothing_else(run: Path) -> None:
    text = written(run)
    assert not re.search(r'(?:src|href)="(?!data:)', text) and "<script" not in text
    # A picture of each test image, though it is among the worst and the best.
    assert text.count("<img") == 2 + 5
    assert "worst-1_iou0.1_bad" in text and "best-2_iou0.1_bad" not in text
    epochs = re.findall(r"<figcaption>epoch (\d+)", text)
    assert epochs[0] == "0" and epochs[-1] == "35" and len(epochs) == 5


def test_best_values_and_not_the_last(run: Path) -> None:
    text = written(run)
    found = json.loads((run / SUMMARY).read_text())
    assert found["finished"] is True
    assert found["metrics"]["val/iou"] == {"best": 0.75, "epoch": 1.0, "last": 0.5}
    assert found["metrics"]["val/loss"] == {"best": 0.4, "epoch": 2.0, "last": 0.4}
    assert found["metrics"]["train/loss_epoch"] == {"best": 0.5, "epoch": 1.0, "last": 0.7}
    assert found["metrics"]["val/count_error"] == {"last": 2.0}
    assert found["metrics"]["lr-AdamW"] == {"last": 0.1}
    assert "<tr><td>val/iou</td><td>0.75</td><td>1</td><td>0.5</td></tr>" in text


def test_whatever_is_missing(run: Path) -> None:
    """A training that was interrupted at any moment leaves some of the files."""
    for path in sorted(run.iterdir()):
        if path.is_file() and path.suffix != ".html":
            path.unlink()
            assert written(run).startswith("<!doctype html>"), path.name
    text = written(run)
    assert "Not tested yet" in text and "Nothing was logged" in text
    assert "The training has not ended" in text
    assert json.loads((run / SUMMARY).read_text()) == {"finished": False, "metrics": {}}


def test_a_row_that_was_cut_off(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,step,val/iou\n0,1,0.5\n1,3,inf\n1,3,x\n2,5")
    series = read_metrics(path)["val/iou"]
    assert (series.epochs, series.steps, series.values) == ([0], [1], [0.5])
    assert extremes(read_metrics(tmp_path / "missing.csv")) == {}


def points(svg: str) -> list[list[tuple[float, float]]]:
    found = re.findall(r'<polyline points="(.*?)"', svg)
    return [[tuple(map(float, p.split(","))) for p in line.split()] for line in found]  # type: ignore[misc]


def test_a_chart_is_to_scale() -> None:
    lines = {"a": [(0.0, 1.0), (5.0, 2.0), (10.0, 3.0)], "b": [(10.0, 1.5)], "none": []}
    a, b = points(chart("<t>", "x", lines))
    (x0, y0), (x1, y1), (x2, y2) = a
    assert x1 - x0 == x2 - x1 == 200 and y0 - y1 == y1 - y2 == 75
    assert b == pytest.approx(np.array([(x2, y0 - 37.5)]))
    assert chart("t", "x", {"none": []}) == ""
    assert "&lt;t&gt;" in chart("<t>", "x", lines)


def test_a_logarithmic_chart() -> None:
    ((_, low), (_, middle), (_, high)) = points(
        chart("t", "x", {"a": [(0, 0.01), (1, 1), (2, 100)]}, log=True)
    )[0]
    assert low - middle == middle - high > 0
    ((_, low), (_, high)) = points(chart("t", "x", {"a": [(0, -1), (1, 1)]}, log=True))[0]
    assert low > high  # on a linear axis: there is no logarithm


def test_a_long_course_is_thinned_out() -> None:
    line = [(float(i), math.sin(i)) for i in range(100_000)]
    assert len(chart("t", "x", {"a": line})) < 20_000


def trainer(zero: bool = True) -> Any:
    saved: list[str] = []
    logger = SimpleNamespace(save=lambda: saved.append("csv"))
    return SimpleNamespace(is_global_zero=zero, loggers=[logger], saved=saved)


def test_after_a_training_and_before_dying(run: Path) -> None:
    report, some = RunReport(run), trainer()
    report.teardown(some, None, "fit")  # type: ignore[arg-type]
    assert (run / PAGE).exists() and some.saved == ["csv"]  # what the log held back
    (run / PAGE).unlink()
    report.on_exception(trainer(zero=False), None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert not (run / PAGE).exists()
    report.on_exception(trainer(), None, KeyboardInterrupt())  # type: ignore[arg-type]
    assert (run / PAGE).exists()


def test_a_page_that_cannot_be_made_stops_nothing(run: Path, tmp_path: Path) -> None:
    (run / "scores.json").write_text("{")
    with pytest.warns(UserWarning, match=r"report\.html: not written \(.*scores\.json: not valid"):
        RunReport(run).teardown(trainer(), None, "fit")  # type: ignore[arg-type]
    RunReport(tmp_path / "refused").teardown(trainer(), None, "fit")  # type: ignore[arg-type]
    assert not (tmp_path / "refused").exists()  # nothing ran there
