"""``segmentation sweep count|run|status|best``: sweep files of W&B's, without its server.

With W&B: ``wandb sweep FILE``, then ``wandb agent ID`` wherever there is a machine. Without:
``segmentation sweep run FILE --storage DIR`` on as many machines as share DIR.
"""

import os
import shlex
import shutil
import sys
from pathlib import Path

from segmentation.config_files import find_config
from segmentation.errors import UserError, printable


def count(file: Path, /, *fit: str) -> None:
    """Check a sweep file, and say how many runs it makes.

    Args:
        file: The sweep file.
        fit: Added to the command of each run.
    """
    from segmentation.experiments.sweep.check import check_names
    from segmentation.experiments.sweep.file import read_sweep

    sweep = read_sweep(find_config(file))
    check_names(sweep, fit)
    print("no end: set run_cap" if sweep.count is None else f"{sweep.count} runs")


def run_sweep(
    file: Path,
    /,
    *fit: str,
    storage: str,
    name: str = "sweep",
    runs: str = "",
    agents: int = 1,
    stale: int = 120,
) -> int:
    """Execute a sweep file, or go on with it.

    Args:
        file: The sweep file.
        fit: Added to the command of each run, such as ``-- --data.root=DIR``.
        storage: A folder, which gets the journal, logs and runs, or Optuna's URL of a database,
            such as ``postgresql://USER@HOST/NAME``. Many machines may share it.
        name: Of the sweep in a storage that keeps several.
        runs: Folder of logs and runs, which all machines share; by default the storage's, or with a
            database ``sweeps/NAME``.
        agents: How many trials run beside each other here; they share cores and GPUs.
        stale: An agent that is silent for so many seconds is gone; its trial is taken up again.
    """
    folder = Path(runs or (f"sweeps/{name}" if "://" in storage else storage)).resolve()
    print(printable(f"logs and runs  {folder}"), file=sys.stderr, flush=True)
    from segmentation.experiments.sweep.check import check_names, check_parameters
    from segmentation.experiments.sweep.file import read_sweep

    if min(agents, stale) <= 0:
        raise UserError(f"--agents {agents}, --stale {stale}: must be above 0")
    sweep = read_sweep(find_config(file))
    check_names(sweep, fit)

    from segmentation.experiments.sweep.agent import Agent, run_agents, shares
    from segmentation.experiments.sweep.study import begin

    program = sweep.command_line({}, Path(os.devnull))[0]
    if shutil.which(program) is None:
        raise UserError(f"{file}: command: {program} cannot be started: there is no such program")
    if not (folder / "logs").exists():
        check_parameters(sweep, fit)  # before anything is written: the file is to be mended
    open_study = begin(storage, name, sweep, folder, stale)
    return run_agents([Agent(sweep, open_study(), folder, fit, s, stale) for s in shares(agents)])


def status(*, storage: str, name: str = "sweep") -> None:
    """Say what became of a sweep's trials.

    Args:
        storage: As in ``run``.
        name: As in ``run``.
    """
    from segmentation.experiments.sweep.status import table, trial_rows
    from segmentation.experiments.sweep.study import existing

    print(table(trial_rows(existing(storage, name))))


def best(*, storage: str, name: str = "sweep") -> None:
    """Print score, command and config of a sweep's best trial.

    Args:
        storage: As in ``run``.
        name: As in ``run``.
    """
    import yaml

    from segmentation.experiments.sweep.status import trial_rows
    from segmentation.experiments.sweep.study import existing

    study = existing(storage, name)
    metric = study.user_attrs["sweep"]["metric"]["name"]
    complete = [row for row in trial_rows(study) if row["state"] == "complete"]
    if not complete:
        raise UserError(f"{storage}: no trial has ended well yet; see sweep status")
    row = next(row for row in complete if row[metric] == study.best_value)
    print(f"trial {row['trial']}: {metric} {study.best_value:.6g}\n{shlex.join(row['command'])}")
    config = (row["folder"] or Path()) / "config.yaml"
    if config.is_file():
        print(f"# {config}\n{config.read_text().rstrip()}")
    else:
        print(yaml.safe_dump(row["values"], sort_keys=False).rstrip())
