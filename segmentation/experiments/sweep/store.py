"""The folder that the agents of a sweep share: Optuna's journal, and who works on which trial.

    journal.log    what was tried and found; Optuna's journal storage
    alive/         a file for each trial in progress, touched by its agent
    logs/          what each trial printed
    runs/          the runs' own folders

It may lie on a file system that many machines share: the journal is locked by symbolic links, and
signs of life are compared on the file server's clock.
"""

import contextlib
import json
import os
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import optuna
from optuna.exceptions import ExperimentalWarning
from optuna.pruners import BasePruner, NopPruner
from optuna.samplers import BaseSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend, JournalFileSymlinkLock
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState

from segmentation.errors import UserError
from segmentation.experiments.sweep.sweep_file import Hyperband, Sweep

STUDY = "sweep"
JOURNAL = "journal.log"  # in a sweep's folder
DEATHS = 3  # agents that may vanish over one trial before it counts as failed


class Bands(BasePruner):
    """W&B's early termination, as its server applies it to the values logged so far."""

    def __init__(self, hyperband: Hyperband) -> None:
        self.hyperband = hyperband

    def prune(self, study: Study, trial: FrozenTrial) -> bool:
        """Whether the trial is worse than the best 1/eta of all at the last band it reached."""
        sign = -1 if study.direction == StudyDirection.MAXIMIZE else 1
        own = _history(trial, sign)
        reached = [band for band in self.hyperband.bands if band < len(own)]
        if not reached:
            return False
        band = reached[-1]
        others = [_history(one, sign) for one in study.get_trials(deepcopy=False)]
        values = sorted(history[band] for history in others if len(history) > band)
        threshold = values[int(len(values) / self.hyperband.eta)]
        return (own[band] if self.hyperband.strict else min(own)) > threshold


def _history(trial: FrozenTrial, sign: int) -> list[float]:
    values = trial.intermediate_values
    return [sign * values[step] for step in sorted(values) if values[step] == values[step]]


class Store:
    """A sweep's folder.

    Args:
        root: The folder.
        stale: Seconds without a sign of life after which another machine's agent counts as gone.

    Attributes:
        study: Optuna's; its attribute ``sweep`` says what is searched.

    Raises:
        UserError: It cannot be read, or is no sweep's.
    """

    def __init__(self, root: Path, stale: float = 120) -> None:
        optuna.logging.set_verbosity(optuna.logging.ERROR)
        self.root, self.stale = root.resolve(), stale
        journal = self.root / JOURNAL
        if not journal.is_file():
            raise UserError(f"{root}: holds no sweep; start one with segmentation sweep run")
        try:
            storage = JournalStorage(JournalFileBackend(str(journal)))
            self.study = optuna.load_study(study_name=STUDY, storage=storage)
        except OSError as error:
            raise UserError(f"{journal}: cannot be read ({error.strerror})") from None
        except (KeyError, TypeError, ValueError) as error:
            raise UserError(
                f"{journal}: is no journal of a sweep ({' '.join(str(error).split())[:100]}); "
                "choose another --storage"
            ) from None

    @property
    def search(self) -> dict[str, Any]:
        """What is searched: the part of the sweep file that decides which trials there are."""
        found: dict[str, Any] = self.study.user_attrs["sweep"]
        return found

    def name(self, number: int) -> str:
        """Of a trial, its log and its run."""
        return f"trial-{number:05d}"

    def log(self, number: int) -> Path:
        """What a trial printed."""
        return self.root / "logs" / f"{self.name(number)}.log"

    def run_folder(self, number: int) -> Path | None:
        """The folder of a trial's run: the newest, where it was begun anew."""
        made = [f for f in (self.root / "runs" / self.name(number)).glob("*") if f.is_dir()]
        return max(made, key=lambda folder: (folder.stat().st_mtime_ns, folder.name), default=None)

    def claim(self, sweep: Sweep) -> Trial | None:
        """Take up a trial that was left, or begin a new one; ``None``: there is nothing to do.

        Each combination of a grid is one trial, whichever agents work on it and however often.
        """
        with self._locked():
            trials = self.study.get_trials(deepcopy=False)
            if reached_target(sweep, trials):
                return None
            for found in trials:
                if found.state == TrialState.RUNNING and self.left(found.number):
                    # Its agent may have ended it since the list was made, and then let it go.
                    now = self.study._storage.get_trial(found._trial_id)
                    if now.state != TrialState.RUNNING:
                        continue
                    deaths = found.user_attrs.get("deaths", 0)
                    if self._sign(found.number).exists():  # else it was given back
                        deaths += 1
                        self.study._storage.set_trial_user_attr(found._trial_id, "deaths", deaths)
                    if deaths >= DEATHS:
                        reason = f"{deaths} agents ended without a word while they ran it"
                        self.study._storage.set_trial_user_attr(found._trial_id, "reason", reason)
                        self.study.tell(found.number, state=TrialState.FAIL)
                        self.release(found.number)
                        continue
                    self.study.sampler = RandomSampler(seed=found.number)
                    return Trial(self.study, found._trial_id)
            count = sweep.count
            waiting = any(trial.state == TrialState.WAITING for trial in trials)
            if not waiting and count is not None and len(trials) >= count:
                return None
            number = len(trials)
            if sweep.method == "grid" and not waiting:
                chosen = sweep.combination(number)
                self.study.enqueue_trial(
                    {p.name: p.encoded(chosen[p.name]) for p in sweep.parameters}
                )
            self.study.sampler = _sampler(sweep, number)
            trial = self.study.ask()
            self.sign(trial.number)
            return trial

    def left(self, number: int) -> bool:
        """Whether nobody works on this trial, which was begun and has not ended."""
        try:
            with self._sign(number).open() as file:  # opening asks the file server anew
                about = json.load(file)
                seen = os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return True
        except ValueError:  # about to be written
            return False
        if about["machine"] == machine():
            return not _lives(about["agent"])
        return self._now() - seen > self.stale

    def signs(self) -> dict[int, float]:
        """Last sign of life of each trial in progress on other machines, on the server's clock."""
        found: dict[int, float] = {}
        for path in (self.root / "alive").glob("trial-*.json"):
            with contextlib.suppress(OSError, ValueError), path.open() as file:
                if json.load(file)["machine"] != machine():
                    found[int(path.stem.partition("-")[2])] = os.fstat(file.fileno()).st_mtime
        return found

    def process(self, number: int) -> int | None:
        """The process of a trial that an agent of this machine left behind, if it said so."""
        try:
            about = json.loads(self._sign(number).read_text())
        except (OSError, ValueError):
            return None
        process: int | None = about["process"] if about["machine"] == machine() else None
        return process

    def sign(self, number: int, process: int | None = None) -> None:
        """Say that this agent works on a trial, and in which process."""
        path = self._sign(number)
        partial = path.with_suffix(f".{os.getpid()}")
        partial.write_text(
            json.dumps({"machine": machine(), "agent": os.getpid(), "process": process})
        )
        partial.replace(path)

    def beat(self, number: int) -> None:
        """Give a sign of life."""
        with contextlib.suppress(OSError):
            os.utime(self._sign(number))

    def release(self, number: int) -> None:
        """Give a trial back, or end it."""
        self._sign(number).unlink(missing_ok=True)

    def _sign(self, number: int) -> Path:
        return self.root / "alive" / f"{self.name(number)}.json"

    def _now(self) -> float:
        """The file server's clock."""
        path = self.root / "alive" / f".clock-{os.getpid()}"
        path.write_bytes(b"")
        now = path.stat().st_mtime
        path.unlink()
        return now

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """One agent at a time; one that died in here is waited for half a minute."""
        lock = JournalFileSymlinkLock(str(self.root / "claim"))
        lock.acquire()
        try:
            yield
        finally:
            with contextlib.suppress(RuntimeError):  # taken away: this took too long
                lock.release()


