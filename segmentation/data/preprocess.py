"""What is done to every image before the network sees it, in training and in prediction alike."""

import json
import math
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import cv2
import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.data.sample import Sample
from segmentation.errors import UserError

LARGEST = 2**26  # pixels that the network sees at once (8192²)
VERSION = 2  # raise when prepare_sample() gives other pixels for the same settings


@dataclass(frozen=True)
class Preprocess:
    """Channels, intensity, contrast and size. It is stored in every checkpoint.

    :meth:`prepare` works on a whole image of any kind and always gives uint8, the one dtype that
    every augmentation accepts; :meth:`normalize` turns a uint8 batch into the network's input.

    Args:
        channels: 1 (colour becomes luminance) or 3 (gray is repeated).
        intensity: How pixel values become 0…255. ``"divide"``: by the dtype's maximum (16-bit
            images become dark if they do not fill their range). ``"percentile"``: the image's
            ``low`` and ``high`` percentiles, over all its channels, become 0 and 255, so that dim
            and bright exposures look alike.
        low, high: The percentiles in percent.
        polarity: ``"dark"`` inverts an image whose background is bright (its median lies above half
            its range), so that objects are always brighter; ``"keep"`` does not.
        gamma: Exponent of the intensity in 0…1; below 1 it lifts dim objects beside bright ones
            (0.5 is the square root, which also evens out photon noise: Anscombe 1948).
        clahe: Contrast-limited adaptive histogram equalisation of the luminance (8×8 tiles).
        clahe_limit: Its clip limit, relative to a flat histogram.
        crop: ``(height, width)`` cut from the middle of every image, before anything else, or
            ``None``. What lies outside is predicted as background.
        resize: ``(height, width)`` that every image is resized to, or ``None`` for its own size.
        mean, std: Subtracted after scaling to 0…1, and divided by after that; one value for all
            channels or one a channel.

    Raises:
        UserError: A value is out of its range.

    >>> Preprocess(channels=1, intensity="divide").prepare(np.full((2, 2, 3), 7, np.uint8)).shape
    (2, 2, 1)
    """

    channels: Literal[1, 3] = 3
    intensity: Literal["divide", "percentile"] = "percentile"
    low: float = 0.5
    high: float = 99.8
    polarity: Literal["keep", "dark"] = "keep"
    gamma: float = 1.0
    clahe: bool = False
    clahe_limit: float = 2.0
    crop: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        # YAML and checkpoints give lists; tuples compare equal to tuples only.
        for name in ("crop", "resize", "mean", "std"):
            value = getattr(self, name)
            object.__setattr__(self, name, None if value is None else tuple(value))
        numbers = f"one finite number, or one for each of the {self.channels} channels"
        mean, std = (
            len(values) in (1, self.channels) and all(map(math.isfinite, values))
            for values in (self.mean, self.std)
        )
        crop, resize = (
            size is None or (len(size) == 2 and min(size) >= 1 and math.prod(size) <= LARGEST)
            for size in (self.crop, self.resize)
        )
        for name, fits, wanted in (
            ("channels", self.channels in (1, 3), "1 or 3"),
            ("intensity", self.intensity in ("divide", "percentile"), "divide or percentile"),
            ("polarity", self.polarity in ("keep", "dark"), "keep or dark"),
            ("low", 0 <= self.low < self.high, f"at least 0 and below high, {self.high}"),
            ("high", self.high <= 100, "at most 100"),
            ("mean", mean, numbers),
            ("std", std and min(self.std) > 0, f"positive: {numbers}"),
            ("gamma", 0 < self.gamma < math.inf, "positive"),
            ("clahe_limit", self.clahe_limit > 0, "positive"),
            ("crop", crop, f"(height, width), both ≥ 1, of at most {LARGEST:,} pixels"),
            ("resize", resize, f"(height, width), both ≥ 1, of at most {LARGEST:,} pixels"),
        ):
            if not fits:
                raise UserError(f"preprocess: {name} {getattr(self, name)!r} must be {wanted}")

    @property
    def key(self) -> str:
        """The settings that :meth:`prepare` depends on, for the cache."""
        settings = self.plain()
        del settings["mean"], settings["std"]
        return json.dumps([VERSION, settings])

    def plain(self) -> dict[str, Any]:
        """All settings as plain values, for a checkpoint."""
        return asdict(self)

    def differences(self, other: "Preprocess") -> list[str]:
        """Names of the settings in which two differ."""
        return [f.name for f in fields(self) if getattr(self, f.name) != getattr(other, f.name)]

    def prepare(self, image: np.ndarray) -> np.ndarray:
        """A whole image (H, W, C) uint8 or uint16, C in {1, 3} ► (H', W', ``channels``) uint8.

        Raises:
            UserError: The image is smaller than ``crop``.
            ValueError: The image is of another shape or dtype.
        """
        wide = image.ndim == 3 and image.shape[2] in (1, 3)
        if not wide or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(
                f"expected (H, W, 1 or 3) uint8 or uint16, got {image.shape} {image.dtype}"
            )
        image = _channels(self._cropped(image), self.channels)
        if image.dtype != np.uint8 or self.counted or self.gamma != 1:
            # Where nothing depends on the pixels, the table needs no count of them.
            image = self.lookup(self.histogram(image if self.counted else image[:0]))[image]
        if self.clahe:
            image = _clahe(image, self.clahe_limit)
        if self.resize is not None:
            image = resize_image(image, self.resize)
        return np.ascontiguousarray(image)

    @property
    def counted(self) -> bool:
        """Whether what a pixel becomes depends on the whole image's histogram."""
        return self.intensity == "percentile" or self.polarity == "dark"

    def histogram(self, window: np.ndarray) -> np.ndarray:
        """How often each value occurs in a window, (H, W, C) uint8 or uint16, of a large image.

        Returns:
            (256,) or (65536,) int64. The sum over windows that divide the image is the image's.
        """
        values = _channels(window, self.channels).reshape(-1)
        return np.bincount(values, minlength=1 << (8 * window.dtype.itemsize))

    def lookup(self, counts: np.ndarray) -> np.ndarray:
        """What each pixel value becomes: intensity, polarity and gamma in one uint8 table.

        ``counts`` is the :meth:`histogram` of the whole image; zeros will do unless
        :attr:`counted`.
        """
        values, below = len(counts), counts.cumsum()
        low, high = 0, values - 1
        if self.intensity == "percentile":
            # Exact for integers, and ten times faster than sorting. At least one pixel is counted,
            # so that 0 % is the smallest value that occurs.
            ranks = np.maximum(np.array([self.low, self.high]) / 100 * below[-1], 1)
            low, high = (int(value) for value in np.searchsorted(below, ranks))
        scale = 255 / max(high - low, 1)
        table = np.clip((np.arange(values) - low) * scale, 0, 255).round().astype(np.uint8)
        if self.polarity == "dark":
            # The table does not fall, so that the median's value is the value of the median: of an
            # even number of pixels, the mean of the two in the middle.
            middle = (below[-1] - 1) // 2 + 1, below[-1] // 2 + 1
            median = table[np.searchsorted(below, middle)].mean()
            table = 255 - table if median > 127 else table
        if self.gamma != 1:
            lifted = ((np.arange(256) / 255) ** self.gamma * 255).round().astype(np.uint8)
            table = lifted[table]
        return np.asarray(table)

    def check_windows(self) -> None:
        """Refuse with a ``UserError`` what :meth:`prepare_window` cannot do."""
        for name in ("clahe", "crop", "resize"):
            if getattr(self, name):
                raise UserError(
                    f"model.preprocess.{name} needs the whole image in memory; predict a smaller "
                    "image, or train without it to predict window by window"
                )

    def prepare_window(self, window: np.ndarray, table: np.ndarray) -> np.ndarray:
        """(h, w, C) cut from an image ► the same of :meth:`prepare` of the image, bit for bit.

        ``table`` is :meth:`lookup` of the whole image's histogram.
        """
        return np.asarray(table[_channels(window, self.channels)])

    def prepare_sample(self, sample: Sample) -> Sample:
        """:meth:`prepare` the image and bring the labels to its size."""
        try:
            labels = None if sample.labels is None else self.fit_labels(sample.labels)
            return replace(sample, image=self.prepare(sample.image), labels=labels)
        except UserError as error:
            raise UserError(f"{sample.id}: {error}") from None

    def fit_labels(self, labels: np.ndarray) -> np.ndarray:
        """(H, W) integer ids at an image's own size ► (H', W') at the size the network sees."""
        labels = self._cropped(labels)
        return labels if self.resize is None else resize_labels(labels, self.resize)

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) pixels ► (H', W', C) at the size the network sees, otherwise as they are."""
        image = self._cropped(image)
        return image if self.resize is None else resize_image(image, self.resize)

    def restore(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo ``resize`` and ``crop``: (B, K, H', W') maps ► (B, K, H, W) of ``size``.

        Maps are interpolated linearly, and 0 outside the crop.
        """
        height, width = inner = self.crop or size
        if maps.shape[-2:] != inner:
            maps = F.interpolate(maps, inner, mode="bilinear")
        if inner == size:
            return maps
        top, left = (size[0] - height) // 2, (size[1] - width) // 2
        return F.pad(maps, (left, size[1] - left - width, top, size[0] - top - height))

    def normalize(self, image: Tensor) -> Tensor:
        """uint8 (B, C, H, W) ► float32, ÷255, minus ``mean``, over ``std``."""
        mean = torch.tensor(self.mean, device=image.device).view(1, -1, 1, 1)
        std = torch.tensor(self.std, device=image.device).view(1, -1, 1, 1)
        return (image.float() / 255 - mean) / std

    def _cropped(self, array: np.ndarray) -> np.ndarray:
        if self.crop is None:
            return array
        height, width = self.crop
        if height > array.shape[0] or width > array.shape[1]:
            raise UserError(
                f"model.preprocess.crop {height}×{width} is larger than the image of "
                f"{array.shape[0]}×{array.shape[1]} (H×W); lower it"
            )
        top, left = (array.shape[0] - height) // 2, (array.shape[1] - width) // 2
        return array[top : top + height, left : left + width]


