"""One arm of ``sliding.py``, run by it in an environment that has MONAI, in a process of its own.

``monai`` or ``package``, the file of float32 pixels, its side, tile, margin and where the result
goes. Prints JSON: seconds, how much the peak of the resident memory grew, and versions. Both arms
read the image from the file and write the result to one. What is not measured: imports, and
building the network.
"""

import json
import sys
import time
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run from a clone

from segmentation.inference import Tiling, sliding
from segmentation.models import UNet

STRIDE, OVERLAP = 8, 0.25


def main() -> None:
    arm, source, side, tile, margin, output = sys.argv[1:]
    size, shape = (int(side), int(side)), (int(tile), int(tile))
    torch.set_num_threads(1)
    torch.manual_seed(0)
    net = UNet(in_channels=1, classes=1, width=8, depth=4).eval()
    versions = {"torch": torch.__version__}
    if arm == "monai":
        import monai
        from monai.inferers import sliding_window_inference

        versions["monai"] = monai.__version__
    with torch.inference_mode():
        net(torch.zeros(1, 1, 64, 64))
        before, start = peak(), time.perf_counter()
        if arm == "monai":
            image = torch.from_numpy(np.fromfile(source, np.float32)).view(1, 1, *size)
            result = sliding_window_inference(
                image, shape, 1, lambda x: net(x).sigmoid(), overlap=OVERLAP, mode="gaussian"
            )
            result.numpy().tofile(output)
        elif arm == "one piece":
            image = torch.from_numpy(np.fromfile(source, np.float32)).view(1, 1, *size)
            net(image).sigmoid().numpy().tofile(output)
        else:
            ramp = int(OVERLAP * int(tile)) - 2 * int(margin)
            tiling = Tiling(int(tile), STRIDE, int(margin), ramp)

            def read(rows: slice, columns: slice) -> torch.Tensor:
                window = np.memmap(source, np.float32, "r", shape=size)[rows, columns]
                return torch.from_numpy(window.copy())[None]

            with open(output, "wb") as file:
                for band in sliding(lambda x: net(x).sigmoid(), read, size, tiling):
                    file.write(np.ascontiguousarray(band[0]).data)
        seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "bytes": peak() - before, "versions": versions}))


def peak() -> int:
    """Bytes of the greatest resident set so far.

    As Linux tells it: ``getrusage`` counts the parent from which the process was forked.
    """
    status = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("VmHWM")) * 1024


if __name__ == "__main__":
    main()
