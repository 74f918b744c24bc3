"""Exports of a published network: measured in processes of their own, and shown as a table."""

from pathlib import Path

import pytest

from segmentation.experiments.quantised import Published, measure_exports, quantised_table
from tests.helpers import fit


def test_sizes_scores_and_latency_are_measured(dsb_root: Path, tmp_path: Path) -> None:
    pytest.importorskip("onnxruntime")
    run = fit(dsb_root, tmp_path / "runs")
    found = measure_exports(run, {"fp16": {}}, tmp_path / "log.txt")
    assert found is not None and list(found) == ["fp16"]
    half, whole = found["fp16"], run / "checkpoints" / "best.ckpt"
    assert half["megabytes"] is not None and half["seconds"] is not None
    assert 0 < half["megabytes"] < whole.stat().st_size / 2e6  # which has Adam's numbers, too
    assert 0 < (half["mean_iou"] or 0) <= 1 and half["seconds"] > 0


def test_without_the_runtimes_nothing_is_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("segmentation.experiments.quantised.NEEDED", ("no_such_runtime",))
    assert measure_exports(tmp_path, {"fp16": {}}, tmp_path / "log.txt") is None


def test_the_table() -> None:
    published: Published = {"fp16": {"megabytes": 14.0, "mean_iou": 0.861}, "int8": {}}
    measured = {"fp16": {"megabytes": 13.5, "mean_iou": 0.8, "seconds": 0.25}}
    lines = quantised_table({"U-Net": (published, measured), "other": ({"fp16": {}}, None)})
    assert lines.splitlines()[-3:] == [
        "| U-Net | fp16 | 14.0 / 13.5 | 0.861 / 0.800 | – / 0.250 |",
        "| U-Net | int8 | – / – | – / – | – / – |",
        "| other | fp16 | – / – | – / – | – / – |",
    ]
