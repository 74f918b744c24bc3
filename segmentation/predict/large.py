"""What is found in one plane of an image file: in memory, or from disk to disk."""

import copy
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.data.preprocess import Preprocess
from segmentation.data.stains import View
from segmentation.errors import UserError
from segmentation.inference import Mean, Read
from segmentation.io.stacks import Planes, Windows
from segmentation.io.windows import BandStore
from segmentation.predict.label_map import Crop, LabelMap, overlapping_blocks
from segmentation.predictor import TILE, Prediction, Predictor
from segmentation.progress import progress

_BAND = 256  # rows that are counted at once
_BLOCK = 2**22  # pixels that are decoded at once, without the halo; watershed takes 100 bytes each


class ArrayWindows:
    """An (H, W, C) array in memory, read as :class:`Windows` are."""

    def __init__(self, array: np.ndarray) -> None:
        height, width, channels = array.shape
        self.array, self.shape, self.dtype = array, (height, width, channels), array.dtype
        self.name = ""

    def read(self, rows: slice, columns: slice) -> np.ndarray:
        return self.array[rows, columns]


class Rows(list[np.ndarray]):
    """Rows of an image in memory, read as a :class:`BandStore` is; its reader wants one part."""

    def reader(self) -> Callable[[slice, slice], np.ndarray]:
        return lambda rows, columns: self[0][rows, columns]


class WholeLabels(Rows):
    """An (H, W) int32 label map in memory, read as a :class:`LabelMap` is."""

    def __init__(self, labels: np.ndarray, classes: np.ndarray | None = None) -> None:
        super().__init__([labels])
        self.classes = classes
        areas = np.bincount(labels.reshape(-1))[1:]
        self.areas: np.ndarray = areas[areas > 0]
        self.boxes, self.too_large = np.zeros((0, 4), np.int32), list[int]()

    def crops(self) -> Iterator[Crop]:
        height, width = self[0].shape
        yield Crop(slice(0, height), slice(0, width), self[0])


@dataclass(frozen=True)
class Plane:
    """What was found in one plane."""

    image: Windows  # as read
    mask: BandStore | Rows  # (rows, W) uint8, 0 or 255
    labels: LabelMap | WholeLabels
    probabilities: BandStore | Rows  # (rows, W) uint16, 65535 = 1; empty where not wanted
    foreground_pixels: int
    exact: bool = True  # whether tiles are known to say the same as the image in one piece
    about: Mapping[str, Any] = field(default_factory=dict)  # more of its row in images.csv


def plane_in_memory(found: Prediction, image: np.ndarray, probabilities: bool) -> Plane:
    """What was found in an (H, W, C) image that fits into memory."""
    kept = Rows([_sixteen_bits(found.probabilities)] if probabilities else [])
    mask = Rows([found.mask.astype(np.uint8) * 255])
    labels = WholeLabels(found.labels, found.classes)
    about = {name: getattr(found, name) for name in ("magnification", "sized")}
    return Plane(ArrayWindows(image), mask, labels, kept, int(found.mask.sum()), about=about)


@torch.inference_mode()
def plane_on_disk(
    predictor: Predictor,
    image: Windows,
    store: Callable[[], BandStore],
    planes: Planes | None = None,
    *,
    probabilities: bool = False,
    tile: int = TILE,
    halo: int = 64,
) -> Plane:
    """Predict a TIFF that need not fit into memory.

    Memory: a tile in the network, as many rows of the image as a tile is high in float32 for each
    class, and blocks of 4 million pixels to decode. What is found is put aside, compressed.

    Args:
        predictor: In evaluation mode, on its device.
        image: The image, best with as many rows kept as ``tile``.
        store: Opens a place for what is found, three times; who calls closes it.
        planes: What the file tells of its channels and of its scale.
        probabilities: Whether to keep them.
        tile: In pixels.
        halo: Rows that are decoded beyond each block. Objects that are smaller come out as if
            decoded in one piece; connected components whose holes are not filled always do.
    """
    size = height, width = image.shape[:2]
    pieces, exact = [], True
    names, pixel_size = (planes.channels, planes.calibration.pixel_size) if planes else ((), None)
    for one in (predictor, *predictor.members):
        try:
            one.preprocess.check_windows(one.scale(pixel_size))
        except UserError as error:
            raise UserError(f"{image.name}: {error}") from None
        if getattr(one.net, "whole_image", False):
            raise UserError(
                f"{image.name}: model.net is a {type(one.net).__name__}, which divides the whole "
                "image; predict a smaller image"
            )
        tiling, same = one.tiling(size, tile)
        bands = one.bands(window_reader(one.preprocess, image, names), size, tiling)
        pieces.append(overlapping_blocks(bands, height, max(_BLOCK // width, halo), halo))
        exact &= same
    decoder = copy.copy(predictor)
    decoder.target = copy.copy(predictor.target)
    decoder.target.min_size = 0  # small objects may be parts of large ones until they are joined
    mask, labels, kept = store(), LabelMap(store(), halo), store()
    foreground_pixels = 0
    with progress(None, Path(image.name).name, height, leave=False) as bar:
        for several in zip(*pieces, strict=True):
            own = several[0][1]
            mean = Mean(predictor.target.vectors)
            for one, _ in several:
                mean.add(torch.from_numpy(one))
            probs = mean.result().numpy()
            found = decoder.decode(probs)
            foreground_pixels += int(found.mask[own].sum())
            mask.append(found.mask[own].astype(np.uint8) * 255)
            votes = decoder.target.votes(probs[:, own], found.labels[own])
            labels.append(found.labels, own, votes if votes.size else None)
            if probabilities:
                kept.append(_sixteen_bits(found.probabilities[own]))
            bar.update(own.stop - own.start)
    labels.finish(predictor.target.min_size)
    about = {"magnification": predictor.scale(pixel_size), "sized": predictor.told != "auto"}
    return Plane(image, mask, labels, kept, foreground_pixels, exact, about)


def window_reader(preprocess: Preprocess, image: Windows, names: Sequence[str] = ()) -> Read:
    """Windows of an image, (C, h, w) uint8, as ``preprocess`` shows them, by names or numbers."""
    view = view_of(preprocess, image)
    pixel = np.zeros((1, 1, image.shape[2]), image.dtype)  # OpenCV refuses what is empty
    counts = 0 * preprocess.histogram(pixel, names, view)
    if preprocess.counted:
        for band in _bands(image):
            counts += preprocess.histogram(band, names, view)
    tables = preprocess.lookup(counts)

    def read(rows: slice, columns: slice) -> torch.Tensor:
        window = preprocess.prepare_window(image.read(rows, columns), tables, names, view)
        return torch.from_numpy(np.ascontiguousarray(window.transpose(2, 0, 1)))

    return read


def view_of(preprocess: Preprocess, image: Windows) -> View | None:
    """How a whole image is shown to a network, where that is decided for each."""
    if isinstance(image, ArrayWindows):
        return preprocess.view_of(image.array)
    return preprocess.view(lambda: _bands(image))


def _bands(image: Windows) -> Iterator[np.ndarray]:
    """All of an image, band by band."""
    height, width = image.shape[:2]
    for top in range(0, height, _BAND):
        yield image.read(slice(top, min(top + _BAND, height)), slice(0, width))


def _sixteen_bits(probabilities: np.ndarray) -> np.ndarray:
    return (probabilities * 65535).round().astype(np.uint16)
