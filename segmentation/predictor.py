"""From an image to its objects: the one way, whoever asks."""

import copy
import math
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Literal

import numpy as np
import torch
from torch import Tensor, nn

from segmentation.data.diameters import TrainingDiameters
from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.inference import (
    Mean,
    Read,
    Tiling,
    d4_mean,
    least_side,
    network_stride,
    padded,
    receptive_radius,
    sliding,
)
from segmentation.magnification import UNSIZED, check_diameter, diameter_of
from segmentation.measurements import measurement_table
from segmentation.targets import Target

if TYPE_CHECKING:
    import pandas

WHOLE = 2**22  # pixels (2048²): more go through the network in tiles
COARSEST = 4096  # pixels: images are padded to multiples of the stride
TILE = 1024  # pixels; a multiple of every stride
AUTO = "diameter", "auto"
_RAMP = 16  # pixels over which tiles are blended that should agree anyway


@dataclass(frozen=True)
class Prediction:
    """What was found in one image.

    Attributes:
        labels: (H, W) int32 ids of the objects, 0 = background.
        mask: (H, W) bool foreground; it may hold what is too small to be an object.
        probabilities: (H, W) float32 probability of being foreground.
        classes: (n + 1,) uint8, the class 1…K of each id, 0 first; ``None`` without classes.
        measurements: One row for each object, where asked for; see ``segmentation.measurements``.
        magnification: By which the network saw the image larger than it is.
        sized: ``False`` where this was to be found and could not: it is the usual one then.
    """

    labels: np.ndarray
    mask: np.ndarray
    probabilities: np.ndarray
    classes: np.ndarray | None = None
    measurements: "pandas.DataFrame | None" = None
    magnification: float = 1.0
    sized: bool = True


