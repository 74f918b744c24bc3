"""What the scripts of all peers share; it runs in any of their environments (numpy and Pillow).

A script hands three functions to :func:`run`: ``train`` and ``tune`` return what is worth keeping,
``load`` returns a function from an image to its labels. Each is a process of its own, of which the
processor time and the peak of memory are written to ``WORK/PHASE.json``.
"""

import argparse
import contextlib
import json
import os
import resource
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

Predict = Callable[[np.ndarray], np.ndarray]


def spent() -> float:
    """Processor seconds of this process since its start, and of its children that ended."""
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def peak_mib() -> float:
    """The largest memory of this process or of one of its children so far, in MiB."""
    status = Path("/proc/self/status").read_text()  # of this program, not of what started it
    own = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM"))
    return max(own, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss) / 1024


@dataclass
class Job:
    """What a peer is asked to do.

    Attributes:
        data: Folder with images/PART/NAME.png and masks/PART/NAME.png of train, val and test.
        work: Folder of this training.
        budget: Processor seconds of the training, reading the data among them.
        options: More arguments, of one's own methods.
        aside: Seconds that do not count: a step that was measured on a model thrown away.
    """

    data: Path
    work: Path
    budget: float
    options: list[str] = field(default_factory=list)
    aside: float = 0.0

    def spent(self) -> float:
        """Processor seconds that count."""
        return spent() - self.aside

    def left(self) -> float:
        return self.budget - self.spent()

    @contextlib.contextmanager
    def not_counted(self) -> Iterator[None]:
        """What is measured to plan the training is no part of it."""
        start = spent()
        yield
        self.aside += spent() - start

    def result(self, phase: str) -> dict[str, Any]:
        """What an earlier phase kept."""
        found: dict[str, Any] = json.loads((self.work / f"{phase}.json").read_text())
        return found

    def names(self, part: str) -> list[str]:
        """Names of the images of a part, sorted."""
        return sorted(path.stem for path in (self.data / "images" / part).glob("*.png"))

    def image(self, part: str, name: str) -> np.ndarray:
        """(H, W) uint8 or uint16."""
        return read(self.data / "images" / part / f"{name}.png")

    def pairs(self, part: str) -> tuple[list[np.ndarray], list[np.ndarray]]:
        """Images and label maps of train or val, in the order of their names."""
        if part == "test":
            raise ValueError("test images are looked at once, by the table")
        names = self.names(part)
        masks = [read(self.data / "masks" / part / f"{name}.png") for name in names]
        return [self.image(part, name) for name in names], masks


def read(path: Path) -> np.ndarray:
    """A gray PNG as (H, W) uint8 or uint16."""
    pixels = np.asarray(Image.open(path))
    return pixels if pixels.dtype == np.uint8 else pixels.astype(np.uint16)


def run(
    train: Callable[[Job], dict[str, Any]],
    tune: Callable[[Job], dict[str, Any]],
    load: Callable[[Job], Predict],
) -> None:
    """Do the phase that the command line names, and write its result once it is complete."""
    parser = argparse.ArgumentParser()
    parser.add_argument("phase", choices=("train", "tune", "predict"))
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--budget", type=float, required=True)
    given, options = parser.parse_known_args()
    job = Job(given.data.resolve(), given.work.resolve(), given.budget, options)
    job.work.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    if given.phase == "predict":
        about = predict_all(job, load(job))
    else:
        about = {"train": train, "tune": tune}[given.phase](job)
    wall = time.monotonic() - start
    about |= {"cpu_seconds": round(job.spent(), 1), "wall_seconds": round(wall, 1)}
    about |= {"peak_mib": round(peak_mib())}
    partial = job.work / f"{given.phase}.part"
    partial.write_text(json.dumps(about, indent=1, default=float))
    partial.replace(job.work / f"{given.phase}.json")


def predict_all(job: Job, predict: Predict) -> dict[str, Any]:
    """Label maps of all test images in ``work/labels``; the first image once more, to warm up."""
    names, folder = job.names("test"), job.work / "labels"
    folder.mkdir(exist_ok=True)
    predict(job.image("test", names[0]))
    seconds = []
    for name in names:
        image = job.image("test", name)
        start = spent()
        labels = predict(image)
        seconds.append(spent() - start)
        if labels.shape != image.shape or labels.max(initial=0) >= 2**16:
            raise ValueError(f"{name}: labels {labels.shape} for an image {image.shape}")
        Image.fromarray(labels.astype(np.uint16)).save(folder / f"{name}.png")
    return {"images": len(names), "seconds_per_image": round(float(np.mean(seconds)), 4)}
