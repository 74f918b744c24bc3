"""Agents: each takes trials of a sweep, one after the other, each a process of its own."""

import csv
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path

import optuna
from optuna.exceptions import UpdateFinishedTrialError
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState
from tqdm import tqdm

from segmentation.errors import UserError
from segmentation.experiments.process import FINISHED
from segmentation.experiments.sweep.file import Sweep
from segmentation.experiments.sweep.study import numbers, put_back, sampler
from segmentation.training.signals import SIGNALS, STATUS

POLL = 0.2  # seconds between looks at a process and its metrics
GRACE = 60  # seconds from asking a process to end to killing it
FAILURES = 5  # an agent gives up when so many trials failed and none has ended well
# On Linux a trial is asked to end when its agent dies, even of SIGKILL (PR_SET_PDEATHSIG).
_TIE = (
    "import ctypes, os, sys; ctypes.CDLL(None).prctl(1, 15); os.execvp(sys.argv[1], sys.argv[1:])"
)
TIED = (sys.executable, "-IS", "-c", _TIE) if sys.platform == "linux" else ()


class TrialFailed(Exception):
    """The trial failed or was put back, which is written down."""


@dataclass
class Agent:
    """Runs trials until none is left or a signal comes, which its trial's process gets, too."""

    sweep: Sweep
    study: Study  # the agent's own
    folder: Path  # gets logs and runs
    extra: Sequence[str]  # arguments after those of the sweep
    environment: Mapping[str, str]  # of its trials
    stale: int  # seconds after which a silent agent is gone; it waits longer for others' trials
    process: subprocess.Popen[bytes] | None = None
    stopped: int = 0  # the signal
    interrupted: bool = False  # whether the trial is to be put back
    ended: list[TrialState] = field(default_factory=list)

    def stop(self, number: int) -> None:
        """Hand a signal on, and take up no other trial."""
        self.stopped = number
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM if os.name == "nt" else number)

    def work(self) -> int:
        """Work to the end; returns the exit status: 0, 1 when too many fail, 130 or 143."""
        target, sign = self.sweep.metric.target, 1 if self.sweep.maximize else -1
        idle = time.monotonic()
        while not self.stopped:
            if self.ended == [TrialState.FAIL] * FAILURES:
                logs = self.folder / "logs"
                print(f"error: the first {FAILURES} trials failed; see {logs}", file=sys.stderr)
                return 1
            trials = self.study.get_trials(deepcopy=False)
            states = {trial.state for trial in trials}
            values = [sign * (t.value or 0) for t in trials if t.state == TrialState.COMPLETE]
            if target is not None and max(values, default=-math.inf) >= sign * target:
                break
            begun = 1 + max(numbers(self.study).values(), default=-1)
            if TrialState.WAITING in states or begun < (self.sweep.count or math.inf):
                with suppress(UpdateFinishedTrialError, ValueError):  # another agent took it over
                    self.study.optimize(self._run, 1, catch=(TrialFailed,), callbacks=[self._end])
                idle = time.monotonic()
            elif TrialState.RUNNING in states and time.monotonic() - idle < 1.5 * self.stale:
                optuna.storages.fail_stale_trials(self.study)
                time.sleep(POLL)
            else:
                break
        return {0: 0, signal.SIGINT: 130}.get(self.stopped, STATUS)

    def _end(self, study: Study, trial: FrozenTrial) -> None:
        if self.interrupted:
            put_back(study, trial)
        elif "surplus" not in trial.user_attrs:
            self.ended.append(trial.state)
        self.interrupted = False

    def _run(self, trial: Trial) -> float:
        """Optuna's objective: a trial's score."""
        number = numbers(self.study)[trial.number]
        if number >= (self.sweep.count or math.inf):  # another agent took the last one at once
            trial.set_user_attr("surplus", True)
            raise TrialFailed
        print(f"trial {number}: begins{self._outlook()}", flush=True)
        self.study.sampler = sampler(self.sweep, number)
        values = {p.name: p.suggest(trial) for p in self.sweep.parameters}
        log = self.folder / "logs" / f"trial-{number:05d}.log"
        home = self.folder / "runs" / log.stem
        start, pruned, status = time.monotonic(), False, 0
        # Else trained and tested for an agent that was killed before it wrote the score down.
        if not any(home.glob(f"*/{FINISHED}")):
            argv = self.sweep.command_line(values, log.with_suffix(".json"))
            argv += [f"--run.root={home.parent}", f"--run.name={log.stem}", *self.extra]
            trial.set_user_attr("values", json.loads(json.dumps(values)))
            trial.set_user_attr("command", argv)
            pruned, status = self._train(trial, argv, log, home)
        seconds = trial.user_attrs.get("seconds", 0) + time.monotonic() - start
        trial.set_user_attr("seconds", seconds)
        stopped = self.stopped and (status or self.stopped == signal.SIGINT)
        if not pruned and (status == STATUS or stopped):
            self.stopped = self.stopped or signal.SIGTERM  # of the machine's end the process heard
            self.interrupted = True
            print(f"trial {number}: interrupted, to be taken up again", flush=True)
            raise TrialFailed
        metric = self.sweep.metric.name
        history, columns = read_history(home, metric)
        finite = [value for value in history if math.isfinite(value)]
        score = (max if self.sweep.maximize else min)(finite, default=math.nan)
        failed, unknown = not pruned and (status or not finite), not (status or history)
        said = f"{metric} {score:.4g}" if finite else f"{metric} was never a finite number"
        if pruned:
            said = f"pruned after {len(history)} values"
        elif status:
            said = last_words(log, status)
        elif unknown:
            near = get_close_matches(metric, columns, 1)
            there = f"nearest: {near[0]}" if near else f"there: {', '.join(columns) or 'nothing'}"
            said = f"{metric} was never logged ({there})"
        print(f"trial {number}: {'failed: ' * bool(failed)}{said} in {seconds:.0f} s", flush=True)
        if pruned:
            raise optuna.TrialPruned
        if failed:
            trial.set_user_attr("reason", said)
            if unknown:
                line = f"{self.sweep.path}: metric.name: {said} in trial {number}; correct it, and"
                raise UserError(f"{line} begin with another --storage")
            raise TrialFailed
        return score

    def _outlook(self) -> str:
        """How many trials of how many are done, and how long the others take."""
        trials = self.study.get_trials(deepcopy=False)
        ended = [t.user_attrs.get("seconds", 0.0) for t in trials if t.state.is_finished()]
        count, beside = self.sweep.count, sum(t.state == TrialState.RUNNING for t in trials)
        if not (count and ended):
            return f", of {count}" if count else ""
        left = (count - len(ended)) * sum(ended) / len(ended) / max(1, beside)
        return f", {len(ended)} of {count} are done, {tqdm.format_interval(max(0, left))} left"

    def _train(self, trial: Trial, argv: list[str], log: Path, home: Path) -> tuple[bool, int]:
        """Run a trial's process; whether it was ended before its time, and its exit status."""
        with log.open("ab") as output:
            process = self.process = subprocess.Popen(
                [*TIED, *argv],
                env=self.environment,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                process_group=0,  # a Ctrl-C reaches the agent alone, which hands it on
            )
        if self.stopped:  # came before there was a process
            self.stop(self.stopped)
        asked = 0.0  # when it was asked to end
        while process.poll() is None:
            if not asked and self._is_over(trial, home):
                process.terminate()
                asked = time.monotonic()
            elif asked and time.monotonic() - asked > GRACE:
                process.kill()
            with suppress(subprocess.TimeoutExpired):
                process.wait(POLL)
        with suppress(OSError, AttributeError):  # what it may have left behind; none on Windows
            os.killpg(process.pid, signal.SIGKILL)
        return asked > 0, process.returncode

    def _is_over(self, trial: Trial, home: Path) -> bool:
        """Report what was logged since; whether the trial is to end before its time."""
        known = self.study.get_trials(deepcopy=False)[trial.number]
        if known.state != TrialState.RUNNING:
            return True  # this process was suspended, and another agent took the trial over
        if not self.sweep.early_terminate:
            return False
        history, _ = read_history(home, self.sweep.metric.name)
        for step in range(len(known.intermediate_values), len(history)):
            trial.report(history[step], step)
            if trial.should_prune():
                return True
        return False