def resize_image(image: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """Resize (H, W, C) uint8 or uint16 to ``size`` (height, width).

    Area averaging where the image shrinks, linear where it grows.
    """
    if image.shape[:2] == size:
        return image
    shrinks = size[0] * size[1] < image.shape[0] * image.shape[1]
    method = cv2.INTER_AREA if shrinks else cv2.INTER_LINEAR
    return cv2.resize(image, size[::-1], interpolation=method).reshape(*size, image.shape[2])


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


def _channels(image: np.ndarray, channels: int) -> np.ndarray:
    if image.shape[2] == channels:
        return image
    if channels == 3:
        return np.repeat(image, 3, axis=2)
    return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)[..., None]


def _clahe(image: np.ndarray, limit: float) -> np.ndarray:
    """CLAHE of the gray image, or of the lightness of a colour image (as albumentations does)."""
    equalise = cv2.createCLAHE(limit, (8, 8)).apply
    if image.shape[2] == 1 or ((image == image[..., :1]).all()):
        gray = equalise(np.ascontiguousarray(image[..., 0]))
        return np.repeat(gray[..., None], image.shape[2], 2)
    lab = cv2.cvtColor(image, cv2.COLOR_RGB2LAB)
    lab[..., 0] = equalise(np.ascontiguousarray(lab[..., 0]))
    return cv2.cvtColor(lab, cv2.COLOR_LAB2RGB)
