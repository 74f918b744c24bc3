"""What became of a sweep's trials: a table, and the best of them."""

import shlex
from dataclasses import dataclass
from typing import Any

import yaml
from optuna.trial import FrozenTrial, TrialState

from segmentation.errors import UserError
from segmentation.experiments.sweep.store import Store, elapsed

STATES = {
    TrialState.COMPLETE: "complete",
    TrialState.PRUNED: "pruned",
    TrialState.FAIL: "failed",
    TrialState.WAITING: "waiting",
}
HEADER = ("trial", "state", "time", "CPU time", "memory", "GPU memory", "score")


@dataclass(frozen=True)
class Row:
    """A trial as the table shows it.

    Attributes:
        number: Of the trial.
        state: ``complete``, ``pruned``, ``failed``, ``running``, ``interrupted`` or ``waiting``.
        seconds: Of all its processes so far, wall time; ``None`` where nothing is known.
        cpu: Processor seconds, of all threads and processes.
        memory: Peak of the largest process in bytes.
        gpu_memory: Peak of what PyTorch took, in bytes.
        score: The metric's best value; of a trial that goes on or was pruned, the best so far.
        reason: Why it failed.
        values: Of the parameters.
    """

    number: int
    state: str
    seconds: float | None
    cpu: float | None
    memory: int | None
    gpu_memory: int | None
    score: float | None
    reason: str
    values: dict[str, Any]


def rows(store: Store) -> list[Row]:
    """All trials, in the order in which they were begun."""
    return [_row(store, trial) for trial in store.study.get_trials(deepcopy=False)]


def _row(store: Store, trial: FrozenTrial) -> Row:
    attrs = trial.user_attrs
    state = STATES.get(trial.state)
    if state is None:
        state = "interrupted" if store.left(trial.number) else "running"
    seen = [value for value in trial.intermediate_values.values() if value == value]
    score = trial.value if trial.state == TrialState.COMPLETE else None
    if score is None and seen:
        score = max(seen) if maximizes(store) else min(seen)
    return Row(
        trial.number,
        state,
        elapsed(trial) if state == "running" else attrs.get("seconds"),
        attrs.get("cpu"),
        attrs.get("memory"),
        attrs.get("gpu_memory"),
        score,
        str(attrs.get("reason", "")),
        attrs.get("values", {}),
    )


def maximizes(store: Store) -> bool:
    """Whether more of the metric is better."""
    return str(store.search["metric"].get("goal", "minimize")) == "maximize"


def table(found: list[Row], metric: str) -> str:
    """The trials in columns, and how many there are of each state."""
    lines = [[*HEADER[:-1], metric, ""]]
    lines += [
        [
            str(row.number),
            row.state,
            clock(row.seconds),
            clock(row.cpu),
            megabytes(row.memory),
            megabytes(row.gpu_memory),
            "–" if row.score is None else f"{row.score:.4g}",
            row.reason,
        ]
        for row in found
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(lines[0]) - 1)]
    text = [
        "  ".join([c.ljust(w) for c, w in zip(line, widths, strict=False)] + [line[-1]]).rstrip()
        for line in lines
    ]
    return "\n".join([*text, "", counts(found)])


def counts(found: list[Row]) -> str:
    """Such as ``12 trials: 10 complete, 2 failed``."""
    states = [row.state for row in found]
    parts = [f"{states.count(state)} {state}" for state in sorted(set(states))]
    return f"{len(found)} trials" + (f": {', '.join(parts)}" if parts else "")


def best(store: Store) -> str:
    """The winner's score, command line and config.

    Raises:
        UserError: No trial has ended well.
    """
    complete = [row for row in rows(store) if row.state == "complete" and row.score is not None]
    if not complete:
        raise UserError(f"{store.root}: no trial has ended well yet; see sweep status")
    pick = max if maximizes(store) else min
    row = pick(complete, key=lambda one: one.score or 0)
    command = store.study.get_trials(deepcopy=False)[row.number].user_attrs["command"]
    folder = store.run_folder(row.number)
    config = None if folder is None else folder / "config.yaml"
    if config is not None and config.is_file():
        text = f"# {config}\n{config.read_text()}"
    else:
        text = yaml.safe_dump(row.values, sort_keys=False)
    metric = store.search["metric"]["name"]
    head = f"trial {row.number}: {metric} {row.score:.6g}\n{shlex.join(command)}"
    return f"{head}\n{text}".rstrip()


def clock(seconds: float | None) -> str:
    """Such as ``1:02:03``, or ``4.5 s`` below a minute."""
    if seconds is None:
        return "–"
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}"


def megabytes(size: int | None) -> str:
    """Millions of bytes."""
    return "–" if size is None else f"{size / 1e6:.0f} MB"
