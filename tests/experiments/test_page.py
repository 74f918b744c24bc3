"""The page of several trainings while they run: how far, how long still, the best so far."""

import json
import time
from pathlib import Path

import pytest

from segmentation.experiments.page import RunsPage
from tests.pages import check_page


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    return now


def fold_run(folder: Path, iou: float, otsu: float, classical: float = 0.0) -> Path:
    """The run of a fold."""
    folder.mkdir(parents=True)
    report = {"network": {"image_iou": iou, "ap50": 0.5}, "otsu": {"image_iou": otsu}}
    report["classical"] = {"image_iou": classical}
    (folder / "scores.json").write_text(json.dumps(report))
    (folder / "report.html").touch()
    return folder


def test_progress_while_folds_run(tmp_path: Path, clock: list[float]) -> None:
    path = tmp_path / "all.html"
    with RunsPage(path, "A & B", ["fold 1", "fold 2", "fold 3"]) as shown:
        shown.begin("fold 1", tmp_path / "f1")
        assert "fold 1 (1 of 3) is at work" in path.read_text()
        shown.end("fold 1", (fold_run(tmp_path / "f1/x y", 0.75, 0.5), 600.0))
        shown.begin("fold 2", tmp_path / "f2")
        at_work = tmp_path / "f2/now"
        at_work.mkdir(parents=True)
        (at_work / "report.html").touch()
        summary = {"metrics": {"val/iou": {"best": 0.625}}}
        (at_work / "summary.json").write_text(json.dumps(summary))
        clock[0] += 120
        shown.tick(0.5)  # so the second half takes as long, and the third fold as the first
        text = path.read_text()
        tags = check_page(text)
        assert "fold 2 (2 of 3) is at work, about 12 min left" in text and "0.625" in text
        assert ("progress", "0.500") in [(tag, known.get("value")) for tag, known in tags]
        links = [known["href"] for tag, known in tags if tag == "a"]
        assert links == ["f1/x%20y/report.html", "f2/now/report.html"]
        assert "Best so far: fold 1: IoU, mean over images 0.75." in text
        assert any(known.get("http-equiv") == "refresh" for _, known in tags)
        shown.tick(0.6)  # too soon
        assert path.read_text() == text
        shown.end("fold 2", None)
        shown.end("fold 3", (fold_run(tmp_path / "f3", 0.25, 0.5), 60.0))
    text = path.read_text()
    check_page(text)
    assert "2 of 3 done, 1 failed" in text and "http-equiv" not in text
    assert '<span class="bad">failed</span>' in text and "below Otsu’s threshold" in text


def test_below_the_classical_baseline(tmp_path: Path) -> None:
    with RunsPage(tmp_path / "all.html", "A", ["fold 1"]) as shown:
        shown.end("fold 1", (fold_run(tmp_path / "f1", 0.6, 0.5, 0.7), 60.0))
    assert "done, below the classical baseline" in (tmp_path / "all.html").read_text()


def test_an_interruption_is_told(tmp_path: Path) -> None:
    path = tmp_path / "all.html"
    with (
        pytest.raises(KeyboardInterrupt),
        RunsPage(path, "x", ["a", "b"]) as shown,
    ):
        shown.begin("a", tmp_path)
        raise KeyboardInterrupt
    text = path.read_text()
    check_page(text)
    assert "Interrupted: 0 of 2 done; the same command goes on" in text
    assert "http-equiv" not in text
