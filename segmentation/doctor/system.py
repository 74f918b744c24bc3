"""Cores, shared memory, open files and disk space."""

import os
import shutil
from pathlib import Path

from segmentation.doctor.finding import GIB, Finding, Status

# A batch of 8 of the data module's crops, 256×256: three uint8 channels, a target and perhaps
# weights as float32. Each loading process has two of them ready, and one is being used.
WORKER_BYTES = 3 * 8 * 256 * 256 * (3 + 4 + 4)


def check_cores(usable: int, present: int, workers: int) -> Finding:
    """Whether the default number of loading processes has cores to run on."""
    text = f"{usable} usable of {present}, {workers} loading processes by default"
    if workers > usable:
        return Finding("warning", "cores", text, f"train with --data.num_workers {usable}")
    return Finding("ok", "cores", text)


def check_shared_memory(free: int | None, workers: int) -> Finding:
    """Whether ``/dev/shm`` holds the batches of all loading processes.

    Args:
        free: In bytes; ``None`` where there is no such folder.
        workers: Loading processes.
    """
    if free is None:
        return Finding("ok", "shm", "no /dev/shm on this system")
    need = workers * WORKER_BYTES
    text = f"/dev/shm has {free / 2**20:.0f} MiB free, {workers} loading processes"
    text += f" take about {need / 2**20:.0f} MiB at the default batch and crop"
    remedy = "docker run --shm-size 8g (Kubernetes: emptyDir of medium Memory), or "
    remedy += "--data.num_workers 0"
    if free < need:
        return Finding("error", "shm", text, remedy)
    return Finding("warning", "shm", text, remedy) if free < GIB else Finding("ok", "shm", text)


def check_files(soft: int, hard: int) -> Finding:
    """Whether enough files may be open: each tensor that waits in shared memory is one."""
    if soft < 0 or soft >= 1024:  # negative: no limit
        return Finding("ok", "files", f"{'any number' if soft < 0 else soft} may be open")
    remedy = "ulimit -n 4096 before the training"
    if 0 <= hard < 4096:
        remedy = f"raise the hard limit, which is {hard} (limits.conf; docker run --ulimit nofile)"
    status: Status = "error" if soft < 256 else "warning"
    return Finding(status, "files", f"only {soft} may be open", remedy)


def check_disk(name: str, folder: Path, option: str) -> Finding:
    """Whether a folder can be written, and what is free where it is or will be."""
    place = folder.absolute()
    while not place.exists():
        place = place.parent
    if not place.is_dir() or not os.access(place, os.W_OK | os.X_OK):
        text = f"{folder}: {place} cannot be written"
        return Finding("error", name, text, f"choose another {option}")
    free = shutil.disk_usage(place).free
    text, remedy = f"{folder}: {free / GIB:.1f} GiB free", f"make space, or choose another {option}"
    if free < GIB:
        return Finding("error", name, text, remedy)
    return Finding("warning", name, text, remedy) if free < 10 * GIB else Finding("ok", name, text)
