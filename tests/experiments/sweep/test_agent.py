import os
import signal
from pathlib import Path

import pytest

from segmentation.__main__ import main
from segmentation.experiments.sweep.agent import read_history
from segmentation.experiments.sweep.commands import _shares
from segmentation.experiments.sweep.status import rows
from segmentation.experiments.sweep.store import Store
from tests.experiments.sweep.common import start, sweep_file, wait_until
from tests.helpers import refusal


def finished(*words: str | Path) -> tuple[int, str, str]:
    process = start(*words)
    out, err = process.communicate(timeout=100)
    return process.returncode, out, err


def states(store: Path) -> list[str]:
    return [row.state for row in rows(Store(store))]


def begun(store: Path, number: int) -> list[Path]:
    """What the starts of a trial left, in order."""
    found = (store / "runs" / f"trial-{number:05d}").glob("*/started")
    return sorted(path for path in found if path.read_text())


def killed_within_the_second_trial(folder: Path) -> tuple[Path, Path, Path, Path]:
    """An agent, by SIGKILL: sweep file, storage, what holds x = 2 up, and what its start left."""
    path, store = sweep_file(folder), folder / "store"
    hold = store / "runs" / "hold-2"
    hold.parent.mkdir(parents=True)
    hold.touch()
    agent = start("run", path, f"--storage={store}")
    first = wait_until(lambda: begun(store, 1))[0]
    wait_until(lambda: read_history(first.with_name("metrics.csv"), "val/iou")[0])
    agent.kill()
    agent.communicate()
    return path, store, hold, first


def in_process(path: Path, store: Path, *extra: str) -> int:
    return main(["sweep", "run", str(path), f"--storage={store}", "--", *extra])


def test_a_grid_to_the_end_with_one_crash(tmp_path: Path) -> None:
    """Two agents, null and a list among the values; the crash is written down, not repeated."""
    parameters = {"x": {"values": [1, 2, 3]}, "y": {"values": [None, [1, 2]]}}
    path, store = sweep_file(tmp_path, parameters=parameters), tmp_path / "store"
    words = ("run", path, f"--storage={store}")
    assert finished(*words, "--agents=2", "--", "--crash=2", "--epochs=1")[0] == 0
    assert finished(*words)[0] == 0  # nothing is left to do
    found = rows(Store(store))
    assert [row.state for row in found] == [*["complete"] * 2, *["failed"] * 2, *["complete"] * 2]
    assert [row.reason for row in found][2] == "crashed at 2.0 (status 1)"
    assert [row.score for row in found if row.score] == [0.96, 0.96, 1.0, 1.0]
    for row in found:
        assert len(begun(store, row.number)) == (row.state == "complete")
        assert (row.seconds or 0) > 0
        assert 0 < (row.cpu or 0) < 30
        assert 5e6 < (row.memory or 0) < 1e9
    argv = next((store / "runs" / "trial-00005").glob("*/argv.txt")).read_text().split("\n")
    assert argv[:2] == ["--x=3", "--y=[1, 2]"]
    assert argv[-2:] == ["--crash=2", "--epochs=1"]
    assert not list((store / "alive").iterdir())


@pytest.mark.skipif(os.name != "posix" or not Path("/proc").exists(), reason="needs /proc")
def test_a_killed_agents_trial_is_taken_up_again(tmp_path: Path) -> None:
    path, store, hold, first = killed_within_the_second_trial(tmp_path)
    assert states(store) == ["complete", "interrupted"]
    process = int(first.read_text())
    wait_until(lambda: not Path(f"/proc/{process}").exists())  # it does not outlive its agent
    hold.unlink()
    assert finished("run", path, f"--storage={store}")[0] == 0
    assert states(store) == ["complete"] * 4
    assert len(begun(store, 1)) == 2
    assert [len(begun(store, number)) for number in (0, 2, 3)] == [1, 1, 1]
    assert Store(store).study.trials[1].user_attrs["deaths"] == 1


def test_a_trial_that_ended_after_its_agent_is_not_trained_again(tmp_path: Path) -> None:
    path, store, hold, first = killed_within_the_second_trial(tmp_path)
    first.with_name("scores.json").write_text("{}")
    hold.unlink()
    assert finished("run", path, f"--storage={store}")[0] == 0
    assert states(store) == ["complete"] * 4
    assert [len(begun(store, number)) for number in range(4)] == [1] * 4
    assert rows(Store(store))[1].score == 0.99


