"""The small-UNet family for microscopy: four networks whose skips are added, not concatenated.

They come from a Keras study of small networks on tiles of H1299 and BBBC039 images with three
classes (background, nucleus, contour). The parameter counts it prints, reached here exactly, fix
what its description leaves open: all convolutions have a bias, also those before batch norm, and
batch norm counts four values per channel (scale, shift, running mean, running variance). "Dense"
layers act on the channels of each pixel, that is, they are 1x1 convolutions. Counts do not tell
activations or initial weights: hidden dense layers have a ReLU here, as do simpleConv's
convolutions, and weights start as Keras' default does (Glorot uniform).
"""

from collections.abc import Sequence
from functools import partial
from itertools import pairwise
from typing import ClassVar

from torch import Tensor, nn

from segmentation.models.blocks import ConvBlock, SegmentationNet, init_weights

UNIT = 16  # conv_block(n) and dconv_block(n) have 16 n channels
DENSE = (32, 64)  # hidden per-pixel dense layers

init_glorot_uniform = partial(init_weights, draw=nn.init.xavier_uniform_)


class _FamilyNet(SegmentationNet):
    """conv_block per entry of `sizes`, dconv_block per entry but the last on the way back."""

    sizes: ClassVar[Sequence[int]] = (1, 2, 2)
    dense: ClassVar[Sequence[int]] = DENSE

    def __init__(self, in_channels: int = 1, classes: int = 3, dropout: float = 0.3) -> None:
        super().__init__(in_channels, classes, stride=2 ** (len(self.sizes) - 1))
        channels = [UNIT * size for size in self.sizes]
        self.encoder = nn.ModuleList()
        for inputs, outputs in pairwise((in_channels, *channels)):
            self.encoder.append(ConvBlock(inputs, outputs, bias=True))
        self.down = nn.Sequential(nn.MaxPool2d(2), nn.Dropout(dropout))
        self.decoder = nn.ModuleList()
        for inputs, outputs in pairwise(reversed(channels)):
            self.decoder.append(_DConvBlock(inputs, outputs, dropout))
        self.head = _per_pixel_dense(channels[0], self.dense, classes)
        self.apply(init_glorot_uniform)

    def forward(self, image: Tensor) -> Tensor:
        *skips, x = self.contract(image, self.encoder, self.down)
        for block in self.decoder:
            x = block(x, skips.pop())
        logits: Tensor = self.head(x)  # (N, classes, H, W)
        return logits


class SmallUNet(_FamilyNet):
    """small-UNet: conv blocks 1, 2, 2, dconv blocks 2, 1, dense 32, 64. `stride` is 4.

    75,747 parameters, Keras' way, for one channel and three classes.

    Args:
        dropout: rate, in [0, 1], after each pooling and each addition; the study swept .3 and .5.

    >>> sum(p.numel() for p in SmallUNet().parameters())  # without batch norm's running values
    75235
    """


class SmallUNetLess(_FamilyNet):
    """small-UNet "less": `SmallUNet` without the dense 32 and 64. `stride` is 4.

    72,947 parameters, Keras' way, for one channel and three classes. Arguments are `SmallUNet`'s.

    >>> sum(p.numel() for p in SmallUNetLess().parameters())  # without batch norm's running values
    72435
    """

    dense = ()


class FamilyUNet(_FamilyNet):
    """The family's U-Net: conv blocks 1, 2, 4, 8, 16, dconv blocks 8, 4, 2, 1. `stride` is 16.

    1,971,299 parameters, Keras' way, for one channel and three classes: the count shows that it
    ends in the dense 32 and 64 as well. Arguments are `SmallUNet`'s.

    >>> FamilyUNet().stride
    16
    """

    sizes = (1, 2, 4, 8, 16)


class SimpleConv(SegmentationNet):
    """simpleConv, the baseline: Conv4x4 32, Conv4x4 64, dense 32, 64. `stride` is 1.

    37,763 parameters for one channel and three classes, which leaves no room for batch norm.

    Args:
        dropout: rate, in [0, 1], after each of the two 4x4 convolutions. The study's description of
            this network has none, though its sweep varies it for all four.

    >>> sum(p.numel() for p in SimpleConv().parameters())
    37763
    """

    def __init__(self, in_channels: int = 1, classes: int = 3, dropout: float = 0.0) -> None:
        super().__init__(in_channels, classes, stride=1)
        layers: list[nn.Module] = []
        for inputs, outputs in ((in_channels, 32), (32, 64)):
            # "same" for an even kernel pads one side more, which Conv2d's own padding cannot say
            # without a warning.
            layers += [nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(inputs, outputs, kernel_size=4)]
            layers += [nn.ReLU(inplace=True), nn.Dropout(dropout)]
        self.features = nn.Sequential(*layers)
        self.head = _per_pixel_dense(64, DENSE, classes)
        self.apply(init_glorot_uniform)

    def forward(self, image: Tensor) -> Tensor:
        self.check_input(image)
        logits: Tensor = self.head(self.features(image))
        return logits


class _DConvBlock(nn.Module):
    """Upsample, add the skip, dropout, conv_block."""

    def __init__(self, in_channels: int, out_channels: int, dropout: float) -> None:
        super().__init__()
        # The paddings double the size exactly. Keras crops the other side of the same output, which
        # is the mirror image of this layer.
        self.up = nn.ConvTranspose2d(
            in_channels, out_channels, kernel_size=3, stride=2, padding=1, output_padding=1
        )
        self.dropout = nn.Dropout(dropout)
        self.block = ConvBlock(out_channels, out_channels, bias=True)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        """(N, in, H, W) and (N, out, 2H, 2W) to (N, out, 2H, 2W)."""
        y: Tensor = self.block(self.dropout(self.up(x) + skip))
        return y


def _per_pixel_dense(in_channels: int, hidden: Sequence[int], classes: int) -> nn.Sequential:
    layers: list[nn.Module] = []
    for outputs in hidden:
        layers += [nn.Conv2d(in_channels, outputs, kernel_size=1), nn.ReLU(inplace=True)]
        in_channels = outputs
    return nn.Sequential(*layers, nn.Conv2d(in_channels, classes, kernel_size=1))
