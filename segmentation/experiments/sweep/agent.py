"""An agent: takes trials from a sweep's folder, one after the other, each a process of its own."""

import contextlib
import csv
import ctypes
import difflib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from optuna.trial import Trial, TrialState

from segmentation.errors import UserError
from segmentation.experiments.process import FINISHED
from segmentation.experiments.sweep.store import Store
from segmentation.experiments.sweep.sweep_file import Sweep

PREEMPTED = 143  # exit status of what was asked to stop and can be started again
BEAT = 10.0  # seconds between signs of life
POLL = 0.2  # seconds between looks at the process and its metrics
GRACE = 60.0  # seconds from asking a process to end to killing it
FAILURES = 5  # an agent gives up when so many trials failed and none has ended well
_PDEATHSIG = 1  # prctl(2)


class Agent:
    """Runs trials until there are none left, or it is told to stop.

    SIGTERM, SIGINT, SIGHUP and SIGUSR1 reach the trial's process; the trial is given back, to be
    taken up again by whichever agent is next.

    Args:
        sweep: What to run.
        store: Where it is kept.
        extra: Arguments after those of the sweep.
    """

    def __init__(self, sweep: Sweep, store: Store, extra: Sequence[str] = ()) -> None:
        self.sweep, self.store, self.extra = sweep, store, extra
        self.stopped: int | None = None  # the signal
        self.process: subprocess.Popen[bytes] | None = None
        self.begun = self.failed = self.done = 0

    def run(self) -> int:
        """Work to the end; returns the exit status: 0, 1 when too many fail, 130 or 143."""
        handlers = {
            number: signal.signal(number, self._stop)
            for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1)
        }
        try:
            while self.stopped is None:
                trial = self.store.claim(self.sweep)
                if trial is None:
                    if not self._wait_for_others():
                        break
                elif not self._run(trial):
                    break
                if self.failed >= FAILURES and not self.done:
                    print(
                        f"segmentation: error: the first {self.failed} trials failed; see "
                        f"{self.store.root / 'logs'}",
                        file=sys.stderr,
                    )
                    return 1
        finally:
            for number, handler in handlers.items():
                signal.signal(number, handler)
        if self.stopped is None:
            return 0
        return 130 if self.stopped == signal.SIGINT else PREEMPTED

    def _stop(self, number: int, _: Any) -> None:
        self.stopped = number
        if self.process is not None and self.process.returncode is None:
            self.process.send_signal(number)

    def _wait_for_others(self) -> bool:
        """Whether a trial of another machine was left; waits until each gave a sign of life."""
        before = self.store.signs()
        start = time.monotonic()
        while before and self.stopped is None:
            if any(self.store.left(number) for number in before):
                return True
            now = self.store.signs()
            before = {n: seen for n, seen in before.items() if now.get(n) == seen}
            if time.monotonic() - start > self.store.stale + BEAT:
                return False
            time.sleep(1 if before else 0)
        return False

    def _run(self, trial: Trial) -> bool:
        """Run a trial and write down what came of it; ``False``: the agent shall end."""
        number, store = trial.number, self.store
        self._end_leftover(number)
        folder = store.run_folder(number)
        if folder is not None and (folder / FINISHED).exists():
            # Trained and tested for an agent that was killed before it wrote the score down.
            try:
                self._conclude(trial, False, 0)
            finally:
                store.release(number)
            return self.stopped is None
        values = {p.name: p.suggest(trial) for p in self.sweep.parameters}
        log = store.log(number)
        argv = [
            *self.sweep.command_line(values, log.with_suffix(".json")),
            *(f"--run.root={store.root / 'runs'}", f"--run.name={store.name(number)}"),
            *self.extra,
        ]
        trial.set_user_attr("values", json.loads(json.dumps(values)))
        trial.set_user_attr("command", argv)
        trial.set_user_attr("started", time.time())
        start = time.monotonic()
        with log.open("ab") as output:
            try:
                self.process = subprocess.Popen(
                    argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    process_group=0,
                    preexec_fn=_end_with_parent,
                )
            except OSError as error:
                store.release(number)
                raise UserError(
                    f"{self.sweep.path}: command: {argv[0]} cannot be started ({error.strerror})"
                ) from None
        store.sign(number, self.process.pid)
        if self.stopped is not None:  # came before there was a process
            self.process.send_signal(self.stopped)
        pruned, usage = self._watch(trial, self.process)
        status = self.process.returncode
        with contextlib.suppress(ProcessLookupError):  # what it may have left behind
            os.killpg(self.process.pid, signal.SIGKILL)
        self.process = None
        used = {
            "seconds": trial.user_attrs.get("seconds", 0) + time.monotonic() - start,
            "cpu": trial.user_attrs.get("cpu", 0) + usage.ru_utime + usage.ru_stime,
            "memory": usage.ru_maxrss * (1 if sys.platform == "darwin" else 1024),
            **_gpu_memory(store.run_folder(number)),
        }
        for name, value in used.items():
            trial.set_user_attr(name, value)
        if not pruned and self._preempted(status):
            store.release(number)
            if self.stopped is None:
                self.stopped = signal.SIGTERM  # it was the machine's end that the process heard of
            print(f"trial {number}: interrupted, to be taken up again", flush=True)
            return False
        try:
            self._conclude(trial, pruned, status)
        finally:
            store.release(number)
        return self.stopped is None

    def _watch(self, trial: Trial, process: subprocess.Popen[bytes]) -> tuple[bool, Any]:
        """Until the process ends: give signs of life, report what it logs, end what is pruned."""
        hyperband = self.sweep.hyperband is not None
        known = self.store.study.get_trials(deepcopy=False)[trial.number]
        reported = len(known.intermediate_values)
        asked, beaten, size = None, time.monotonic(), -1
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                return asked is not None, usage
            now = time.monotonic()
            if now - beaten > BEAT:
                self.store.beat(trial.number)
                beaten = now
            if asked is not None and now - asked > GRACE:
                os.killpg(process.pid, signal.SIGKILL)
            elif asked is None and hyperband:
                path = metrics_file(self.store, trial.number)
                new = path.stat().st_size if path is not None else -1
                if new != size:
                    size = new
                    history = read_history(path, self.sweep.metric)[0]
                    for step in range(reported, len(history)):
                        trial.report(history[step], step)
                        reported = step + 1
                        if asked is None and trial.should_prune():
                            process.send_signal(signal.SIGTERM)
                            asked = now
            time.sleep(POLL)

    def _preempted(self, status: int) -> bool:
        if status == PREEMPTED:
            return True
        return self.stopped is not None and (status != 0 or self.stopped == signal.SIGINT)

    def _conclude(self, trial: Trial, pruned: bool, status: int) -> None:
        study, number, metric = self.store.study, trial.number, self.sweep.metric
        took = f"in {trial.user_attrs.get('seconds', 0):.0f} s"
        history, columns = read_history(metrics_file(self.store, number), metric)
        finite = [value for value in history if abs(value) < float("inf")]
        reason = ""
        if pruned:
            study.tell(trial, state=TrialState.PRUNED)
            print(f"trial {number}: pruned after {len(history)} values {took}", flush=True)
            return
        if status:
            reason = _reason(self.store.log(number), status)
        elif not history:
            near = difflib.get_close_matches(metric, columns, 1)
            there = f"nearest: {near[0]}" if near else f"there: {', '.join(columns) or 'nothing'}"
            reason = f"{metric} was never logged ({there})"
        elif not finite:
            reason = f"{metric} was never a finite number"
        if reason:
            trial.set_user_attr("reason", reason)
            study.tell(trial, state=TrialState.FAIL)
            self.failed += 1
            print(f"trial {number}: failed {took}: {reason}", flush=True)
            if not status and not history:
                raise UserError(
                    f"{self.sweep.path}: metric.name: {reason} in trial {number}; correct it, and "
                    "begin with another --storage"
                )
            return
        score = max(finite) if self.sweep.maximize else min(finite)
        study.tell(trial, score)
        self.done += 1
        print(f"trial {number}: {metric} {score:.4g} {took}", flush=True)

    def _end_leftover(self, number: int) -> None:
        """End the process of an agent that was killed, before the trial is run once more."""
        left = self.store.process(number)
        self.store.sign(number)
        name = f"--run.name={self.store.name(number)}".encode()
        for sent in (signal.SIGTERM, signal.SIGKILL):
            deadline = time.monotonic() + GRACE
            while left is not None and time.monotonic() < deadline:
                try:
                    if name not in Path(f"/proc/{left}/cmdline").read_bytes().split(b"\0"):
                        return
                    os.kill(left, sent)
                except OSError:
                    return
                self.store.beat(number)
                time.sleep(POLL)


