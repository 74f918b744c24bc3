"""Nothing is mute: what a command does is said at once, and how far it is, in a log too."""

import itertools
from collections.abc import Callable
from pathlib import Path

import pytest

from segmentation.__main__ import COMMANDS, main
from segmentation.errors import UserError
from segmentation.progress import progress
from tests.regressions.conftest import Result, write_pairs

NEEDED = {
    "predict": ["--ckpt_path=c", "--data.images=i", "--output=o"],
    "serve": ["--ckpt_path=c"],
    "tune": ["--ckpt_path=c", "--config=folder", "--run.root", "r"],
    "prune": ["--ckpt_path=c", "--output=o"],
    "export": ["--ckpt_path=c", "--output=o"],
    "card": ["--ckpt_path=c"],
    "crossvalidate": ["--config=folder", "--run.name=n", "--folds=3"],
    "reproduce": ["none", "--output=o"],
    "weights": ["--mask=m", "--output=o"],
    "prepare": ["dsb2018", "--root=o", "--archive=gone"],
    "synthetic": ["--output=o"],
    "init": ["folder", "--output=o"],
    "evaluate": ["--truth=t", "--prediction=p", "--output=o"],
    "compare": ["a", "--output=o"],
    "audit": ["folder", "--root=d", "--output=o"],
    "sweep count": ["s"],
    "sweep run": ["s", "--storage=x"],
    "sweep status": ["--storage=x"],
    "sweep best": ["--storage=x"],
}
_PLACES = {"fit": "runs/folder", "tune": "r/folder", "crossvalidate": "runs/n-3fold"}


@pytest.mark.parametrize("name", COMMANDS)
def test_a_command_says_what_it_does_and_where_before_it_imports(
    name: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    def importing(module: str) -> None:
        raise UserError("imported")

    monkeypatch.setattr("segmentation.commands.import_module", importing)
    words = NEEDED.get(name, ["--config=folder"] if name in ("fit", "validate", "test") else [])
    assert main([*name.split(), *words]) == 2
    printed = capsys.readouterr()
    first, second = printed.err.splitlines()
    place = _PLACES.get(name, "o" if any("=o" in word for word in words) else "")
    assert first.startswith(f"{name}: ") and len(first) > len(name) + 30
    assert not place or first.endswith(f". Output: {place}")
    assert second == "segmentation: error: imported" and not printed.out


@pytest.mark.parametrize("words", [["fit", "--print_config"], ["predict", "--help"]])
def test_what_is_asked_for_is_printed_alone(
    words: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("segmentation.training.cli.run", lambda words: None)
    assert main(words) == 0
    assert not capsys.readouterr().err


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """At each look at the time a second has passed."""
    seconds = itertools.count(1000)
    monkeypatch.setattr("tqdm.std.time", lambda: next(seconds))


@pytest.mark.usefixtures("clock")
def test_a_log_gets_lines_ever_farther_apart(capsys: pytest.CaptureFixture[str]) -> None:
    assert list(progress(range(100), "a\x1b[2J")) == [*range(100)]
    with progress(None, "unknown") as bar:
        for _ in range(3):
            bar.update()
    *counting, last = capsys.readouterr().err.splitlines()
    shares = [line.removeprefix("a\\x1b[2J: ").partition(" % in ")[0] for line in counting]
    gaps = [b - a for a, b in itertools.pairwise(map(int, shares))]
    assert len(gaps) > 3 and gaps == sorted(gaps) and all(" left" in line for line in counting)
    assert last.startswith("unknown: 2 in 00:0")


@pytest.mark.usefixtures("clock")
def test_training_and_test_say_in_a_log_how_far_they_are(
    fit: Callable[..., Result], tmp_path: Path
) -> None:
    options = ["--trainer.enable_progress_bar=null", "--data.split.test=3"]
    told = fit(write_pairs(tmp_path / "d"), *options, "--trainer.max_epochs=3").text
    assert "\ntesting: " in told and "% in " in told
    lines = [line for line in told.splitlines() if line.startswith("Epoch ")]
    assert [line[:14] for line in lines] == [f"Epoch {n} of 3  " for n in (1, 2, 3)]
    for noise in ("GPU available", "Seed set", "reached", "Restoring", "Total params", "─"):
        assert noise not in told
