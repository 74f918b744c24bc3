"""Exit statuses: 0 all done, 1 something left out, 2 bad input, 130 and 143 interrupted."""

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from segmentation.__main__ import COMMANDS, main
from tests.regressions.conftest import Result, write_pairs
from tests.regressions.test_progress import NEEDED


def words(name: str) -> list[str]:
    """What a command needs, none of which is there."""
    return [*name.split(), *NEEDED.get(name, [])]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_mistake_is_status_2_and_one_line(name: str, run: Callable[..., Result]) -> None:
    for mistake in ([*words(name), "--nonsense=1"], words(name)):
        if name == "doctor" and "--nonsense=1" not in mistake:
            continue  # which needs nothing
        if name in ("init", "synthetic"):
            Path("o").touch()
        result = run(*mistake)
        assert result.status == 2 and result.text.count("segmentation: error: ") == 1
        assert result.line.startswith("segmentation: error: ")


@pytest.mark.parametrize("name", COMMANDS)
def test_an_interruption_in_the_imports(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def importing(module: str) -> None:
        os.kill(os.getpid(), number)

    monkeypatch.setattr("segmentation.commands.import_module", importing)
    number = signal.SIGINT
    before = signal.signal(number, signal.default_int_handler)  # ignored in the background
    try:
        assert main(words(name)) == 130
    finally:
        signal.signal(number, before)
    number = signal.SIGTERM
    with pytest.raises(SystemExit) as left:
        main(words(name))
    assert left.value.code == 143
    assert capsys.readouterr().err.count("segmentation: interrupted\n") == 2


def test_a_ctrl_c_of_which_lightning_makes_an_exit(monkeypatch: pytest.MonkeyPatch) -> None:
    def trained(arguments: list[str]) -> None:
        try:
            raise KeyboardInterrupt
        except KeyboardInterrupt:
            signal.signal(signal.SIGINT, signal.SIG_IGN)
            sys.exit(1)

    monkeypatch.setattr("segmentation.training.cli.run", trained)
    assert main(["fit"]) == 130
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_what_is_left_out_is_status_1_and_named(
    fit: Callable[..., Result], run: Callable[..., Result], tmp_path: Path
) -> None:
    data = write_pairs(tmp_path / "d")
    assert fit(data).status == 0
    (weights,) = Path("runs").rglob("best.ckpt")
    (data / "images/broken.png").write_bytes(b"\x89PNG")
    (data / "masks/broken.png").write_bytes((data / "masks/im0.png").read_bytes())
    predict = ["predict", f"--ckpt_path={weights}", f"--data.images={data / 'images'}"]
    for command in ([*predict, "--output=p"], ["audit", "folder", f"--root={data}", "--output=a"]):
        result = run(*command)
        assert result.status == 1 and "broken.png" in result.text
        assert result.text.count("im0.png") == 0


def test_the_statuses_are_documented(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    page = Path(__file__).parents[2] / "docs/reference/exit_statuses.md"
    for status in ("0", "1", "2", "130", "143"):
        assert f"{status} " in text.partition("Exit status: ")[2] and status in page.read_text()
