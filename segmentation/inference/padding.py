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
    stride = getattr(net, "stride", None) or getattr(getattr(net, "encoder", None), "output_stride", 32)
    # smp lists an architecture that cannot take every multiple of 32 as its encoder's depth.
    return int(stride)


def padded(net: Callable[[Tensor], Any], image: Tensor, stride: int) -> Tensor:
    """Apply ``net`` to (B, C, H, W), padded by reflection to a multiple of ``stride``.

    The margin is shared between both sides and cropped from the result, (B, K, H, W). Where an
    image is too small to be reflected its border is repeated.
    """
    height, width = image.shape[-2:]
    down, right = -height % stride, -width % stride
    if not down and not right:
        result: Tensor = net(image)
        return result
    top, left = down // 2, right // 2
    reflects = max(down - top, 0) < height and max(right - left, 0) < width
    mode = "reflect" if reflects else "replicate"
    wide = F.pad(image, (left, right - left, top, down - top), mode=mode)
    logits: Tensor = net(wide)
    return logits[..., top : top + height, left : left + width]
