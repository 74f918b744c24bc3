"""What the benchmarks share: alternating measurements, their spread, and the report.

Every figure that matters is a ratio of two arms that took turns within one run, so that a busy
machine slows both alike. Ratios are formed round by round; the median, the smallest and the largest
of the rounds are kept.
"""

import argparse
import datetime
import importlib.metadata
import json
import os
import platform
import shutil
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

HERE = Path(__file__).resolve().parent
sys.path.insert(0, str(HERE.parent))  # run from a clone, installed or not

import torch  # noqa: E402

from segmentation.datasets.dsb2018 import DSB2018  # noqa: E402
from segmentation.datasets.synthetic import write_dsb2018  # noqa: E402

PACKAGES = (
    "torch", "torchvision", "lightning", "torchmetrics", "albumentations", "opencv-python-headless",
    "numpy", "scikit-learn", "segmentation-models-pytorch", "jsonargparse",
    "onnxruntime", "openvino",
)  # fmt: skip

# Processes that competed for the cores in the minute before.
LOAD = round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None

T = TypeVar("T")


def arguments(name: str, about: str | None) -> argparse.ArgumentParser:
    """A parser with the options that every benchmark has."""
    parser = argparse.ArgumentParser(
        description=about, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--output", type=Path, default=HERE / "results" / f"{name}.json")
    parser.add_argument("--repeats", type=int, default=5, help="measured rounds")
    return parser


def add_root(parser: argparse.ArgumentParser) -> None:
    """Add ``--root``, the folder with DSB2018."""
    given = os.environ.get("SEGMENTATION_DATA")
    default = Path(given, "dsb2018") if given else None
    about = "folder with stage1_train(.zip); $SEGMENTATION_DATA/dsb2018 by default"
    parser.add_argument("--root", type=Path, default=default, help=about)


def dsb2018(root: Path | None, scratch: Path, images: int = 60) -> tuple[DSB2018, str, str | None]:
    """DSB2018 if it is there, otherwise synthetic images; which of the two; and where to cache it.

    The cache of real data is the user's own (``None``), which training has most likely filled.
    """
    for suffix in ("", ".zip"):
        if root is not None and (root / f"stage1_train{suffix}").exists():
            kind = "zip" if suffix else "unpacked"
            return DSB2018(str(root)), f"DSB2018 stage1_train, {kind}", None
    print("No DSB2018 data (see --root): synthetic images in their place.", file=sys.stderr)
    made = write_dsb2018(scratch / "data", images)
    shutil.make_archive(str(made / "stage1_train"), "zip", made / "stage1_train")
    shutil.rmtree(made / "stage1_train")
    about = f"synthetic ({images} images, zip): no DSB2018 data was found"
    return DSB2018(str(made)), about, str(scratch / "cache")


def answer(child: "subprocess.Popen[str]", question: str, whose: str) -> str:
    """Write to another interpreter's process and read one line."""
    assert child.stdin is not None and child.stdout is not None
    child.stdin.write(question)
    child.stdin.flush()
    line = child.stdout.readline().strip()
    if not line:
        sys.exit(f"{whose} process ended early: see its error above.")
    return line


def device() -> torch.device:
    """The GPU if there is one."""
    return torch.device("cuda" if torch.cuda.is_available() else "cpu")


def now() -> float:
    """Seconds, once the device has finished what it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter()


def seconds(function: Callable[[], object]) -> float:
    """How long one call takes."""
    start = now()
    function()
    return now() - start


def processor_seconds(function: Callable[[], object]) -> float:
    """How much processor time one call takes."""
    start = time.process_time()
    function()
    return time.process_time() - start


def alternate(
    arms: Mapping[str, Callable[[], T]], repeats: int, warm_up: bool = True
) -> dict[str, list[T]]:
    """What each arm measured in each round, after one round that warms up and is dropped.

    Every second round goes through the arms backwards: none is always the first.
    """
    taken: dict[str, list[T]] = {name: [] for name in arms}
    for number in range(0 if warm_up else 1, repeats + 1):
        for name in list(arms)[:: 1 if number % 2 else -1]:
            value = arms[name]()
            if number:
                taken[name].append(value)
    return taken


def ratio(above: Sequence[float], below: Sequence[float]) -> list[float]:
    """``above`` over ``below``, round by round."""
    return [a / b for a, b in zip(above, below, strict=True)]


class Report:
    """Figures of one benchmark: printed, and written as JSON without host names or paths.

    Args:
        name: Of the benchmark.
        expected: What was thought before measuring.
        settings: What was measured with.
    """

    def __init__(self, name: str, expected: str, settings: dict[str, Any]) -> None:
        self.name, self.expected, self.settings = name, expected, settings
        self.figures: list[dict[str, Any]] = []
        self.notes: list[str] = []

    def add(self, what: str, unit: str, values: Iterable[float]) -> None:
        """A figure from its value in each round."""
        some = list(values)
        spread = (statistics.median(some), min(some), max(some))
        numbers = {k: _short(v) for k, v in zip(("median", "min", "max"), spread, strict=True)}
        self.figures.append({"what": what, "unit": unit, **numbers, "rounds": len(some)})

    def note(self, text: str) -> None:
        """A sentence that a reader of the figures must know."""
        self.notes.append(text)

    def finish(self, output: Path) -> None:
        """Print everything and write it to ``output``."""
        print(
            f"{self.name}\nexpected: {self.expected}\nmeasured: (median, min – max over the rounds)"
        )
        width = max(len(figure["what"]) for figure in self.figures)
        for f in self.figures:
            spread = f"{f['min']:g} – {f['max']:g}" if f["rounds"] > 1 else "once"
            print(f"  {f['what']:{width}}  {f['median']:>9g} {f['unit']:12} ({spread})")
        for note in self.notes:
            print(f"note: {note}")
        about = {
            "benchmark": self.name,
            "date": datetime.date.today().isoformat(),
            "expected": self.expected,
            "settings": self.settings,
            "figures": self.figures,
            "notes": self.notes,
            "hardware": hardware() | {"load_at_start": LOAD},
            "versions": versions(),
        }
        output.parent.mkdir(parents=True, exist_ok=True)
        output.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n")


def hardware() -> dict[str, Any]:
    """CPU, usable cores and GPU, by the names of their models."""
    cpu = platform.processor() or platform.machine()
    if (info := Path("/proc/cpuinfo")).exists():
        named = [line for line in info.read_text().splitlines() if line.startswith("model name")]
        cpu = named[0].partition(":")[2].strip() if named else cpu
    usable = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    gpu = torch.cuda.get_device_name() if torch.cuda.is_available() else None
    return {"cpu": cpu, "cores": usable, "gpu": gpu, "system": platform.system()}


def versions() -> dict[str, str]:
    """Of Python and of the packages that are installed."""
    found = {"python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def _short(value: float) -> float:
    return float(f"{value:.4g}")
