"""What the losses of this folder ask of the shapes of their arguments."""

import torch
from torch import Tensor


def check_same_shape(logits: Tensor, target: Tensor) -> None:
    """Raise a `ValueError` unless both have the same shape."""
    if logits.shape != target.shape:
        raise ValueError(
            f"logits {tuple(logits.shape)} and target {tuple(target.shape)} differ in shape"
        )


def check_weight(weight: Tensor, shape: torch.Size) -> None:
    """Raise a `ValueError` unless weights have the shape (B, H, W): others would be broadcast."""
    if weight.shape != shape:
        raise ValueError(f"weight {tuple(weight.shape)} must have the shape {tuple(shape)}")
