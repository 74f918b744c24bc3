"""What pruning a U-Net++ saves: parameters and time per image of L1 … L4 and of the mean of heads.

"Accurate" averages the probabilities of all heads; L1 … L4 are networks of their own, made by
``pruned(level)``, so L4 is the whole network less three heads. Fair because all hold the same
weights, get the same 256×256 image, and take turns. That each pruned network answers exactly what
its head does is checked first. Which level is good enough is a question to the validation set:
``segmentation prune`` answers it with scores.
"""

from collections.abc import Callable
from functools import partial

import torch
from common import Report, alternate, arguments, device, ratio, seconds
from torch import Tensor, nn

from segmentation.models import UNetPlusPlus


def main() -> None:
    parser = arguments("deep_supervision", __doc__)
    parser.add_argument("--width", type=int, default=32, help="64 is the published network")
    parser.add_argument("--images", type=int, help="per arm and round; 3 by default, 50 on a GPU")
    args = parser.parse_args()
    images = args.images or (50 if device().type == "cuda" else 3)

    torch.manual_seed(0)
    net = UNetPlusPlus(width=args.width).eval()
    nets: dict[str, nn.Module] = {f"L{level}": net.pruned(level) for level in net.levels}
    nets["accurate"] = net
    for one in nets.values():
        one.to(device()).to(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 256, 256, device=device()).contiguous(
        memory_format=torch.channels_last
    )
    with torch.inference_mode():
        for level, logits in zip(net.levels, net.head_logits(image), strict=True):
            torch.testing.assert_close(nets[f"L{level}"](image), logits, rtol=1e-3, atol=1e-3)
        arms: dict[str, Callable[[], float]] = {
            name: partial(infer, one, image, images) for name, one in nets.items()
        }
        taken = alternate(arms, args.repeats)

    report = Report(
        "deep_supervision",
        "L1 takes about a tenth of the time of the whole network, L3 two thirds; accurate ≈ L4",
        {"width": args.width, "size": 256, "batch": 1, "images": images, "device": device().type},
    )
    total = parameters(net)
    for name, one in nets.items():
        report.add(f"{name}: parameters", "", [parameters(one)])
        report.add(f"{name}: share of all parameters", "%", [100 * parameters(one) / total])
    for name, values in taken.items():
        report.add(f"{name}: time", "ms/image", [1000 * v for v in values])
        report.add(f"{name} / accurate", "× the time", ratio(values, taken["accurate"]))
    report.finish(args.output)


def parameters(net: nn.Module) -> int:
    """Trainable values of a network."""
    return sum(p.numel() for p in net.parameters())


def infer(net: nn.Module, image: Tensor, images: int) -> float:
    """Seconds an image."""
    return seconds(lambda: [net(image) is None for _ in range(images)]) / images


if __name__ == "__main__":
    main()
