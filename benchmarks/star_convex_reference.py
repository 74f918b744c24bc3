"""StarDist's own encode and decode; run by an interpreter that has it (without TensorFlow).

    python star_convex_reference.py MAPS OUT

MAPS is an .npz with an (H, W) ``labels``, and ``probs``, centre probability and distances to be
decoded. For every line on the input, ``encode`` or ``decode``, it does that, writes the result to
OUT.npy and prints the processor's seconds.
"""

import importlib.metadata
import sys
import time

import numpy as np
from stardist.geometry import polygons_to_label, star_dist
from stardist.nms import non_maximum_suppression
from stardist.utils import edt_prob

CENTRE, OVERLAP = 0.4, 0.4


def encode(labels: np.ndarray, rays: int) -> np.ndarray:
    """(H, W) ids ► (1 + rays, H, W) float32."""
    both = edt_prob(labels)[None], np.moveaxis(star_dist(labels, rays), 2, 0)
    return np.concatenate(both).astype(np.float32)


def decode(probs: np.ndarray) -> np.ndarray:
    """(1 + rays, H, W) ► (H, W) ids."""
    centre, distances = probs[0], np.ascontiguousarray(np.moveaxis(probs[1:], 0, 2))
    points, scores, distances = non_maximum_suppression(
        distances, centre, b=0, nms_thresh=OVERLAP, prob_thresh=CENTRE, verbose=False
    )
    labels: np.ndarray = polygons_to_label(distances, points, shape=centre.shape, prob=scores)
    return labels


def main() -> None:
    with np.load(sys.argv[1]) as arrays:
        labels, probs = arrays["labels"], arrays["probs"]
    print(importlib.metadata.version("stardist"), flush=True)
    for line in sys.stdin:
        start = time.process_time()
        made = encode(labels, len(probs) - 1) if line.strip() == "encode" else decode(probs)
        seconds = time.process_time() - start
        np.save(sys.argv[2], made)
        print(seconds, flush=True)


if __name__ == "__main__":
    main()