def run_agents(agents: Sequence[Agent]) -> int:
    """Let agents work beside each other, hand on signals, and return the exit status."""

    def stop(number: int, _: object) -> None:
        for agent in agents:
            agent.stop(number)

    more = [signal.SIGHUP] if hasattr(signal, "SIGHUP") else []  # not on Windows
    handlers = {n: signal.signal(n, stop) for n in (*SIGNALS, signal.SIGINT, *more)}
    try:
        with ThreadPoolExecutor(len(agents)) as pool:
            work = [pool.submit(agent.work) for agent in agents]
            while wait(work, POLL).not_done:  # in short turns: on Windows no signal ends a wait
                pass
        return max(one.result() for one in work)
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


def shares(count: int) -> list[dict[str, str]]:
    """Environment of each agent's trials: its share of the cores, and of several GPUs."""
    from segmentation.data.cache import usable_cores

    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count))
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        visible = ",".join(map(str, range(listed.count("GPU "))))
    devices = [device for device in (visible or "").split(",") if device]
    found = [{**os.environ, "OMP_NUM_THREADS": threads} for _ in range(count)]
    for index, share in enumerate(found if len(devices) > 1 else []):
        some = devices[index::count] or [devices[index % len(devices)]]
        share["CUDA_VISIBLE_DEVICES"] = ",".join(some)
    return found


def newest_run(home: Path) -> Path | None:
    """The newest run in the folder of a trial's runs."""
    runs = [run for run in home.glob("*") if run.is_dir()]
    return max(runs, key=lambda run: (run.stat().st_mtime_ns, run.name), default=None)


def read_history(home: Path, metric: str) -> tuple[list[float], list[str]]:
    """All values of a metric in the newest run of a trial, and the columns of its log."""
    log = (newest_run(home) or home) / "metrics.csv"
    # The last line may be half written.
    whole = log.read_text().rpartition("\n")[0] if log.is_file() else ""
    rows = csv.DictReader(whole.splitlines())
    return [float(row[metric]) for row in rows if row.get(metric)], [*(rows.fieldnames or ())]


def last_words(log: Path, status: int) -> str:
    """The last line that a failed process printed, or the signal that ended it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
    return f"{lines[-1].strip()[:300] if lines else 'nothing was printed'} (status {status})"
