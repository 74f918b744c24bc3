"""Every benchmark still runs: a small round of each that does not start many processes."""

import json
import logging
import math
import runpy
import sys
from collections.abc import Iterator
from pathlib import Path

import cv2
import pytest
import torch

from segmentation.datasets.synthetic import write_dsb2018
from segmentation.export import proof

FOLDER = Path(__file__).parents[1] / "benchmarks"
TRAINING = ["--steps=2", "--width=4", "--batch-size=2"]
ON_IMAGES = {
    "annotation": ["--images=12", "--epochs=1", "--draws=8", "--width=4", "--targets=Foreground"],
    "cache": ["--images=4"],
    "channels": ["--images=2", "--draws=4"],
    "duplicates": [],
    "logging_cost": TRAINING,
    "loop": TRAINING,
    "pipeline": ["--images=2", "--draws=4"],
}
ON_NUMBERS = {
    "border_weights": ["--sizes=64"],
    "deep_supervision": ["--width=4", "--images=1"],
    "instance_metrics": ["--sizes=128", "--objects=9"],
    "metrics": ["--sizes=64", "--updates=1"],
    "star_convex": ["--sizes=128", "--objects=9"],
}


@pytest.fixture(autouse=True)
def settings() -> Iterator[None]:
    """What a benchmark chose for its process must not hold for the tests after it."""
    torch_threads, cv_threads = torch.get_num_threads(), cv2.getNumThreads()
    loggers = [logging.getLogger(name) for name in logging.root.manager.loggerDict]
    levels = [logger.level for logger in loggers]
    yield
    torch.set_num_threads(torch_threads)
    cv2.setNumThreads(cv_threads)
    for logger, level in zip(loggers, levels, strict=True):
        logger.setLevel(level)


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Images enough for the benchmarks' own splits."""
    return write_dsb2018(tmp_path_factory.mktemp("dsb2018"), images=20, size=(256, 256))


def measured(
    name: str, options: list[str], output: Path, monkeypatch: pytest.MonkeyPatch
) -> dict[str, float]:
    """The median of each figure of one round."""
    monkeypatch.delenv("SEGMENTATION_DATA", raising=False)
    monkeypatch.syspath_prepend(str(FOLDER))
    monkeypatch.setattr(sys, "argv", [name, "--repeats=1", f"--output={output}", *options])
    runpy.run_path(str(FOLDER / f"{name}.py"), run_name="__main__")
    result = json.loads(output.read_text())
    assert result["benchmark"] == name and result["expected"]
    return {figure["what"]: figure["median"] for figure in result["figures"]}


@pytest.mark.parametrize("name", ON_IMAGES)
def test_a_round_on_images(
    name: str, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = [f"--root={root}", *ON_IMAGES[name]]
    figures = measured(name, options, tmp_path / "result.json", monkeypatch)
    assert figures and all(map(math.isfinite, figures.values()))


@pytest.mark.parametrize("name", ON_NUMBERS)
def test_a_round_on_numbers(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    figures = measured(name, ON_NUMBERS[name], tmp_path / "result.json", monkeypatch)
    assert figures and all(map(math.isfinite, figures.values()))


def test_each_benchmark_is_in_the_table_of_benchmarks() -> None:
    about = (FOLDER / "README.md").read_text()
    parts = {"common", "hand_loop", "lite"}  # of others
    parts |= {"monai_pipeline", "monai_sliding", "star_convex_reference", "flow_reference"}
    for script in sorted(FOLDER.glob("*.py")):
        assert script.stem in parts or f"python benchmarks/{script.name}" in about, script.name


def test_the_page_of_exports_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    result = json.loads((FOLDER / "results/exports.json").read_text())
    table = runpy.run_path(str(FOLDER / "exports.py"))["shown"](result)
    assert table in (FOLDER.parent / "docs/results/exports.md").read_text()
    apart = [f["median"] for f in result["figures"] if f["what"].endswith("largest_difference")]
    assert apart and max(apart) < proof.TOLERANCE["fp32"]


def test_published_rows_are_collected(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From two folders, of one budget, without paths."""
    run = {
        **{"arguments": [], "scores": {"f1": 0.5}, "otsu": {"f1": 0.25}, "fit_seconds": 60},
        **{"peak_memory_bytes": 1e6, "parameters": 7},
    }
    for name, key in (("one", "e/by_frame cpu 1"), ("two", "e/by_subject smoke 0")):
        (tmp_path / name).mkdir()
        text = json.dumps({key: {**run, "run": f"/home/somebody/{name}"}})
        (tmp_path / name / "results.json").write_text(text)
    monkeypatch.syspath_prepend(str(FOLDER))
    output = tmp_path / "out.json"
    folders = [str(tmp_path / name) for name in ("one", "two")]
    monkeypatch.setattr(sys, "argv", ["published", *folders, f"--output={output}"])
    runpy.run_path(str(FOLDER / "published.py"), run_name="__main__")
    assert json.loads(output.read_text())["runs"] == {"e/by_frame cpu 1": run}
    assert "| by frame | random frames | yes | f1 | 75.0 | 50.0 | 25.0 | 1 |" in (
        capsys.readouterr().out
    )