def make_store(root: Path, sweep: Sweep, stale: float) -> Store:
    """Make a sweep's folder, or open it to go on.

    Raises:
        UserError: It cannot be written, or another sweep is kept there.
    """
    root = root.resolve()
    try:
        for name in ("alive", "logs", "runs"):
            (root / name).mkdir(parents=True, exist_ok=True)
            (root / name / f".{os.getpid()}").touch()
            (root / name / f".{os.getpid()}").unlink()
        (root / "claim").touch()
        (root / JOURNAL).touch()
    except OSError as error:
        raise UserError(
            f"{root}: cannot be written ({error.strerror}); choose another --storage"
        ) from None
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    search = json.loads(json.dumps(sweep.search, default=str))
    try:
        storage = JournalStorage(JournalFileBackend(str(root / JOURNAL)))
        study = optuna.create_study(
            storage=storage,
            study_name=STUDY,
            direction="maximize" if sweep.maximize else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("sweep")
        if known is None:
            study.set_user_attr("sweep", search)
            study.set_user_attr("file", str(sweep.path))
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{root / 'journal.log'}: is no journal of a sweep "
            f"({' '.join(str(error).split())[:100]}); choose another --storage"
        ) from None
    for key in sorted(search.keys() | (known or search).keys()):
        if known is not None and known.get(key) != search.get(key):
            raise UserError(
                f"{root}: keeps another sweep ({study.user_attrs.get('file')}), which differs from "
                f"{sweep.path} in {key}; choose another --storage"
            )
    store = Store(root, stale)
    if sweep.hyperband is not None:
        store.study.pruner = Bands(sweep.hyperband)
    else:
        store.study.pruner = NopPruner()
    return store


def reached_target(sweep: Sweep, trials: list[FrozenTrial]) -> bool:
    """Whether a trial was as good as was asked for."""
    if sweep.target is None:
        return False
    values = [t.value for t in trials if t.state == TrialState.COMPLETE and t.value is not None]
    return any(v >= sweep.target if sweep.maximize else v <= sweep.target for v in values)


def machine() -> str:
    """Where process ids mean the same: the host, and in containers the namespace."""
    try:
        space = os.readlink("/proc/self/ns/pid")
    except OSError:
        space = ""
    return f"{platform.node()} {space}".strip()


def _lives(process: int) -> bool:
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    with contextlib.suppress(OSError):  # killed, and not yet waited for by its parent
        stat = Path(f"/proc/{process}/stat").read_text()
        return stat.rpartition(")")[2].split()[0] != "Z"
    return True


def _sampler(sweep: Sweep, number: int) -> BaseSampler:
    """Seeded by the trial: no two agents draw the same, and a sweep can be repeated."""
    if sweep.method != "bayes":
        return RandomSampler(seed=number)
    import warnings

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ExperimentalWarning)
        # Agents beside each other: what is in progress counts as bad, so that they spread.
        return TPESampler(seed=number, constant_liar=True)


def elapsed(trial: FrozenTrial) -> float:
    """Seconds since an agent took a trial up."""
    return max(0.0, time.time() - float(trial.user_attrs.get("started", time.time())))
