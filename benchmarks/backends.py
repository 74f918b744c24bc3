"""How fast other runtimes are than eager PyTorch: networks alone, one thread, processor time.

    python benchmarks/backends.py

The arms take turns; a ratio is eager channels-last over the other, round by round. int8 is
calibrated on noise: its speed is measured here, its scores by ``segmentation export``.
"""

from collections.abc import Callable
from typing import Any

import common
import numpy as np
import torch
from torch import nn

from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.export.int8 import quantized
from segmentation.models import EncoderUNet, UNet
from segmentation.predictor import Predictor
from segmentation.runtimes.net import RUNNERS, network_record, script_of
from segmentation.runtimes.trace import onnx_of
from segmentation.targets import Foreground

NETS: dict[str, Callable[[], nn.Module]] = {
    "unet_small": lambda: UNet(in_channels=3, classes=1, width=16, depth=5),
    "encoder_unet (Lite2)": lambda: EncoderUNet("tu-tf_efficientnet_lite2"),
}
EXPECTED = "ONNX Runtime 1.7, OpenVINO 1.9, OpenVINO int8 3.3 times as fast as eager (AVX2)"


def arms(make: Callable[[], nn.Module], sides: list[int]) -> dict[int, dict[str, Any]]:
    """For each side of the image, what predicts it once in each way."""
    torch.manual_seed(0)
    net = make().eval().to(memory_format=torch.channels_last)
    record: dict[str, Any] = {"version": "", "network": network_record(net, 3, 1)}
    whole = onnx_of(script_of(net, record), record)
    random = np.random.default_rng(0)
    samples = [
        Sample(str(i), random.integers(0, 256, (256, 256, 3), np.uint8), None) for i in range(8)
    ]
    predictor = Predictor(net, Preprocess("rgb", "divide"), Foreground())
    small = quantized(whole, record, predictor, samples)
    runs = {
        f"{backend} {name}": RUNNERS[backend](model.SerializeToString(), backend)
        for backend in ("onnxruntime", "openvino")
        for name, model in (("fp32", whole), ("int8", small))
    }
    found: dict[int, dict[str, Any]] = {}
    for side in sides:
        image = torch.rand(1, 3, side, side)
        wide = image.contiguous(memory_format=torch.channels_last)
        found[side] = {"eager": lambda wide=wide: common.processor_seconds(lambda: net(wide))}
        for name, run in runs.items():
            found[side][name] = lambda run=run, image=image: common.processor_seconds(
                lambda: run(image)
            )
    return found


def main() -> None:
    """Measure, print, write."""
    parser = common.arguments("backends", __doc__)
    parser.add_argument("--sides", type=int, nargs="+", default=[256, 512])
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"threads": 1, "sides": options.sides, "clock": "processor time"}
    report = common.Report("backends", EXPECTED, settings)
    with torch.inference_mode():
        for name in options.nets:
            for side, some in arms(NETS[name], options.sides).items():
                taken = common.alternate(some, options.repeats)
                about = f"{name}, {side}²"
                report.add(
                    f"{about}: eager, channels last", "ms", [1e3 * t for t in taken["eager"]]
                )
                for arm in list(some)[1:]:
                    ratio = common.ratio(taken["eager"], taken[arm])
                    report.add(f"{about}: {arm}", "× eager", ratio)
    report.finish(options.output)


if __name__ == "__main__":
    main()
