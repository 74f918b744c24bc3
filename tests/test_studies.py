"""The tables of docs/results of scores: how they are made, and that they are what was measured."""

import contextlib
import importlib.util
import io
import json
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from segmentation.__main__ import main
from tests.helpers import CONFIGS, TINY, run_here

ROOT = CONFIGS.parent
FOLDER = ROOT / "benchmarks"
PAGES = "".join(page.read_text() for page in (ROOT / "docs" / "results").glob("*.md"))


def load() -> ModuleType:
    sys.path.insert(0, str(FOLDER))
    try:
        about = importlib.util.spec_from_file_location("studies", FOLDER / "studies.py")
        assert about is not None and about.loader is not None
        module = importlib.util.module_from_spec(about)
        sys.modules["studies"] = module  # dataclasses look their module up
        about.loader.exec_module(module)
    finally:
        sys.path.remove(str(FOLDER))
    return module


studies = load()
STUDIES = studies.read_studies()


@pytest.mark.parametrize("name", STUDIES)
def test_rows_that_are_tested_anew_are_of_trained_ones(name: str) -> None:
    trained = {key for key, row in STUDIES[name].rows.items() if row.of is None}
    for row in STUDIES[name].rows.values():
        assert row.of is None or {row.of, *row.ensemble} <= trained
        assert row.of is None or not row.fit


@pytest.mark.parametrize("name", STUDIES)
def test_the_pages_show_what_was_measured(name: str) -> None:
    study = STUDIES[name]
    found = json.loads((FOLDER / "results" / f"{name}.json").read_text())
    assert {key: list(row) for key, row in found["rows"].items()} == {
        key: [str(seed) for seed in study.seeds] for key in study.rows
    }
    for key, row in study.rows.items():
        for seed, result in found["rows"][key].items():  # by what the study says today
            assert result["arguments"] == studies.typed(study, row, int(seed))
    for text in studies.table(study, found).split("\n\n"):
        assert text in PAGES


def test_a_cell() -> None:
    def result(value: float) -> dict[str, Any]:
        return {
            "scores": {"iou": value, "auroc": None},
            "intervals": {"iou": [0.25, 1.0]},
            "kinds": {"dim": {"iou": 0.125}},
        }

    one, two = [result(0.5)], [result(0.5), result(0.75)]
    assert studies.cell("iou", one) == ".500"
    assert studies.cell("iou[]", one) == ".500 [.250, 1.000]"
    assert studies.cell("iou[]", two) == ".625 ± .177"
    assert studies.cell("iou@dim", one) == ".125"
    assert studies.cell("auroc", two) == studies.cell("f1", one) == "–"


def test_seeds_that_are_trained_at_a_time_do_not_share_a_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    homes = []

    def fails(arguments: list[str], home: Path, log: Path, title: str, bar: object) -> None:
        assert f"--run.root={home.parent}" in arguments and f"--run.name={home.name}" in arguments
        homes.append(home)

    monkeypatch.setattr(studies, "run_fit", fails)
    runner = studies.Runner(STUDIES["dic_hela"], Path("data"), tmp_path, threads=None)
    for seed in (0, 1):
        runner.train("unet", seed)
    assert len(set(homes)) == 2


def test_a_study_is_run_and_goes_on(
    dsb_root: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    row = studies.Row
    study = studies.Study(
        about="small",
        data=dsb_root.name,
        fit=[f"--config={CONFIGS / 'quickstart.yaml'}", *TINY],
        rows={
            "first": row("one"),
            "second": row("another", fit=["--seed_everything=1"]),
            "both": row("the mean", of="first", ensemble=["second"]),
            "tuned": row("tuned", of="first", tune=True),
        },
        tables=[{"IoU": "iou[]", "AP": "image_ap"}],
        baselines=["otsu"],
    )
    monkeypatch.setattr(studies, "read_studies", lambda: {"small": study})
    run_here(monkeypatch)

    def call(_: object, *words: str) -> None:
        with contextlib.redirect_stdout(io.StringIO()):
            assert main([*words]) == 0

    monkeypatch.setattr(studies.Runner, "call", call)
    output = tmp_path / "small.json"
    argv = ["studies.py", "small", f"--data={dsb_root.parent}", f"--work={tmp_path / 'work'}"]
    monkeypatch.setattr(sys, "argv", [*argv, f"--output={output}"])
    studies.main()
    found = json.loads(output.read_text())
    assert list(found["rows"]) == list(study.rows)
    scores = {key: found["rows"][key]["0"]["scores"] for key in study.rows}
    assert len({row["iou"] for row in scores.values()}) > 2
    assert scores["first"]["iou"] != scores["second"]["iou"]
    assert found["rows"]["first"]["0"]["resources"]["steps"] > 0
    assert found["rows"]["tuned"]["0"]["arguments"] == ["of first", "tune"]
    assert str(tmp_path) not in output.read_text()
    printed = capfd.readouterr().out
    assert studies.table(study, found) in printed
    assert printed.count("| Otsu's threshold |") == 1

    (tmp_path / "work/small/both-0.json").unlink()
    studies.main()
    assert json.loads(output.read_text())["rows"] == found["rows"]
    assert "…" not in capfd.readouterr().out  # nothing is trained again


def test_the_page_of_sources_shows_what_was_measured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.syspath_prepend(str(FOLDER))
    module = importlib.import_module("sources")
    found = json.loads((FOLDER / "results" / "sources.json").read_text())
    assert module.table(found["figures"]) in PAGES


def test_the_page_of_nuclei_shows_what_was_measured() -> None:
    page = (ROOT / "docs" / "howto" / "nuclei.md").read_text(encoding="utf-8")
    found = json.loads((FOLDER / "results" / "nuclei.json").read_text())["figures"]
    value = {figure["what"]: figure["median"] for figure in found}
    names = {"bbbc039": "BBBC039", "fluorescence": "fluorescence", "histology": "stained tissue"}
    names |= {"fluorescence-dim": "dim fluorescence", "brightfield": "bright field"}
    for kind, title in names.items():
        cells = [f"{value[f'{kind}, network: images']:.0f}"]
        for score in ("IoU", "AP .5-.95"):
            for method in ("network", "otsu", "classical"):
                cells.append(f"{value[f'{kind}, {method}: {score}']:.3f}".removeprefix("0"))
        assert f"| {' | '.join([title, *cells])} |" in page
