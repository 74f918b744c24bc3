"""How much is told, and in which colours."""

import io

import pytest

from segmentation import terminal
from segmentation.__main__ import main
from segmentation.errors import UserError
from segmentation.progress import progress
from segmentation.terminal import coloured, quiet, take_level, verbose


class Screen(io.StringIO):
    def isatty(self) -> bool:
        return True


@pytest.fixture(autouse=True)
def as_before(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("NO_COLOR", "TERM"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(terminal, "_level", 0)


@pytest.mark.parametrize(
    ("typed", "left", "level"),
    [
        (["fit", "-q", "--x=1"], ["fit", "--x=1"], (True, False)),
        (["--verbose", "fit"], ["fit"], (False, True)),
        (["fit", "-q", "-v"], ["fit"], (False, True)),
        (["sweep", "run", "--", "-q"], ["sweep", "run", "--", "-q"], (False, False)),
        (["test", "--verbose=false"], ["test", "--verbose=false"], (False, False)),
    ],
)
def test_the_level_is_taken_from_what_was_typed(
    typed: list[str], left: list[str], level: tuple[bool, bool]
) -> None:
    assert take_level(typed) == left and (quiet(), verbose()) == level


def test_quiet_leaves_results_and_errors(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["compare", "nowhere", "--output=o", "-q"]) == 2
    line = capsys.readouterr().err
    assert line.startswith("segmentation: error: nowhere") and line.count("\n") == 1
    monkeypatch.setattr("sys.stderr", screen := Screen())
    assert list(progress("abc", "spelling")) == ["a", "b", "c"] and not screen.getvalue()


def test_verbose_tells_where_an_error_came_from(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def broken(*_: str) -> None:
        raise UserError("at fault")

    monkeypatch.setattr("segmentation.training.cli.fit", broken)
    assert main(["fit", "--verbose"]) == 2
    *_, frame, _, line = capsys.readouterr().err.splitlines()
    assert line == "segmentation: error: at fault" and "raise UserError" in frame


@pytest.mark.parametrize(
    ("stream", "environment", "shown"),
    [
        (Screen(), {}, True),
        (Screen(), {"NO_COLOR": "1"}, False),
        (Screen(), {"NO_COLOR": ""}, True),
        (Screen(), {"TERM": "dumb"}, False),
        (io.StringIO(), {}, False),
    ],
)
def test_colours_are_for_terminals_that_show_them(
    stream: io.StringIO,
    environment: dict[str, str],
    shown: bool,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("os.name", "posix")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    text = coloured("best", "green", stream)
    assert text == ("\x1b[32mbest\x1b[0m" if shown else "best")
