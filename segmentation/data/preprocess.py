"""What is done to every image before the network sees it, in training and in prediction alike."""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

from segmentation.data.contrast import clahe, looked_up
from segmentation.data.resize import cropped, fitted_scale, resize_image, resize_labels, scaled_size
from segmentation.data.sample import Sample
from segmentation.data.stains import View, Windows, bright_on_dark
from segmentation.errors import UserError
from segmentation.objects import to_gray

LARGEST = 2**26  # pixels that the network sees at once (8192²)
_NAMED = "gray, rgb, bright_on_dark"
_SIZES = "resize", "pixel_size", "diameter", "magnification"  # of which one may be set
VERSION = 2  # raise when prepare_sample() gives other pixels for the same settings


@dataclass(frozen=True)
class Preprocess:
    """Channels, intensity, contrast and size. It is stored in every checkpoint.

    :meth:`prepare` works on a whole image of any kind and always gives uint8, the one dtype that
    every augmentation accepts; :meth:`normalize` turns a uint8 batch into the network's input.

    Args:
        channels: ``"gray"`` (colour becomes luminance), ``"rgb"`` (gray is repeated),
            ``"bright_on_dark"`` (gray; bright fields are inverted, stained ones may become their
            hematoxylin: :func:`segmentation.data.stains.bright_on_dark`), or the channels to use,
            in order: by number from 0, or by name where the files name them, such as ``[0, 2]`` or
            ``[DAPI, GFP]``. 1 and 3 are old names of gray and rgb.
        intensity: How pixel values become 0…255. ``"divide"``: by the dtype's maximum (16-bit
            images become dark if they do not fill their range). ``"percentile"``: the image's
            ``low`` and ``high`` percentiles become 0 and 255, so that dim and bright exposures
            look alike: of gray and rgb over all channels, of chosen channels one by one.
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
        pixel_size: µm. Every image is brought to pixels of this size, and must know its own.
        diameter: Pixels. Every image is magnified so that its objects have this median diameter;
            that of an image without truth must be known.
        magnification: Every image is magnified so: sharper outlines, at its square in time.
        mean, std: Subtracted after scaling to 0…1, and divided by after that; one value for all
            channels or one a channel.

    A value out of its range is a :class:`UserError`.

    >>> Preprocess("gray", intensity="divide").prepare(np.full((2, 2, 3), 7, np.uint8)).shape
    (2, 2, 1)
    """

    channels: Literal["gray", "rgb", "bright_on_dark", 1, 3] | tuple[int | str, ...] = "rgb"
    intensity: Literal["divide", "percentile"] = "percentile"
    low: float = 0.5
    high: float = 99.8
    polarity: Literal["keep", "dark"] = "keep"
    gamma: float = 1.0
    clahe: bool = False
    clahe_limit: float = 2.0
    crop: tuple[int, int] | None = None
    resize: tuple[int, int] | None = None
    pixel_size: float | None = None
    diameter: float | None = None
    magnification: float | None = None
    mean: tuple[float, ...] = (0.0,)
    std: tuple[float, ...] = (1.0,)

    def __post_init__(self) -> None:
        # YAML and checkpoints give lists; tuples compare equal to tuples only.
        for name in ("channels", "crop", "resize", "mean", "std"):
            if isinstance(value := getattr(self, name), list):
                object.__setattr__(self, name, tuple(value))
        if self.channels in (1, 3):
            object.__setattr__(self, "channels", "gray" if self.channels == 1 else "rgb")
        chosen = self.channels if isinstance(self.channels, tuple) else (0,)
        named = self.channels in ("gray", "rgb", "bright_on_dark")
        channels = named or isinstance(self.channels, tuple)
        channels &= 0 < len(chosen) == len({*chosen})
        channels &= all(isinstance(c, str) or c >= 0 for c in chosen)
        numbers = f"one finite number, or one for each of the {self.in_channels} channels"
        mean, std = (
            len(values) in (1, self.in_channels) and all(map(math.isfinite, values))
            for values in (self.mean, self.std)
        )
        crop, resize = (
            size is None or (len(size) == 2 and min(size) >= 1 and math.prod(size) <= LARGEST)
            for size in (self.crop, self.resize)
        )
        magnified = self.magnification is None or 1 / 64 <= self.magnification <= 64
        for name, right, wanted in (
            ("channels", channels, f"{_NAMED}, or a list of different numbers from 0 or names"),
            ("intensity", self.intensity in ("divide", "percentile"), "divide or percentile"),
            ("polarity", self.polarity in ("keep", "dark"), "keep or dark"),
            ("polarity", self.polarity == "keep" or not self.decided, "keep with bright_on_dark"),
            ("low", 0 <= self.low < self.high, f"at least 0 and below high, {self.high}"),
            ("high", self.high <= 100, "at most 100"),
            ("mean", mean, numbers),
            ("std", std and min(self.std) > 0, f"positive: {numbers}"),
            ("gamma", 0 < self.gamma < math.inf, "positive"),
            ("clahe_limit", self.clahe_limit > 0, "positive"),
            ("crop", crop, f"(height, width), both ≥ 1, of at most {LARGEST:,} pixels"),
            ("resize", resize, f"(height, width), both ≥ 1, of at most {LARGEST:,} pixels"),
            ("pixel_size", self.pixel_size is None or 0 < self.pixel_size < math.inf, "positive"),
            ("diameter", self.diameter is None or 1 <= self.diameter < math.inf, "at least 1"),
            ("magnification", magnified, "within 1/64 … 64"),
        ):
            if not right:
                raise UserError(f"preprocess: {name} {getattr(self, name)!r} must be {wanted}")
        if len(given := [name for name in _SIZES if getattr(self, name) is not None]) > 1:
            raise UserError(f"preprocess: {' and '.join(given)} exclude each other; set one")

    @property
    def in_channels(self) -> int:
        """How many channels the network sees."""
        if isinstance(self.channels, tuple):
            return len(self.channels)
        return 3 if self.channels == "rgb" else 1

    @property
    def decided(self) -> bool:
        """Whether it is decided for each image how it is shown: see :meth:`view`."""
        return self.channels == "bright_on_dark"

    @property
    def rescales(self) -> bool:
        """Whether images are magnified."""
        return any(getattr(self, name) is not None for name in _SIZES[1:])

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

    def prepare(
        self,
        image: np.ndarray,
        names: Sequence[str] = (),
        scale: float = 1.0,
        view: View | None = None,
    ) -> np.ndarray:
        """A whole image (H, W, C) uint8 or uint16 ► (H', W', ``in_channels``) uint8.

        Args:
            image: The image as read.
            names: Of its channels, where its file tells.
            scale: By which it is magnified; see :meth:`scale`.
            view: :meth:`view_of` it, where that is known.

        Raises:
            UserError: The image is smaller than ``crop``, or lacks a channel.
            ValueError: The image is of another shape or dtype.
        """
        if image.ndim != 3 or image.dtype not in (np.uint8, np.uint16):
            raise ValueError(f"expected (H, W, C) uint8 or uint16, got {image.shape} {image.dtype}")
        image = self.chosen(cropped(image, self.crop), names, view or self.view_of(image))
        if image.dtype != np.uint8 or self.counted or self.gamma != 1:
            counts = self._counts(image if self.counted else image[:0])  # only where needed
            image = looked_up(self.lookup(counts), image)
        if self.clahe:
            image = clahe(image, self.clahe_limit, apart=isinstance(self.channels, tuple))
        if self.resize is not None:
            image = resize_image(image, self.resize)
        return np.ascontiguousarray(resize_image(image, scaled_size(image.shape, scale)))

    def view(self, windows: Windows) -> View | None:
        """How an image is shown as bright objects on dark, if it is; ``windows`` divide it."""
        some = next(iter(windows())) if self.decided else None
        if some is None or some.shape[2] not in (1, 3):  # refused where channels are chosen
            return None
        return bright_on_dark(windows)

    def view_of(self, image: np.ndarray) -> View | None:
        """:meth:`view` of a whole image (H, W, C) in memory."""
        whole = cropped(image, self.crop)
        return self.view(lambda: [whole])

    @property
    def counted(self) -> bool:
        """Whether what a pixel becomes depends on the whole image's histogram."""
        return self.intensity == "percentile" or self.polarity == "dark"

    def histogram(
        self, window: np.ndarray, names: Sequence[str] = (), view: View | None = None
    ) -> np.ndarray:
        """How often each value occurs in a window, (H, W, C) uint8 or uint16, of a large image.

        ``view`` is :meth:`view` of the whole image.

        Returns:
            (1, values) int64, of chosen channels (``in_channels``, values); values is 256 or 65536.
            The sum over windows that divide the image is the image's.
        """
        return self._counts(self.chosen(window, names, view))

    def lookup(self, counts: np.ndarray) -> np.ndarray:
        """What each pixel value becomes: intensity, polarity and gamma, in tables of uint8.

        ``counts`` is the :meth:`histogram` of the whole image; zeros of its shape will do unless
        :attr:`counted`. There is one table for all channels, or one for each.
        """
        return np.stack([self._table(some) for some in counts])

    def _table(self, counts: np.ndarray) -> np.ndarray:
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

    def check_windows(self, scale: float = 1.0) -> None:
        """Refuse with a ``UserError`` what :meth:`prepare_window` cannot do, such as magnify."""
        if scale != 1:
            names = (f"model.preprocess.{n}" for n in _SIZES if getattr(self, n) is not None)
            raise UserError(
                f"{next(names, '--diameter')} magnifies it by {scale:.3g}, which needs the whole "
                "image in memory; predict a smaller image, or one that was resampled before"
            )
        for name in ("clahe", "crop", "resize"):
            if getattr(self, name):
                raise UserError(
                    f"model.preprocess.{name} needs the whole image in memory; predict a smaller "
                    "image, or train without it to predict window by window"
                )

    def prepare_window(
        self,
        window: np.ndarray,
        tables: np.ndarray,
        names: Sequence[str] = (),
        view: View | None = None,
    ) -> np.ndarray:
        """(h, w, C) cut from an image ► the same of :meth:`prepare` of the image, bit for bit.

        ``tables`` is :meth:`lookup` of the whole image's histogram, ``view`` is its :meth:`view`.
        """
        return looked_up(tables, self.chosen(window, names, view))

    def prepare_sample(self, sample: Sample, scale: float = 1.0) -> Sample:
        """:meth:`prepare` the image and bring the labels to its size.

        Its channel is called what was decided, where that is: see :meth:`view`.
        """
        try:
            view = self.view_of(sample.image)
            image = self.prepare(sample.image, sample.channels, scale, view)
            labels = None if sample.labels is None else self.fit_labels(sample.labels, scale)
            channels = sample.channels if view is None else (view.says,)
            return replace(sample, image=image, labels=labels, channels=channels)
        except UserError as error:
            raise UserError(f"{sample.id}: {error}") from None

    def scale(self, pixel_size: tuple[float, float] | None, diameter: float | None) -> float:
        """By which an image is magnified for the network; 1 without a setting that says so.

        Args:
            pixel_size: (height, width) of its pixels in µm, where known.
            diameter: Median diameter of its objects in pixels, where known.

        What the setting needs and is not known, or impossible, is a :class:`UserError`.
        """
        if self.pixel_size is not None:
            if pixel_size is None:
                raise UserError(
                    f"the file does not tell its pixel size, which preprocess.pixel_size "
                    f"{self.pixel_size:g} µm needs; give it by --pixel_size, or save it in the file"
                )
            height, width = pixel_size
            if not (0 < height < math.inf and math.isclose(height, width, rel_tol=0.01)):
                raise UserError(
                    f"pixels of {height:g} × {width:g} µm; preprocess.pixel_size needs square ones "
                    "of a size above 0: correct the file's scale, or resample it"
                )
            return fitted_scale(height / self.pixel_size)
        if self.diameter is not None:
            if not diameter:
                raise UserError(
                    "the diameter of its objects, which preprocess.diameter needs, is not known; "
                    "give it by --diameter, in pixels"
                )
            return fitted_scale(self.diameter / diameter)
        return self.magnification or 1.0

    def by_diameter(self, diameter: float) -> "Preprocess":
        """The same, but images are magnified so that their objects have this median diameter."""
        return replace(self, pixel_size=None, magnification=None, diameter=diameter)

    def fit_labels(self, labels: np.ndarray, scale: float = 1.0) -> np.ndarray:
        """(H, W) integer ids at an image's own size ► (H', W') at the size the network sees."""
        labels = cropped(labels, self.crop)
        labels = labels if self.resize is None else resize_labels(labels, self.resize)
        return resize_labels(labels, scaled_size(labels.shape, scale))

    def fit_image(self, image: np.ndarray) -> np.ndarray:
        """(H, W, C) pixels ► (H', W', C) at the size the network sees, otherwise as they are."""
        image = cropped(image, self.crop)
        return image if self.resize is None else resize_image(image, self.resize)

    def restore(self, maps: Tensor, size: tuple[int, int]) -> Tensor:
        """Undo changes of size and ``crop``: (B, K, H', W') maps ► (B, K, H, W) of ``size``.

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

    def chosen(
        self, image: np.ndarray, names: Sequence[str], view: View | None = None
    ) -> np.ndarray:
        """The channels that the network sees: (H, W, C) ► (H, W, ``in_channels``)."""
        count = int(image.shape[2])
        named = f" ({', '.join(names)})" if names else ""
        if not isinstance(self.channels, tuple):
            if count not in (1, 3) or (count > 1 and names):
                raise UserError(
                    f"the image has {count} channels{named}, and preprocess.channels is "
                    f"{self.channels}; say which {self.in_channels} to use: predict --channels "
                    f"{' '.join(map(str, range(self.in_channels)))}, or in training "
                    "preprocess.channels"
                )
            if view is not None:
                return view.apply(image)
            if self.channels == "gray":
                return to_gray(image)[..., None]
            return image if count == 3 else np.repeat(image, 3, axis=2)
        by_name, places = {name: place for place, name in enumerate(names)}, list[int]()
        for channel in self.channels:
            place = channel if isinstance(channel, int) else by_name.get(channel, count)
            if place >= count:
                raise UserError(
                    f"there is no channel {channel} in the image, which has {count}{named}; choose "
                    "others by preprocess.channels, or in predict by --channels"
                )
            places.append(place)
        return image if places == [*range(count)] else image[..., places]

    def _counts(self, image: np.ndarray) -> np.ndarray:
        """:meth:`histogram` of the channels that the network sees."""
        apart = np.moveaxis(image, 2, 0) if isinstance(self.channels, tuple) else image[None]
        values = 1 << (8 * image.dtype.itemsize)
        return np.stack([np.bincount(some.reshape(-1), minlength=values) for some in apart])
