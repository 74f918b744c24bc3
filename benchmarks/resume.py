"""Kill trainings at random moments, start them again, and compare them with undisturbed ones.

    python benchmarks/resume.py

Every training is a process of its own (or several, with DDP over gloo), forked from one that has
imported everything. A kill comes up to 20 ms after a random hook of a random process: at the start,
in training, validation or test. After SIGTERM or SIGUSR1 the same command goes on from the very
batch; after SIGKILL, of all processes at once, from the last checkpoint, made every 60 ms at most.
At the end the weights, the optimizer, ``metrics.csv`` and the test scores must be the same, bit for
bit.
"""

import argparse
import csv
import json
import os
import random
import signal
import socket
import sys
import tempfile
import threading
import time
import traceback
from pathlib import Path
from typing import Any

import torch
from lightning import Callback

from segmentation.datasets.synthetic import write_dsb2018
from segmentation.training.cli import run
from segmentation.training.signals import leaving

# DDP orders its gradients anew after the first step, also after that of a resumed run. To two
# processes that is the same; more add their gradients in an order that depends on the place.
DDP = ("ddp", "ddp_find_unused_parameters_true")
CONFIG = Path(__file__).parents[1] / "configs" / "quickstart.yaml"
TINY = [
    *("--model.net.width=4", "--model.net.depth=3", "--data.crop=32", "--data.batch_size=4"),
    *(
        "--data.num_workers=0",
        "--data.split.val=2",
        "--data.split.test=3",
        "--data.sampling.length=24",
    ),
    *("--trainer.max_epochs=2", "--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1"),
    "--trainer.enable_model_summary=false",
    *("--run.wandb=off", "--run.name=killed", "--run.resume=true", "--run.tune=image_iou"),
]
SETTINGS = {  # of which a resumed run has to restore more and more
    "plain": [],
    "averaged": [
        *("--model.net.dropout=0.3", "--trainer.val_check_interval=0.5"),
        "--trainer.callbacks+=segmentation.training.averaging.AveragedWeights",
        "--trainer.callbacks.decay=0.9",
    ],
    "accumulated": [
        *("--model.net.dropout=0.3", "--trainer.accumulate_grad_batches=2"),
        *("--data.num_workers=1", "--data.sampling.balance=0.5"),
        "--model.lr_scheduler=torch.optim.lr_scheduler.ReduceLROnPlateau",
        "--model.lr_scheduler.patience=0",
    ],
}
Kill = tuple[int, int, float, int]
MEASURED = {"train/images_per_second", "memory/cpu_gib"}  # of each run anew
HOOKS = [
    *("setup", "on_train_start", "on_train_epoch_start", "on_train_batch_start"),
    *("on_after_backward", "on_train_batch_end", "on_validation_start"),
    *("on_validation_batch_start", "on_validation_batch_end", "on_validation_end"),
    *("on_train_epoch_end", "on_train_end", "on_fit_end", "on_test_start", "on_test_batch_end"),
    "on_test_end",
]


class Killer(Callback):
    """Counts hooks and, at the given one, lets a thread kill the process a little later."""

    def __init__(self, at: int, number: int, delay: float) -> None:
        self.at, self.number, self.delay, self.count = at, number, delay, 0

    def hook(self, name: str) -> None:
        self.count += 1
        if self.count == self.at:
            print(f"\nKILL {name}", flush=True)  # not behind a progress bar
            threading.Timer(self.delay, os.kill, (os.getpid(), self.number)).start()


for _name in HOOKS:

    def _hook(self: Killer, *_: Any, name: str = _name, **__: Any) -> None:
        self.hook(name)

    setattr(Killer, _name, _hook)


def fit(
    data: Path, root: Path, settings: list[str], world: int, kill: Kill | None = None
) -> tuple[list[int], str]:
    """Train in ``world`` processes; returns their exit statuses and what they printed.

    Args:
        data: Root of the images.
        root: Of the runs.
        settings: What is typed beside ``TINY``.
        world: Number of processes.
        kill: Hook to count to, signal, delay in seconds, and the process to be killed.
    """
    log = root / "log"
    root.mkdir(parents=True, exist_ok=True)
    log.unlink(missing_ok=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = ["fit", f"--config={CONFIG}", *TINY, *settings, f"--data.root={data}"]
    argv += [f"--run.root={root}", f"--trainer.devices={world}"]
    if world > 1:  # as torchrun starts them; each needs an image
        argv += [f"--trainer.strategy={DDP[world > 2]}", f"--data.split.val={max(2, world)}"]
    pids = []
    for rank in range(world):
        if (pid := os.fork()) == 0:
            if world > 1:
                os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)}
                os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                os.environ |= {"TORCHELASTIC_RUN_ID": "1", "GROUP_RANK": "0"}
                os.environ |= {"LOCAL_WORLD_SIZE": str(world)}
            _child(argv, log, Killer(*kill[:3]) if kill and kill[3] == rank else Killer(0, 0, 0))
        pids.append(pid)
    statuses: dict[int, int] = {}
    while len(statuses) < world:
        pid, status = os.wait()
        statuses[pid] = os.waitstatus_to_exitcode(status)
        hard = statuses[pid] in (-signal.SIGKILL, 1)
        for other in set(pids) - set(statuses) if statuses[pid] else ():  # what a launcher does
            os.kill(other, signal.SIGKILL if hard else signal.SIGTERM)
    return [statuses[pid] for pid in pids], log.read_text()


