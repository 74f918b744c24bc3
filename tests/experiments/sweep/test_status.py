import re
from html.parser import HTMLParser
from pathlib import Path

import pytest
from optuna.trial import TrialState

from segmentation.__main__ import main
from segmentation.experiments.sweep.status import Row, clock, table
from segmentation.experiments.sweep.store import Store, make_store
from segmentation.experiments.sweep.sweep_file import read_sweep
from tests.experiments.sweep.common import sweep_file
from tests.helpers import refusal


@pytest.fixture
def store(tmp_path: Path) -> Store:
    """Six of eight trials: scores 1 … 4 for x, one failed, one in progress."""
    parameters = {"x": {"values": [4, 1, 2, 3]}, "y": {"values": ["<a&b>", None]}}
    sweep = read_sweep(sweep_file(tmp_path, parameters=parameters))
    store = make_store(tmp_path / "store", sweep, 60)
    for number in range(6):
        trial = store.claim(sweep)
        assert trial is not None
        values = {p.name: p.suggest(trial) for p in sweep.parameters}
        trial.set_user_attr("values", values)
        trial.set_user_attr("command", ["python", "f.py", f"--x={values['x']}", "--y=two words"])
        if number == 4:
            trial.set_user_attr("reason", "out of <memory>")
            store.study.tell(trial, state=TrialState.FAIL)
        elif number < 4:
            trial.set_user_attr("seconds", 3723.0)
            trial.set_user_attr("memory", 5_000_000)
            store.study.tell(trial, float(values["x"]))
        else:
            continue
        store.release(number)
    return store


def test_table(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "status", f"--storage={store.root}"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("trial", "state", "time", "CPU", "time", "memory", "GPU", "memory", "val/iou")
    ]
    assert re.split(r"\s{2,}", lines[1]) == ["0", "complete", "1:02:03", "–", "5 MB", "–", "4"]
    assert lines[5].split()[:2] == ["4", "failed"]
    assert lines[5].endswith("out of <memory>")
    assert lines[6].split()[:2] == ["5", "running"]
    assert lines[-1] == "6 trials: 4 complete, 1 failed, 1 running"


def test_best(store: Store, capsys: pytest.CaptureFixture[str]) -> None:
    run = store.root / "runs" / "trial-00000" / "20260101-000000"
    assert main(["sweep", "best", f"--storage={store.root}"]) == 0
    out = capsys.readouterr().out
    assert out.startswith("trial 0: val/iou 4\npython f.py --x=4 '--y=two words'\nx: 4\n")
    run.mkdir(parents=True)
    (run / "config.yaml").write_text("trainer: {}\n")
    assert main(["sweep", "best", f"--storage={store.root}"]) == 0
    assert capsys.readouterr().out.endswith(f"# {run / 'config.yaml'}\ntrainer: {{}}\n")


def test_page_is_whole_and_needs_nothing_else(store: Store, tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    assert main(["sweep", "status", f"--storage={store.root}", f"--html={page}"]) == 0
    text = page.read_text()
    opened: list[str] = []

    class Balanced(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            assert not {"src", "href"} & {name for name, _ in attrs}
            if tag != "meta":
                opened.append(tag)

        def handle_startendtag(self, tag: str, attrs: object) -> None:
            """Nothing to close."""

        def handle_endtag(self, tag: str) -> None:
            assert opened.pop() == tag

    Balanced().feed(text)
    assert opened == []
    assert text.count("<path d=") == 4  # the trials with a score
    assert "&lt;a&amp;b&gt;" in text
    assert "<a&b>" not in text
    shares = [float(v) for v in re.findall(r"</td><td>([\d.]+)</td><td class", text)]
    assert sum(shares) == pytest.approx(1, abs=0.01)
    assert text.index('"text">x<') < text.index('"text">y<')  # the score is x


def test_page_and_best_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    store = make_store(tmp_path / "store", read_sweep(sweep_file(tmp_path)), 60)
    page = tmp_path / "page.html"
    assert main(["sweep", "status", f"--storage={store.root}", f"--html={page}"]) == 0
    assert "Two trials with a score" in page.read_text()
    assert "no trial has ended well" in refusal(
        capsys, ["sweep", "best", f"--storage={store.root}"]
    )


def test_clock() -> None:
    assert [clock(v) for v in (None, 4.25, 59.94, 61, 7325)] == [
        "–", "4.2 s", "59.9 s", "0:01:01", "2:02:05",
    ]  # fmt: skip
    assert table([], "m").endswith("0 trials")
    assert Row(0, "failed", None, None, None, None, None, "", {}).score is None
