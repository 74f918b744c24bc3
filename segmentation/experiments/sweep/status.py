"""What became of a sweep's trials: a table and a page."""

import json
import warnings
from collections import Counter
from datetime import timedelta
from pathlib import Path
from typing import Any

import optuna
import pandas as pd
from optuna.study import Study, StudyDirection
from optuna.trial import TrialState

from segmentation.evaluation.pages import number, render
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
                "time": clock(facts.get("seconds")),
                "CPU time": clock(used.get("cpu_seconds")),
                "memory": megabytes(used.get("peak_memory_bytes")),
                "GPU memory": megabytes(used.get("peak_gpu_memory_bytes")),
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
    cells = pd.DataFrame(rows).iloc[:, :8]
    return f"{cells.to_string(index=False, float_format=number, na_rep='–')}\n\n{counts(rows)}"


def counts(rows: list[dict[str, Any]]) -> str:
    """Such as ``12 trials: 10 complete, 2 failed``."""
    found = Counter(row["state"] for row in rows)
    return f"{len(rows)} trials: {', '.join(f'{found[state]} {state}' for state in sorted(found))}"


def sweep_page(study: Study, rows: list[dict[str, Any]]) -> str:
    """A page: parallel coordinates, importance of the parameters, all trials."""
    import matplotlib

    from segmentation.evaluation.plots import svg

    complete = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    parallel, shares = None, {}
    if len({trial.value for trial in complete}) > 1:
        metric = study.user_attrs["sweep"]["metric"]["name"]
        matplotlib.use("Agg")
        plot = optuna.visualization.matplotlib.plot_parallel_coordinate
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", UserWarning)  # of a parameter that has one value
            figure: Any = plot(study, target_name=metric).figure
        figure.set_size_inches(11, 5)
        figure.subplots_adjust(bottom=0.25)
        for one in figure.axes[1:]:  # of a class its name, of a file its own
            texts = [text.get_text().strip('"') for text in one.get_yticklabels()]
            if any(text.count(".") > 1 for text in texts):
                one.set_yticks(one.get_yticks(), [text.rpartition(".")[2] for text in texts])
        parallel, shares = svg(figure), optuna.importance.get_param_importances(study)
    names = sorted({name for row in rows for name in row["values"]})
    return render(
        "sweep.html",
        title=study.user_attrs["file"],
        counts=counts(rows),
        complete=len(complete),
        parallel=parallel,
        shares=shares,
        head=[*([*rows[0]][:8] if rows else []), *names],
        rows=[[*[*r.values()][:8], *(str(r["values"].get(n, "")) for n in names)] for r in rows],
    )


def clock(seconds: float | None) -> str:
    """Hours, minutes and seconds, such as ``1:02:03``."""
    return "–" if seconds is None else str(timedelta(seconds=round(seconds)))


def megabytes(size: int | None) -> str:
    """Millions of bytes."""
    return "–" if size is None else f"{size / 1e6:.0f} MB"
