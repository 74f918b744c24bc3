"""``segmentation sweep``: its options; the work is imported when it is wanted."""

import argparse
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from segmentation.arguments import Parser
from segmentation.cores import usable_cores
from segmentation.errors import UserError

ABOUT = """Sweeps: files in W&B's schema, such as those of configs/sweeps.

With W&B: `wandb sweep FILE`, then `wandb agent ID` wherever there is a machine.
Without: `segmentation sweep run FILE --storage DIR` on as many machines as share DIR."""


def sweep(arguments: Sequence[str]) -> int:
    """Count, run and look at sweeps."""
    parser = Parser(
        "segmentation sweep",
        description=ABOUT,
        allow_abbrev=False,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.epilog = "What follows -- is added to the command of each run: -- --data.root=DIR"
    kinds = parser.add_subparsers(dest="kind", required=True, metavar="count|run|status|best")
    count = kinds.add_parser("count", help="how many runs a file makes", allow_abbrev=False)
    count.add_argument("file", type=Path)
    count.add_argument(
        "--trial",
        nargs="?",
        type=int,
        const=1,
        metavar="N",
        help="check all parameters, time N short runs (1), and say roughly how long the sweep is",
    )
    count.add_argument("--agents", type=int, default=1, metavar="N", help="to share the work")
    run = kinds.add_parser("run", help="execute a file, or go on with it", allow_abbrev=False)
    run.add_argument("file", type=Path)
    run.add_argument(
        "--storage",
        required=True,
        type=Path,
        metavar="DIR",
        help="gets the journal, logs and runs; many machines may share it",
    )
    run.add_argument(
        "--agents", type=int, default=1, metavar="N", help="trials beside each other here (1)"
    )
    run.add_argument(
        "--stale",
        type=float,
        default=120,
        metavar="SECONDS",
        help="an agent of another machine that is silent for so long is gone (120)",
    )
    status = kinds.add_parser("status", help="what became of the trials", allow_abbrev=False)
    best = kinds.add_parser("best", help="the winner's command and config", allow_abbrev=False)
    for one in (status, best):
        one.add_argument("--storage", required=True, type=Path, metavar="DIR")
    status.add_argument(
        "--html", type=Path, metavar="FILE", help="also as a page: parallel coordinates, importance"
    )
    words = list(arguments)
    extra: list[str] = []
    if "--" in words:
        words, extra = words[: words.index("--")], words[words.index("--") + 1 :]
    options = parser.parse_args(words)
    for name in ("agents", "trial", "stale"):
        value = getattr(options, name, None)
        if value is not None and value <= 0:
            raise UserError(f"--{name} {value}: must be above 0")
    if options.kind == "count":
        return _count(options, extra)
    if options.kind == "run":
        return _run(options, extra)
    from segmentation.experiments.sweep.store import Store

    store = Store(options.storage)
    if options.kind == "best":
        from segmentation.experiments.sweep.status import best as winner

        print(winner(store))
        return 0
    from segmentation.experiments.sweep.status import rows, table

    found = rows(store)
    print(table(found, store.search["metric"]["name"]))
    if options.html is not None:
        from segmentation.experiments.sweep.page import write_page

        write_page(options.html, store, found)
        print(f"page {options.html}")
    return 0


def _count(options: Any, extra: list[str]) -> int:
    from segmentation.experiments.sweep.sweep_file import read_sweep

    sweep = read_sweep(options.file)
    print("no end: set run_cap" if sweep.count is None else f"{sweep.count} runs")
    if options.trial is None:
        return 0
    from segmentation.experiments.sweep.check import check_parameters
    from segmentation.experiments.sweep.estimate import estimate
    from segmentation.experiments.sweep.status import clock

    check_parameters(sweep, extra)
    times = estimate(sweep, options.trial, extra)
    mean = sum(times) / len(times)
    print(f"a run: roughly {clock(mean)} (from {len(times)}: {', '.join(map(clock, times))})")
    if sweep.count is not None:
        # Agents finish together but for the last run of each.
        turns = -(-sweep.count // options.agents)
        days = turns * mean / 86400
        long = clock(turns * mean) if days < 2 else f"{days:.1f} days"
        print(f"the sweep: roughly {long} with {options.agents} agent(s)")
    return 0


def _run(options: Any, extra: list[str]) -> int:
    from segmentation.experiments.sweep.agent import Agent
    from segmentation.experiments.sweep.check import check_parameters
    from segmentation.experiments.sweep.store import JOURNAL, make_store
    from segmentation.experiments.sweep.sweep_file import read_sweep

    sweep = read_sweep(options.file)
    if not (options.storage / JOURNAL).exists():
        check_parameters(sweep, extra)  # before anything is written: the file is to be mended
    store = make_store(options.storage, sweep, options.stale)
    if options.agents == 1:
        return Agent(sweep, store, extra).run()
    argv = [
        *(sys.executable, "-m", "segmentation", "sweep", "run", str(options.file)),
        *(f"--storage={options.storage}", f"--stale={options.stale}", "--", *extra),
    ]
    return _agents(argv, options.agents)


def _agents(argv: list[str], count: int) -> int:
    """Start agents, hand on what they are told, and wait for all."""
    processes: list[subprocess.Popen[bytes]] = []
    stopped: list[int] = []

    def tell(number: int, _: Any) -> None:
        stopped.append(number)
        for process in processes:
            process.send_signal(number)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGUSR1):
        signal.signal(number, tell)
    shares = _shares(count)
    for share in shares:
        processes.append(subprocess.Popen(argv, env={**os.environ, **share}, process_group=0))
        if stopped:
            processes[-1].send_signal(stopped[-1])
    statuses = [process.wait() for process in processes]
    return 143 if 143 in statuses else max((abs(status) for status in statuses), default=0)


def _shares(count: int) -> list[dict[str, str]]:
    """Environment of each agent: its share of the cores, and of several GPUs."""
    threads = os.environ.get("OMP_NUM_THREADS") or str(max(1, usable_cores() // count))
    shares = [{"OMP_NUM_THREADS": threads} for _ in range(count)]
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is not None:
        devices = [device for device in visible.split(",") if device]
    elif shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        devices = [str(i) for i, line in enumerate(listed.splitlines()) if line.startswith("GPU")]
    else:
        devices = []
    for index, share in enumerate(shares if len(devices) > 1 else []):
        own = devices[index::count] or [devices[index % len(devices)]]
        share["CUDA_VISIBLE_DEVICES"] = ",".join(own)
    return shares
