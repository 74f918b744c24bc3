"""Images whose size is not a multiple of the network's stride."""

from collections.abc import Callable
from typing import Any

import torch.nn.functional as F
from torch import Tensor, nn


def network_stride(net: nn.Module) -> int:
    """The multiple that a network's input height and width must be.

    This package's networks say so in ``stride``, segmentation-models-pytorch's in
    ``encoder.output_stride``; 32, the commonest, is assumed of others.
    """
    for stride in (
        getattr(net, "stride", None),
        getattr(getattr(net, "encoder", None), "output_stride", None),
    ):
        if isinstance(stride, int):  # a convolution's own ``stride`` is a tuple
            return stride
    return 32


def padded(net: Callable[[Tensor], Any], image: Tensor, stride: int) -> Tensor:
    """Apply ``net`` to an image padded by reflection to a multiple of ``stride``.

    The margin is shared between both sides. Where an image is too small to be reflected its border
    is repeated.

    Args:
        net: (B, C, H', W') ► (B, K, H', W').
        image: (B, C, H, W) float of any size.
        stride: What H' and W' must be multiples of.

    Returns:
        (B, K, H, W): the margin is cropped from the result.
    """
    height, width = image.shape[-2:]
    down, right = -height % stride, -width % stride
    if not down and not right:
        result: Tensor = net(image)
        return result
    top, left = down // 2, right // 2
    reflects = down - top < height and right - left < width
    mode = "reflect" if reflects else "replicate"
    wide = F.pad(image, (left, right - left, top, down - top), mode=mode)
    logits: Tensor = net(wide)
    return logits[..., top : top + height, left : left + width]
