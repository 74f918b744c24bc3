"""Training images a second from one loading process, beside two ways to do without this package.

Measured is what a worker does: ``TrainSet[draw]``, from the memory-mapped cache to the tensors of
one example. Beside it:

- *bare albumentations*: the same transforms and crop over arrays in memory, masks stored as 0/1,
  results made tensors in the same way. What this package adds: cache, label maps, a seed a sample.
- *MONAI* (``--monai-python``, an environment of its own): its closest transforms to ``light`` over
  the same arrays, held in memory by ``CacheDataset`` as float32, metadata and copying switched off.
  It ends with float32 in 0…1, which here is left to the task: that conversion is listed apart.

Fair because all arms read the same prepared images in the same order on one thread, none includes
collating, and they take turns in one run.
"""

import subprocess
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from subprocess import PIPE
from typing import Any

import albumentations as A
import cv2
import numpy as np
import torch
from common import HERE, Report, add_root, alternate, answer, arguments, dsb2018, ratio, seconds

from segmentation.data.augment import D4, RECIPES
from segmentation.data.cache import decoded, prepared
from segmentation.data.examples import SampleSubset, TrainSet, TrainWindows
from segmentation.data.preprocess import Preprocess
from segmentation.data.resize import resize_labels
from segmentation.data.samplers import Draw
from segmentation.targets import Foreground

CROP = 256
Pair = tuple[np.ndarray, np.ndarray]


def main() -> None:
    parser = arguments("pipeline", __doc__)
    add_root(parser)
    parser.add_argument("--images", type=int, default=64, help="distinct images, evenly spaced")
    parser.add_argument("--draws", type=int, default=256, help="examples an arm and round")
    parser.add_argument("--monai-python", help="an interpreter that has MONAI, torch and numpy")
    args = parser.parse_args()
    cv2.setNumThreads(0)
    torch.set_num_threads(1)

    child = None
    with tempfile.TemporaryDirectory() as scratch:
        source, data, place = dsb2018(args.root, Path(scratch))
        cache = None if place is None else Path(place)
        raw = decoded(source, cache)
        arms: dict[str, Callable[[], float]] = {}
        for recipe, resize in (("light", None), ("unetpp_keras", (CROP, CROP))):
            settings = Preprocess(resize=resize)
            store = prepared(raw, settings.prepare_sample, settings.key, cache)
            step = max(1, len(store) // args.images)
            part = SampleSubset(store, raw, range(len(store))[::step][: args.images])
            crop = None if resize else (CROP, CROP)
            windows = TrainWindows(recipe, crop, (1.0, 1.0), 0)
            examples = TrainSet(part, Foreground(), windows, settings)
            pairs = in_memory(part, resize)
            arms[f"{recipe}: package"] = partial(run_package, examples, args.draws)
            arms[f"{recipe}: bare albumentations"] = bare(recipe, pairs, crop, args.draws)
            if recipe == "light":
                np.savez(Path(scratch, "arrays.npz"), *[array for pair in pairs for array in pair])
        if args.monai_python:
            script = [str(HERE / "monai_pipeline.py"), str(Path(scratch, "arrays.npz"))]
            command = [args.monai_python, *script, str(args.draws)]
            child = subprocess.Popen(command, stdin=PIPE, stdout=PIPE, text=True)
            version = answer(child, "", "The MONAI")  # it is ready
            arms["light: MONAI"] = lambda: float(answer(child, "go\n", "The MONAI"))
        batch = torch.zeros(8, 3, CROP, CROP, dtype=torch.uint8)
        arms["normalize"] = lambda: seconds(lambda: Preprocess().normalize(batch)) / len(batch)
        try:
            taken = alternate(arms, args.repeats)
        finally:
            if child is not None:
                child.communicate()  # the end of its input ends it

    report = Report(
        "pipeline",
        "light at least 0.8 times bare albumentations and faster than MONAI; unetpp_keras ~1",
        {"data": data, "images": len(part), "draws": args.draws, "crop": CROP, "threads": 1},
    )
    normalize = taken.pop("normalize")
    for name, times in taken.items():
        report.add(name, "images/s", [args.draws / t for t in times])
    for recipe in ("light", "unetpp_keras"):
        bare_s, ours = taken[f"{recipe}: bare albumentations"], taken[f"{recipe}: package"]
        report.add(f"{recipe}: package / bare", "× the speed", ratio(bare_s, ours))
    if args.monai_python:
        speed = ratio(taken["light: MONAI"], taken["light: package"])
        report.add("light: package / MONAI", "× the speed", speed)
        report.note(f"MONAI {version}, in an environment of its own.")
    else:
        report.note("MONAI was not measured: no --monai-python was given.")
    what = "uint8 batch to normalised float32, left to the task"
    report.add(what, "ms/image", [1000 * t for t in normalize])
    report.finish(args.output)


def in_memory(part: SampleSubset, resize: tuple[int, int] | None) -> list[Pair]:
    """The prepared images with 0/1 masks of the same size, as arrays."""
    pairs = []
    for sample in (part[i] for i in range(len(part))):
        assert sample.labels is not None
        mask = (sample.labels > 0).astype(np.uint8)
        if resize is not None:
            mask = resize_labels(mask, resize)
        pairs.append((np.array(sample.image), mask))
    return pairs


def run_package(examples: TrainSet, draws: int) -> float:
    """Seconds for ``draws`` examples of this package."""
    n = len(examples)
    return seconds(lambda: [examples[Draw(i % n, i // n, 0)] and None for i in range(draws)])


def bare(
    recipe: str, pairs: list[Pair], crop: tuple[int, int] | None, draws: int
) -> Callable[[], float]:
    """The same transforms as anybody would write them."""
    window = (
        []
        if crop is None
        else [A.RandomCrop(*crop, pad_if_needed=True, border_mode=cv2.BORDER_REFLECT_101)]
    )
    steps = [A.D4(p=1) if isinstance(step, D4) else step for step in RECIPES[recipe]()]
    pipeline = A.Compose([*window, *steps])

    def example(i: int) -> Any:
        done = pipeline(image=pairs[i][0], mask=pairs[i][1])
        image = torch.from_numpy(np.ascontiguousarray(done["image"].transpose(2, 0, 1)))
        return image, torch.from_numpy(done["mask"])[None]

    return lambda: seconds(lambda: [example(i % len(pairs)) and None for i in range(draws)])


if __name__ == "__main__":
    main()
