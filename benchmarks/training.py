"""What makes a training step on a processor faster: one change at a time, one thread.

    python benchmarks/training.py

A step is forward, loss, backward, clipping and AdamW on a batch of 4 crops, as ``fit`` takes it.
The arms take turns, in processor time; a ratio is the default's time over the arm's, round by
round. Compiling is apart: it is done before, and its seconds are a figure of their own.
"""

import copy
import os
import time
from collections.abc import Callable, Sequence
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import common
import torch
from torch import Tensor, nn

from segmentation.losses import BCEDice
from segmentation.models import EncoderUNet, UNet

NETS: dict[str, Callable[[], nn.Module]] = {
    "unet_small": lambda: UNet(in_channels=3, classes=1, width=16, depth=5),
    "encoder_unet (Lite2)": lambda: EncoderUNet("tu-tf_efficientnet_lite2"),
}
EXPECTED = "torch.compile 1.1 to 1.3 times as fast, fused AdamW 1.02, bf16 slower"


class Step:
    """A network with its optimizer; a call is one training step.

    Args:
        net: Is copied: all arms start from the same weights.
        side: Of a crop, pixels.
        channels_last: Memory format of network and images.
        compiled: By ``torch.compile``.
        dtype: Of autocast; ``None`` is plain float32.
        optimizer: More arguments of AdamW.
    """

    def __init__(
        self,
        net: nn.Module,
        side: int,
        channels_last: bool = True,
        compiled: bool = False,
        dtype: torch.dtype | None = None,
        **optimizer: Any,
    ) -> None:
        layout = torch.channels_last if channels_last else torch.contiguous_format
        self.net = copy.deepcopy(net).train().to(memory_format=layout)
        self.forward = torch.compile(self.net) if compiled else self.net
        self.optimizer = torch.optim.AdamW(self.net.parameters(), lr=1e-3, **optimizer)
        self.loss, self.dtype = BCEDice(per_image=True), dtype
        made = torch.Generator().manual_seed(0)
        self.images = torch.rand(4, 3, side, side, generator=made).to(memory_format=layout)
        self.target = (torch.rand(4, 1, side, side, generator=made) > 0.8).float()

    def __call__(self) -> float:
        """Processor seconds of a step."""
        return common.processor_seconds(self._step)

    def _step(self) -> None:
        self.optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cpu", self.dtype or torch.bfloat16, enabled=self.dtype is not None):
            logits: Tensor = self.forward(self.images)
        self.loss(logits.float(), self.target).backward()
        nn.utils.clip_grad_norm_(self.net.parameters(), 1.0)
        self.optimizer.step()


def arms(net: nn.Module, side: int, some: Sequence[str]) -> dict[str, Step]:
    """The default, and what differs from it in one thing."""
    changes: dict[str, dict[str, Any]] = {
        "as fit does": {},
        "contiguous instead of channels last": {"channels_last": False},
        "AdamW fused": {"fused": True},
        "AdamW for each tensor apart": {"foreach": False},
        "torch.compile": {"compiled": True},
        "bf16 autocast": {"dtype": torch.bfloat16},
    }
    return {name: Step(net, side, **changes[name]) for name in changes if name in some or not some}


def main() -> None:
    """Measure, print, write."""
    parser = common.arguments("training", __doc__)
    parser.add_argument("--side", type=int, default=128)
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--arms", nargs="*", default=[], help="all by default")
    options = parser.parse_args()
    torch.set_num_threads(1)
    settings = {"threads": 1, "side": options.side, "batch": 4, "clock": "processor time"}
    report = common.Report("training", EXPECTED, settings)
    for name in options.nets:
        torch.manual_seed(0)
        some = arms(NETS[name](), options.side, options.arms)
        for arm, step in some.items():
            start = time.perf_counter()
            step()
            if arm == "torch.compile":
                report.add(f"{name}: first step of {arm}", "s", [time.perf_counter() - start])
        taken = common.alternate(some, options.repeats)
        default = next(iter(some))
        report.add(f"{name}: {default}", "ms a step", [1e3 * t for t in taken[default]])
        for arm in list(some)[1:]:
            report.add(f"{name}: {arm}", "× as fast", common.ratio(taken[default], taken[arm]))
    report.finish(options.output)


if __name__ == "__main__":
    main()
