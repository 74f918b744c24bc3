"""Flows against Cellpose's own code: do both find the same, and how long does it take.

- *encode*: ``targets.flow.object_flows`` and ``cellpose.dynamics.masks_to_flows``.
- *decode*: ``targets.Flow().instances`` and ``cellpose.dynamics.compute_masks``, with the filter by
  flow error at its default of 0.4 and the foreground as it is.

Fair because both get the same label maps (synthetic nuclei, grown until most of them touch) and the
same flows (Cellpose's own, blurred and with smooth noise), in memory; Numba has compiled Cellpose's
loops before the clock starts. Both run on one thread and are timed by the processor's time, which
other processes do not lengthen.
"""

import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE

import cv2
import numpy as np
import torch
from common import HERE, Report, alternate, answer, arguments, processor_seconds, ratio

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.metrics import overlaps
from segmentation.targets import Flow
from segmentation.targets.flow import object_flows

SIZES = {256: 50, 1024: 300}  # side of an image ► about how many objects


def main() -> None:
    parser = arguments("flow", __doc__)
    parser.add_argument("--cellpose-python", required=True, help="an interpreter with cellpose 3")
    args = parser.parse_args()
    torch.set_num_threads(1)
    cv2.setNumThreads(1)
    about = {"sizes": list(SIZES), "threads": 1}
    report = Report("flow", "the same objects, in a fifth of the time", about)
    for size, objects in SIZES.items():
        labels = example(size, objects)
        with tempfile.TemporaryDirectory() as scratch:
            maps, output = Path(scratch, "maps.npz"), Path(scratch, "output.npz")
            noisy = disturbed(object_flows(labels))
            np.savez(maps, labels=labels, flows=noisy)
            command = [
                args.cellpose_python,
                str(HERE / "flow_reference.py"),
                str(maps),
                str(output),
            ]
            child = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
            try:
                version = answer(child, "", "Cellpose's")
                answer(child, "save\n", "Cellpose's")
                probs = np.concatenate([(labels > 0)[None], noisy]).astype(np.float32)
                ours: dict[str, Callable[[], np.ndarray]] = {
                    "encode": partial(object_flows, labels),
                    "decode": partial(Flow().instances, probs),
                }
                arms: dict[str, Callable[[], float]] = {}
                for name, call in ours.items():
                    arms[f"package, {name}"] = partial(processor_seconds, call)
                    arms[f"Cellpose, {name}"] = partial(time_other, child, name)
                taken = alternate(arms, args.repeats)
                with np.load(output) as theirs:
                    flows, found = theirs["encode"], theirs["decode"].astype(np.int32)
            finally:
                child.communicate()  # the end of its input ends it
        title = f"{size}², {labels.max()} objects"
        for name, values in taken.items():
            report.add(f"{title}: {name}", "ms", [1000 * v for v in values])
        for name in ours:
            both = taken[f"Cellpose, {name}"], taken[f"package, {name}"]
            report.add(f"{title}: {name}, package / Cellpose", "× the speed", ratio(*both))
        agree = (ours["encode"]() * flows).sum(axis=0)[labels > 0]
        report.add(f"{title}: pixels with the same direction to 2.6°", "%", [100 * share(agree)])
        mine = ours["decode"]()
        for what, one, other in (
            ("Cellpose's objects found by the package at IoU ≥ .9", found, mine),
            ("true objects found by the package at IoU ≥ .9", labels, mine),
            ("true objects found by Cellpose at IoU ≥ .9", labels, found),
        ):
            table = overlaps(one, other)
            report.add(f"{title}: {what}", "%", [100 * (table.iou >= 0.9).sum() / len(table.truth)])
    report.note(f"Cellpose: {version}, in an environment of its own.")
    report.finish(args.output)


def share(cosines: np.ndarray) -> float:
    """How many angles are below 2.6°."""
    return float((cosines > 0.999).mean())


def example(size: int, objects: int) -> np.ndarray:
    """(H, W) int32: nuclei that were grown by three pixels, where there was room."""
    for seed in range(1000):
        labels = make_nuclei(np.random.default_rng(seed), size, size, "fluorescence")[1]
        if abs(labels.max() - objects) <= 0.1 * objects:
            break
    for _ in range(3):
        grown = cv2.dilate(labels.astype(np.float32), np.ones((3, 3))).astype(np.int32)
        labels = np.where(labels > 0, labels, grown).astype(np.int32)
    return np.asarray(labels)


def disturbed(flows: np.ndarray) -> np.ndarray:
    """(2, H, W) float32: as a network might say it."""
    rng = np.random.default_rng(0)
    noise = rng.normal(0, 2, (2, *flows.shape[1:])).astype(np.float32)
    smooth = np.stack([cv2.GaussianBlur(one, (0, 0), 2.0) for one in noise])
    both = [cv2.GaussianBlur(one, (0, 0), 1.0) for one in flows]
    return np.asarray(np.stack(both) + smooth)


def time_other(child: "subprocess.Popen[str]", what: str) -> float:
    """Seconds of processor time that Cellpose says it took."""
    return float(answer(child, f"{what}\n", "Cellpose's"))


if __name__ == "__main__":
    main()
