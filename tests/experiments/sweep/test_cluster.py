import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from segmentation.experiments.sweep.status import trial_rows
from segmentation.experiments.sweep.study import existing
from tests.experiments.sweep.common import ENVIRONMENT, FAST, PATIENCE, ROOT, sweep_file, wait_until

CLUSTER = ROOT / "configs" / "cluster"
SCRIPTS = sorted(CLUSTER.glob("*.sh"))
# Slurm's programs as far as the scripts need them. srun starts every process of a job step.
SCONTROL = """#!/bin/bash
echo "$*" >> "$CALLS"
if [ "$1" = show ]; then printf 'node7\\nnode8\\n'; fi
"""
SRUN = """#!/bin/bash
echo "srun $1 $MASTER_ADDR $MASTER_PORT" >> "$CALLS"
shift
for rank in $(seq 0 $((SLURM_NTASKS - 1))); do
  SLURM_PROCID=$rank "$@" "--rank=$rank" &
done
trap 'kill -s USR1 $(jobs -p)' USR1
wait
"""
AGENT = """#!/bin/bash
printf '%s\\n' "wandb $*" >> "$CALLS"
trap 'echo TERM >> "$CALLS"; exit 0' TERM
touch "$CALLS.ready"
while true; do sleep 0.05; done
"""