def _end_with_parent() -> None:
    """In the new process: be asked to end when the agent dies, even of SIGKILL (Linux alone)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(_PDEATHSIG, signal.SIGTERM)


def metrics_file(store: Store, number: int) -> Path | None:
    """The CSV log of a trial's run, if there is one by now."""
    folder = store.run_folder(number)
    path = None if folder is None else folder / "metrics.csv"
    return path if path is not None and path.is_file() else None


def read_history(path: Path | None, metric: str) -> tuple[list[float], list[str]]:
    """All values of a metric in the order in which they were logged, and the log's columns."""
    if path is None:
        return [], []
    whole, _, _ = path.read_text().rpartition("\n")  # the last line may be half written
    rows = csv.DictReader(whole.splitlines())
    values = []
    for row in rows:
        with contextlib.suppress(ValueError, TypeError):  # not logged in this row
            values.append(float(row.get(metric) or ""))
    return values, list(rows.fieldnames or ())


def _gpu_memory(folder: Path | None) -> dict[str, int]:
    if folder is None:
        return {}
    try:
        used = json.loads((folder / "resources.json").read_text())
    except (OSError, ValueError):
        return {}
    return {"gpu_memory": used["peak_gpu_memory_bytes"]} if "peak_gpu_memory_bytes" in used else {}


def _reason(log: Path, status: int) -> str:
    """The last line that a failed process printed, or the signal that ended it."""
    if status < 0:
        return f"killed by {signal.Signals(-status).name}"
    lines = log.read_bytes()[-4000:].decode(errors="replace").strip().splitlines()
    return f"{lines[-1].strip()[:300] if lines else 'nothing was printed'} (status {status})"
