"""A process of its own that predicts one image: ``FILE BACKEND HEIGHT WIDTH [TRUSTED …]``.

It prints its peak memory in megabytes.
"""

import sys

import numpy as np

from segmentation.checkpoints import load
from segmentation.training.memory import peak_memory


def predict_noise(path: str, backend: str, height: str, width: str, *trust: str) -> None:
    """Predict noise of this size."""
    predictor = load(path, device="cpu", trust=trust, backend=backend)  # type: ignore[arg-type]
    preprocess = predictor.preprocess
    chosen_channels = preprocess.channels if isinstance(preprocess.channels, tuple) else ()
    channels = 3 if preprocess.channels == "rgb" else 1
    if chosen_channels:
        numbers = [c for c in chosen_channels if isinstance(c, int)]
        channels = max(len(chosen_channels), 1 + max(numbers, default=0))
    names = [c if isinstance(c, str) else str(i) for i, c in enumerate(chosen_channels)]
    random = np.random.default_rng(0)
    image = random.integers(0, 256, (int(height), int(width), channels), np.uint8)
    named = names if len(names) == channels else ()
    size = None if preprocess.pixel_size is None else (preprocess.pixel_size,) * 2
    predictor.maps(image, named, size)
    print(peak_memory() / 1e6)


if __name__ == "__main__":
    predict_noise(*sys.argv[1:])
