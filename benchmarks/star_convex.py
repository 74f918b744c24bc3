"""Encode and decode of star-convex polygons against StarDist's own compiled code.

- *Package*: ``StarConvex(grid=1).encode`` (and ``grid=2``, distances of every fifth pixel), and
  ``decode`` to polygons as they are (``to_foreground=False``) and with the foreground around them.
- *StarDist* (``--stardist-python``): ``edt_prob`` and ``star_dist``; ``non_maximum_suppression``
  and ``polygons_to_label``.

Fair because both get the same label map (synthetic nuclei), and the same probabilities to decode,
at the same thresholds: what was encoded, with errors of 5 % of each distance and of .02 of each
centre probability, as a network has. Both run on one thread and are timed by the processor's time.
How far they agree is measured, too: distances pixel by pixel, objects by their IoU.
"""

import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import numpy as np
from common import HERE, Report, alternate, answer, arguments, processor_seconds, ratio
from instance_metrics import example

from segmentation.metrics import overlaps
from segmentation.targets import StarConvex

SAME: dict[str, Any] = {"centre": 0.4, "overlap": 0.4, "smooth": 0}  # as StarDist's here


def main() -> None:
    parser = arguments("star_convex", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 1024])
    parser.add_argument("--objects", type=int, nargs="+", default=[36, 300])
    parser.add_argument("--stardist-python", help="an interpreter that has StarDist")
    args = parser.parse_args()
    report = Report(
        "star_convex",
        "no slower than StarDist's compiled code, the same distances and objects",
        {"sizes": args.sizes, "objects": args.objects, "rays": 32, "threads": 1},
    )
    version = "not measured"
    with tempfile.TemporaryDirectory() as scratch:
        for size, objects in zip(args.sizes, args.objects, strict=True):
            labels = example(size, objects)[0]
            every, fifth = StarConvex(grid=1, **SAME), StarConvex(grid=2, **SAME)
            bare = StarConvex(to_foreground=False, **SAME)
            probs = with_errors(every.encode(labels).numpy())
            arms: dict[str, Callable[[], float]] = {
                "encode": partial(processor_seconds, partial(every.encode, labels)),
                "encode, every fifth pixel": partial(
                    processor_seconds, partial(fifth.encode, labels)
                ),
                "decode, polygons": partial(processor_seconds, partial(bare.decode, probs)),
                "decode, with the foreground": partial(
                    processor_seconds, partial(every.decode, probs)
                ),
            }
            maps, out = Path(scratch, "maps.npz"), Path(scratch, "out.npy")
            np.savez(maps, labels=labels, probs=probs[1:])
            theirs, child = [], None
            if args.stardist_python:
                script = str(HERE / "star_convex_reference.py")
                command = [args.stardist_python, script, str(maps), str(out)]
                child = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
                version = answer(child, "", "StarDist's") + ", in an environment of its own"
                for what in ("encode", "decode"):
                    arms[f"StarDist: {what}"] = partial(other, child, what)
                    other(child, what)
                    theirs.append(np.load(out))
            taken = alternate(arms, args.repeats)
            if child:
                child.communicate()  # the end of its input ends it
            title = f"{size}², {labels.max()} objects"
            for name, values in taken.items():
                report.add(f"{title}: {name}", "ms/image", [1000 * v for v in values])
            if not child:
                continue
            for name in [n for n in taken if not n.startswith("StarDist")]:
                speed = ratio(taken[f"StarDist: {name[:6]}"], taken[name])
                report.add(f"{title}: package / StarDist: {name}", "× the speed", speed)
            encoded, found = theirs
            off = np.abs(every.encode(labels).numpy()[1:] - encoded)
            report.add(f"{title}: largest difference of a distance", "pixels", [off[1:].max()])
            report.add(f"{title}: mean difference of centres", "of 1", [off[0, labels > 0].mean()])
            report.add(f"{title}: StarDist: mean IoU", "", [best_iou(labels, found).mean()])
            for name, target in (("polygons", bare), ("with the foreground", every)):
                ours, about = target.decode(probs), f"{title}: {name}"
                share = (best_iou(found, ours) >= 0.8).mean()
                more = int(ours.max() - found.max())
                report.add(f"{about}: mean IoU", "", [best_iou(labels, ours).mean()])
                report.add(f"{about}: StarDist's objects, found at IoU .8", "of 1", [share])
                report.add(f"{about}: objects more than StarDist's", "", [more])
    report.note(f"StarDist: {version}.")
    report.finish(args.output)


def best_iou(truth: np.ndarray, found: np.ndarray) -> np.ndarray:
    """(n,) the greatest IoU of each true object with one that was found."""
    table = overlaps(truth.astype(np.int32), found.astype(np.int32))
    best = np.zeros(len(table.truth))
    np.maximum.at(best, table.i, table.iou)
    return best


def with_errors(probs: np.ndarray) -> np.ndarray:
    """(2 + rays, H, W): the same with errors such as a network has."""
    rng = np.random.default_rng(0)
    probs = probs.copy()
    probs[2:] *= np.exp(0.05 * rng.standard_normal(probs[2:].shape, np.float32))
    probs[1] += 0.02 * rng.standard_normal(probs[1].shape, np.float32)
    return probs.clip(0)


def other(child: "subprocess.Popen[str]", what: str) -> float:
    """Seconds of processor time that StarDist says it took."""
    return float(answer(child, f"{what}\n", "StarDist's"))


if __name__ == "__main__":
    main()
