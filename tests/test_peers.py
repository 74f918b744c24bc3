"""The comparison with other tools: what is ours of it, without any of them."""

import importlib.util
import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import cv2
import numpy as np
import pytest

from segmentation.data.splits import RandomSplit
from segmentation.datasets.bbbc039 import BBBC039
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.synthetic import write_bbbc039, write_dsb2018
from segmentation.evaluation.evaluate import evaluate
from tests.test_studies import FOLDER, PAGES

PEERS = FOLDER / "peers"


def load(name: str) -> ModuleType:
    before = [*sys.path]
    try:
        sys.path.insert(0, str(PEERS))
        about = importlib.util.spec_from_file_location(f"peers_{name}", PEERS / f"{name}.py")
        assert about is not None and about.loader is not None
        module = sys.modules[f"peers_{name}"] = importlib.util.module_from_spec(about)
        about.loader.exec_module(module)
    finally:
        sys.path[:] = before
    return module


peers, export = load("__main__"), load("export")
RESULTS = json.loads((FOLDER / "results" / "peers.json").read_text())["tables"]


def read(path: Path) -> np.ndarray:
    return np.asarray(cv2.imread(str(path), cv2.IMREAD_UNCHANGED))


def test_a_split_is_exported_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = write_dsb2018(tmp_path / "dsb", 20, (48, 64))
    small = (DSB2018, RandomSplit(val=3, test=4), "fluorescence")
    monkeypatch.setitem(export.DATASETS, "dsb2018", small)
    made = export.export("dsb2018", root, tmp_path / "out", tmp_path / "cache")
    files = {p.stem: p for p in (tmp_path / "out/images").glob("*/*.png")}
    gray = {s.id: s for s in DSB2018(root) if s.kind.startswith("fluorescence")}
    assert files.keys() == gray.keys() and sum(made["counts"].values()) == len(gray) < 20
    for name, path in files.items():
        np.testing.assert_array_equal(read(path), gray[name].image[..., 0])
        mask = read(tmp_path / "out/masks" / path.parent.name / path.name)
        assert mask.dtype == np.uint16
        np.testing.assert_array_equal(mask, gray[name].labels)
    lists = {part: (tmp_path / f"out/{part}.txt").read_text().split() for part in made["counts"]}
    assert [line for part in lists.values() for line in part] == [
        f"{part}/{name.split('/')[1]}" for part, names in lists.items() for name in names
    ]
    times = {p: p.stat().st_mtime_ns for p in files.values()}
    assert export.export("dsb2018", root, tmp_path / "out") == made  # as it was
    assert times == {p: p.stat().st_mtime_ns for p in files.values()}


def test_images_of_16_bits_stay_so(tmp_path: Path) -> None:
    root = write_bbbc039(tmp_path / "bbbc", 4, (48, 64))
    made = export.export("bbbc039", root, tmp_path / "out", tmp_path / "cache")
    assert made["counts"] == {"train": 2, "val": 1, "test": 1}
    (sample,) = (s for s in BBBC039(root) if s.subset == "test")
    found = read(tmp_path / f"out/images/test/{sample.id}.png")
    assert found.dtype == np.uint16
    np.testing.assert_array_equal(found, sample.image[..., 0])


SCRIPT = """
import sys
sys.path.insert(0, {peers!r})
import peer

def train(job):
    with (job.work.parent.parent / "trained").open("a") as file:
        file.write(job.options[0] + " ")
    return {{"steps": 1}}

def tune(job):
    return {{"thresholds": 100, "images": len(job.pairs("val")[0])}}

def load(job):
    assert job.result("tune")["images"] == 1
    if job.options[0] == "--fails" and not (job.work.parent.parent / "repaired").exists():
        raise ValueError("out of order")
    return lambda image: (image > 60).astype("uint16")

peer.run(train, tune, load)
"""


def test_the_command_goes_on_where_it_stopped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    write_bbbc039(tmp_path / "bbbc039", 4, (48, 64))
    script = tmp_path / "script.py"
    script.write_text(SCRIPT.format(peers=str(PEERS)))
    method = peers.Method("first", str(script), options=["--works"])
    methods = {"a": method, "b": replace(method, name="second", options=["--fails"])}
    monkeypatch.setattr(peers, "read_methods", lambda: ({}, methods))
    monkeypatch.setenv("SEGMENTATION_CACHE", str(tmp_path / "cache"))

    def evaluated(runner: Any, labels: Path, output: Path) -> None:
        truth, images = (runner.data / kind / "test" for kind in ("masks", "images"))
        evaluate([truth], labels, output, images=images, labels="instances")

    monkeypatch.setattr(peers.Runner, "evaluate", evaluated)
    output, work = tmp_path / "peers.json", tmp_path / "work"
    options = [f"--data={tmp_path}", f"--work={work}", "--dataset=bbbc039", "--budget=90s"]
    monkeypatch.setattr(sys, "argv", ["peers", *options, f"--output={output}"])
    peers.main()
    printed, told = capsys.readouterr()
    assert "b: predict failed: ValueError: out of order" in told and "| second |" not in printed
    (work / "bbbc039" / "repaired").touch()
    peers.main()
    assert (work / "bbbc039" / "trained").read_text() == "--works --fails "  # once each
    found = json.loads(output.read_text())["tables"]
    assert list(found) == ["bbbc039 1.5m"] and str(tmp_path) not in output.read_text()
    rows = found["bbbc039 1.5m"]["rows"]
    assert list(rows) == ["a", "b"] and rows["a"]["scores"] == rows["b"]["scores"]
    assert rows["a"]["train"]["steps"] == 1 and rows["a"]["predict"]["images"] == 1
    assert rows["a"]["predict"]["peak_mib"] > 10
    assert peers.table(methods, rows) in capsys.readouterr().out


def test_test_images_are_not_for_training(tmp_path: Path) -> None:
    job = load("peer").Job(tmp_path, tmp_path, 1.0)
    with pytest.raises(ValueError, match="by the table"):
        job.pairs("test")


def test_every_method_has_a_script_and_an_environment() -> None:
    environments, methods = peers.read_methods()
    for method in methods.values():
        assert (PEERS / method.script).exists()
        assert method.environment in {None, *environments}


@pytest.mark.parametrize(("text", "seconds"), [("90s", 90), ("20m", 1200), ("1h", 3600)])
def test_durations(text: str, seconds: int) -> None:
    assert peers.seconds_of(text) == seconds


@pytest.mark.parametrize("name", RESULTS)
def test_the_page_shows_what_was_measured(name: str) -> None:
    methods = peers.read_methods()[1]
    assert peers.table(methods, RESULTS[name]["rows"]) in PAGES
