"""Applying a network to images of any size: padding, tiles that overlap, the eight symmetries."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segmentation.errors import UserError

Read = Callable[[slice, slice], Tensor]

_TOLERANCE = 4e-6  # of logits; a probability then differs by a quarter of that at most
_BREADTH = 64  # pixels of the strip on which that is measured
# Of segmentation-models-pytorch, in strides: these pool what the encoder has left.
_LEAST = {"PAN": 8, "PSPNet": 4}


def network_stride(net: nn.Module) -> int:
    """What a network's input height and width must be multiples of.

    It is in ``net.stride`` (this package's networks) or ``net.encoder.output_stride``
    (segmentation-models-pytorch's); 32 is assumed of others.
    """
    encoder = getattr(net, "encoder", None)
    for stride in (getattr(net, "stride", None), getattr(encoder, "output_stride", None)):
        if isinstance(stride, int):  # a convolution's own ``stride`` is a tuple
            return stride
    return 32


def least_side(net: nn.Module) -> int:
    """The smallest height and width that a network takes, a multiple of its stride."""
    if isinstance(told := getattr(net, "least_side", None), int):  # an exported network's
        return told
    return _LEAST.get(type(net).__name__, 1) * network_stride(net)


def padded(net: Callable[[Tensor], Tensor], image: Tensor, stride: int, least: int = 1) -> Tensor:
    """Apply ``net`` to an image padded by reflection to a multiple of ``stride``, ≥ ``least``.

    The margin is shared between both sides, and cropped from the result. Where an image is too
    small to be reflected its border is repeated.

    >>> padded(lambda image: 2 * image, torch.ones(1, 3, 5, 7), 8).shape
    torch.Size([1, 3, 5, 7])
    """
    height, width = image.shape[-2:]
    down, right = (max(least - side, -side % stride) for side in (height, width))
    if not down and not right:
        return net(image)
    top, left = down // 2, right // 2
    reflects = down - top < height and right - left < width
    mode = "reflect" if reflects else "replicate"
    wide = F.pad(image, (left, right - left, top, down - top), mode=mode)
    return net(wide)[..., top : top + height, left : left + width]


class Mean:
    """The mean of answers of the shape (…, K, H, W), one after another.

    Vectors keep their mean length. Where answers do not agree on a direction, their plain mean is
    short, and :class:`targets.Flow` would drop an object whose flows are not of length 1.

    Args:
        vectors: Which channels are the two parts of a vector, if any are.

    >>> mean = Mean(slice(0, 2))
    >>> mean.add(torch.tensor([0.0, 1.0]).reshape(2, 1, 1))
    >>> mean.add(torch.tensor([1.0, 0.0]).reshape(2, 1, 1))
    >>> mean.result().flatten()
    tensor([0.7071, 0.7071])
    """

    total: Tensor
    lengths: Tensor

    def __init__(self, vectors: slice | None = None) -> None:
        self.vectors, self.count = vectors, 0

    def add(self, answer: Tensor) -> None:
        """One more answer."""
        lengths = self._lengths(answer)
        if self.count:
            self.total, self.lengths = self.total + answer, self.lengths + lengths
        else:
            self.total, self.lengths = answer, lengths
        self.count += 1

    def result(self) -> Tensor:
        """The mean so far."""
        if self.count == 1:
            return self.total
        mean = self.total / self.count
        if self.vectors is not None:
            tiny = torch.finfo(mean.dtype).tiny
            longer = self.lengths / self.count / self._lengths(mean).clamp_min(tiny)
            mean[..., self.vectors, :, :] *= longer
        return mean

    def _lengths(self, answer: Tensor) -> Tensor:
        if self.vectors is None:
            return answer.new_zeros(())
        parts = answer[..., self.vectors, :, :]
        return parts.square().sum(dim=-3, keepdim=True).sqrt()


def d4_mean(
    probabilities: Callable[[Tensor], Tensor],
    image: Tensor,
    turned_back: Callable[[Tensor, int, bool], Tensor] | None = None,
    vectors: slice | None = None,
) -> Tensor:
    """Average over the four rotations of (B, C, H, W) images and of their mirror images.

    ``turned_back`` is :meth:`Target.turned_back`, for answers that have directions; ``vectors`` as
    in :class:`Mean`.
    """
    mean = Mean(vectors)
    for mirrored in (False, True):
        source = image.flip(-1) if mirrored else image
        for turns in range(4):
            turned = probabilities(source.rot90(turns, (-2, -1))).rot90(-turns, (-2, -1))
            turned = turned if turned_back is None else turned_back(turned, turns, mirrored)
            mean.add(turned.flip(-1) if mirrored else turned)
    return mean.result()


@dataclass(frozen=True)
class Tiling:
    """How an image is cut into tiles that overlap, and how their results are blended.

    Args:
        tile: Height and width of the tiles in pixels; the last ones may be smaller.
        stride: What height and width of the network's input must be multiples of; of ``tile``, too.
        margin: Pixels beside a tile's inner edges that do not count, for the network sees too
            little around them; best :func:`receptive_radius`.
        ramp: Over so many pixels beyond the margin the weight grows linearly, which hides seams.
    """

    tile: int
    stride: int
    margin: int
    ramp: int = 0

    def __post_init__(self) -> None:
        least = 2 * self.margin + self.ramp + self.stride
        if self.tile % self.stride or self.tile < least:
            fit = -(-max(self.tile, least) // self.stride) * self.stride
            raise UserError(
                f"a tile of {self.tile} pixels does not do with a margin of {self.margin} at each "
                f"side, a ramp of {self.ramp} and the network's stride {self.stride}; set it to "
                f"{fit}, or to a greater multiple of {self.stride}"
            )

    def spans(self, length: int) -> list[tuple[int, int]]:
        """Start and end of the tiles along an axis of ``length`` pixels, a multiple of the stride.

        All start at multiples of the stride: poolings fall on the same pixels as in the whole
        image.
        """
        step = (self.tile - 2 * self.margin - self.ramp) // self.stride * self.stride
        count = 1 + max(0, -(-(length - self.tile) // step))
        return [(i * step, min(i * step + self.tile, length)) for i in range(count)]

    def weights(self, length: int) -> list[np.ndarray]:
        """What each tile counts along an axis: float32, as long as its span; their sum is 1."""
        spans, sums, parts = self.spans(length), np.zeros(length), []
        for start, end in spans:
            inside = np.arange(end - start)  # pixels between this one and the tile's first
            part = np.ones(end - start)
            for distance, inner in ((inside, start > 0), (inside[::-1], end < length)):
                if inner:
                    part *= np.clip((distance - self.margin + 1) / (self.ramp + 1), 0, 1)
            sums[start:end] += part
            parts.append(part)
        pairs = zip(parts, spans, strict=True)
        return [(part / sums[start:end]).astype(np.float32) for part, (start, end) in pairs]


def sliding(
    net: Callable[[Tensor], Tensor], read: Read, size: tuple[int, int], tiling: Tiling
) -> Iterator[np.ndarray]:
    """Apply a network to an image tile by tile, and yield the result from top to bottom.

    The image's border is reflected to a multiple of the stride exactly as by :func:`padded`, whose
    result this is to rounding (1e-5) if the margin is as wide as the network sees. A network that
    pools over its whole input (attention, squeeze and excitation, pyramid pooling, instance norm),
    or interpolates with aligned corners, sees all of it: there, tiles are an approximation.

    Args:
        net: (1, C, h, w) ► (1, K, h, w) float, h and w multiples of the stride.
        read: Rows and columns of the image, (H, W) = ``size`` ► (C, h, w), as ``net`` takes it.

    Yields:
        (K, rows, W) float32, down the image. Memory: one tile, and a row of tiles of the result.
    """
    rows, columns = _padding(size, tiling.stride)
    top, left = (-side % tiling.stride // 2 for side in size)
    down, heights = tiling.spans(len(rows)), tiling.weights(len(rows))
    across, widths = tiling.spans(len(columns)), tiling.weights(len(columns))
    done, kept = 0, None  # rows that were yielded, and the sum of what lies below them so far
    for (upper, lower), height, (following, _) in zip(
        down, heights, [*down[1:], (len(rows), 0)], strict=True
    ):
        band = None
        for (start, end), width in zip(across, widths, strict=True):
            tile = _window(read, rows[upper:lower], columns[start:end])
            probs = net(tile[None])[0, :, done - upper :].float().cpu().numpy()
            if band is None:
                band = np.zeros((len(probs), lower - done, len(columns)), np.float32)
                if kept is not None:
                    band[:, : kept.shape[1]] = kept
            band[:, :, start:end] += probs * (height[done - upper :, None] * width)
        assert band is not None
        final = min(following + tiling.margin, len(rows))
        inner = slice(max(done, top) - done, min(final, top + size[0]) - done)
        yield band[:, inner, left : left + size[1]]
        kept, done = band[:, final - done :], final


def receptive_radius(
    net: Callable[[Tensor], Tensor],
    channels: int,
    stride: int,
    most: int = 512,
    device: torch.device | str = "cpu",
) -> int | None:
    """How far a network sees: the margin from which on tiles agree with the whole image.

    Measured, so that it holds for any network: noise of all scales, and how deep into a strip of it
    other noise beyond its ends changes the logits by more than 4e-6. That is the radius of the
    receptive field, or less where its far parts hardly count (Luo et al. 2016, arXiv:1701.04128).

    The net takes (1, ``channels``, h, w), multiples of ``stride``, and evaluates. Beyond ``most``
    pixels the result is ``None``, as for a network that pools over all.
    """
    breadth = -(-_BREADTH // stride) * stride
    radius, side = 0, breadth
    for axis in (-2, -1):
        while True:
            # Two runs of one shape compute in one order: where nothing changes they agree exactly.
            shape = (4 * side, breadth) if axis == -2 else (breadth, 4 * side)
            noise, other = (_noise(channels, shape, seed).to(device) for seed in (0, 1))
            other.narrow(axis, side, 2 * side).copy_(noise.narrow(axis, side, 2 * side))
            with torch.inference_mode():
                difference = (net(noise) - net(other)).abs().narrow(axis, side, 2 * side)
            changed = (difference > _TOLERANCE).movedim(axis, 0).flatten(1).any(1)
            depths = torch.nonzero(changed[:side] | changed.flip(0)[:side])
            reach = int(depths.max()) + 1 if len(depths) else 0
            if reach < side:
                radius = max(radius, reach)
                break
            if side > most:
                return None
            side *= 2
    return radius if radius <= most else None


def _padding(size: tuple[int, int], stride: int) -> list[np.ndarray]:
    """Which row and which column of the image each one of the padded image repeats."""
    missing = [-side % stride for side in size]
    reflects = all(more - more // 2 < side for more, side in zip(missing, size, strict=True))
    axes = []
    for more, side in zip(missing, size, strict=True):
        places = np.arange(-(more // 2), side + more - more // 2)
        if reflects:
            places = side - 1 - np.abs(side - 1 - np.abs(places))
        axes.append(np.clip(places, 0, side - 1))
    return axes


def _window(read: Read, rows: np.ndarray, columns: np.ndarray) -> Tensor:
    """The image at some rows and columns that lie close together: (C, rows, columns)."""
    top, left = int(rows.min()), int(columns.min())
    window = read(slice(top, int(rows.max()) + 1), slice(left, int(columns.max()) + 1))
    if window.shape[-2:] != (len(rows), len(columns)):  # it reaches into the padding
        window = window[:, torch.from_numpy(rows - top)][:, :, torch.from_numpy(columns - left)]
    return window


def _noise(channels: int, shape: tuple[int, int], seed: int) -> Tensor:
    """(1, C, H, W) float32 of mean 0 and variance 1: as much of it fine as coarse."""
    random = torch.Generator().manual_seed(seed)
    total = torch.zeros(1, channels, *shape)
    for scale in (1, 4, 16, 64):
        coarse = (1, channels, -(-shape[0] // scale), -(-shape[1] // scale))
        noise = torch.randn(coarse, generator=random)
        total += F.interpolate(noise, scale_factor=scale)[..., : shape[0], : shape[1]] / 2
    return total
