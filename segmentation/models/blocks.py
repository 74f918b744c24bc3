"""What the networks of this folder share: input checks, convolution blocks, initialisation."""

from collections.abc import Callable, Iterable
from typing import Any, Literal

from torch import Tensor, nn

Norm = Literal["none", "before_relu", "after_relu"]
DEEPEST = 12  # resolutions: an image of 2048 pixels becomes one


def check_positive(**values: int) -> None:
    """Raise a `ValueError` that names the first of `values` that is below 1."""
    for name, value in values.items():
        if value < 1:
            raise ValueError(f"{name} must be at least 1, got {value}")


def check_depth(depth: int, least: int = 1) -> None:
    """Raise a `ValueError` for a number of resolutions that no image has, or no network."""
    if not least <= depth <= DEEPEST:
        raise ValueError(f"depth must be from {least} to {DEEPEST}, got {depth}")


class SegmentationNet(nn.Module):
    """Base of the networks here: images (N, in_channels, H, W) float to logits (N, classes, H, W).

    `forward` raises a `ValueError` for another number of channels, and for a height or width that
    is no multiple of `stride`, the product of the poolings; constructors raise one for arguments
    out of range.
    """

    def __init__(self, in_channels: int, classes: int, stride: int) -> None:
        super().__init__()
        check_positive(in_channels=in_channels, classes=classes)
        self.in_channels, self.classes, self.stride = in_channels, classes, stride

    def check_input(self, image: Tensor) -> None:
        """Raise a `ValueError` for a batch of images that this network cannot take."""
        if image.ndim != 4:
            raise ValueError(f"expected a (N, C, H, W) batch, got shape {tuple(image.shape)}")
        channels, height, width = image.shape[1:]
        if channels != self.in_channels:
            raise ValueError(f"expected {self.in_channels} channel(s), got {channels}")
        fit = [max(1, -(-size // self.stride)) * self.stride for size in (height, width)]
        if [height, width] != fit:
            raise ValueError(
                f"input is {height}x{width} but height and width must be multiples of the stride "
                f"{self.stride}: {fit[0]}x{fit[1]} would work"
            )

    def contract(self, image: Tensor, blocks: Iterable[nn.Module], pool: nn.Module) -> list[Tensor]:
        """What each block of an encoder makes of the pooled output of the one before."""
        self.check_input(image)
        outputs: list[Tensor] = []  # (N, channels, H / 2^level, W / 2^level)
        for block in blocks:
            outputs.append(block(pool(outputs[-1]) if outputs else image))
        return outputs


class ConvBlock(nn.Sequential):
    """`convs` times [Conv3x3 "same", ReLU], with batch norm: (N, in, H, W) to (N, out, H, W).

    Args:
        norm: where batch norm sits: nowhere, or before or after each ReLU. Its momentum and epsilon
            are PyTorch's (Keras', by default, average ten times slower and use 1e-3).
        bias: whether convolutions have one; by default all but those directly followed by batch
            norm, whose own shift makes it redundant.
        dropout: rate of the dropout after the first activation.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        convs: int = 2,
        *,
        norm: Norm = "before_relu",
        bias: bool | None = None,
        dropout: float = 0.0,
    ) -> None:
        bias = norm != "before_relu" if bias is None else bias
        layers: list[nn.Module] = []
        for index in range(convs):
            source = out_channels if index else in_channels
            layers.append(nn.Conv2d(source, out_channels, kernel_size=3, padding=1, bias=bias))
            if norm == "before_relu":
                layers.append(nn.BatchNorm2d(out_channels))
            layers.append(nn.ReLU(inplace=True))
            if norm == "after_relu":
                layers.append(nn.BatchNorm2d(out_channels))
            if index == 0 and dropout:
                layers.append(nn.Dropout(dropout))
        super().__init__(*layers)


def upsample(in_channels: int, out_channels: int) -> nn.ConvTranspose2d:
    """The 2x2 up-convolution of stride 2: (N, in, H, W) to (N, out, 2H, 2W)."""
    return nn.ConvTranspose2d(in_channels, out_channels, kernel_size=2, stride=2)


def init_weights(
    module: nn.Module, draw: Callable[[Tensor], Any] = nn.init.kaiming_normal_
) -> None:
    """Draw a convolution's weights, by default as He et al. (arXiv:1502.01852); for `apply`.

    An up-convolution that halves the channels keeps the variance of its input under the same rule,
    as PyTorch and Keras both take out * 4 = 2 * in for its fan-in while each output pixel sees `in`
    values; that is right, as no ReLU follows it.
    """
    if isinstance(module, nn.Conv2d | nn.ConvTranspose2d):
        draw(module.weight)
        if module.bias is not None:
            nn.init.zeros_(module.bias)
