"""A run's own page: what it says is in the run's files, and whatever is missing does not matter."""

import json
import re
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from lightning import Callback

from segmentation.io.images import write_image
from segmentation.training.loggers import MetricsLogger
from segmentation.training.report import PAGE, SUMMARY, RunReport, read_metrics, write_report
from tests import tiny
from tests.pages import check_page
from tests.training.test_tracking import Data

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
FILES = {
    "metrics.csv": METRICS,
    "scores.json": SCORES,
    "per_image.csv": TABLE,
    "run.json": {
        "started": "then",
        "command": ["segmentation", "fit"],
        "versions": {"torch": "9"},
        "git": {"commit": "abc123", "branch": "main", "changed": True, "untracked": ["new/"]},
    },
    "resources.json": {
        **{"fit_seconds": 12.5, "images_per_second": 43.2, "peak_memory_bytes": 3 * 2**20},
        "parameters": 1234567,
    },
    "test_curves.json": {"foreground": [0, 1, 3], "background": [4, 1, 0]},
    "split.json": {"sha256": "0123abcd", "counts": {"train": 7, "val": 2, "test": 3}},
    "config.yaml": "model: <lr>",
    "git.diff": "+ a & b",
}


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """The folder of a run that was trained and tested."""
    folder = tmp_path / "name" / "time"
    folder.mkdir(parents=True)
    for name, content in FILES.items():
        (folder / name).write_text(content if isinstance(content, str) else json.dumps(content))
    pictures = ["worst-1_iou0.1_bad", "best-1_iou0.9_good", "best-2_iou0.1_bad"]
    pictures = [f"overlays/{name}" for name in pictures]
    pictures += [f"validation/1_cell_epoch{epoch:04}" for epoch in range(0, 40, 5)]
    for name in pictures:
        write_image(folder / f"{name}.png", np.zeros((8, 20, 3), np.uint8))
    return folder


def written(folder: Path) -> str:
    write_report(folder)
    return (folder / PAGE).read_text()


def test_the_page_says_what_the_files_say(run: Path) -> None:
    text = written(run)
    for fact in (
        *("<h1>name/time</h1>", "segmentation fit", "abc123", "new/", "7 train, 2 val, 3 test"),
        *("0123abcd", "43.2 images/s", "3 MiB", "12.5 s", "model: &lt;lr&gt;", "+ a &amp; b"),
        *("torch 9", "1,234,567", "yes, below", "0 is best"),
    ):
        assert fact in text, fact
    row = re.search(r"<tr><td>iou</td>.*?</tr>", text)
    assert row is not None
    cells = re.findall(r"<td.*?>(.*?)</td>", row[0])
    assert [c.strip() for c in cells] == ["iou", "0.8125", "0.7 … 0.9", "0.4375", "", "0", ""]
    assert "<td>auroc</td>" not in text  # there is none
    assert text.index("<td>bad</td>") < text.index("<td>&lt;good&gt;</td>")  # the worst first
    for title in ("Loss", "Validation, pixels", "Learning rate", "Gradient norm", "ROC"):
        assert f">{title}</text>" in text
    assert "Validation, objects" not in text  # nothing of them was logged
    assert not re.search(r'(?:src|href)="(?!data:|#)', text) and "<script" not in text
    # A picture of each test image, though it is among the worst and the best.
    tags = check_page(text)
    assert sum(tag == "img" for tag, _ in tags) == 2 + 5
    # First what matters, last what identifies the code.
    places = [text.index(f">{word}") for word in ("Training</h2", "Test images</h2", "Settings")]
    assert places == sorted(places) and places[-1] < text.index("abc123")
    assert "worst 1 · IoU 0.1 · bad" in text and "best 2" not in text
    epochs = re.findall(r"<figcaption>epoch (\d+)", text)
    assert epochs[0] == "0" and epochs[-1] == "35" and len(epochs) == 5


@pytest.mark.parametrize(("otsu", "classical"), [(0.4375, None), (0.9, 0.4), (0.4, 0.9)])
def test_the_page_opens_with_a_headline(run: Path, otsu: float, classical: float | None) -> None:
    scores = json.loads((run / "scores.json").read_text())
    scores["network"]["image_iou"], scores["otsu"]["image_iou"] = 0.8125, otsu
    scores["intervals"]["network"]["image_iou"] = [0.7, 0.9]
    if classical is not None:  # older runs have none
        scores["classical"], scores["classical_by"] = {"image_iou": classical}, "<gray>"
        scores["intervals"]["classical"] = {}
    (run / "scores.json").write_text(json.dumps(scores))
    text = written(run)
    head = text[text.index("<h1>") : text.index("<h2>")]
    for fact in ("0.812", "0.700 … 0.900", f"Otsu’s threshold: {otsu:.3f}", "2 test images"):
        assert fact in head
    worse = otsu > 0.8125 or (classical or 0) > 0.8125
    assert ('<strong class="bad"' in head) == worse
    assert (f"classical: {classical or 0:.3f}" in head) == (classical is not None)
    assert ("&lt;gray&gt;" in text) == (classical is not None)


