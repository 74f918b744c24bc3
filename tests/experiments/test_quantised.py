"""Exports of a published network: measured in processes of their own, and shown as a table."""

import json
import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from segmentation.errors import UserError
from segmentation.experiments import quantised
from segmentation.experiments.quantised import Published, measure_exports, quantised_table


def test_each_precision_is_exported_and_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That exports are read as they are written: see tests/export."""
    status = 0

    def run(argv: list[str], stdout: Any, stderr: Any) -> Any:
        assert argv[:4] == [sys.executable, "-m", "segmentation", "export"]
        given = dict(word[2:].partition("=")[::2] for word in argv if "=" in word)
        assert given["ckpt_path"] == str(tmp_path / "checkpoints/best.ckpt")
        about = {"megabytes": 1.5, "ms": 20.0, "scores": {"mean_iou": 0.75}}
        rows = [{"runtime": name, **about} for name in ("checkpoint", "onnx, onnxruntime")]
        rows[0]["ms"] = 50.0
        Path(given["output"]).mkdir(parents=True)
        Path(given["output"], "export.json").write_text(json.dumps({"rows": rows}))
        return SimpleNamespace(returncode=status)

    monkeypatch.setattr(quantised, "NEEDED", ())
    monkeypatch.setattr(quantised, "subprocess", SimpleNamespace(run=run, STDOUT=-2))
    wanted = {"megabytes": 1.5, "seconds": 0.02, "mean_iou": 0.75}
    for _ in range(2):  # what an earlier try left is replaced
        found = measure_exports(tmp_path, {"fp16": {}, "int8": {}}, tmp_path / "log.txt")
        assert found == {"fp16": wanted, "int8": wanted}
    status = 2
    with pytest.raises(UserError, match=r"fp16: the export to fp16 failed; see .*log\.txt"):
        measure_exports(tmp_path, {"fp16": {}}, tmp_path / "log.txt")


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
