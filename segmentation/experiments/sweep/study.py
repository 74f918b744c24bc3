"""The study that the agents of a sweep share, in one of Optuna's storages.

A folder that the machines share gets Optuna's journal. Any other storage is a database, named by
Optuna's URL. In both an agent that runs a trial gives signs of life (Optuna's heartbeat); a trial
whose agent is silent for too long is put back, and taken up by the next agent that has time.
"""

import json
import os
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from pathlib import Path

import optuna
from optuna.exceptions import ExperimentalWarning, OptunaError
from optuna.pruners import NopPruner, SuccessiveHalvingPruner
from optuna.samplers import BaseSampler, PartialFixedSampler, RandomSampler, TPESampler
from optuna.storages import JournalStorage, RDBStorage, RetryHeartbeatStaleTrialCallback
from optuna.storages._heartbeat import BaseHeartbeat  # by which Optuna knows who has a heartbeat
from optuna.storages.journal import JournalFileBackend, JournalFileOpenLock, JournalFileSymlinkLock
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.pool import NullPool

from segmentation.errors import UserError
from segmentation.experiments.sweep.file import Sweep

DEATHS = 3  # agents that may vanish over one trial before it counts as failed
STALE = 120  # seconds without a sign of life after which an agent counts as gone


def put_back(study: Study, trial: FrozenTrial) -> None:
    """Let the next agent take up a trial, which counts as failed by now, where it stopped."""
    RetryHeartbeatStaleTrialCallback(inherit_intermediate_values=True)(study, trial)


def put_back_left(study: Study, trial: FrozenTrial) -> None:
    """Put back a trial whose agent is gone, unless it is the trial that ends its agents."""
    trial.set_user_attr("deaths", trial.user_attrs.get("deaths", 0) + 1)
    if trial.user_attrs["deaths"] < DEATHS:
        put_back(study, trial)


