import json
import os
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.trial import TrialState, create_trial

from segmentation.errors import UserError
from segmentation.experiments.sweep.store import DEATHS, Bands, Store, make_store
from segmentation.experiments.sweep.sweep_file import Hyperband, Sweep, read_sweep
from tests.experiments.sweep.common import sweep_file


def opened(folder: Path, **more: Any) -> tuple[Sweep, Store]:
    sweep = read_sweep(sweep_file(folder, **more))
    return sweep, make_store(folder / "store", sweep, 0.5)


def test_agents_beside_each_other_take_each_combination_once(tmp_path: Path) -> None:
    """Four agents, each with its own view of the journal, as processes have it."""
    more = {"parameters": {"x": {"min": 1, "max": 8}, "y": {"values": ["a", None, True]}}}
    sweep, _ = opened(tmp_path, **more)

    def work(_: int) -> list[tuple[Any, ...]]:
        store = Store(tmp_path / "store")
        taken = []
        while (trial := store.claim(sweep)) is not None:
            taken.append(tuple(p.suggest(trial) for p in sweep.parameters))
            store.study.tell(trial, 1.0)
            store.release(trial.number)
        return taken

    with ThreadPoolExecutor(4) as pool:
        taken = [one for found in pool.map(work, range(4)) for one in found]
    assert len(taken) == 24
    assert {repr(one) for one in taken} == {
        repr((x, y)) for x in range(1, 9) for y in ("a", None, True)
    }


def test_a_trial_that_ends_while_another_agent_looks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """After the list of trials was made and before its agent was looked for."""
    sweep, one = opened(tmp_path, parameters={"x": {"values": [1, 2]}})
    other = Store(tmp_path / "store")
    trial = one.claim(sweep)
    assert trial is not None and trial.number == 0
    really = Store.left

    def left(store: Store, number: int) -> bool:
        one.study.tell(trial, 1.0)
        one.release(number)
        return really(store, number)

    monkeypatch.setattr(Store, "left", left)
    claimed = other.claim(sweep)
    assert claimed is not None and claimed.number == 1


@pytest.mark.parametrize("method", ["random", "bayes"])
def test_draws_differ_and_can_be_repeated(method: str, tmp_path: Path) -> None:
    def draw(folder: Path) -> list[float]:
        folder.mkdir()
        parameters = {"x": {"min": 0.0, "max": 1.0}}
        sweep, store = opened(folder, method=method, parameters=parameters, run_cap=14)
        values = []
        while (trial := store.claim(sweep)) is not None:
            values.append(sweep.parameters[0].suggest(trial))
            store.study.tell(trial, -((values[-1] - 0.25) ** 2))
            store.release(trial.number)
        return values

    values = draw(tmp_path / "a")
    assert len(set(values)) == 14
    assert values == draw(tmp_path / "b")


def test_a_trial_given_back_is_taken_first(tmp_path: Path) -> None:
    sweep, store = opened(tmp_path)
    first = store.claim(sweep)
    second = store.claim(sweep)
    assert first is not None
    assert second is not None
    assert sweep.parameters[0].suggest(first) == 1
    store.release(first.number)
    again = Store(store.root).claim(sweep)
    assert again is not None
    assert again.number == first.number
    assert sweep.parameters[0].suggest(again) == 1
    assert "deaths" not in again.user_attrs


def test_silence_of_another_machine(tmp_path: Path) -> None:
    sweep, store = opened(tmp_path)
    trial = store.claim(sweep)
    assert trial is not None
    sign = store._sign(trial.number)
    sign.write_text(json.dumps({"machine": "other", "agent": 1, "process": 2}))
    assert not store.left(trial.number)
    assert store.signs().keys() == {trial.number}
    assert store.process(trial.number) is None  # not ours to end
    then = time.time() - 3
    os.utime(sign, (then, then))
    assert store.left(trial.number)
    store.beat(trial.number)
    assert not store.left(trial.number)


def test_a_trial_that_ends_its_agents_fails_at_last(tmp_path: Path) -> None:
    sweep, store = opened(tmp_path)
    for _ in range(DEATHS):
        trial = store.claim(sweep)
        assert trial is not None
        assert trial.number == 0
        gone = {"machine": "other", "agent": 1, "process": None}
        store._sign(0).write_text(json.dumps(gone))
        os.utime(store._sign(0), (0, 0))
    following = store.claim(sweep)
    assert following is not None
    assert following.number == 1
    failed = store.study.trials[0]
    assert failed.state == TrialState.FAIL
    assert f"{DEATHS} agents" in failed.user_attrs["reason"]


def test_target(tmp_path: Path) -> None:
    metric = {"name": "val/iou", "goal": "minimize", "target": 0.1}
    sweep, store = opened(tmp_path, metric=metric)
    for value in (0.2, 0.1):
        trial = store.claim(sweep)
        assert trial is not None
        store.study.tell(trial, value)
        store.release(trial.number)
    assert store.claim(sweep) is None


def test_another_sweep_is_refused(tmp_path: Path) -> None:
    opened(tmp_path)
    opened(tmp_path, name="another name is the same sweep", run_cap=2)
    with pytest.raises(UserError, match=r"keeps another sweep .*differs from .* in parameters;"):
        opened(tmp_path, parameters={"x": {"values": [1]}})
    with pytest.raises(UserError, match="in metric;"):
        opened(tmp_path, metric={"name": "val/iou"})


@pytest.mark.parametrize("content", ["what is this\n", "[1]\n", '{"op_code": 0}\n'])
def test_what_is_no_journal(content: str, tmp_path: Path) -> None:
    (tmp_path / "store").mkdir()
    (tmp_path / "store" / "journal.log").write_text(content)
    with pytest.raises(UserError, match="is no journal of a sweep"):
        opened(tmp_path)
    with pytest.raises(UserError, match="is no journal of a sweep"):
        Store(tmp_path / "store")


def test_places_that_cannot_be(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    sweep = read_sweep(sweep_file(tmp_path))
    with pytest.raises(UserError, match="cannot be written"):
        make_store(tmp_path / "file", sweep, 1)
    with pytest.raises(UserError, match="holds no sweep"):
        Store(tmp_path / "nothing")


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("direction", ["minimize", "maximize"])
def test_bands_against_the_rule_written_out(strict: bool, direction: str) -> None:
    """W&B's rule: at the last band reached, worse than the value at place n/eta of all runs."""
    rng = np.random.default_rng(0)
    curves = (rng.random((12, 1)) + 0.4 * rng.random((12, 10))).round(2)
    lengths = rng.integers(1, 11, 12)
    sign = -1 if direction == "maximize" else 1
    study = optuna.create_study(direction=direction)  # type: ignore[arg-type]
    for curve, length in zip(curves, lengths, strict=True):
        values = {i: sign * float(v) for i, v in enumerate(curve[:length])}
        study.add_trial(create_trial(state=TrialState.RUNNING, intermediate_values=values))
    pruner = Bands(Hyperband((2, 6), 3, strict))
    decisions = []
    for number, trial in enumerate(study.trials):
        own = curves[number][: lengths[number]]
        expected = False
        if len(own) > 2:
            band = 6 if len(own) > 6 else 2
            rivals = sorted(c[band] for c, n in zip(curves, lengths, strict=True) if n > band)
            limit = rivals[len(rivals) // 3]
            expected = bool((own[band] if strict else own.min()) > limit)
        decisions.append(expected)
        assert pruner.prune(study, trial) is expected
    assert True in decisions
    assert False in decisions
