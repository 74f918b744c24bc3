"""Training images a second for 1, 3 and 6 channels, beside bare albumentations over arrays.

As in ``pipeline.py``, whose two arms these are, for the recipe ``light`` on windows of 256²: the
channels are chosen by number and stretched one by one; of six, three are the others once more.
Counted is processor time, which other programs of the machine change less.
"""

import tempfile
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path

import cv2
import numpy as np
import torch
from common import Report, add_root, alternate, arguments, dsb2018, processor_seconds, ratio
from pipeline import CROP, bare, in_memory, run_package

from segmentation.data.cache import decoded, derived, prepared
from segmentation.data.examples import SampleSubset, TrainSet, TrainWindows
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.targets import Foreground

COUNTS = (1, 3, 6)


def main() -> None:
    parser = arguments("channels", __doc__)
    add_root(parser)
    parser.add_argument("--images", type=int, default=64, help="distinct images, evenly spaced")
    parser.add_argument("--draws", type=int, default=256, help="examples an arm and round")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as scratch:
        source, data, _ = dsb2018(args.root, Path(scratch))
        cache = Path(scratch, "cache")
        whole = decoded(source, cache)
        places = list(range(len(whole)))[:: max(1, len(whole) // args.images)][: args.images]
        arms: dict[str, Callable[[], float]] = {}
        for count in COUNTS:

            def widened(index: int, count: int = count) -> Sample:
                return replace(whole[index], image=np.tile(whole[index].image, 2)[..., :count])

            raw = derived(whole, widened, places, f"channels{count}", "", cache)
            settings = Preprocess(tuple(range(count)))
            store = prepared(raw, settings.prepare_sample, settings.key, cache)
            part = SampleSubset(store, raw, range(len(store)))
            windows = TrainWindows("light", (CROP, CROP), (1.0, 1.0), 0)
            examples = TrainSet(part, Foreground(), windows, settings)
            pairs = in_memory(part, None)
            crop = (CROP, CROP)
            arms[f"{count}: package"] = partial(
                processor_seconds, partial(run_package, examples, args.draws)
            )
            arms[f"{count}: bare albumentations"] = partial(
                processor_seconds, bare("light", pairs, crop, args.draws)
            )
        taken = alternate(arms, args.repeats)
    about = {"data": data, "images": len(places), "draws": args.draws, "crop": CROP, "threads": 1}
    report = Report("channels", "at least 0.8 times bare albumentations", about)
    for name, times in taken.items():
        report.add(name, "images/s", [args.draws / t for t in times])
    for count in COUNTS:
        arm = [taken[f"{count}: {name}"] for name in ("bare albumentations", "package")]
        report.add(f"{count}: package / bare", "× the speed", ratio(*arm))
    report.finish(args.output)


if __name__ == "__main__":
    main()
