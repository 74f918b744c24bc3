"""DSB2018: decoding an image and its masks from the files against reading it from the cache.

Cold is ``DSB2018.read`` on one thread: decode the image, decode its (on average 44) masks, merge
them. Warm is the memory-mapped store of ``decoded``, brought to the very same arrays: the image and
the int32 label map, copied into memory, so that every byte is read. Warm crop is what training
reads, 256×256 of both. Fair because the images are the same, the arms take turns every few images,
both find the files in the system's page cache, and every round maps the store anew, as each loading
process does. That the arrays are equal is checked first.
"""

import tempfile
import time
from pathlib import Path

import cv2
import numpy as np
from common import Report, add_root, arguments, dsb2018, ratio

from segmentation.data.augment import random_crop
from segmentation.data.cache import SampleStore, decoded
from segmentation.data.sample import Record
from segmentation.datasets.dsb2018 import DSB2018

BLOCK = 10  # images after which the arms take turns


def main() -> None:
    parser = arguments("cache", __doc__)
    add_root(parser)
    parser.add_argument("--images", type=int, help="only so many, evenly spaced; all by default")
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    cv2.setNumThreads(0)
    with tempfile.TemporaryDirectory() as scratch:
        source, data, _ = dsb2018(args.root, Path(scratch))
        records = list(source.index())
        start = time.perf_counter()
        folder = decoded(source, Path(scratch, "cache")).folder
        build_s = time.perf_counter() - start
        size = (folder / "data.bin").stat().st_size / 2**20
        start = time.perf_counter()
        decoded(source, Path(scratch, "cache"))
        again_s = time.perf_counter() - start
        start = time.perf_counter()
        source.index()
        index_s = time.perf_counter() - start

        step = len(records) / min(args.images or len(records), len(records))
        places = [int(i * step) for i in range(round(len(records) / step))]
        check(source, records, places[:20], SampleStore(folder))
        rounds = [
            one_round(source, records, places, SampleStore(folder), i) for i in range(args.repeats)
        ]

    masks = sum(len(records[i].masks) for i in places)
    report = Report(
        "cache",
        "a warm read is about 100 times faster than a cold one",
        {"data": data, "images": len(places), "masks": masks, "crop": 256, "cold_threads": 1},
    )
    cold, warm, crop = ([1000 * one[i] for one in rounds] for i in range(3))
    report.add("cold: decode image, merge masks", "ms/image", cold)
    report.add("warm: whole image and labels", "ms/image", warm)
    report.add("warm: a 256×256 crop of both", "ms/image", crop)
    report.add("cold / warm whole", "×", ratio(cold, warm))
    report.add("cold / warm crop", "×", ratio(cold, crop))
    report.add(f"first decoded(): {len(records)} images, all cores", "s", [build_s])
    report.add("decoded() once the cache is there", "s", [again_s])
    report.add("of which the index of the files", "s", [index_s])
    report.add("size of the cache", "MiB", [size])
    report.note("Cold and warm both find their files in the page cache: no disk was waited for.")
    report.finish(args.output)


def check(source: DSB2018, records: list[Record], places: list[int], store: SampleStore) -> None:
    """Both ways give the same pixels and ids."""
    for i in places:
        cold, warm = source.read(records[i]), store[i]
        assert cold.labels is not None and warm.labels is not None
        assert np.array_equal(cold.image, warm.image) and np.array_equal(cold.labels, warm.labels)


def one_round(
    source: DSB2018, records: list[Record], places: list[int], store: SampleStore, seed: int
) -> tuple[float, float, float]:
    """Seconds an image of cold, warm and cropped reads, over all places once."""
    order = np.random.default_rng(seed).permutation(places).tolist()
    rng = np.random.default_rng(seed)
    cold = warm = crop = 0.0
    for first in range(0, len(order), BLOCK):
        block = order[first : first + BLOCK]
        start = time.perf_counter()
        for i in block:
            source.read(records[i])
        cold += time.perf_counter() - start

        start = time.perf_counter()
        for i in block:
            sample = store[i]
            np.array(sample.image), sample.labels.astype(np.int32)  # type: ignore[union-attr]
        warm += time.perf_counter() - start

        start = time.perf_counter()
        for i in block:
            sample = store[i]
            assert sample.labels is not None
            image, labels, *_ = random_crop(sample.image, sample.labels, None, (256, 256), rng)
            np.array(image), labels.astype(np.int32)
        crop += time.perf_counter() - start
    return cold / len(order), warm / len(order), crop / len(order)


if __name__ == "__main__":
    main()
