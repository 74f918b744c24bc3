"""Sweeps to the end, in a folder, SQLite and PostgreSQL; killed, interrupted, pruned."""

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from segmentation.__main__ import main
from segmentation.experiments.sweep.agent import read_history, shares
from segmentation.experiments.sweep.status import trial_rows
from segmentation.experiments.sweep.study import existing
from tests.experiments.sweep.common import PATIENCE, postgresql, start, sweep_file, wait_until
from tests.helpers import refusal

# Connections of SQLAlchemy's pools end with the process.
pytestmark = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


@pytest.fixture(params=["folder", "sqlite", "postgresql"])
def options(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[list[str]]:
    """``--storage`` and, for databases, where the runs are kept."""
    runs = f"--runs={tmp_path / 'store'}"
    if request.param == "folder":
        yield [f"--storage={tmp_path / 'store'}"]
    elif request.param == "sqlite":
        yield [f"--storage=sqlite:///{tmp_path / 'sweeps.db'}", runs]
    else:
        with postgresql() as url:
            yield [f"--storage={url}", runs]


def rows(options: list[str]) -> list[dict[str, Any]]:
    return trial_rows(existing(options[0].partition("=")[2], "sweep"))


def states(options: list[str]) -> list[str]:
    return [row["state"] for row in rows(options)]


def begun(folder: Path, number: int) -> list[Path]:
    """What the starts of a trial left, in order."""
    found = (folder / "store" / "runs" / f"trial-{number:05d}").glob("*/started")
    return sorted(path for path in found if path.read_text())


def hold(folder: Path, x: int) -> Path:
    """A file that keeps runs with this value from ending."""
    path = folder / "store" / "runs" / f"hold-{x}"
    path.parent.mkdir(parents=True)
    path.touch()
    return path


def test_agents_of_two_machines_take_each_combination_once(
    tmp_path: Path, options: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    """Two processes with two agents each; null and a list among the values, and one crash."""
    parameters = {"x": {"values": [1, 2, 3]}, "y": {"values": [None, [1, 2]]}}
    path = sweep_file(tmp_path, parameters=parameters)
    words = ("run", path, *options, "--agents=2", "--stale=20", "--", "--crash=2", "--epochs=1")
    both = [start(*words) for _ in range(2)]
    printed = [process.communicate(timeout=PATIENCE) for process in both]
    assert [process.returncode for process in both] == [0, 0], printed
    assert main(["sweep", *map(str, words)]) == 0  # nothing is left to do
    assert "trial" not in capsys.readouterr().out
    found = rows(options)
    assert [row["state"] for row in found] == [
        *["complete"] * 2, *["failed"] * 2, *["complete"] * 2
    ]  # fmt: skip
    assert found[2][""] == "crashed at 2.0 (status 1)"
    assert [row["val/iou"] for row in found] == [0.96, 0.96, None, None, 1.0, 1.0]
    for row in found:
        assert len(begun(tmp_path, row["trial"])) == (row["state"] == "complete")
    argv = next((tmp_path / "store" / "runs" / "trial-00005").glob("*/argv.txt")).read_text()
    assert argv.split("\n")[:2] == ["--x=3", "--y=[1, 2]"]
    assert argv.split("\n")[-2:] == ["--crash=2", "--epochs=1"]
    other = sweep_file(tmp_path, "other.yaml", parameters={"x": {"values": [1]}})
    assert main(["sweep", "run", str(other), *options]) == 2, "it keeps another sweep"


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_killed_agents_trial_is_taken_up_again(tmp_path: Path, options: list[str]) -> None:
    held = hold(tmp_path, 2)
    words = ("run", sweep_file(tmp_path), *options, "--stale=2")
    agent = start(*words)
    first = wait_until(lambda: begun(tmp_path, 1))[0]
    wait_until(lambda: read_history(first.parents[1], "val/iou")[0])
    agent.kill()
    agent.communicate()
    if Path("/proc").exists():  # it does not outlive its agent
        wait_until(lambda: not Path(f"/proc/{first.read_text()}").exists())
    if "sqlite" in options[0]:  # trained and tested, if one had let it
        first.with_name("scores.json").write_text("{}")
    held.unlink()
    assert main(["sweep", *map(str, words)]) == 0
    assert states(options) == ["complete"] * 4
    again = 1 if "sqlite" in options[0] else 2
    assert [len(begun(tmp_path, number)) for number in range(4)] == [1, again, 1, 1]


@pytest.mark.skipif(os.name != "posix", reason="signals")
def test_a_signal_reaches_the_trial_and_puts_it_back(tmp_path: Path) -> None:
    options = [f"--storage={tmp_path / 'store'}"]
    held, path = hold(tmp_path, 1), sweep_file(tmp_path)
    agent = start("run", path, *options, "--agents=2")
    first = wait_until(lambda: begun(tmp_path, 0))[0]
    wait_until(lambda: states(options).count("complete") == 3)
    agent.send_signal(signal.SIGTERM)
    out, err = agent.communicate(timeout=PATIENCE)
    assert agent.returncode == 143, err
    assert "trial 0: interrupted, to be taken up again" in out
    assert not Path(f"/proc/{first.read_text()}").exists()
    assert states(options) == ["interrupted", *["complete"] * 3]
    held.unlink()
    assert main(["sweep", "run", str(path), *options]) == 0
    assert states(options) == ["complete"] * 4


def test_bad_trials_are_ended_early(tmp_path: Path) -> None:
    """Scores fall with the distance of x from 3: 9 and 4 are worse at the first band."""
    early = {"type": "hyperband", "min_iter": 2, "eta": 3}
    path = sweep_file(tmp_path, parameters={"x": {"values": [3, 9, 4]}}, early_terminate=early)
    options = [f"--storage={tmp_path / 'store'}"]
    assert main(["sweep", "run", str(path), *options, "--", "--epochs=40", "--wait=.05"]) == 0
    found = rows(options)
    assert [row["state"] for row in found] == ["complete", "pruned", "pruned"]
    assert found[0]["val/iou"] == pytest.approx(1.039)
    for row in found[1:]:
        assert 2 < len(read_history(row["folder"].parent, "val/iou")[0]) < 40
        assert row["val/iou"] < found[0]["val/iou"]


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_draws_differ_and_can_be_repeated(method: str, tmp_path: Path) -> None:
    parameters = {"x": {"min": 0.0, "max": 9.0}}
    path = sweep_file(tmp_path, method=method, parameters=parameters, run_cap=12)
    drawn = []
    for name in ("a", "b"):
        options = [f"--storage={tmp_path / name}"]
        assert main(["sweep", "run", str(path), *options, "--", "--epochs=1"]) == 0
        drawn.append([row["values"]["x"] for row in rows(options)])
    assert drawn[0] == drawn[1]
    assert len(set(drawn[0])) == 12


def test_no_trial_begins_after_the_target(tmp_path: Path) -> None:
    metric = {"name": "val/iou", "goal": "maximize", "target": 0.99}
    options = [f"--storage={tmp_path / 'store'}"]
    assert main(["sweep", "run", str(sweep_file(tmp_path, metric=metric)), *options]) == 0
    assert states(options) == ["complete"] * 2


def test_failures(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code = (
        "import os, sys; a = dict(w[2:].split('=') for w in sys.argv[1:]); x = a['x']\n"
        "f = os.path.join(a['run.root'], a['run.name'], '1'); os.makedirs(f)\n"
        "x == '2' and os.kill(os.getpid(), 9)\n"
        "open(f + '/metrics.csv', 'w').write('val/iou\\n' + {'1': 'nan', '3': '.5'}[x] + '\\n')"
    )
    options = [f"--storage={tmp_path / 'store'}"]
    parameters = {"x": {"values": [1, 2, 3]}}
    path = sweep_file(tmp_path, parameters=parameters, command=["python", "-c", code, "${args}"])
    assert main(["sweep", "run", str(path), *options]) == 0
    found = rows(options)
    assert [row["state"] for row in found] == ["failed", "failed", "complete"]
    assert found[0][""] == "val/iou was never a finite number"
    assert found[1][""] == "killed by SIGKILL"
    options = [f"--storage={tmp_path / 'another'}"]
    path = sweep_file(tmp_path, metric={"name": "val/iu"})
    line = refusal(capsys, ["sweep", "run", str(path), *options])
    assert "metric.name: val/iu was never logged (nearest: val/iou)" in line
    assert states(options) == ["failed"]
    options = [f"--storage={tmp_path / 'third'}"]
    command = ["${interpreter}", "-c", "print('no'); raise SystemExit(3)", "${args}"]
    path = sweep_file(tmp_path, parameters={"x": {"min": 1, "max": 9}}, command=command)
    assert main(["sweep", "run", str(path), *options]) == 1
    assert "the first 5 trials failed" in capsys.readouterr().err
    assert [row[""] for row in rows(options)] == ["no (status 3)"] * 5


def test_what_cannot_be_started(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, command=["no-such-program", "${args}"])
    (tmp_path / "file").touch()
    (tmp_path / "bad").mkdir()
    (tmp_path / "bad" / "journal.log").write_text("what is this\n")
    good = str(sweep_file(tmp_path, "good.yaml"))
    for words, line in (
        (["run", str(path), "--storage=x"], "no-such-program cannot be started"),
        (["run", good, "--storage=x", "--agents=0"], "must be above 0"),
        (["run", good, f"--storage={tmp_path / 'file'}"], "cannot be written"),
        (["run", good, f"--storage={tmp_path / 'bad'}"], "is no storage of sweeps"),
        (["run", good, "--storage=nosuch://x"], "is no storage of sweeps"),
        (["status", f"--storage={tmp_path / 'none'}"], "holds no sweep"),
        (["best", f"--storage=sqlite:///{tmp_path / 'new.db'}"], "holds no sweep"),
    ):
        assert line in refusal(capsys, ["sweep", *words])


def test_agents_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for visible, count, expected in (
        ("4,6,7", 2, ["4,7", "6"]),
        ("1", 2, ["1", "1"]),  # one GPU is not divided
        ("0,1", 3, ["0", "1", "0"]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [one["CUDA_VISIBLE_DEVICES"] for one in shares(count)] == expected
    assert {one["OMP_NUM_THREADS"] for one in shares(3)} == {"2"}
