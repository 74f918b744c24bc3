"""U-Net."""

from collections.abc import Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from segmentation.models.blocks import (
    ConvBlock,
    Norm,
    SegmentationNet,
    check_depth,
    check_positive,
    init_weights,
    upsample,
)


class UNet(SegmentationNet):
    """U-Net (Ronneberger et al. 2015, arXiv:1505.04597) with "same" padding.

    At the default size it has the paper's 23 convolutional layers: 18 of 3x3, 4 up-convolutions and
    one of 1x1. `depth=3, convs_per_block=1` is the reduced network for small data sets.

    Args:
        width: channels at full resolution; each level below has twice as many.
        depth: number of resolutions (5: 64 to 1024 channels at width 64).
        convs_per_block: 3x3 convolutions per level and direction.
        dropout: rate, in [0, 1], of the dropout after each block's first activation: one for all
            blocks, or 2 * depth - 1 of them in forward order (down, bottom, up).
        batch_norm: normalise between convolution and ReLU (the paper does not).

    Raises:
        ValueError: for arguments out of range or a `dropout` of the wrong length.

    >>> UNet(width=8)(torch.zeros(1, 3, 64, 64)).shape
    torch.Size([1, 1, 64, 64])
    """

    def __init__(
        self,
        in_channels: int = 3,
        classes: int = 1,
        width: int = 64,
        depth: int = 5,
        convs_per_block: int = 2,
        dropout: float | Sequence[float] = 0.0,
        batch_norm: bool = True,
    ) -> None:
        check_positive(width=width, convs_per_block=convs_per_block)
        check_depth(depth)
        super().__init__(in_channels, classes, stride=2 ** (depth - 1))
        blocks = 2 * depth - 1
        rates = list(dropout) if isinstance(dropout, Sequence) else [dropout] * blocks
        if len(rates) != blocks:
            raise ValueError(
                f"dropout must be one rate or {blocks} (2 * depth - 1) of them, got {len(rates)}"
            )
        norm: Norm = "before_relu" if batch_norm else "none"

        def block(inputs: int, outputs: int, rate: float) -> ConvBlock:
            return ConvBlock(inputs, outputs, convs_per_block, norm=norm, dropout=rate)

        channels = [width * 2**level for level in range(depth)]
        self.pool = nn.MaxPool2d(2)
        self.encoder, self.ups, self.decoder = (nn.ModuleList() for _ in range(3))
        steps = pairwise((in_channels, *channels))
        for (inputs, outputs), rate in zip(steps, rates[:depth], strict=True):
            self.encoder.append(block(inputs, outputs, rate))
        steps = pairwise(reversed(channels))
        for (inputs, outputs), rate in zip(steps, rates[depth:], strict=True):
            self.ups.append(upsample(inputs, outputs))
            self.decoder.append(block(inputs, outputs, rate))
        self.head = nn.Conv2d(width, classes, kernel_size=1)
        self.apply(init_weights)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.contract(image, self.encoder, self.pool)
        for up, block in zip(self.ups, self.decoder, strict=True):
            x = block(torch.cat([skips.pop(), up(x)], dim=1))
        logits: Tensor = self.head(x)  # (N, classes, H, W)
        return logits
