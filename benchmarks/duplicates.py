"""Near-duplicates: fingerprints first, against comparing all pairs of images pixel by pixel.

Both find the pairs of images of one size that differ by at most ``--near`` (root mean square of
standardised gray values) and start from the decoded, memory-mapped samples. The scan standardises
each image once and compares all pairs; ``find_duplicates`` compares fingerprints, then the pixels
of the candidates, and also looks for equal images and compares the masks of what it found. Arms
take turns, on one thread. Recall is the share of the scan's pairs that are found; by construction
it is 1 at any threshold, which is checked at wider ones too, where there are pairs to tell by.

The mean absolute difference of the gray values as they are (in 255ths), which is what system E's
tool went by, is measured on the side: on dark images it is small for unrelated ones too.
"""

import os
import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import Report, add_root, alternate, arguments, dsb2018, ratio, seconds

from segmentation.data.cache import SampleStore, decoded
from segmentation.datasets.ultrasound_nerve import UltrasoundNerve
from segmentation.evaluation.audit.duplicates import difference, find_duplicates, standardised

WIDER = (0.4, 0.6, 0.8, 1.0)
MEAN_ABSOLUTE = 2.0  # 255ths

Pairs = dict[tuple[str, str], float]


def main() -> None:
    parser = arguments("duplicates", __doc__)
    add_root(parser)
    parser.add_argument("--nerve", type=Path, help="folder with ultrasound nerve's train(.zip)")
    parser.add_argument("--near", type=float, default=0.4)
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    if args.nerve is None and "SEGMENTATION_DATA" in os.environ:
        args.nerve = Path(os.environ["SEGMENTATION_DATA"], "ultrasound_nerve")
    cv2.setNumThreads(1)
    stores: dict[str, SampleStore] = {}
    with tempfile.TemporaryDirectory() as scratch:
        source, data, cache = dsb2018(args.root, Path(scratch))
        stores[data.partition(",")[0]] = decoded(source, Path(cache) if cache else None)
        if args.nerve is not None and args.nerve.is_dir():
            stores["nerve frames"] = decoded(UltrasoundNerve(str(args.nerve)))
        report = Report(
            "duplicates",
            "ten times as fast as the scan of all pairs, and not one pair missed",
            {"data": {k: len(store) for k, store in stores.items()}, "near": args.near},
        )
        for name, store in stores.items():
            measure(report, name, store, args.near, args.repeats)
        report.note(
            "The scan's time grows with the pairs. Of the fingerprints' most goes into reading and "
            "standardising each image once, so the ratio grows with the images."
        )
    report.finish(args.output)


def measure(report: Report, name: str, store: SampleStore, near: float, repeats: int) -> None:
    """Time both, and count what the fingerprints miss."""
    find_duplicates(store, near)  # fills the page cache
    taken = alternate(
        {
            "scan": lambda: seconds(lambda: scan(store)),
            "find": lambda: seconds(lambda: find_duplicates(store, near)),
        },
        repeats,
        warm_up=False,
    )
    report.add(f"{name}: all pairs", "s", taken["scan"])
    report.add(f"{name}: fingerprints first", "s", taken["find"])
    report.add(f"{name}: all pairs / fingerprints", "×", ratio(taken["scan"], taken["find"]))
    apart = scan(store)
    report.add(f"{name}: pairs of one size", "pairs", [len(apart)])
    for limit in sorted({near, *WIDER}):
        start = time.perf_counter()
        found = find_duplicates(store, limit)
        spent = time.perf_counter() - start
        wanted = {pair for pair, value in apart.items() if value <= limit}
        have = {(pair.first, pair.second) for pair in found.pairs if not pair.exact}
        about = f"{name}, up to {limit:g}"
        report.add(f"{about}: pairs", "pairs", [len(wanted)])
        report.add(f"{about}: candidates", "pairs", [found.candidates])
        report.add(f"{about}: time", "s", [spent])
        if wanted:
            report.add(f"{about}: recall", "", [len(wanted & have) / len(wanted)])
    close = {pair for pair, value in scan(store, absolute=True).items() if value <= MEAN_ABSOLUTE}
    about = f"{name}: mean absolute difference up to {MEAN_ABSOLUTE:g}"
    report.add(about, "pairs", [len(close)])
    known = {pair for pair, value in apart.items() if value <= near}
    report.add(f"{about}, of them near-duplicates", "pairs", [len(close & known)])


def scan(store: SampleStore, absolute: bool = False) -> Pairs:
    """The difference of every two images of one size, by their ids."""
    sizes: dict[tuple[int, ...], list[int]] = {}
    for i, entry in enumerate(store.entries):
        sizes.setdefault(entry.image[1][:2], []).append(i)
    found: Pairs = {}
    for members in sizes.values():
        pixels = [
            gray(store[i].image) if absolute else standardised(store[i].image) for i in members
        ]
        for a, first in enumerate(members):
            for b in range(a + 1, len(members)):
                value = (
                    float(cv2.norm(pixels[a], pixels[b], cv2.NORM_L1)) / pixels[a].size
                    if absolute
                    else difference(pixels[a], pixels[b])
                )
                found[store.entries[first].id, store.entries[members[b]].id] = value
    return found


def gray(image: np.ndarray) -> np.ndarray:
    """(H, W) float32, 0…255."""
    one = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    scaled: np.ndarray = one.astype(np.float32) * np.float32(255 / np.iinfo(image.dtype).max)
    return scaled


if __name__ == "__main__":
    main()
