"""Changing the size of images and of label maps, so that the two stay aligned."""

from collections.abc import Sequence

import cv2
import numpy as np

from segmentation.errors import UserError
from segmentation.io.tiff import MOST_PIXELS


def scaled_size(shape: Sequence[int], scale: float) -> tuple[int, int]:
    """Height and width after magnification, at least 1; too large ones are a :class:`UserError`.

    >>> scaled_size((10, 21, 3), 0.5)
    (5, 10)
    """
    height, width = (max(1, round(side * scale)) for side in shape[:2])
    if scale > 1 and height * width > MOST_PIXELS:
        raise UserError(
            f"magnified by {scale:.3g} it would have {height}×{width} pixels, which are too many; "
            "check its pixel size or diameter, or cut it into tiles"
        )
    return height, width


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) uint8 or uint16 to ``size`` (height, width).

    Area averaging where the image shrinks, linear where it grows.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    parts = [  # OpenCV takes four channels at once
        cv2.resize(image[..., i : i + 4], size[::-1], interpolation=method).reshape(*size, -1)
        for i in range(0, image.shape[2], 4)
    ]
    return parts[0] if len(parts) == 1 else np.concatenate(parts, axis=2)


def resize_labels(labels: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W) instance ids to ``size`` by nearest neighbour: ids are never mixed.

    Pixel centres are aligned as in :func:`resize_image`; OpenCV's own nearest neighbour is half a
    pixel off and knows fewer dtypes.
    """
    if labels.shape == size:
        return labels
    rows, columns = (
        np.minimum(((np.arange(new) + 0.5) * (old / new)).astype(np.intp), old - 1)
        for old, new in zip(labels.shape, size, strict=True)
    )
    # Three times faster than indexing both axes at once.
    resized: np.ndarray = labels[rows].take(columns, axis=1)
    return resized


def fitted_scale(scale: float) -> float:
    """The same; a :class:`UserError` where images cannot be magnified so."""
    if not 1 / 64 <= scale <= 64:
        remedy = "1/64 to 64 can be: check the pixel size or the diameter"
        raise UserError(f"it would be magnified by {scale:.3g}; {remedy}")
    return scale


def cropped(array: np.ndarray, size: tuple[int, int] | None) -> np.ndarray:
    """(height, width) from the middle of an array (H, W, ...), or all of it for ``None``.

    A smaller array is a :class:`UserError`.
    """
    if size is None:
        return array
    height, width = size
    if height > array.shape[0] or width > array.shape[1]:
        raise UserError(
            f"model.preprocess.crop {height}×{width} is larger than the image of "
            f"{array.shape[0]}×{array.shape[1]} (H×W); lower it"
        )
    top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
    return array[top : top + height, left : left + width]
