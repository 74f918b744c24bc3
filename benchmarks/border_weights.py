"""Ronneberger's border weights: each object's distance within its reach, against stacking them all.

The plain definition transforms the whole image once for each object, stacks the distances and takes
the two least. Both use OpenCV's exact transform on one thread, and take turns.
"""

from functools import partial

import cv2
import numpy as np
from common import Report, alternate, arguments, ratio, seconds

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.targets.border_weights import border_weights

W0, SIGMA = 10.0, 5.0


def stacked(labels: np.ndarray) -> np.ndarray:
    """The definition as it stands, on the background."""
    ids = range(1, int(labels.max()) + 1)
    away = [(labels != i).astype(np.uint8) for i in ids]
    stack = np.stack([cv2.distanceTransform(a, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for a in away])
    d1, d2 = np.partition(stack, 1, axis=0)[:2]
    weight = W0 * np.exp(-((d1 + d2) ** 2) / (2 * SIGMA**2))
    return np.where(labels > 0, 0, weight).astype(np.float32)


if __name__ == "__main__":
    parser = arguments("border_weights", __doc__)
    parser.add_argument("--sizes", type=int, nargs="+", default=[256, 512])
    options = parser.parse_args()
    cv2.setNumThreads(1)
    report = Report(
        "border_weights",
        "at least 15 times at 256² and 80 times at 512², equal to 1e-5",
        {"w0": W0, "sigma": SIGMA, "data": "synthetic fluorescence"},
    )
    for side in options.sizes:
        _, labels = make_nuclei(np.random.default_rng(0), side, side, "fluorescence")
        error = float(np.abs(border_weights(labels, W0, SIGMA) - stacked(labels)).max())
        assert error < 1e-5, error
        arms = {
            name: partial(seconds, partial(function, labels))
            for name, function in (("ours", border_weights), ("plain", stacked))
        }
        taken = alternate(arms, options.repeats)
        ours, plain = taken["ours"], taken["plain"]
        report.note(f"{side}²: {int(labels.max())} objects, largest difference {error:.1e}")
        report.add(f"{side}²: within reach", "ms", [1000 * t for t in ours])
        report.add(f"{side}²: stacked", "ms", [1000 * t for t in plain])
        report.add(f"{side}²: stacked / within reach", "×", ratio(plain, ours))
    report.finish(options.output)
