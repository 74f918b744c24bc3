"""All object scores of an image of about 300 nuclei against StarDist's and Cellpose's functions.

- *Package*: ``object_scores(object_counts(overlaps(truth, prediction)))``, all 16 scores.
- *StarDist* (``--stardist-python``): ``stardist.matching.matching`` at the IoU .5, .55, … .95: most
  of these scores, without AJI and SEG.
- *Cellpose* (``--cellpose-python``): ``cellpose.metrics.average_precision`` at the same, and
  ``aggregated_jaccard_index``.

Fair because all get the same label maps (synthetic nuclei, and the same after the errors that
segmentations have), in memory, int32 with the ids 1 … n; Numba has compiled StarDist's loop before
the clock starts. All run on one thread and are timed by the processor's time, which other processes
do not lengthen. That they find the same figures is what ``tests/metrics`` checks, with the same
calls (``tests/metrics/fixtures/reference.py``).

What an update of ``ScoreTable()`` costs on a validation image is measured on the side: the counts
that all scores of objects follow from, for 256² with about 40 nuclei.
"""

import subprocess
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE

import numpy as np
import torch
from common import HERE, Report, alternate, answer, arguments, processor_seconds, ratio

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.metrics import ScoreTable
from segmentation.metrics.counts import object_counts, overlaps
from segmentation.metrics.scores import object_scores
from tests.metrics.fixtures.make import numbered, with_errors

REFERENCE = HERE.parent / "tests" / "metrics" / "fixtures" / "reference.py"
TOOLS = {"stardist": "StarDist", "cellpose": "Cellpose"}

Pair = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = arguments("instance_metrics", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[512, 1024])
    parser.add_argument("--objects", type=int, default=300)
    for tool, name in TOOLS.items():
        parser.add_argument(f"--{tool}-python", help=f"an interpreter that has {name}")
    args = parser.parse_args()
    torch.set_num_threads(1)
    report = Report(
        "instance_metrics",
        "at least 5 times faster than StarDist's and Cellpose's functions",
        {"sizes": args.sizes, "objects": args.objects, "threads": 1},
    )
    given = {t: p for t in TOOLS if (p := getattr(args, f"{t}_python")) is not None}
    versions = {}
    for size in args.sizes:
        pair = example(size, args.objects)
        arms: dict[str, Callable[[], float]] = {
            "package": partial(processor_seconds, partial(score, pair))
        }
        children = {}
        with tempfile.TemporaryDirectory() as scratch:
            maps = Path(scratch, "maps.npz")
            np.savez(maps, **{"a.truth": pair[0], "a.prediction": pair[1]})  # type: ignore[arg-type]
            for tool, python in given.items():
                command = [python, str(REFERENCE), tool, str(maps), "--time"]
                child = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
                children[tool] = child
                versions[tool] = answer(child, "", "The other tool's")  # it is ready
                arms[TOOLS[tool]] = partial(time_other, child)
            try:
                taken = alternate(arms, args.repeats)
            finally:
                for child in children.values():
                    child.communicate()  # the end of its input ends it
        title = f"{size}², {pair[0].max()} true and {pair[1].max()} predicted"
        for name, values in taken.items():
            report.add(f"{title}: {name}", "ms/image", [1000 * v for v in values])
        for name in list(taken)[1:]:
            speed = ratio(taken[name], taken["package"])
            report.add(f"{title}: package / {name}", "× the speed", speed)
    for tool, name in TOOLS.items():
        about = (
            f"{versions[tool]}, in an environment of its own" if tool in given else "not measured"
        )
        report.note(f"{name}: {about}.")
    truth, prediction = (torch.from_numpy(labels)[None] for labels in example(256, 40))
    metrics = ScoreTable()
    arms = {"update": partial(processor_seconds, partial(metrics.update, truth, prediction))}
    values = alternate(arms, 3 * args.repeats)["update"]
    about = f"256², {truth.max()} true and {prediction.max()} predicted: ScoreTable().update()"
    report.add(about, "ms/image", [1000 * v for v in values])
    report.finish(args.output)


def example(size: int, objects: int) -> Pair:
    """The first image that has about as many nuclei, and a prediction: (H, W) int32 each."""
    for seed in range(1000):
        rng = np.random.default_rng(seed)
        truth = make_nuclei(rng, size, size, "fluorescence")[1]
        if abs(truth.max() - objects) <= 0.1 * objects:
            return truth, numbered(with_errors(truth, rng)).astype(np.int32)
    sys.exit(f"No synthetic image of {size}² has about {objects} nuclei: change --objects.")


def score(pair: Pair) -> None:
    """What this package does for the scores of an image."""
    object_scores(object_counts(overlaps(*pair)))


def time_other(child: "subprocess.Popen[str]") -> float:
    """Seconds of processor time that it says it took."""
    return float(answer(child, "go\n", "The other tool's"))


if __name__ == "__main__":
    main()
