"""The MONAI arm of ``pipeline.py``, run by it in an environment that has MONAI.

Reads image and mask arrays from an .npz file, prints MONAI's version, then for each line on its
input runs so many examples through the transforms and prints the seconds that took.

The transforms are the closest there are to the recipe ``light``: RandRotate90 and RandFlip together
give the eight symmetries of the square. ``copy_cache=False`` and no metadata are MONAI's fastest
settings; what is not random (channels first, scaling to 0…1, padding) is done once, before.
"""

import sys
import time

import monai
import numpy as np
import torch
from monai.data import CacheDataset, set_track_meta
from monai.transforms import (
    Compose,
    RandAdjustContrastd,
    RandFlipd,
    RandRotate90d,
    RandScaleIntensityd,
    RandShiftIntensityd,
    RandSpatialCropd,
    ScaleIntensityRanged,
    SpatialPadd,
    ToTensord,
)

CROP = (256, 256)


def main() -> None:
    torch.set_num_threads(1)
    set_track_meta(False)
    arrays = [array for _, array in np.load(sys.argv[1]).items()]
    draws = int(sys.argv[2])
    both = ["image", "label"]
    steps = [
        ScaleIntensityRanged("image", 0, 255, 0.0, 1.0),
        SpatialPadd(both, CROP, mode="reflect"),
        ToTensord(both),
        RandSpatialCropd(both, CROP, random_size=False),
        RandRotate90d(both, prob=0.75, max_k=3),
        RandFlipd(both, prob=0.5, spatial_axis=0),
        RandScaleIntensityd("image", factors=0.3, prob=0.5),
        RandShiftIntensityd("image", offsets=0.2, prob=0.5),
        RandAdjustContrastd("image", prob=0.5, gamma=(0.6, 1.6)),
    ]
    data = [
        {"image": image.transpose(2, 0, 1).astype(np.float32), "label": mask[None]}
        for image, mask in zip(arrays[::2], arrays[1::2], strict=True)
    ]
    examples = CacheDataset(data, Compose(steps), progress=False, copy_cache=False)
    print(monai.__version__, flush=True)
    for _ in sys.stdin:
        start = time.perf_counter()
        for i in range(draws):
            examples[i % len(examples)]
        print(time.perf_counter() - start, flush=True)


if __name__ == "__main__":
    main()
