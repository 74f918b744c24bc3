"""The table and the best of a sweep."""

from pathlib import Path

import pytest

from segmentation.__main__ import main
from segmentation.experiments.sweep.status import trial_rows
from segmentation.experiments.sweep.study import existing
from tests.experiments.sweep.common import sweep_file
from tests.helpers import refusal


@pytest.fixture
def storage(tmp_path: Path) -> str:
    """Four runs, of which one fails."""
    parameters = {"x": {"values": [4, 1, 3]}, "y": {"values": ["<a&b>"]}}
    path = sweep_file(tmp_path, parameters=parameters)
    storage = f"--storage={tmp_path / 'store'}"
    assert main(["sweep", "run", str(path), storage, "--", "--crash=1", "--epochs=1"]) == 0
    folder = existing(storage.partition("=")[2], "sweep").user_attrs["folder"]
    run = next(Path(folder, "runs", "trial-00002").glob("*"))
    (run / "resources.json").write_text('{"cpu_seconds": 3723, "peak_memory_bytes": 5000000}')
    return storage


def test_table_and_best(storage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "status", storage]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == [
        *("trial", "state", "time", "CPU", "time", "memory", "GPU", "memory", "val/iou")
    ]
    assert lines[3].split()[:2] == ["2", "complete"]
    assert lines[3].split()[3:] == ["1:02:03", "5", "MB", "–", "1"]
    assert lines[2].split()[:2] == ["1", "failed"]
    assert lines[2].endswith("crashed at 1.0 (status 1)")
    assert lines[5] == "3 trials: 2 complete, 1 failed"
    assert main(["sweep", "best", storage]) == 0
    out = capsys.readouterr().out
    assert out.startswith("trial 2: val/iou 1\n") and "--x=3 '--y=<a&b>'" in out
    assert out.endswith("\nx: 3\ny: <a&b>\n")
    folder = trial_rows(existing(storage.partition("=")[2], "sweep"))[2]["folder"]
    (folder / "config.yaml").write_text("trainer: {}\n")
    assert main(["sweep", "best", storage]) == 0
    assert capsys.readouterr().out.endswith(f"# {folder / 'config.yaml'}\ntrainer: {{}}\n")


def test_best_of_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, parameters={"x": {"values": [1]}})
    storage = f"--storage={tmp_path / 'store'}"
    assert main(["sweep", "run", str(path), storage, "--", "--crash=1"]) == 0
    assert main(["sweep", "status", storage]) == 0
    assert "no trial has ended well" in refusal(capsys, ["sweep", "best", storage])
    assert "(there: sweep)" in refusal(capsys, ["sweep", "best", storage, "--name=x"])