def _child(argv: list[str], log: Path, killer: Killer) -> None:
    status = 1
    try:
        output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(output, 1)
        os.dup2(output, 2)
        with leaving():  # as the command does: between training and test no callback listens
            run(argv, [killer])
        print(f"\nHOOKS {killer.count}")
        status = 0
    except SystemExit as error:
        status = int(error.code or 0)
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stdout.flush()
        os._exit(status)


def outcome(root: Path) -> dict[str, Any]:
    """All of a run that must not depend on interruptions."""
    (folder,) = root.glob("killed/*")
    assert not (folder / "unfinished").exists()
    kept = {p.name for p in (folder / "checkpoints").iterdir()}
    assert kept == {"best.ckpt", "best.tuned.json", "last.ckpt"}, kept
    found: dict[str, Any] = {"scores": json.loads((folder / "scores.json").read_text())}
    for name in ("best", "last"):
        checkpoint = torch.load(folder / f"checkpoints/{name}.ckpt", weights_only=True)
        for part in ("state_dict", "optimizer_states", "lr_schedulers", "global_step", "epoch"):
            found[f"{name}.{part}"] = checkpoint[part]
    with (folder / "metrics.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    found["log"] = [{k: v for k, v in row.items() if k not in MEASURED} for row in rows]
    return found


def same(one: Any, other: Any) -> bool:
    """Bit for bit; NaN is NaN."""
    if isinstance(one, torch.Tensor):
        return torch.equal(one, other)
    if isinstance(one, dict):
        return one.keys() == other.keys() and all(same(one[k], other[k]) for k in one)
    if isinstance(one, list | tuple):
        return len(one) == len(other) and all(map(same, one, other))
    return bool(one == other or (one != one and other != other))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--kills", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--processes", type=int, nargs="+", default=[1, 2], help="of a training")
    parser.add_argument(
        "--output", type=Path, default=Path(__file__).with_name("results") / "resume.json"
    )
    arguments = parser.parse_args()
    os.environ["WANDB_MODE"] = "disabled"
    torch.set_num_threads(1)
    rng = random.Random(arguments.seed)
    cases: list[dict[str, Any]] = []
    references: dict[tuple[int, str], tuple[int, dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        home = Path(folder)
        os.environ.setdefault("SEGMENTATION_CACHE", str(home / "cache"))
        data = write_dsb2018(home / "data", images=12, size=(64, 80), test_images=4)
        while (done := sum(len(case["kills"]) for case in cases)) < arguments.kills:
            number = len(cases)
            turn, which = divmod(number, len(arguments.processes))
            world, name = arguments.processes[which], list(SETTINGS)[turn // 2 % len(SETTINGS)]
            settings = SETTINGS[name]
            if (world, name) not in references:
                root = home / f"undisturbed-{world}-{name}"
                statuses, log = fit(data, root, settings, world)
                assert statuses == [0] * world, log
                count = min(
                    int(line.split()[1]) for line in log.splitlines() if line.startswith("HOOKS")
                )
                references[world, name] = count, outcome(root)
            hooks, wanted = references[world, name]
            hard = turn % 2 == 1
            every = ["--run.save_every=0.001" if hard else "--run.save_every=10"]
            case: dict[str, Any] = {"processes": world, "settings": name, "kills": []}
            root = home / str(number)
            twice = arguments.kills - done > 1 and rng.random() < 0.4
            for at in [rng.randint(1, hooks)] + ([rng.randint(1, hooks // 2)] if twice else []):
                soft = rng.choice([signal.SIGTERM, signal.SIGUSR1])
                kind = signal.SIGKILL if hard else soft
                plan = (at, int(kind), rng.uniform(0, 0.02), rng.randrange(world))
                start = time.monotonic()
                statuses, log = fit(data, root, [*settings, *every], world, plan)
                hook = [line.split()[1] for line in log.splitlines() if line.startswith("KILL")]
                assert hook or not any(statuses), log  # each kill is counted
                expected = -int(signal.SIGKILL) if hard else 143
                # Where the kill came after the end, there was none.
                right = expected in statuses or set(statuses) == {0}
                kill = {"signal": kind.name, "after": hook, "status": statuses, "right": right}
                if hook:
                    case["kills"].append(kill | {"seconds": round(time.monotonic() - start, 1)})
                if not right:
                    print(log, file=sys.stderr)
                if statuses == [0] * world:
                    break
            if any(statuses):
                statuses, log = fit(data, root, [*settings, *every], world)
            if statuses == [0] * world:
                found = outcome(root)
                case["different"] = [key for key in wanted if not same(wanted[key], found[key])]
            else:
                print(log, file=sys.stderr)
                case["different"] = [f"ended with {statuses}"]
            cases.append(case)
            print(json.dumps(case), flush=True)
    exact = all(not c["different"] and all(k["right"] for k in c["kills"]) for c in cases)
    result = {"kills": sum(len(c["kills"]) for c in cases), "exact": exact, "cases": cases}
    arguments.output.write_text(json.dumps(result, indent=1))
    return 0 if exact else 1


if __name__ == "__main__":
    sys.exit(main())
