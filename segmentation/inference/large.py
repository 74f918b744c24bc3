"""One image file of any size, predicted from disk to disk."""

import copy
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor
from tqdm.auto import tqdm

from segmentation.data.stream import Spool, TiffWindows, write_tiff
from segmentation.errors import UserError
from segmentation.inference.merge import Merge, blocks
from segmentation.inference.sliding import Read, Tiling, receptive_radius, sliding
from segmentation.inference.tiles import GridTiles
from segmentation.task import SegmentationTask

TILE = 1024  # pixels; a multiple of every stride
_BAND = 256  # rows that are counted at once
_RAMP = 16  # pixels over which tiles are blended that should agree anyway
_BLOCK = 2**22  # pixels that are decoded at once, without the halo; watershed takes 100 bytes each


@dataclass(frozen=True)
class Large:
    """What was found in a large image.

    Attributes:
        size: (H, W).
        foreground_pixels: Of the mask.
        areas: (objects,) int64: pixels of each object, in the order of its id, from 1.
        exact: Whether the probabilities are known to be those of the image in one piece, to
            rounding. They are not where a network sees farther than a quarter of a tile, nor with a
            margin that was given.
    """

    size: tuple[int, int]
    foreground_pixels: int
    areas: np.ndarray
    exact: bool


@torch.inference_mode()
def predict_large(
    tasks: Sequence[SegmentationTask],
    path: Path,
    *,
    mask: Path | None = None,
    labels: Path | None = None,
    probabilities: Path | None = None,
    tile: int = TILE,
    margin: int | None = None,
    halo: int = 64,
) -> Large:
    """Predict a TIFF that need not fit into memory.

    Memory: a tile in the network, as many rows of the image as a tile is high in float32 for each
    class, and blocks of 4 million pixels to decode. What is written waits beside the outputs,
    compressed, until all is known, so that there is no half of an output.

    Args:
        tasks: In evaluation mode, on their device. The probabilities of several are averaged, and
            decoded by the first one's target.
        path: The image; what ``segmentation.data.stream.TiffWindows`` reads.
        mask: TIFF to write: uint8, 0 or 255.
        labels: TIFF to write: instance ids from 1, uint16, or uint32 beyond 65,535 objects.
        probabilities: TIFF to write: of the foreground, uint16, 65535 = 1.
        tile: Height and width of the tiles in pixels: the larger, the less is computed twice.
        margin: Of the tiles; by default how far the networks see, measured.
        halo: Rows that are decoded beyond each block. Objects of whatever kind that are smaller
            come out as if decoded in one piece; connected components whose holes are not filled
            always do.

    Raises:
        UserError: The image cannot be read in windows, a task needs it whole, the tile does not fit
            a network, or an output cannot be written.
    """
    for task in tasks:
        try:
            task.preprocess.check_windows()
        except UserError as error:
            raise UserError(f"{path}: {error}") from None
        if isinstance(task.net, GridTiles):
            raise UserError(
                f"{path}: model.net is a GridTiles, which divides the whole image; predict a "
                "smaller image"
            )
    paths = {"mask": mask, "labels": labels, "probabilities": probabilities}
    wanted = {name: out for name, out in paths.items() if out is not None}
    target = tasks[0].target
    decoder = copy.copy(target)  # small objects may be parts of large ones until they are merged
    decoder.min_size = 0
    with ExitStack() as stack:
        image = stack.enter_context(TiffWindows(path, rows=tile))
        size = height, width = image.shape[:2]
        spools = {n: stack.enter_context(Spool(out.parent)) for n, out in wanted.items()}
        tilings = [choose_tiling(task, size, tile, margin) for task in tasks]
        pieces = [
            blocks(
                sliding(_on_device(task), _prepared(task, image), size, tiling),
                height,
                max(_BLOCK // width, halo),
                halo,
            )
            for task, (tiling, _) in zip(tasks, tilings, strict=True)
        ]
        merge, foreground_pixels = Merge(halo), 0
        bar = stack.enter_context(tqdm(total=height, desc=path.name, leave=False, disable=None))
        for several in zip(*pieces, strict=True):
            own = several[0][1]
            probs = np.asarray(np.mean([one for one, _ in several], axis=0))
            foreground = target.foreground(torch.from_numpy(probs)[None])[0, own].numpy()
            is_object = foreground > target.threshold
            foreground_pixels += int(is_object.sum())
            provisional = merge.add(decoder.decode(probs), own)
            for name, spool in spools.items():
                if name == "mask":
                    spool.append(is_object.astype(np.uint8) * 255)
                elif name == "labels":
                    spool.append(provisional)
                else:
                    spool.append((foreground * 65535).round().astype(np.uint16))
            bar.update(len(provisional))
        ids, areas = merge.finish(target.min_size)
        wide = len(areas) > np.iinfo(np.uint16).max
        for name, out in wanted.items():
            if name == "labels":
                final = ids.astype(np.uint32 if wide else np.uint16)
                write_tiff(out, size, final.dtype, (final[rows] for rows in spools[name]))
            else:
                dtype = np.dtype(np.uint8 if name == "mask" else np.uint16)
                write_tiff(out, size, dtype, spools[name])
    return Large(size, foreground_pixels, areas, all(exact for _, exact in tilings))


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


def _prepared(task: SegmentationTask, image: TiffWindows) -> Read:
    """Windows of the image as the task's network sees them: (C, h, w) uint8."""
    preprocess, (height, width) = task.preprocess, image.shape[:2]
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