@pytest.fixture
def environment(tmp_path: Path) -> dict[str, str]:
    """A PATH with stand-ins for the cluster's programs, which write down how they were called."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name, text in (("scontrol", SCONTROL), ("srun", SRUN), ("wandb", AGENT)):
        (folder / name).write_text(text)
        (folder / name).chmod(0o755)
    for name in ("qrerun", "qsub"):
        (folder / name).write_text(f'#!/bin/bash\necho "{name} $*" >> "$CALLS"; exit 1\n')
        (folder / name).chmod(0o755)
    (folder / "segmentation").write_text(
        f'#!/bin/bash\nexec "{sys.executable}" -m segmentation "$@"\n'
    )
    (folder / "segmentation").chmod(0o755)
    return {
        **ENVIRONMENT,
        "PATH": f"{folder}:{os.environ['PATH']}",
        "CALLS": str(tmp_path / "calls"),
        "SLURM_JOB_ID": "41",
    }


def job(script: str, environment: dict[str, str], *words: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        ["bash", str(CLUSTER / script), *words],
        env=environment,
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: path.name)
def test_scripts_are_sound(script: Path) -> None:
    subprocess.run(["bash", "-n", str(script)], check=True)
    beside = Path(sys.executable).with_name("shellcheck")
    shellcheck = str(beside) if beside.exists() else shutil.which("shellcheck")
    if shellcheck is None:
        pytest.skip("no shellcheck")
    done = subprocess.run([shellcheck, str(script)], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_slurm_job_is_requeued_and_goes_on(tmp_path: Path, environment: dict[str, str]) -> None:
    store = tmp_path / "store"
    hold = store / "runs" / "hold-2"
    hold.parent.mkdir(parents=True)
    hold.touch()
    environment |= {
        "SWEEP": str(sweep_file(tmp_path, parameters={"x": {"values": [1, 2, 3]}})),
        "STORAGE": str(store),
        "SLURM_ARRAY_JOB_ID": "40",
        "SLURM_ARRAY_TASK_ID": "3",
    }
    first = job("slurm.sh", environment, "--epochs=1")
    wait_until(lambda: list((store / "runs" / "trial-00001").glob("*/started")))
    first.send_signal(signal.SIGUSR1)  # as --signal=B:USR1@180 does it
    out, err = first.communicate(timeout=PATIENCE)
    assert first.returncode == 143, out + err
    assert (tmp_path / "calls").read_text() == "requeue 40_3\n"
    assert [row["state"] for row in trial_rows(existing(str(store), "sweep"))] == [
        "complete",
        "interrupted",
    ]
    hold.unlink()
    second = job("slurm.sh", environment, "--epochs=1")
    out, err = second.communicate(timeout=PATIENCE)
    assert second.returncode == 0, out + err
    assert [row["state"] for row in trial_rows(existing(str(store), "sweep"))] == ["complete"] * 3
    assert (tmp_path / "calls").read_text() == "requeue 40_3\n"
    log = Path(next((store / "runs" / "trial-00002").glob("*/argv.txt")))
    assert "--epochs=1" in log.read_text().split("\n")


def test_a_run_on_several_nodes_gives_all_its_processes_the_same(
    tmp_path: Path, environment: dict[str, str]
) -> None:
    store = tmp_path / "store"
    shipped = yaml.safe_load((CLUSTER / "multinode.yaml").read_text())
    assert shipped["command"][:2] == ["srun", "--kill-on-bad-exit=1"]
    command = [*shipped["command"][:3], FAST, "${args}"]
    parameters = {"x": {"values": [3]}, "y": {"value": None}}
    environment |= {
        "SWEEP": str(sweep_file(tmp_path, command=command, parameters=parameters)),
        "STORAGE": str(store),
        "SLURM_JOB_NUM_NODES": "2",
        "SLURM_NTASKS": "3",
        "SLURM_JOB_NODELIST": "node[7-8]",
        "SLURM_JOB_NAME": "sweep",
    }
    done = job("slurm.sh", environment)
    out, err = done.communicate(timeout=PATIENCE)
    assert done.returncode == 0, out + err
    calls = (tmp_path / "calls").read_text().splitlines()
    assert calls == ["show hostnames node[7-8]", "srun --kill-on-bad-exit=1 node7 20041"]
    seen = [p.read_text().split("\n") for p in (store / "runs").glob("trial-00000/*/argv.txt")]
    assert sorted(words[-1] for words in seen) == ["--rank=0", "--rank=1", "--rank=2"]
    assert len({tuple(words[:-1]) for words in seen}) == 1
    assert seen[0][:2] == ["--x=3", "--y=None"]


@pytest.mark.parametrize("warned", ["by a signal", "by the timer"])
def test_wandbs_agent_is_told_to_end(
    tmp_path: Path, environment: dict[str, str], warned: str
) -> None:
    environment |= {"WANDB_SWEEP": "entity/project/id", "PBS_JOBID": "7[2].server"}
    if warned == "by the timer":  # the walltime is told in seconds
        environment |= {"PBS_WALLTIME": "63", "WARNING": "60"}
    running = job("pbs.sh", environment)
    wait_until((tmp_path / "calls.ready").exists)
    if warned == "by a signal":
        running.send_signal(signal.SIGUSR1)
    _, err = running.communicate(timeout=PATIENCE)
    assert running.returncode == 143
    more = ",WARNING=60" if warned == "by the timer" else ",WARNING=180"
    assert (tmp_path / "calls").read_text().splitlines() == [
        "wandb agent --forward-signals entity/project/id", "TERM", "qrerun 7[2].server",
        f"qsub -J 0-0 -v WANDB_SWEEP=entity/project/id{more} configs/cluster/pbs.sh",
    ]  # fmt: skip
    assert "submit the job again" in err


def test_settings_are_asked_for(environment: dict[str, str]) -> None:
    done = job("slurm.sh", environment)
    _, err = done.communicate(timeout=PATIENCE)
    assert done.returncode != 0
    assert "set SWEEP, or WANDB_SWEEP" in err


def test_kubernetes_does_not_count_preemption_as_failure() -> None:
    content = yaml.safe_load((CLUSTER / "kubernetes.yaml").read_text())["spec"]
    rules = content["podFailurePolicy"]["rules"]
    assert {rule["action"] for rule in rules} == {"Ignore"}
    assert rules[1]["onExitCodes"]["values"] == [143]
    (container,) = content["template"]["spec"]["containers"]
    assert rules[1]["onExitCodes"]["containerName"] == container["name"]
    assert content["template"]["spec"]["restartPolicy"] == "Never"  # the policy asks for it
    assert (ROOT / container["command"][-1]).is_file()
