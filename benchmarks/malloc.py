"""What ``keep_freed_memory`` saves: processor time of a CPU training step, with it and without.

malloc's settings hold for a whole process, so each measurement is a process of its own; the two
kinds take turns.
"""

import subprocess
import sys

from common import Report, arguments, ratio

STEP = """
import sys, time, torch
from segmentation.losses import BCEDice
from segmentation.training.memory import keep_freed_memory
from segmentation.models import UNet
if sys.argv[1] == "keep":
    assert keep_freed_memory()
torch.set_num_threads(1)
net = UNet(width=16).to(memory_format=torch.channels_last)
image = torch.randn(8, 3, 256, 256).contiguous(memory_format=torch.channels_last)
mask = (torch.rand(8, 1, 256, 256) > 0.5).to(torch.uint8)
loss, optimizer, seconds = BCEDice(), torch.optim.AdamW(net.parameters()), []
for _ in range(5):
    start = time.process_time()
    loss(net(image), mask).backward()
    optimizer.step()
    optimizer.zero_grad()
    seconds.append(time.process_time() - start)
print(sorted(seconds)[2])
"""


def measure(kind: str) -> float:
    """Median processor seconds of a step."""
    done = subprocess.run(
        [sys.executable, "-c", STEP, kind], capture_output=True, text=True, check=True
    )
    return float(done.stdout)


if __name__ == "__main__":
    options = arguments("malloc", __doc__).parse_args()
    report = Report(
        "malloc", "a fifth less processor time", {"net": "UNet width 16", "batch": [8, 3, 256, 256]}
    )
    default, keep = [], []
    for _ in range(options.repeats):
        default.append(measure("default"))
        keep.append(measure("keep"))
    report.add("step, as malloc is", "s", default)
    report.add("step, freed memory kept", "s", keep)
    report.add("kept / as it is", "×", ratio(keep, default))
    report.finish(options.output)