class Predictor:
    """A network with all that surrounds it: preparation, tiles, symmetries, ensemble, decoding.

    Args:
        net: (B, C, H, W) float32 ► logits (B, classes, H, W). Large images go through it in tiles,
            unless it has the attribute ``whole_image = True``.
        preprocess: How it was trained to see images.
        target: What its output means.
        tta: Average over the eight symmetries of an image, at eight times the cost.
        channels_last: Memory format of the input.

    Attributes:
        members: Other predictors whose probabilities are averaged with this one's: an ensemble.
        pixel_size: (height, width) in µm of images whose files do not tell it, where needed.
        diameter: Median diameter in pixels of the objects of images, where needed; at first that
            of the training images.
        told: The same where a user tells it, of any network that knows the diameters of its
            training; "auto" finds it for each image.
        training_diameters: Of the training images' objects, where the checkpoint tells.

    >>> from segmentation.models import UNet
    >>> from segmentation.targets import Foreground
    >>> net = UNet(in_channels=1, classes=1, width=4, depth=2)
    >>> model = Predictor(net, Preprocess("gray"), Foreground())
    >>> image = np.zeros((48, 64), np.uint8)
    >>> model.predict(image).shape
    (48, 64)
    >>> model.predict(image, measurements=True).measurements.columns[:3].tolist()
    ['object', 'area', 'centroid_y']
    """

    def __init__(
        self,
        net: nn.Module,
        preprocess: Preprocess,
        target: Target,
        tta: bool = False,
        channels_last: bool = True,
    ) -> None:
        self.net, self.preprocess, self.target, self.tta = net, preprocess, target, tta
        self.stride, self.least = network_stride(net), least_side(net)
        if not 1 <= self.stride <= COARSEST:
            raise UserError(f"the network's stride is {self.stride}; 1 to {COARSEST} can be padded")
        self.memory_format = torch.channels_last if channels_last else torch.contiguous_format
        self.members: list[Predictor] = []
        self.pixel_size: tuple[float, float] | None = None
        self.diameter: float | None = None
        self.told: float | Literal["auto"] | None = None
        self.training_diameters: TrainingDiameters | None = None

    @property
    def seen(self) -> float | None:
        """Median diameter of the objects of training images, in pixels as the network saw them."""
        known = self.training_diameters
        return self.preprocess.diameter or (known.median if known else None)

    @property
    def device(self) -> torch.device:
        """Where the network is."""
        return next((p.device for p in self.net.parameters()), torch.device("cpu"))

    def to(self, device: torch.device | str) -> "Predictor":
        """Move all networks."""
        for one in (self, *self.members):
            one.net.to(device)
        return self

    def add_member(self, other: "Predictor", name: str) -> None:
        """Average with another predictor; a :class:`UserError` if its output is of another kind."""
        targets = other.target, self.target
        theirs, ours = (
            f"{type(t).__name__} ({', '.join(t.class_names) or t.classes} classes)" for t in targets
        )
        if theirs != ours:
            raise UserError(f"{name}: its target is {theirs}, the first's {ours}; leave it out")
        self.members.append(other)

    def adapt(
        self,
        channels: Sequence[int | str] | None = None,
        pixel_size: float | None = None,
        diameter: "float | Literal['auto'] | None" = None,
    ) -> None:
        """Say what new images are like; what is ``None`` stays as it was in training.

        Args:
            channels: Numbers or names of the channels that show what those of the training images
                do, in the same order.
            pixel_size: In µm, of images whose files do not tell it.
            diameter: Median diameter of the objects, in pixels; "auto" finds it for each image.

        Raises:
            UserError: A network takes another number of channels, or a value is impossible.
        """
        for name, value in (("pixel_size", pixel_size), ("diameter", diameter)):
            if value is None or (name, value) == AUTO:
                continue
            if isinstance(value, str) or not 0 < value < math.inf:
                shown = repr(value) if isinstance(value, str) else f"{value:g}"
                raise UserError(f"--{name} {shown} must be positive")
        if diameter is not None:
            check_diameter(diameter, (self, *self.members))
        for one in (self, *self.members):
            one.pixel_size = one.pixel_size if pixel_size is None else (pixel_size, pixel_size)
            one.told = one.told if diameter is None else diameter
            if channels is not None:
                if len(channels) != (count := one.preprocess.in_channels):
                    given = " ".join(map(str, channels))
                    raise UserError(
                        f"--channels {given}: {len(channels)} for a network that takes {count} "
                        f"(trained on {one.preprocess.channels}); give {count}, in the same order"
                    )
                chosen = (int(c) if str(c).isdecimal() else c for c in channels)
                one.preprocess = replace(one.preprocess, channels=tuple(chosen))

    def normalized(self, image: Tensor) -> Tensor:
        """The network's input: prepared (B, C, H, W) uint8 ► normalized, in its precision."""
        kind = next((p.dtype for p in self.net.parameters()), torch.float32)
        image = self.preprocess.normalize(image).to(kind)
        return image.contiguous(memory_format=self.memory_format)

    def logits(self, image: Tensor) -> Tensor:
        """This network's answer to prepared (B, C, H, W) uint8 images of any size."""
        return padded(self.net, self.normalized(image), self.stride, self.least)

    def probabilities(
        self, image: Tensor, tta: bool | None = None, logits: Tensor | None = None
    ) -> Tensor:
        """Prepared (B, C, H, W) uint8 images of any size ► (B, K, H, W) float32, of the ensemble.

        All members see the same; ``tta`` is instead of ``self.tta``, and ``logits`` are
        :meth:`logits` of the images, where they are known.
        """
        tta = self.tta if tta is None else tta
        mean = Mean(self.target.vectors)
        if logits is None or tta:
            mean.add(self._alone(image, tta))
        else:
            mean.add(self.target.probabilities(logits))
        for member in self.members:
            mean.add(member._alone(image, tta))
        return mean.result()

    @torch.inference_mode()
    def maps(
        self,
        image: np.ndarray,
        channels: Sequence[str] = (),
        pixel_size: tuple[float, float] | None = None,
        diameter: float | None = None,
    ) -> np.ndarray:
        """An image as read, (H, W, C) uint8 or uint16 ► (K, H, W) float32, of the ensemble.

        Each member sees it as it was trained to; a large one goes through the network in tiles.
        What the file tells is given along: the names of its channels, (height, width) of a pixel in
        µm; and the ``diameter`` of its objects, where it was found.
        """
        mean = Mean(self.target.vectors)
        for one in (self, *self.members):
            mean.add(torch.from_numpy(one._map(image, channels, pixel_size, diameter)))
        return mean.result().numpy()

    def scale(
        self, pixel_size: tuple[float, float] | None = None, diameter: float | None = None
    ) -> float:
        """By which an image is magnified, of pixels of this size (µm) and objects so large."""
        how, pixel_size = self.preprocess, pixel_size or self.pixel_size
        given = diameter or (None if self.told == "auto" else self.told)
        known = how.pixel_size is not None and pixel_size is not None
        if given is None or known or self.seen is None:
            return how.scale(pixel_size, self.diameter)
        return how.by_diameter(self.seen).scale(None, given)

    @torch.inference_mode()
    def find(
        self,
        image: np.ndarray,
        channels: Sequence[str] = (),
        pixel_size: tuple[float, float] | None = None,
    ) -> Prediction:
        """:meth:`maps`, decoded; and what is known of the image."""
        diameter, sized = None, True
        by_pixels = self.preprocess.pixel_size is not None
        if self.told == "auto" and not (by_pixels and (pixel_size or self.pixel_size)):
            diameter = diameter_of(self, image, channels)
            sized = diameter is not None
        scale = self.scale(pixel_size, diameter)
        found = self.decode(self.maps(image, channels, pixel_size, diameter), scale)
        return replace(found, magnification=scale, sized=sized)

    def decode(self, probs: np.ndarray, scale: float = 1.0) -> Prediction:
        """(K, H, W) float32 probabilities at an image's own size ► objects.

        ``scale`` is that by which it was magnified for the network.
        """
        target = self.target.at_scale(scale)
        foreground = target.foreground(torch.from_numpy(probs)[None])[0].numpy()
        labels = target.decode(probs)
        mask = foreground > target.threshold
        return Prediction(labels, mask, foreground, target.classify(probs, labels))

    def predict(
        self,
        image: np.ndarray,
        probabilities: bool = False,
        measurements: bool = False,
        pixel_size: tuple[float, float] | None = None,
        channels: Sequence[str] = (),
        diameter: "float | Literal['auto'] | None" = None,
    ) -> "np.ndarray | Prediction":
        """Find the objects of one image; the networks are put into evaluation mode.

        Args:
            image: (H, W) or (H, W, C), uint8 or uint16; three channels without names are RGB.
            probabilities: Return a :class:`Prediction` instead of the label map alone.
            measurements: The same, with the table of the objects.
            pixel_size: (height, width) in µm, for measurements in µm, and for a network that was
                trained at a pixel size.
            channels: Names of the image's channels, for a network that chooses them by name.
            diameter: Median diameter of its objects, in pixels, or "auto"; see :meth:`adapt`.

        Returns:
            (H, W) int32 label map, or a :class:`Prediction`.

        Raises:
            UserError: The image has another shape or dtype, or cannot be prepared; or the network
                answers NaN or infinity.
        """
        image = np.asarray(image)
        image = image.astype(image.dtype.newbyteorder("="), copy=False)  # of big-endian TIFFs
        pixels = image[..., None] if image.ndim == 2 else image
        if pixels.dtype not in (np.uint8, np.uint16) or pixels.ndim != 3 or 0 in pixels.shape:
            raise UserError(
                f"the image is {image.shape} {image.dtype}; give (H, W) or (H, W, C) of uint8 or "
                "uint16"
            )
        sides = (1, 1) if pixel_size is None else np.ravel(pixel_size)
        if len(sides) != 2 or not all(0 < side < math.inf for side in sides):
            raise UserError(f"pixel_size: {pixel_size} must be (height, width), both above 0 µm")
        for one in (self, *self.members):
            one.net.eval()
        usual = self
        if diameter is not None:
            usual = copy.copy(self)
            usual.members = [copy.copy(member) for member in self.members]
            usual.adapt(diameter=diameter)
        found = usual.find(pixels, channels, pixel_size)
        if not found.sized:
            warnings.warn(f"an image is {UNSIZED}", stacklevel=2)
        if measurements:
            table = measurement_table(found.labels, pixels, pixel_size, channels)
            if found.classes is not None:
                kinds = (found.classes[table["object"]] - 1).tolist()
                table.insert(1, "class", [self.target.class_names[kind] for kind in kinds])
            found = replace(found, measurements=table)
        return found if probabilities or measurements else found.labels

    def bands(self, read: Read, size: tuple[int, int], tiling: Tiling) -> Iterator[np.ndarray]:
        """This network's (K, rows, W) probabilities, down an image whose windows it reads."""
        return sliding(lambda p: self._alone(p.to(self.device), self.tta), read, size, tiling)

    def tiling(self, size: tuple[int, int], tile: int = TILE) -> tuple[Tiling, bool]:
        """Tiles for an (H, W) image, and whether they say the same as the image in one piece.

        The margin is how far the network sees, up to a quarter of the tile: then each pixel is
        computed four times. A network that sees farther gets a margin of an eighth of the tile and
        a ramp as wide, which hides the seams.
        """
        largest = Tiling(tile, self.stride, 0)
        if max(size) <= tile:
            return largest, True
        channels = self.preprocess.in_channels
        radius = receptive_radius(self.net, channels, self.stride, tile // 4, self.device)
        if radius is None:
            return Tiling(tile, self.stride, tile // 8, tile // 8), False
        return Tiling(tile, self.stride, radius, _RAMP), True

    def _map(
        self,
        image: np.ndarray,
        channels: Sequence[str],
        pixel_size: tuple[float, float] | None,
        diameter: float | None,
    ) -> np.ndarray:
        """:meth:`maps` of this network alone."""
        scale = self.scale(pixel_size, diameter)
        prepared = self.preprocess.prepare(image, channels, scale).transpose(2, 0, 1)
        pixels = torch.from_numpy(np.ascontiguousarray(prepared))
        size = (pixels.shape[1], pixels.shape[2])
        if size[0] * size[1] > WHOLE and not getattr(self.net, "whole_image", False):
            tiling, _ = self.tiling(size)
            bands = self.bands(lambda rows, columns: pixels[:, rows, columns], size, tiling)
            probs = torch.from_numpy(np.concatenate(list(bands), axis=1))[None]
        else:
            probs = self._alone(pixels[None].to(self.device), self.tta)
        probs = self.preprocess.restore(probs, (image.shape[0], image.shape[1]))
        found: np.ndarray = probs[0].cpu().numpy()
        return found

    def _alone(self, image: Tensor, tta: bool) -> Tensor:
        """Prepared images ► probabilities of this network alone."""

        def answer(pixels: Tensor) -> Tensor:
            logits = self.net(pixels)
            if not torch.isfinite(logits).all():
                raise UserError(
                    "the network answers NaN or infinity: its training diverged, or its weights "
                    "are damaged; use another checkpoint"
                )
            return self.target.probabilities(logits)

        # Padded once for all symmetries: each in its own way, the same pixels would see others.
        target = self.target
        mean = partial(d4_mean, answer, turned_back=target.turned_back, vectors=target.vectors)
        net = mean if tta else answer
        return padded(net, self.normalized(image), self.stride, self.least)