def test_long_names_are_shortened_and_whole_under_the_mouse(run: Path) -> None:
    name = 32 * "0123456789abcdef"[:4]
    (run / "per_image.csv").write_text(TABLE.replace("bad", name))
    write_image(run / f"overlays/worst-1_iou0.1_{name[:40]}.png", np.zeros((8, 20, 3), np.uint8))
    tags = check_page(written(run))
    titles = [known.get("title") for tag, known in tags if tag == "abbr"]
    assert titles.count(name) == 2  # in the table, and under its picture


def test_best_values_and_not_the_last(run: Path) -> None:
    assert re.search(r"<td>val/iou</td>.*>0.75</td>.*>1</td>.*>0.5</td>", written(run))
    found = json.loads((run / SUMMARY).read_text())
    assert found["finished"] is True
    assert found["metrics"] == {
        "val/iou": {"best": 0.75, "epoch": 1.0, "last": 0.5},
        "val/loss": {"best": 0.4, "epoch": 2.0, "last": 0.4},
        "train/loss_epoch": {"best": 0.5, "epoch": 1.0, "last": 0.7},
        "val/count_error": {"last": 2.0},
        "lr-AdamW": {"last": 0.1},
        "train/grad_norm": {"last": 2.5},
    }


def test_whatever_is_missing(run: Path) -> None:
    """A training that was interrupted at any moment leaves some of the files."""
    for name in sorted(FILES):
        (run / name).unlink()
        assert written(run).startswith("<!doctype html>"), name
    text = written(run)
    assert "Not tested yet" in text and "Nothing was logged" in text
    assert "The training has not ended" in text
    assert json.loads((run / SUMMARY).read_text()) == {"finished": False, "metrics": {}}


def test_a_row_that_was_cut_off(tmp_path: Path) -> None:
    (tmp_path / "metrics.csv").write_text("epoch,step,val/iou\n0,1,0.5\n1,3,inf\n1,3,x\n2,5")
    log = read_metrics(tmp_path / "metrics.csv").dropna()
    assert log.to_dict("list") == {"epoch": [0], "step": [1], "val/iou": [0.5]}


class Reader(Callback):
    """Reads the page in each epoch, and ends the training in the third one."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.pages: list[str] = []

    def on_train_epoch_end(self, trainer: Any, pl_module: Any) -> None:
        self.pages.append((self.folder / PAGE).read_text())
        if len(self.pages) == 3:
            raise RuntimeError


def test_the_page_is_written_anew_in_each_epoch(tmp_path: Path) -> None:
    (tmp_path / "config.yaml").touch()
    reader = Reader(tmp_path)
    callbacks = [RunReport(tmp_path), reader]
    some = tiny.trainer(max_epochs=4, callbacks=callbacks, logger=MetricsLogger(tmp_path))
    with pytest.raises(RuntimeError):
        some.fit(tiny.task(), datamodule=Data())
    for number, text in enumerate(reader.pages, start=1):
        tags = check_page(text)
        assert f"Training: epoch {number} of 4" in text
        assert ("progress", f"{(number - 1) / 4:.3f}") in [(t, k.get("value")) for t, k in tags]
    assert "Best val/ap50" in reader.pages[1] and "Best val/ap50" not in reader.pages[0]
    text = (tmp_path / PAGE).read_text()
    check_page(text)
    assert "Interrupted: epoch 3 of 4" in text and "http-equiv" not in text


def test_a_page_is_whole_whenever_its_writer_is_killed(
    run: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = written(run)
    monkeypatch.setattr(Path, "replace", lambda *_: sys.exit(137))  # all but the last step is done
    (run / "scores.json").unlink()
    with pytest.raises(SystemExit):
        write_report(run)
    assert (run / PAGE).read_text() == before


def trainer(zero: bool = True) -> Any:
    saved: list[str] = []
    logger = SimpleNamespace(save=lambda: saved.append("csv"))
    state = SimpleNamespace(fn="test")
    return SimpleNamespace(is_global_zero=zero, loggers=[logger], saved=saved, state=state)


def test_after_a_training_and_before_dying(run: Path, tmp_path: Path) -> None:
    report, some, task = RunReport(run), trainer(), None
    report.teardown(some, task, "fit")  # type: ignore[arg-type]
    assert (run / PAGE).exists() and some.saved == ["csv"]  # what the log held back
    (run / PAGE).unlink()
    report.on_exception(trainer(zero=False), task, KeyboardInterrupt())  # type: ignore[arg-type]
    assert not (run / PAGE).exists()
    report.on_exception(trainer(), task, KeyboardInterrupt())  # type: ignore[arg-type]
    assert (run / PAGE).exists()
    (run / "scores.json").write_text("{")
    with pytest.warns(UserWarning, match=r"report\.html: not written \(.*scores\.json: not valid"):
        report.teardown(trainer(), task, "fit")  # type: ignore[arg-type]
    RunReport(tmp_path / "refused").teardown(trainer(), task, "fit")  # type: ignore[arg-type]
    assert not (tmp_path / "refused").exists()  # nothing ran there
