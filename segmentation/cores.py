"""How many cores there are for this process."""

import os
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path


def usable_cores(cgroups: Path = Path("/sys/fs/cgroup"), proc: Path = Path("/proc/self")) -> int:
    """Cores that this process may use: affinity (taskset, Slurm) and quota (containers)."""
    cores = os.cpu_count() or 1
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    return max(1, min([cores, *(int(quota) for quota in _quotas(cgroups, proc))]))


def _quotas(cgroups: Path, proc: Path) -> Iterator[float]:
    """Cores by each control group above this process, of version 2 and 1."""
    with suppress(OSError):
        lines = (proc / "cgroup").read_text().splitlines()
        own = [line.partition("::")[2] for line in lines if line.startswith("0::")]
        folder = Path("/", *own)
        for group in (folder, *folder.parents):
            with suppress(OSError, ValueError):
                path = cgroups / group.relative_to("/") / "cpu.max"
                quota, period = path.read_text().split()
                yield float(quota) / float(period)  # ValueError for "max"
    with suppress(OSError, ValueError):
        quota, period = (
            (cgroups / "cpu" / f"cpu.cfs_{name}_us").read_text() for name in ("quota", "period")
        )
        if float(quota) > 0:
            yield float(quota) / float(period)
