"""Published rows: what their configs must say, the runs, the table, and going on after a stop."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from segmentation.__main__ import main
from segmentation.experiments.reproduce import PublishedRow, find_rows, published_table
from tests.helpers import CONFIGS, TINY, refusal, run_here
from tests.pages import check_page

ROWS = sorted(CONFIGS.glob("reproduce/*/*.yaml"))


@pytest.fixture
def configs(tmp_path: Path, dsb_root: Path) -> Path:
    """A system of two rows, of which the second one fails."""
    folder = tmp_path / "published" / "z"
    folder.mkdir(parents=True)
    about = {
        "row": "good",
        "published": {"iou": 0.5, "f1": None},
        "protocol": "random",
        "leak": True,
        "budgets": {"cpu": TINY},
    }
    content: dict[str, Any] = {
        "reproduces": about,
        "compose": [str(CONFIGS / "quickstart.yaml")],
        "data": {"init_args": {"root": f"data/{dsb_root.name}"}},
    }
    (folder / "good.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    content["reproduces"] = about | {"row": "bad", "budgets": {"cpu": ["--model.net.width=-1"]}}
    (folder / "bad.yaml").write_text(yaml.safe_dump(content, sort_keys=False))
    (folder / "_base.yaml").write_text("trainer: {}\n")
    return folder.parent


def test_runs_go_on_and_end_in_a_published_table(
    configs: Path,
    dsb_root: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    run_here(monkeypatch)

    def run(what: str, *more: str) -> int:
        output = tmp_path / "out"
        argv = ["reproduce", what, f"--output={output}", f"--data={dsb_root.parent}", *more]
        return main([*argv, f"--configs={configs}", "--budget=cpu"])

    assert run("z/good", "--seeds", "0", "1") == 0
    done = json.loads((tmp_path / "out/results.json").read_text())
    assert list(done) == ["z/good cpu 0", "z/good cpu 1"]
    first = done["z/good cpu 0"]
    scores = json.loads((tmp_path / "out" / first["run"] / "scores.json").read_text())
    assert first["scores"] == scores["network"] and first["images"] == 3
    assert first["parameters"] > 0 and first["seconds"] > first["fit_seconds"] > 0
    assert first["scores"] != done["z/good cpu 1"]["scores"]  # another seed

    capfd.readouterr()
    assert run("z") == 1  # the good row is not run again; the bad one fails and says why
    printed = capfd.readouterr()
    assert "z/good, seed" not in printed.err and "z/bad, seed 0" in printed.err
    assert (
        "failed    z/bad, seed 0 (1 of 1): segmentation: error: " in printed.err
        and "width" in printed.err
    )
    lines = [[c.strip() for c in line.split("|")[1:-1]] for line in printed.out.splitlines()]
    rows = [line for line in lines if line and line[0] in ("good", "bad")]
    bad, good = rows
    assert bad[:6] == ["bad", "random", "yes", "iou / f1", "50.0 / –", "– / –"]
    assert bad[6:8] == ["– / –", "0"] and good[:5] == ["good", *bad[1:5]] and good[7] == "2"
    assert good[5].count("±") == 2 and good[6] == " / ".join(
        f"{100 * first['otsu'][name]:.1f}" for name in ("iou", "f1")
    )
    page = (tmp_path / "out/z-cpu.html").read_text()
    check_page(page)
    assert "1 of 2 done, 1 failed" in page and "50.0 / –" in page
    assert (tmp_path / "out/z-cpu.md").read_text().strip() in printed.out


def test_table_is_mean_and_standard_deviation() -> None:
    published = {"iou": 0.25, "seg": None}
    row = PublishedRow(Path("x/r.yaml"), "name", published, "random", False)
    about = {"fit_seconds": 90, "peak_memory_bytes": 5e8, "parameters": 1234, "otsu": {"iou": 0.1}}
    done = {f"x/r full {i}": {"scores": {"iou": v}, **about} for i, v in enumerate((0.2, 0.4))}
    done["x/r cpu 0"] = {"scores": {"iou": 0.9}, **about}
    last = published_table([row], "full", done).splitlines()[-1]
    assert last == (
        "| name | random | no | iou / seg | 25.0 / – | 30.0 ± 14.1 / – | 10.0 / – | 2 | 1.5 | 500 "
        "| 1,234 |"
    )


def test_a_budget_with_another_split_says_so() -> None:
    row = PublishedRow(
        Path("x/r.yaml"), "a", {}, "official test set", False, {"cpu": ["--data.split=X"]}
    )
    assert row.divided("full") == "official test set"
    assert row.divided("cpu") == row.divided("smoke") == "random, not the official test set"


def test_what_cannot_be_run(
    configs: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    def error(what: str, *more: str) -> str:
        argv = ["reproduce", what, f"--output={tmp_path / 'o'}", f"--configs={configs}", *more]
        return refusal(capsys, argv)

    assert "no published system is called 'q' (there: z)" in error("q")
    assert "no row is called 'q'; choose from bad, good" in error("z/q")
    assert "must be one of smoke, cpu, full" in error("z", "--budget=huge")
    (configs / "z/bad.yaml").write_text("reproduces: {row: 1}\n")
    assert "bad.yaml: its block reproduces is not one (" in error("z/bad")
    (configs / "z/bad.yaml").write_text("reproduces: {row: [\n")
    assert "bad.yaml: not valid YAML" in error("z/bad")
    (tmp_path / "o").mkdir()
    (tmp_path / "o/results.json").write_text("[")
    assert "results.json: cannot be read" in error("z/good")


def test_rows_come_in_the_order_of_their_numbers() -> None:
    names = [row.path.stem for row in find_rows(CONFIGS / "reproduce", "d")]
    assert names[:5] == ["batch_1", "batch_11", "batch_22", "batch_44", "batch_121"]


@pytest.mark.parametrize("path", ROWS, ids=lambda p: f"{p.parent.name}/{p.stem}")
def test_every_row_says_what_it_reproduces(path: Path) -> None:
    if path.stem.startswith("_"):
        assert "reproduces" not in yaml.safe_load(path.read_text())
        return
    (row,) = find_rows(CONFIGS / "reproduce", f"{path.parent.name}/{path.stem}")
    assert row.row and row.protocol and "cpu" in row.budgets
    assert row.published and all(v is None or 0 <= v <= 1 for v in row.published.values())
    assert all(word.startswith("--") for word in row.arguments("cpu"))
    assert path.read_text().startswith("# ")


@pytest.mark.parametrize("system", "abcde")
def test_the_readme_shows_what_was_measured(system: str) -> None:
    """The table that benchmarks/published.py printed, from runs with the arguments of today."""
    root = CONFIGS.parent
    runs = json.loads((root / "benchmarks/results/reproduce_cpu.json").read_text())["runs"]
    rows = find_rows(CONFIGS / "reproduce", system)
    assert len({row.row for row in rows}) == len(rows)
    for row in rows:
        mine = [run for key, run in runs.items() if key.startswith(f"{row.key} cpu ")]
        assert mine and all(run["arguments"] == row.arguments("cpu") for run in mine)
    shown = published_table(rows, "cpu", runs).partition("\n\n")[2]
    assert shown in (root / "docs/results/published.md").read_text()
