"""The real ``wandb sweep`` and ``wandb agent`` against a stand-in for the server."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests.experiments.sweep.common import (
    ENVIRONMENT,
    FAST,
    PATIENCE,
    ROOT,
    SPEC,
    sweep_file,
    wait_until,
)
from tests.experiments.sweep.wandb_server import Server, serving
from tests.helpers import arguments

# W&B's own command line; its agent looks at its runs every 5 seconds otherwise.
WANDB = (
    "import sys, wandb.wandb_agent as a; from wandb.cli.cli import cli; "
    "a.Agent.POLL_INTERVAL = 0.2; cli(sys.argv[1:])"
)


def wandb(server: Server, folder: Path, *words: str) -> subprocess.Popen[str]:
    own = {
        "WANDB_BASE_URL": server.url, "WANDB_API_KEY": "0" * 40, "WANDB_MODE": "online",
        "WANDB_ERROR_REPORTING": "false", "WANDB_X_DISABLE_STATS": "true",
        "WANDB_PROJECT": "project", "WANDB_ENTITY": "entity", "WANDB_DISABLE_GIT": "true",
        "HOME": str(folder), "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }  # fmt: skip
    own |= {f"WANDB_{name}_DIR": str(folder) for name in ("CONFIG", "CACHE", "DATA")}
    return subprocess.Popen(
        [sys.executable, "-c", WANDB, *words],
        env={**ENVIRONMENT, **own, "WANDB_DIR": str(folder)},
        cwd=ROOT,
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )


def test_two_agents_share_a_grid_with_a_crash_and_a_requeued_run(tmp_path: Path) -> None:
    """Run 2 crashes; run 3 is killed, and W&B hands it out once more with ``--_wandb=…``."""
    runs = tmp_path / "runs"
    hold = runs / "hold-3"
    runs.mkdir()
    hold.touch()
    path = sweep_file(
        tmp_path,
        parameters={"x": {"values": [3, 2, 1]}, "y": {"value": None}, "z": {"value": True}},
        command=[
            *("${env}", "${interpreter}", FAST, f"--run.root={runs}", "--run.name=t"),
            *("--crash=2", "${args}"),
        ],
    )
    with serving() as server:
        creating = wandb(server, tmp_path, "sweep", str(path))
        out, _ = creating.communicate(timeout=PATIENCE)
        assert creating.returncode == 0, out
        assert "wandb agent entity/project/sweep1" in out
        agents = [wandb(server, tmp_path, "agent", "entity/project/sweep1") for _ in range(2)]
        try:
            first = wait_until(lambda: next(runs.glob("t/*/started"), None))
            process = int(wait_until(first.read_text))
            wait_until(lambda: len(server.runs) == 3)
            hold.unlink()
            os.kill(process, signal.SIGKILL)
            server.requeue("run0")
            printed = [agent.communicate(timeout=PATIENCE)[0] for agent in agents]
        finally:
            for agent in agents:
                agent.kill()
                agent.communicate()
    assert server.unknown == []
    assert [agent.returncode for agent in agents] == [0, 0], printed
    assert {run.args["x"]: run.starts for run in server.runs.values()} == {3: 2, 2: 1, 1: 1}
    assert all(server.agents.values()), "both agents had runs"
    states = {run.args["x"]: run.state for run in server.runs.values()}
    assert states == {3: "finished", 2: "running", 1: "finished"}  # 2 crashed before it logged in
    again = max(runs.glob("t/*/argv.txt"), key=lambda p: "--_wandb" in p.read_text()).read_text()
    assert {"--x=3", "--y=None", "--z=True", "--_wandb={'requeued': True}"} <= {*again.split("\n")}
    assert server.runs["run0"].history[-1]["val/iou"] == 1.001
    assert {"UpsertSweep", "CreateAgent", "Heartbeat", "UpsertBucket"} <= {*server.operations}


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_an_agent_hands_signals_on(tmp_path: Path) -> None:
    """``--forward-signals``, as the job scripts start it: the run ends with 143, the agent ends."""
    runs = tmp_path / "runs"
    runs.mkdir()
    (runs / "hold-1").touch()
    command = ["${interpreter}", FAST, f"--run.root={runs}", "--run.name=t", "${args}"]
    with serving() as server:
        server.answer("UpsertSweep", "", {"config": json.dumps({**SPEC, "command": command})})
        agent = wandb(server, tmp_path, "agent", "--forward-signals", "entity/project/sweep1")
        try:
            started = wait_until(lambda: next(runs.glob("t/*/started"), None))
            wait_until(started.read_text)
            agent.send_signal(signal.SIGTERM)
            agent.communicate(timeout=PATIENCE)
        finally:
            agent.kill()
            agent.communicate()
    (run,) = server.runs.values()
    assert run.exitcode == 143
    assert run.state == "failed"


@pytest.mark.skipif(sys.platform == "win32", reason="signals")
def test_a_real_training_is_preempted_and_another_ended_early(
    dsb_root: Path, tmp_path: Path
) -> None:
    """``fit`` itself: W&B sees one run, whose history goes on where it was interrupted.

    The second one is ended by the server and is not to be handed out again.
    """
    runs = tmp_path / "runs"
    more = ("--run.wandb=online", "--run.resume=true")
    base = arguments("fit", dsb_root, runs, *more)
    path = sweep_file(
        tmp_path,
        parameters={"trainer.max_epochs": {"values": [12, 5000]}},
        command=["${env}", "${interpreter}", "-m", "segmentation", *base, "${args}"],
    )
    with serving() as server:
        printed, _ = wandb(server, tmp_path, "sweep", str(path)).communicate(timeout=PATIENCE)
        assert server.config, printed
        words = ("agent", "--forward-signals", "entity/project/sweep1")
        agent = wandb(server, tmp_path, *words)
        try:
            log = wait_until(lambda: next(runs.glob("*/*/metrics.csv"), None))
            wait_until(lambda: len(log.read_text().splitlines()) > 5)
            agent.send_signal(signal.SIGTERM)
            printed, _ = agent.communicate(timeout=PATIENCE)
            run = server.runs["run0"]
            assert (run.state, run.exitcode, run.preempting) == ("failed", 143, True), printed
            before = len(run.history)
            server.requeue("run0")
            agent = wandb(server, tmp_path, *words)
            wait_until(lambda: len([*runs.glob("*/*/checkpoints/last.ckpt")]) == 2)
            server.stopping.add("run1")
            printed, _ = agent.communicate(timeout=PATIENCE)
        finally:
            agent.kill()
            agent.communicate()
    assert list(server.runs) == ["run0", "run1"]
    early = server.runs["run1"]
    assert (early.state, early.exitcode, early.preempting) == ("failed", 143, False), printed
    assert (run.state, run.exitcode, run.starts) == ("finished", 0, 2), printed
    assert 0 < before < len(run.history) and run.rewound == 0
    assert [row["_step"] for row in run.history] == [*range(len(run.history))]
    epochs = [row["epoch"] for row in run.history if "val/iou" in row]
    assert epochs == [*range(12)], "each epoch once"
    keys = {key for row in run.history for key in row}
    assert {"train/grad_norm", "train/images_per_second", "val/image_1", "test/images"} <= keys
    assert any(name.endswith(".mask.png") for name in run.files)
    assert run.config["trainer.max_epochs"]["value"] == 12 and "split_sha256" in run.config
    assert "Ignoring" not in printed
