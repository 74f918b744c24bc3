"""U-Net on VGG-16, with three plain up-convolutions, for ultrasound frames."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from segmentation.errors import UserError
from segmentation.models.blocks import ConvBlock, SegmentationNet, check_positive, init_weights
from segmentation.models.encoder import adapt_channels, read_state_dict

STAGES = ((1, 2), (2, 2), (4, 3), (8, 3), (8, 3))  # multiples of the width, convolutions
TORCHVISION = (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)  # the 13 in its `features`


class VGGUNet(SegmentationNet):
    """VGG-16 (Simonyan & Zisserman, arXiv:1409.1556) and three up-convolutions. `stride` is 32.

    From a PyTorch study of ultrasound nerve frames of 576x416: 13 convolutions in 5 stages without
    batch norm, each stage followed by a pooling; then ConvT 512 to 256 k4 s2, pool4 concatenated,
    ConvT 768 to 128 k4 s4, relu3_3 concatenated, ConvT 384 to `classes` k4 s4, with no activation
    in between. Paddings follow from the sizes: 1 at stride 2, 0 at stride 4, whose kernels tile the
    image without overlap. The order in a concatenation is not told: upsampled first. 18,391,233
    parameters at the default size.

    Args:
        in_channels: `weights` are made for 3, and adapted to others.
        width: channels at full resolution, from which all others follow; 64 with `weights`.
        frozen: how many convolutions from the input on do not learn (published: 8, that is up to
            conv4_1), which makes sense with `weights` or a checkpoint only.
        weights: of the encoder: "imagenet" (torchvision's, 528 MB, downloaded once), the path of a
            file with a state dict of torchvision's VGG-16, or None to draw them as He et al. do.
            The study's is "imagenet".

    Raises:
        ValueError: for arguments out of range.
        UserError: the weights cannot be had, or are another network's.

    >>> VGGUNet(width=4)(torch.zeros(1, 3, 64, 96)).shape
    torch.Size([1, 1, 64, 96])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        width: int = 64,
        frozen: int = 0,
        weights: str | None = None,
    ) -> None:
        check_positive(width=width)
        super().__init__(in_channels, classes, stride=32)
        if not 0 <= frozen <= len(TORCHVISION):
            raise ValueError(f"frozen must be from 0 to {len(TORCHVISION)}, got {frozen}")
        if weights is not None and width != 64:
            raise ValueError(f"weights={weights} are for width=64, got {width}")
        self.frozen = frozen
        self.pool = nn.MaxPool2d(2)
        self.encoder = nn.ModuleList()
        source = in_channels
        for times, convs in STAGES:
            self.encoder.append(ConvBlock(source, times * width, convs, norm="none"))
            source = times * width
        first = nn.ConvTranspose2d(8 * width, 4 * width, kernel_size=4, stride=2, padding=1)
        second = nn.ConvTranspose2d(12 * width, 2 * width, kernel_size=4, stride=4)
        third = nn.ConvTranspose2d(6 * width, classes, kernel_size=4, stride=4)
        self.ups = nn.ModuleList([first, second, third])
        convolutions = [m for m in self.encoder.modules() if isinstance(m, nn.Conv2d)]
        if weights is None:
            self.encoder.apply(init_weights)
        else:
            _fill(convolutions, weights)
        for convolution in convolutions[:frozen]:
            convolution.requires_grad_(False)

    def forward(self, image: Tensor) -> Tensor:
        relus = self.contract(image, self.encoder, self.pool)
        pool4, x = self.pool(relus[3]), self.pool(relus[4])
        x = torch.cat([self.ups[0](x), pool4], dim=1)  # (N, 12 * width, H / 16, W / 16)
        x = torch.cat([self.ups[1](x), relus[2]], dim=1)  # (N, 6 * width, H / 4, W / 4)
        logits: Tensor = self.ups[2](x)  # (N, classes, H, W)
        return logits


def _fill(convolutions: list[nn.Conv2d], weights: str) -> None:
    imagenet = weights == "imagenet"
    state = _downloaded() if imagenet else read_state_dict(Path(weights), "model.net.weights")
    for index, convolution in zip(TORCHVISION, convolutions, strict=True):
        for name, own in convolution.named_parameters():
            theirs = state.get(f"features.{index}.{name}")
            theirs = adapt_channels(theirs, own) if isinstance(theirs, Tensor) else theirs
            if not isinstance(theirs, Tensor) or theirs.shape != own.shape:
                raise UserError(
                    f"model.net.weights: {weights} is not a state dict of torchvision's VGG-16 "
                    f"(features.{index}.{name} does not fit); use vgg16, without batch norm"
                )
            own.data.copy_(theirs)


def _downloaded() -> dict[str, Any]:
    # Not at the top: it takes two seconds.
    from torchvision.models import VGG16_Weights  # type: ignore[import-untyped]

    source = VGG16_Weights.IMAGENET1K_V1
    try:
        options = {"check_hash": True, "map_location": "cpu", "weights_only": True}
        return dict(source.get_state_dict(**options))
    except Exception as error:  # of the network, the disk, a wrong sum, or a broken file
        fault = " ".join(str(error).split())
    raise UserError(
        f"model.net.weights: imagenet could not be had ({fault}); download {source.url} elsewhere "
        "and set model.net.weights to the file, or to null"
    )
