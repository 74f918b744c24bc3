"""What became of a sweep's trials."""

import json
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import pandas as pd
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from segmentation.evaluation.pages import number
from segmentation.experiments.sweep.agent import newest_run
from segmentation.experiments.sweep.study import DEATHS, numbers

# What was put back is waiting, not yet taken up again.
STATES = {TrialState.FAIL: "failed", TrialState.WAITING: "interrupted"}


def trial_rows(study: Study) -> list[dict[str, Any]]:
    """Trials by number, each as its last agent left it: a table's cells by the head of the column.

    Beside these ``values`` of the parameters, ``command``, and ``folder`` of the newest run.
    """
    metric, places = study.user_attrs["sweep"]["metric"]["name"], numbers(study)
    pick = max if study.direction == StudyDirection.MAXIMIZE else min
    last = {places[t.number]: t for t in study.get_trials() if "surplus" not in t.user_attrs}
    rows = []
    for place, trial in sorted(last.items()):
        facts = trial.user_attrs
        folder = newest_run(Path(study.user_attrs["folder"], "runs", f"trial-{place:05d}"))
        try:
            used = json.loads((folder / "resources.json").read_text()) if folder else {}
        except (OSError, ValueError):
            used = {}
        seen = [value for value in trial.intermediate_values.values() if value == value]
        died = f"{DEATHS} agents ended in it without a word" * (trial.state == TrialState.FAIL)
        rows.append(
            {
                "trial": place,
                "state": STATES.get(trial.state, trial.state.name.lower()),
                "time": _clock(facts.get("seconds")),
                "CPU time": _clock(used.get("cpu_seconds")),
                "memory": _megabytes(used.get("peak_memory_bytes")),
                "GPU memory": _megabytes(used.get("peak_gpu_memory_bytes")),
                metric: trial.value if trial.value is not None else pick(seen, default=None),
                "": facts.get("reason", died),
                "values": facts.get("values", {}),
                "command": facts.get("command", []),
                "folder": folder,
            }
        )
    return rows


def table(rows: list[dict[str, Any]]) -> str:
    """The trials in columns, and how many there are of each state."""
    cells = pd.DataFrame(rows).iloc[:, :8].to_string(index=False, float_format=number, na_rep="–")
    found = Counter(row["state"] for row in rows)
    counts = ", ".join(f"{found[state]} {state}" for state in sorted(found))
    return f"{cells}\n\n{len(rows)} trials: {counts}"


def _clock(seconds: float | None) -> str:
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def _megabytes(size: int | None) -> str:
    return "–" if size is None else f"{size / 1e6:.0f} MB"