def test_a_signal_reaches_the_trial_and_gives_it_back(tmp_path: Path) -> None:
    path, store = sweep_file(tmp_path), tmp_path / "store"
    hold = store / "runs" / "hold-1"
    hold.parent.mkdir(parents=True)
    hold.touch()
    agent = start("run", path, f"--storage={store}", "--agents=2")
    first = wait_until(lambda: begun(store, 0))[0]
    wait_until(lambda: states(store).count("complete") == 3)
    agent.send_signal(signal.SIGTERM)
    out, err = agent.communicate(timeout=60)
    assert agent.returncode == 143, err
    assert "trial 0: interrupted, to be taken up again" in out
    assert not Path(f"/proc/{first.read_text()}").exists()
    assert states(store) == ["interrupted", *["complete"] * 3]
    hold.unlink()
    assert in_process(path, store) == 0
    assert states(store) == ["complete"] * 4
    assert "deaths" not in Store(store).study.trials[0].user_attrs


def test_bad_trials_are_ended_early(tmp_path: Path) -> None:
    """Scores fall with the distance of x from 3. Of two the worse ends, of three the worst.

    At the first band 9 is worse than 3, but 4 is second of three; at the next it is second of two.
    """
    early = {"type": "hyperband", "min_iter": 2, "eta": 3, "strict": True}
    path = sweep_file(
        tmp_path, parameters={"x": {"values": [3, 9, 4]}}, early_terminate=early, method="grid"
    )
    store = tmp_path / "store"
    assert in_process(path, store, "--epochs=40", "--wait=.05") == 0
    found = rows(Store(store))
    assert [row.state for row in found] == ["complete", "pruned", "pruned"]
    assert found[0].score == pytest.approx(1.039)
    for row, band in zip(found[1:], (2, 6), strict=True):
        log = next((store / "runs" / f"trial-{row.number:05d}").glob("*/metrics.csv"))
        assert band < len(read_history(log, "val/iou")[0]) < 40
        assert (row.score or 9) < found[0].score


def test_a_metric_that_is_never_logged(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = sweep_file(tmp_path, metric={"name": "val/iu"})
    line = refusal(capsys, ["sweep", "run", str(path), f"--storage={tmp_path / 'store'}"])
    assert "metric.name: val/iu was never logged (nearest: val/iou)" in line
    assert states(tmp_path / "store") == ["failed"]


def test_an_agent_whose_trials_all_fail_gives_up(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file(
        tmp_path,
        parameters={"x": {"min": 1, "max": 9}},
        command=["${interpreter}", "-c", "print('no'); raise SystemExit(3)", "${args}"],
    )
    assert in_process(path, tmp_path / "store") == 1
    assert "the first 5 trials failed" in capsys.readouterr().err
    assert [row.reason for row in rows(Store(tmp_path / "store"))] == ["no (status 3)"] * 5


def test_scores_that_are_no_numbers_and_killed_processes(tmp_path: Path) -> None:
    code = (
        "import os, sys; a = dict(w[2:].split('=') for w in sys.argv[1:]); x = a['x']\n"
        "f = os.path.join(a['run.root'], a['run.name'], '1'); os.makedirs(f)\n"
        "x == '2' and os.kill(os.getpid(), 9)\n"
        "open(f + '/metrics.csv', 'w').write('val/iou\\n' + {'1': 'nan', '3': '.5'}[x] + '\\n')"
    )
    path = sweep_file(
        tmp_path,
        parameters={"x": {"values": [1, 2, 3]}},
        command=["${interpreter}", "-c", code, "${args}"],
    )
    assert in_process(path, tmp_path / "store") == 0
    found = rows(Store(tmp_path / "store"))
    assert [row.state for row in found] == ["failed", "failed", "complete"]
    assert found[0].reason == "val/iou was never a finite number"
    assert found[1].reason == "killed by SIGKILL"


def test_commands_that_cannot_be_started(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = sweep_file(tmp_path, command=["no-such-program", "${args}"])
    argv = ["sweep", "run", str(path), f"--storage={tmp_path / 'store'}"]
    assert "no-such-program cannot be started" in refusal(capsys, argv)
    for option in ("--agents=0", "--stale=-1"):
        assert "must be above 0" in refusal(capsys, [*argv, option])


def test_agents_share_gpus_and_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(6), raising=False)
    for visible, expected in (
        ("4,6,7", ["4,7", "6"]),
        ("1", [None, None]),  # one GPU is not divided: all agents see it anyhow
        ("", [None, None]),
    ):
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
        assert [one.get("CUDA_VISIBLE_DEVICES") for one in _shares(2)] == expected
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    assert [one["CUDA_VISIBLE_DEVICES"] for one in _shares(3)] == ["0", "1", "0"]
    assert {one["OMP_NUM_THREADS"] for one in _shares(3)} == {"2"}


def test_history_of_a_log_that_is_being_written(tmp_path: Path) -> None:
    path = tmp_path / "metrics.csv"
    path.write_text("epoch,val/iou,train/loss\n0,,.1\n0,.5,\n1,.25,\n2,nan,\n3,.12")
    values, columns = read_history(path, "val/iou")
    assert values[:2] == [0.5, 0.25]
    assert len(values) == 3
    assert columns == ["epoch", "val/iou", "train/loss"]
    assert read_history(None, "x") == ([], [])
