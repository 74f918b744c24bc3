"""One image file of any size, predicted from disk to disk."""

import copy
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.experiments.grid_tiles import GridTiles
from segmentation.inference.sliding import Read, Tiling, receptive_radius, sliding
from segmentation.io.windows import BandStore, TiffWindows
from segmentation.predict.label_map import LabelMap
from segmentation.predict.merge import Merge, blocks
from segmentation.task import SegmentationTask

TILE = 1024  # pixels; a multiple of every stride
_BAND = 256  # rows that are counted at once
_RAMP = 16  # pixels over which tiles are blended that should agree anyway
_BLOCK = 2**22  # pixels that are decoded at once, without the halo; watershed takes 100 bytes each


@dataclass(frozen=True)
class Large:
    """What was found in a large image. Its maps wait on disk, in blocks of rows.

    Attributes:
        mask: (rows, W) uint8, 0 or 255.
        labels: Ids of the objects.
        probabilities: (rows, W) uint16 of the foreground, 65535 = 1; empty where not wanted.
        foreground_pixels: Of the mask.
        exact: Whether the probabilities are known to be those of the image in one piece, to
            rounding. They are not where a network sees farther than a quarter of a tile, nor with a
            margin that was given.
    """

    mask: BandStore
    labels: LabelMap
    probabilities: BandStore
    foreground_pixels: int
    exact: bool


@torch.inference_mode()
def predict_large(
    tasks: Sequence[SegmentationTask],
    image: TiffWindows,
    spool: Callable[[], BandStore],
    *,
    probabilities: bool = False,
    tile: int = TILE,
    margin: int | None = None,
    halo: int = 64,
) -> Large:
    """Predict a TIFF that need not fit into memory.

    Memory: a tile in the network, as many rows of the image as a tile is high in float32 for each
    class, and blocks of 4 million pixels to decode. What is found is put aside, compressed.

    Args:
        tasks: In evaluation mode, on their device. The probabilities of several are averaged, and
            decoded by the first one's target.
        image: The image, best with as many rows kept as ``tile``.
        spool: Opens a place for what is found, three times; who calls closes it.
        probabilities: Whether to keep them.
        tile: Height and width of the tiles in pixels: the larger, the less is computed twice.
        margin: Of the tiles; by default how far the networks see, measured.
        halo: Rows that are decoded beyond each block. Objects of whatever kind that are smaller
            come out as if decoded in one piece; connected components whose holes are not filled
            always do.

    Raises:
        UserError: The image is broken, a task needs it whole, the tile does not fit a network, or
            the disk is full.
    """
    for task in tasks:
        try:
            task.preprocess.check_windows()
        except UserError as error:
            raise UserError(f"{image.name}: {error}") from None
        if isinstance(task.net, GridTiles):
            raise UserError(
                f"{image.name}: model.net is a GridTiles, which divides the whole image; predict a "
                "smaller image"
            )
    target = tasks[0].target
    decoder = copy.copy(target)  # small objects may be parts of large ones until they are merged
    decoder.min_size = 0
    size = height, width = image.shape[:2]
    tilings = [choose_tiling(task, size, tile, margin) for task in tasks]
    pieces = [
        blocks(
            sliding(_on_device(task), prepared(task.preprocess, image), size, tiling),
            height,
            max(_BLOCK // width, halo),
            halo,
        )
        for task, (tiling, _) in zip(tasks, tilings, strict=True)
    ]
    mask, labels, kept = spool(), LabelMap(size, spool()), spool()
    merge, foreground_pixels, objects = Merge(halo), 0, 0
    with tqdm(total=height, desc=Path(image.name).name, leave=False, disable=None) as bar:
        for several in zip(*pieces, strict=True):
            own = several[0][1]
            probs = np.asarray(np.mean([one for one, _ in several], axis=0))
            foreground = target.foreground(torch.from_numpy(probs)[None])[0, own].numpy()
            is_object = foreground > target.threshold
            foreground_pixels += int(is_object.sum())
            mask.append(is_object.astype(np.uint8) * 255)
            decoded = decoder.decode(probs)
            objects += int(decoded.max(initial=0))
            labels.append(merge.add(decoded, own), objects)
            if probabilities:
                kept.append((foreground * 65535).round().astype(np.uint16))
            bar.update(len(foreground))
    labels.finish(*merge.finish(target.min_size))
    return Large(mask, labels, kept, foreground_pixels, all(exact for _, exact in tilings))


@torch.inference_mode()
def tiled(task: SegmentationTask, image: Tensor, tile: int = TILE) -> Tensor:
    """What the task says of an image that fits into memory, when its activations may not.

    Args:
        task: In evaluation mode.
        image: (C, H, W) uint8, prepared.
        tile: Height and width of the tiles in pixels.

    Returns:
        (1, K, H, W) float32 probabilities, on the CPU; see :func:`choose_tiling`.
    """
    size = (image.shape[1], image.shape[2])
    tiling, _ = choose_tiling(task, size, tile)
    bands = sliding(_on_device(task), lambda rows, columns: image[:, rows, columns], size, tiling)
    return torch.from_numpy(np.concatenate(list(bands), axis=1))[None]


def choose_tiling(
    task: SegmentationTask, size: tuple[int, int], tile: int, margin: int | None = None
) -> tuple[Tiling, bool]:
    """Tiles for a task and an image, and whether they say the same as the image in one piece.

    Unless a margin is given, it is how far the network sees, up to a quarter of the tile: then each
    pixel is computed four times. A network that sees farther gets a margin of an eighth of the tile
    and a ramp as wide, which hides the seams.

    Raises:
        UserError: The tile is no multiple of the network's stride, or too small for the margin.
    """
    stride = task.stride
    largest = Tiling(tile, stride, 0)
    if max(size) <= tile:
        return largest, True
    if margin is not None:
        return Tiling(tile, stride, margin, max(0, min(_RAMP, tile - 2 * margin - stride))), False
    channels = task.preprocess.channels
    radius = receptive_radius(task.net, channels, stride, tile // 4, task.device)
    if radius is None:
        return Tiling(tile, stride, tile // 8, tile // 8), False
    return Tiling(tile, stride, radius, _RAMP), True


def _on_device(task: SegmentationTask) -> Callable[[Tensor], Tensor]:
    return lambda pixels: task(pixels.to(task.device))


def prepared(preprocess: Preprocess, image: TiffWindows) -> Read:
    """Windows of an image as ``preprocess`` shows them: (C, h, w) uint8."""
    height, width = image.shape[:2]
    counts = np.zeros(1 << (8 * image.dtype.itemsize), np.int64)
    if preprocess.counted:
        for top in range(0, height, _BAND):
            rows = slice(top, min(top + _BAND, height))
            counts += preprocess.histogram(image.read(rows, slice(0, width)))
    table = preprocess.lookup(counts)

    def read(rows: slice, columns: slice) -> Tensor:
        window = preprocess.prepare_window(image.read(rows, columns), table)
        return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))

    return read
