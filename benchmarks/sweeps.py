"""What a sweep adds to its trials, and what several agents on one machine gain.

Overhead: trials of a program that ends at once, by `segmentation sweep run` and, against a stand-in
for its server, by `wandb agent`; the difference between a sweep of many and one of few, by trials,
so that the start of the agent is left out, less what the program takes on its own. Agents: the same
trials, each a real training, by one agent with all cores and by one agent a core.
"""

import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml
from common import HERE, Report, alternate, arguments, ratio, seconds

from segmentation.datasets.synthetic import write_dsb2018
from tests.experiments.sweep.wandb_server import serving

ROOT = HERE.parent
CONFIG = ROOT / "configs" / "quickstart.yaml"
QUICK = """
import pathlib, sys
given = dict(word[2:].partition("=")[::2] for word in sys.argv[1:])
folder = pathlib.Path(given["run.root"], given["run.name"], "0")
folder.mkdir(parents=True, exist_ok=True)
(folder / "metrics.csv").write_text(f"epoch,val/iou\\n0,{given['x']}\\n")
"""
FEW = 2


def main() -> None:
    parser = arguments("sweeps", __doc__)
    parser.add_argument("--trials", type=int, default=12, help="of the sweep of many")
    parser.add_argument("--trainings", type=int, default=4)
    parser.add_argument("--cores", type=int, default=2)
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    report = Report(
        "sweeps",
        "under 1 s a trial without W&B; up to the 5 s between its agent's looks with W&B; one "
        "agent a core beats one with all cores",
        {"trials": args.trials, "trainings": args.trainings, "cores": args.cores},
    )
    with tempfile.TemporaryDirectory() as scratch:
        home = Path(scratch)
        (home / "quick.py").write_text(QUICK)
        overhead(report, home, args.trials, args.repeats)
        agents(report, home, args.trainings, args.cores, args.repeats)
    report.finish(args.output)


def overhead(report: Report, home: Path, trials: int, repeats: int) -> None:
    """A trial of each engine, less the program alone."""
    program = [sys.executable, str(home / "quick.py")]
    alone = [*program, f"--run.root={home}/alone", "--run.name=0", "--x=1"]
    arms = {
        "program": lambda: seconds(lambda: run(alone)),
        "few": lambda: optuna(home, sweep_file(home, FEW, program), 1),
        "many": lambda: optuna(home, sweep_file(home, trials, program), 1),
        "W&B few": lambda: wandb(home, sweep_file(home, FEW, program)),
        "W&B many": lambda: wandb(home, sweep_file(home, trials, program)),
    }
    taken = alternate(arms, repeats, warm_up=False)
    for name, prefix in (("segmentation sweep run", ""), ("wandb agent", "W&B ")):
        pairs = zip(taken[f"{prefix}many"], taken[f"{prefix}few"], taken["program"], strict=True)
        added = [(many - few) / (trials - FEW) - own for many, few, own in pairs]
        report.add(f"overhead a trial, {name}", "s", added)
    report.add("the program alone", "s", taken["program"])


def agents(report: Report, home: Path, trainings: int, cores: int, repeats: int) -> None:
    """Trainings by one agent with all cores and by as many agents as cores."""
    root = write_dsb2018(home / "data", images=16, size=(128, 128))
    command = [
        *("${interpreter}", "-m", "segmentation", "fit", f"--config={CONFIG}"),
        *(f"--data.root={root}", "--run.wandb=off", "--data.split.val=2", "--data.split.test=2"),
        *(
            "--data.crop=128",
            "--data.batch_size=4",
            "--data.sampling.length=160",
            "--data.num_workers=0",
        ),
        *("--model.net.width=16", "--trainer.max_epochs=2", "--trainer.enable_progress_bar=false"),
        "${args}",
    ]
    file = sweep_file(home, trainings, command, "seed_everything")
    arms = {
        f"{trainings} trainings, 1 agent with {cores} threads": lambda: optuna(home, file, 1),
        f"{trainings} trainings, {cores} agents with 1 thread": lambda: optuna(home, file, cores),
    }
    taken = alternate(arms, repeats, warm_up=False)
    for name, values in taken.items():
        report.add(name, "s", values)
    report.add(f"1 agent of {cores} agents", "×", ratio(*taken.values()))


def sweep_file(home: Path, runs: int, command: list[str], parameter: str = "x") -> Path:
    """A grid of so many runs."""
    if "${args}" not in command:
        command = [*command, f"--run.root={home}/wandb-runs", "--run.name=${i}", "${args}"]
    content = {
        "method": "grid",
        "metric": {"name": "val/iou", "goal": "maximize"},
        "command": [word.replace("${i}", str(runs)) for word in command],
        "parameters": {parameter: {"values": list(range(1, runs + 1))}},
    }
    path = home / f"{parameter}-{runs}.yaml"
    path.write_text(yaml.safe_dump(content))
    return path


def optuna(home: Path, file: Path, count: int) -> float:
    """Seconds of ``segmentation sweep run`` to its end."""
    storage = home / "storage"
    shutil.rmtree(storage, ignore_errors=True)
    words = ["sweep", "run", str(file), f"--agents={count}", f"--storage={storage}"]
    return seconds(lambda: run([sys.executable, "-m", "segmentation", *words]))


def wandb(home: Path, file: Path) -> float:
    """Seconds of ``wandb agent`` to the end of a sweep that was made before."""
    program = [sys.executable, "-c", "from wandb.cli.cli import cli; cli()"]
    with serving() as server:
        own: dict[str, Any] = {
            "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online",
            "WANDB_ERROR_REPORTING": "false", "WANDB_PROJECT": "p", "WANDB_ENTITY": "e",
            "WANDB_DIR": str(home), "WANDB_CONFIG_DIR": str(home), "WANDB_DISABLE_GIT": "true",
            "WANDB_CACHE_DIR": str(home), "WANDB_DATA_DIR": str(home), "HOME": str(home),
        }  # fmt: skip
        run([*program, "sweep", str(file)], own)
        start = time.perf_counter()
        run([*program, "agent", "e/p/sweep1"], own)
        return time.perf_counter() - start


def run(command: list[str], more: dict[str, str] | None = None) -> None:
    """Run a program to its end, its output shown only if it fails."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_WAIT_POLICY": "PASSIVE"}
    environment.pop("OMP_NUM_THREADS", None)  # an agent divides the cores itself
    done = subprocess.run(command, env=environment | (more or {}), capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stdout[-1000:] + done.stderr[-2000:])


if __name__ == "__main__":
    main()
