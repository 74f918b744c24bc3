"""Scores of outlines: the boundary F measure and the 95 % Hausdorff distance.

The boundary of a mask is made of those of its pixels that have one of their four neighbours outside
it. Beyond the image is outside (as in MedPy and MONAI), so a mask that is not empty has a boundary.
Distances are Euclidean, between centres of pixels, in pixels.

Empty masks
-----------
==================  ==========  ===================
truth / prediction  boundary F  HD95
==================  ==========  ===================
empty / empty       1           0
empty / some        0           the image's diagonal
some  / empty       0           the image's diagonal
==================  ==========  ===================

The diagonal, ``sqrt(H² + W²)``, is more than any two pixels are apart and finite: a missed object
costs as much as can be, and the mean over images remains a number.
"""

import math
from typing import Any

import cv2
import numpy as np
import torch
from torch import Tensor

from segmentation.metrics.base import UNIT, ExactMetric
from segmentation.metrics.functional import real_dtype
from segmentation.objects import distance_transform

_CROSS = np.array([[0, 1, 0], [1, 1, 1], [0, 1, 0]], np.uint8)
_PIXEL_UNIT = 2.0**-24  # of sums of distances, which are no larger than diagonals


def boundary_f(truth: np.ndarray, prediction: np.ndarray, tolerance: float = 2.0) -> float:
    """Boundary F1 measure (Csurka et al., "What is a good evaluation measure …?", BMVC 2013).

    Precision is the share of the predicted boundary that lies within the tolerance of the true one,
    recall the share of the true boundary within the tolerance of the predicted one, and the score
    their harmonic mean. DAVIS's F (Perazzi et al. 2016) differs in the tolerance, .8 % of the
    diagonal, and in drawing boundaries between pixels.

    Args:
        truth: (H, W) bool.
        prediction: The same of the same shape.
        tolerance: In pixels, at least 0; a distance that equals it is within.

    Returns:
        In [0, 1]; see the module on empty masks.

    Raises:
        ValueError: The masks are not as above, or the tolerance is negative.
    """
    if not tolerance >= 0:
        raise ValueError(f"tolerance must be at least 0, got {tolerance}")
    _check(truth, prediction)
    return _boundary_f(_distances(truth, prediction), tolerance)


def hd95(truth: np.ndarray, prediction: np.ndarray) -> float:
    """95 % Hausdorff distance of two boundaries, in pixels.

    The larger of two 95th percentiles, linearly interpolated: of the distances from the true
    boundary's pixels to the predicted boundary, and the other way round. So do MONAI and Metrics
    Reloaded (Maier-Hein, Reinke et al., Nature Methods 2024); MedPy takes one percentile of both
    together, which is never larger than this.

    Args:
        truth: (H, W) bool.
        prediction: The same of the same shape.

    Returns:
        At least 0; see the module on empty masks.

    Raises:
        ValueError: The masks are not as above.
    """
    _check(truth, prediction)
    return _hd95(_distances(truth, prediction), truth.shape)


class BoundaryScores(ExactMetric):
    """Means over images of the boundary F measure and of HD95."""

    higher_is_better = None  # a high F, a low distance
    plot_upper_bound = None

    sums: Tensor
    images: Tensor

    def __init__(self, tolerance: float = 2.0, **kwargs: Any) -> None:
        """Score boundaries with a tolerance, in pixels.

        Raises:
            ValueError: The tolerance is negative.
        """
        super().__init__(**kwargs)
        if not tolerance >= 0:
            raise ValueError(f"tolerance must be at least 0, got {tolerance}")
        self.tolerance = tolerance
        self.add_state("sums", torch.zeros(2, dtype=torch.int64), dist_reduce_fx="sum")
        self.add_state("images", torch.zeros((), dtype=torch.int64), dist_reduce_fx="sum")

    def update(self, prediction: Tensor, truth: Tensor) -> None:
        """Add a batch of masks.

        Args:
            prediction: (B, H, W) bool.
            truth: The same of the same shape.

        Raises:
            ValueError: The masks are not of that kind, or their shapes differ.
        """
        if prediction.ndim != 3 or prediction.shape != truth.shape:
            shapes = f"{tuple(prediction.shape)} and {tuple(truth.shape)}"
            raise ValueError(f"prediction and truth must both be (B, H, W), got {shapes}")
        sums = np.zeros(2, np.int64)
        for one, other in zip(truth.cpu().numpy(), prediction.cpu().numpy(), strict=True):
            _check(one, other)
            distances = _distances(one, other)
            sums[0] += round(_boundary_f(distances, self.tolerance) / UNIT)
            sums[1] += round(_hd95(distances, one.shape) / _PIXEL_UNIT)
        self.sums = self.sums + torch.from_numpy(sums).to(self.device)
        self.images = self.images + len(truth)

    def compute(self) -> dict[str, Tensor]:
        """``image_boundary_f`` and ``image_hd95``: float64 scalars, NaN without images."""
        real = real_dtype(self.sums)
        f, distance = self.sums.to(real) / self.images.to(real)  # 0 / 0 is NaN
        return {"image_boundary_f": f * UNIT, "image_hd95": distance * _PIXEL_UNIT}


def _check(truth: np.ndarray, prediction: np.ndarray) -> None:
    if truth.ndim != 2 or truth.shape != prediction.shape:
        shapes = f"{truth.shape} and {prediction.shape}"
        raise ValueError(f"truth and prediction must both be (H, W), got {shapes}")
    if truth.dtype != bool or prediction.dtype != bool:
        raise ValueError(f"masks must be bool, got {truth.dtype} and {prediction.dtype}")


def _distances(truth: np.ndarray, prediction: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """From each pixel of one boundary to the other boundary: (n,) and (m,) float32.

    To an empty boundary they are infinite; from one, there are none.
    """
    rows, columns = ((truth | prediction).any(axis) for axis in (1, 0))
    if not rows.any():
        return np.zeros(0, np.float32), np.zeros(0, np.float32)
    window = tuple(
        slice(np.argmax(side), len(side) - np.argmax(side[::-1])) for side in (rows, columns)
    )
    one, other = (_boundary(mask[window]) for mask in (truth, prediction))
    return _to(other)[one], _to(one)[other]


def _boundary(mask: np.ndarray) -> np.ndarray:
    pixels = mask.astype(np.uint8)
    inner = cv2.erode(pixels, _CROSS, borderType=cv2.BORDER_CONSTANT, borderValue=0)
    return np.asarray(pixels > inner)


def _to(boundary: np.ndarray) -> np.ndarray:
    """The distance of each pixel to a boundary: (H, W) float32."""
    if not boundary.any():
        return np.full(boundary.shape, np.inf, np.float32)
    return distance_transform(~boundary)


def _boundary_f(distances: tuple[np.ndarray, np.ndarray], tolerance: float) -> float:
    if not all(map(len, distances)):
        return float(not any(map(len, distances)))
    recall, precision = (float((d <= tolerance).mean()) for d in distances)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def _hd95(distances: tuple[np.ndarray, np.ndarray], shape: tuple[int, ...]) -> float:
    if not all(map(len, distances)):
        return math.hypot(*shape) if any(map(len, distances)) else 0.0
    return max(float(np.percentile(d, 95)) for d in distances)
