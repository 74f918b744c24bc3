"""Whether network, loss, target and preprocessing fit together: found before any training."""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError, gist_of
from segmentation.losses import as_number
from segmentation.score_names import BACKGROUND
from segmentation.targets import Target


def check_loss(loss: nn.Module, target: Target) -> None:
    """Raise :class:`UserError` when a loss cannot learn what the target encodes, by trying it."""
    square = np.pad(np.ones((4, 4), np.int32), 2)
    count = max(len(target.class_names), 1)  # one object of each class
    labels = np.hstack([square * i for i in range(1, count + 1)])
    classes = (np.arange(count + 1),) if target.class_names else ()
    logits = torch.linspace(-2, 2, 64 * count * target.classes)
    logits = logits.reshape(1, target.classes, 8, 8 * count)
    try:
        encoded = target.encode(labels, *classes)[None]
        value = loss(logits.requires_grad_(), as_number(encoded, logits))
        reason = _unfit(value, logits)
    except UserError:
        raise
    except Exception as error:  # whatever the loss raises
        reason = gist_of(error, 200)
    if reason:
        raise UserError(
            f"model.loss: {type(loss).__name__} does not fit model.target {type(target).__name__} "
            f"({reason}); choose another"
        )


def _unfit(value: Any, logits: Tensor) -> str | None:
    """Why nothing can be learned from the value of a loss."""
    if not isinstance(value, Tensor) or value.numel() != 1:
        return f"it gives {tuple(getattr(value, 'shape', ()))} values, not one"
    if not torch.isfinite(value):
        return f"it is {value.item()}"
    gradient = torch.autograd.grad(value, logits, allow_unused=True)[0]
    if gradient is None or not gradient.any():
        return "it is the same whatever the network answers"
    return None


def check_fit(net: nn.Module, target: Target, preprocess: Preprocess) -> None:
    """Raise :class:`UserError` when channels do not agree, where the network tells."""
    encoder = getattr(net, "encoder", None)
    channels = getattr(net, "in_channels", getattr(encoder, "in_channels", None))
    if channels not in (None, preprocess.in_channels):
        raise UserError(
            f"model.net takes {channels} channel(s) but model.preprocess makes "
            f"{preprocess.in_channels}; set net.in_channels or preprocess.channels"
        )
    if target.in_pixels and preprocess.resize is not None:
        raise UserError(
            f"model.preprocess.resize: {type(target).__name__} learns lengths in pixels, which it "
            "would stretch; crop (data.crop), or set preprocess.diameter or pixel_size instead"
        )
    classes = getattr(net, "classes", None)
    if classes not in (None, target.classes):
        named = ", ".join((BACKGROUND, *target.class_names)) if target.class_names else ""
        named = f" ({named})" if named and target.classes == len(target.class_names) + 1 else ""
        raise UserError(
            f"model.net gives {classes} class(es) but {type(target).__name__} needs "
            f"{target.classes}{named}; set net.classes"
        )
