"""Test-time augmentation: the mean of what a network says of an image's eight symmetries."""

from collections.abc import Callable

from torch import Tensor


def d4_mean(probabilities: Callable[[Tensor], Tensor], image: Tensor) -> Tensor:
    """Average probabilities over the four rotations of an image and of its mirror image.

    Args:
        probabilities: (B, C, H, W), or (B, C, W, H), ► (B, K, …) of the same height and width.
        image: (B, C, H, W).

    Returns:
        (B, K, H, W). It costs eight times the computing; memory as for one.
    """
    total = None
    for mirrored in (False, True):
        source = image.flip(-1) if mirrored else image
        for turns in range(4):
            turned = probabilities(source.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
            back = turned.flip(-1) if mirrored else turned
            total = back if total is None else total + back
    assert total is not None
    return total / 8