class FolderStorage(JournalStorage, BaseHeartbeat):
    """Optuna's journal in a folder, and a file for each trial that its agent touches."""

    def __init__(self, folder: Path, stale: int) -> None:
        self.alive, self.stale = folder.resolve() / "alive", stale
        self.alive.mkdir(parents=True, exist_ok=True)
        path = str(self.alive.with_name("journal.log"))
        # Symbolic links lock on any network file system, but few users of Windows may make them.
        lock = JournalFileOpenLock(path) if os.name == "nt" else JournalFileSymlinkLock(path)
        super().__init__(JournalFileBackend(path, lock))

    def record_heartbeat(self, trial_id: int) -> None:
        (self.alive / str(trial_id)).touch()

    def _get_stale_trial_ids(self, study_id: int) -> list[int]:
        self.record_heartbeat(-os.getpid())  # tells the file server's time
        now = self._seen(-os.getpid())
        running = self.get_all_trials(study_id, False, (TrialState.RUNNING,))
        return [t._trial_id for t in running if now - self._seen(t._trial_id) > self.stale]

    def _seen(self, trial_id: int) -> float:
        with (self.alive / str(trial_id)).open("ab") as file:  # opening asks the server anew
            return os.fstat(file.fileno()).st_mtime

    def get_heartbeat_interval(self) -> int:
        return max(1, self.stale // 4)

    def get_heartbeat_stale_trial_callback(self) -> Callable[[Study, FrozenTrial], None]:
        return put_back_left


def sampler(sweep: Sweep, number: int) -> BaseSampler:
    """What draws the values of a trial, seeded by its number in the sweep.

    No two agents draw the same, a sweep can be repeated, and of a grid each number is one
    combination, in W&B's order.
    """
    if sweep.method == "bayes":
        # Agents beside each other: what is in progress counts as bad, so that they spread.
        return TPESampler(seed=number, constant_liar=True)
    drawn = RandomSampler(seed=number)
    if sweep.method == "random":
        return drawn
    chosen = sweep.combination(number)
    return PartialFixedSampler({p.name: p.stored(chosen[p.name]) for p in sweep.parameters}, drawn)


def numbers(study: Study) -> dict[int, int]:
    """The number in the sweep of each of Optuna's trials: one that was put back keeps its own."""
    found: dict[int, int] = {}
    begun = 0
    for trial in study.get_trials(deepcopy=False):
        first = trial.system_attrs.get("failed_trial")  # written when it was put back
        found[trial.number] = begun if first is None else found[first]
        begun += first is None and "surplus" not in trial.user_attrs
    return found


@contextmanager
def opened(where: str, stale: int = STALE) -> Iterator[FolderStorage | RDBStorage]:
    """The storage that ``--storage`` names; what goes wrong with it in the block is said so."""
    # No line for each trial, and no warning that its heartbeat may change.
    optuna.logging.set_verbosity(optuna.logging.ERROR)
    warnings.filterwarnings("ignore", category=ExperimentalWarning)
    try:
        yield _database(where, stale) if "://" in where else FolderStorage(Path(where), stale)
    except ImportError:
        remedy = "for PostgreSQL: pip install 'biomedical-segmentation[postgres]'"
        raise UserError(f"{where}: its driver is not installed; {remedy}") from None
    except (OSError, SQLAlchemyError, OptunaError, KeyError, TypeError, ValueError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
        raise UserError(
            f"{where}: is no storage of sweeps or cannot be written ({reason}); choose another"
        ) from None


def _database(url: str, stale: int) -> RDBStorage:
    make = partial(
        RDBStorage,
        # SQLAlchemy's releases differ in the driver that they choose.
        url.replace("postgresql://", "postgresql+psycopg://"),
        # No pool: trials last minutes, and a server allows few connections, for many agents.
        # SQLite locks the whole file for a moment: others wait for it.
        {"poolclass": NullPool, "connect_args": {"timeout": 60} if "sqlite:" in url else {}},
        heartbeat_interval=max(1, stale // 4),
        grace_period=stale,
        heartbeat_stale_trial_callback=put_back_left,
    )
    for pause in (0.2, 1, 3):
        with suppress(SQLAlchemyError):  # perhaps another agent makes the tables at this moment
            return make()
        time.sleep(pause)
    return make()


def begin(where: str, name: str, sweep: Sweep, folder: Path, stale: int) -> Callable[[], Study]:
    """Make a sweep's study, or open it to go on; returns what gives each agent a study of its own.

    A storage that keeps another sweep of this name is refused.
    """
    search = json.loads(json.dumps(sweep.search, default=str))
    early = sweep.early_terminate
    pruner = SuccessiveHalvingPruner(early.first, early.eta) if early else NopPruner()
    with opened(where, stale) as storage:
        study = optuna.create_study(
            storage=storage,
            study_name=name,
            direction="maximize" if sweep.maximize else "minimize",
            load_if_exists=True,
        )
        known = study.user_attrs.get("sweep", search)
        for key in sorted(search.keys() | known.keys()):
            if known.get(key) != search.get(key):
                raise UserError(
                    f"{where}: keeps another sweep ({study.user_attrs['file']}), which differs from"
                    f" {sweep.path} in {key}; choose another --storage"
                )
        facts = {"sweep": search, "file": str(sweep.path), "folder": str(folder)}
        for key, value in facts.items():
            study.set_user_attr(key, value)
        for place in ("logs", "runs"):
            (folder / place).mkdir(parents=True, exist_ok=True)
    return lambda: optuna.load_study(study_name=name, storage=storage, pruner=pruner)


def existing(where: str, name: str) -> Study:
    """The study of a storage, or a `UserError` where there is none of that name."""
    if "://" in where or Path(where, "journal.log").is_file():
        with opened(where) as storage:
            names = optuna.get_all_study_names(storage)
            if name in names:
                return optuna.load_study(study_name=name, storage=storage)
            name += f" (there: {', '.join(names) or 'none'})"
    raise UserError(f"{where}: holds no sweep called {name}; start one with segmentation sweep run")
