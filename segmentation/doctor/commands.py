"""``segmentation doctor``: what of this machine would stop a training or slow it down."""

import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from segmentation.arguments import Parser
from segmentation.errors import UserError

if TYPE_CHECKING:
    from segmentation.doctor.finding import Finding


def doctor(arguments: Sequence[str]) -> int:
    """Examine the machine, and time a small training, as one page with remedies."""
    parser = Parser("segmentation doctor", description=doctor.__doc__, allow_abbrev=False)
    parser.add_argument(
        "--data.root",
        type=Path,
        dest="data",
        metavar="DIR",
        help="a dataset, or a folder of datasets (data)",
    )
    parser.add_argument(
        "--run.root", type=Path, default=Path("runs"), dest="runs", metavar="DIR", help="(runs)"
    )
    parser.add_argument(
        "--seconds", type=float, default=20, help="of the speed test (20); 0 leaves it out"
    )
    parser.epilog = "The status is 1 when there are errors."
    options = parser.parse_args(arguments)
    if options.seconds < 0:
        raise UserError(f"--seconds {options.seconds}: must be at least 0")
    from segmentation.cores import usable_cores

    cores = usable_cores()
    failed = False
    for finding in findings(options.data, options.runs, cores):
        print(finding, flush=True)
        failed |= finding.status == "error"
    if options.seconds and not failed:
        print(f"\nA small U-Net on synthetic 256×256 crops, {options.seconds:g} seconds:")
        failed = not _timed(options.seconds, cores)
    elif options.seconds:
        print("\nNo speed test before the errors are mended.")
    return int(failed)


def _timed(seconds: float, cores: int) -> bool:
    """Run the speed test; false if it fails, which is said."""
    from segmentation.doctor.finding import Finding
    from segmentation.doctor.speed import measure
    from segmentation.training.messages import one_line, shortened

    try:
        advice = measure(seconds, cores, lambda line: print(f"  {line}", flush=True))
    except (RuntimeError, OSError) as error:
        remedy = "try --trainer.accelerator cpu; if that works, driver and PyTorch do not match"
        print(Finding("error", "speed", shortened(one_line(str(error))), remedy))
        return False
    print(f"\n{advice}")
    return True


def findings(data: Path | None, runs: Path, cores: int) -> Iterator["Finding"]:
    """All but the speed test.

    Args:
        data: Of ``--data.root``; ``None`` looks below ``data``.
        runs: Folder of the runs.
        cores: That this process may use.
    """
    from segmentation.doctor import gpu, packages, system
    from segmentation.doctor.finding import Finding

    yield packages.check_python(sys.version_info[:2])
    yield packages.check_packages(*packages.packages())
    torch = gpu.read_torch()
    if isinstance(torch, Finding):
        yield torch
        return  # whatever else there is to look at needs it
    yield from gpu.check_gpus(gpu.nvidia_smi(), torch, os.environ)
    present = os.cpu_count() or 1
    workers = min(8, present)  # what the data module starts
    yield system.check_cores(cores, present, workers)
    shm = Path("/dev/shm")
    free = shutil.disk_usage(shm).free if shm.is_dir() else None
    yield system.check_shared_memory(free, workers)
    with suppress(ImportError):  # not on Windows
        import resource

        yield system.check_files(*resource.getrlimit(resource.RLIMIT_NOFILE))
    from segmentation.data.cache import cache_folder
    from segmentation.doctor.data import check_data, check_wandb

    yield system.check_disk("runs", runs, "--run.root")
    yield system.check_disk("cache", cache_folder(), "SEGMENTATION_CACHE")
    yield check_wandb(os.environ)
    yield from check_data(data)
