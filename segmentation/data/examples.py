"""From cached samples to single examples: windows, fixed copies, grid tiles, encoding."""

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmentation.data.augment import Augmentation, random_crop
from segmentation.data.cache import Entry, Store, derived
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.data.samplers import Draw
from segmentation.errors import UserError
from segmentation.targets import Target
from segmentation.targets.border_weights import WeightMap

VERSION = 1  # raise when fixed() gives other pixels for the same settings


class Batch(TypedDict, total=False):
    """What the task receives.

    Keys:
        image: (B, C, H, W) uint8, after :meth:`Preprocess.prepare`.
        target: What ``Target.encode`` made of the labels, at the image's size.
        weight: (B, H, W) float32 weights of the pixels in the loss, where ``data.weight`` is set.
        labels: (B, H', W') int32 instance ids at the size that is scored (evaluation).
        id, kind, group: As in :class:`Sample`; the group in evaluation.
    """

    image: Tensor
    target: Tensor
    weight: Tensor
    labels: Tensor
    id: list[str]
    kind: list[str]
    group: list[str]


class Part:
    """The samples of one part of a split, by position."""

    def __init__(self, store: Store, ids: tuple[str, ...]) -> None:
        place = {entry.id: i for i, entry in enumerate(store.entries)}
        self.store = store
        self.places = [place[name] for name in ids]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int) -> Sample:
        return self.store[self.places[i]]

    @property
    def entries(self) -> list[Entry]:
        """What the cache knows of each sample without reading it."""
        return [self.store.entries[place] for place in self.places]


@dataclass(frozen=True)
class Windows:
    """How training examples are cut from images and augmented.

    Attributes:
        augmentation: Applied after the crop.
        crop: (height, width) of a random window, or ``None`` for the whole image.
        zoom: Range of random magnification of the window.
        seed: Of the run.
    """

    augmentation: str
    crop: tuple[int, int] | None
    zoom: tuple[float, float]
    seed: int

    def cut(
        self,
        sample: Sample,
        augmentation: Augmentation | None,
        rng: np.random.Generator,
    ) -> Sample:
        """One window, augmented unless ``augmentation`` is ``None``."""
        image, labels, weight = sample.image, sample.labels, sample.weight
        assert labels is not None  # checked for the whole part by the data module
        if self.crop is not None:
            image, labels, weight = random_crop(image, labels, weight, self.crop, rng, self.zoom)
        if augmentation is not None:
            image, labels, weight = augmentation(image, labels, weight, rng)
        return replace(sample, image=image, labels=labels, weight=weight)


def fixed(
    part: Part,
    preprocess: Preprocess,
    windows: Windows,
    copies: int | None,
    blank: bool,
    weight: WeightMap | None,
    folder: Path | None,
) -> Store:
    """What does not change from epoch to epoch, computed once and cached.

    Labels are brought to the size the network sees. With ``copies``, each image comes so often: as
    it is, then in other windows and augmentations, drawn as those of a training without copies are
    but with the epoch left out of the seed. With ``blank``, each image is followed by one of
    nothing but its background. Weights are those of the labels that come out.

    Args:
        part: Prepared samples with labels.
        preprocess: That of the task.
        windows: Crop, zoom and augmentation of the copies.
        copies: How many of each image, the first one unchanged; ``None`` leaves that to training.
        blank: Add a blank image for each.
        weight: Weights the pixels, or ``None``.
        folder: Of the cache.
    """
    augmentation = None
    if copies is not None:
        augmentation = Augmentation(windows.augmentation, preprocess.channels)
    items = [
        (place, i, copy)
        for i, place in enumerate(part.places)
        for copy in [*range(copies or 1), *([-1] if blank else [])]
    ]

    def make(item: tuple[int, int, int]) -> Sample:
        place, index, copy = item
        sample = part.store[place]
        assert sample.labels is not None
        sample = replace(sample, labels=preprocess.fit_labels(sample.labels))
        rng = np.random.default_rng([windows.seed, index, abs(copy), copy < 0])
        if copy < 0:
            sample = _blank(sample, rng)
        if copies is not None:
            sample = windows.cut(sample, augmentation if copy > 0 else None, rng)
        labels = sample.labels
        assert labels is not None
        name = sample.id if copy == 0 else f"{sample.id}#{'blank' if copy < 0 else copy}"
        weights = None if weight is None else weight(labels)
        return replace(sample, id=name, weight=weights)

    about = [VERSION, preprocess.key, None if weight is None else weight.key]
    if augmentation is not None:
        # A recipe's name does not say what it does, so what it does enters the key.
        about += [repr(augmentation), str((windows.crop, windows.zoom, windows.seed))]
    elif blank:
        about += [str(windows.seed)]
    return derived(part.store, make, items, "training", json.dumps(about), folder)


def _blank(sample: Sample, rng: np.random.Generator) -> Sample:
    """An image of the same size whose pixels are all drawn from this one's background."""
    labels, image = sample.labels, sample.image
    assert labels is not None
    background = image[labels == 0]
    if len(background) == 0:
        background = np.zeros((1, image.shape[2]), image.dtype)
    drawn = background[rng.integers(len(background), size=labels.shape)]
    return replace(sample, image=drawn, labels=np.zeros_like(labels))


class TrainSet(Dataset[dict[str, Any]]):
    """One seed per (run, epoch, sample); each item is one example of a :class:`Batch`.

    Args:
        samples: Prepared samples with labels, or what :func:`fixed` made of them.
        preprocess: That of the task.
        target: Encodes the labels.
        windows: Crop and augmentation, for samples that are not fixed copies.
        copies: Samples are fixed copies: nothing is drawn any more.
        division: Cut each sample into a grid of so many rows and columns; each tile is an example.
        keep_blank: Keep tiles without any object.

    Raises:
        UserError: Tiles do not divide an image, or none is left.
    """

    def __init__(
        self,
        samples: Part | Store,
        preprocess: Preprocess,
        target: Target,
        windows: Windows,
        copies: bool = False,
        division: int = 1,
        keep_blank: bool = True,
    ) -> None:
        self.samples, self.preprocess, self.target = samples, preprocess, target
        self.windows, self.copies, self.division = windows, copies, division
        self.augmentation = None
        if not copies:
            self.augmentation = Augmentation(windows.augmentation, preprocess.channels)
        self.tiles = self._tiles(keep_blank)

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        place, row, column = self.tiles[draw.index]
        sample = self._tile(place, row, column)
        if not self.copies:
            sample = self.windows.cut(sample, self.augmentation, draw.rng(self.windows.seed))
        assert sample.labels is not None
        item = {
            "image": _tensor(sample.image),
            "target": self.target.encode(sample.labels.astype(np.int32)),
            "id": sample.id,
            "kind": sample.kind,
        }
        if sample.weight is not None:
            item["weight"] = torch.from_numpy(sample.weight.copy())
        return item

    @property
    def entries(self) -> list[Entry]:
        """The entry of each example's sample."""
        entries = self.samples.entries
        return [entries[place] for place, _, _ in self.tiles]

    def _tiles(self, keep_blank: bool) -> list[tuple[int, int, int]]:
        count = self.division
        for entry in self.samples.entries if count > 1 else ():
            height, width = entry.image[1][:2]
            if height % count or width % count:
                raise UserError(
                    f"data.division: {count}×{count} tiles do not divide {entry.id} of {height}×"
                    f"{width} (H×W); set model.preprocess.resize or crop to multiples of {count}"
                )
        grid = range(count)
        tiles = [(i, r, c) for i in range(len(self.samples)) for r in grid for c in grid]
        if not keep_blank:
            tiles = [tile for tile in tiles if _has_objects(self._tile(*tile))]
            if not tiles:
                raise UserError("data.blank: drop leaves nothing to train on; use keep")
        return tiles

    def _tile(self, place: int, row: int, column: int) -> Sample:
        sample = self.samples[place]
        labels = _fitted(self.samples, sample, self.preprocess)
        height, width = labels.shape
        rows, columns = height // self.division, width // self.division
        window = np.s_[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        weight = None if sample.weight is None else sample.weight[window]
        return replace(sample, image=sample.image[window], labels=labels[window], weight=weight)


class EvalSet(Dataset[dict[str, Any]]):
    """Whole images, in order, with their labels at the size that is scored.

    Each item is one example of a :class:`Batch`.
    """

    def __init__(
        self,
        samples: Part | Store,
        preprocess: Preprocess,
        target: Target,
        score_at: Literal["native", "network"],
        weight: WeightMap | None = None,
    ) -> None:
        self.samples, self.preprocess, self.target = samples, preprocess, target
        self.score_at, self.weight = score_at, weight

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        seen = _fitted(self.samples, sample, self.preprocess)
        scored = sample.labels if self.score_at == "native" else seen
        assert scored is not None
        item = {
            "image": _tensor(sample.image),
            "target": self.target.encode(seen.astype(np.int32)),
            "labels": torch.from_numpy(scored.astype(np.int32)),
            "id": sample.id,
            "kind": sample.kind,
            "group": sample.group,
        }
        if self.weight is not None:
            item["weight"] = torch.from_numpy(self.weight(seen))
        return item


def draw_weights(entries: Sequence[Entry], power: float, balance_empty: bool) -> list[float]:
    """How often each example is drawn, relative to the others.

    ∝ (pixels / examples of its kind) ^ ``power``; with ``balance_empty``, scaled so that images
    with and without objects come equally often.
    """
    counts = Counter(entry.kind for entry in entries)
    weights = np.array(
        [(np.prod(e.image[1][:2]) / counts[e.kind]) ** power for e in entries], dtype=float
    )
    empty = np.array([e.objects == 0 for e in entries])
    if balance_empty and empty.any() and not empty.all():
        for half in (empty, ~empty):
            weights[half] /= weights[half].sum()
    return [float(weight) for weight in weights]


def _fitted(samples: Part | Store, sample: Sample, preprocess: Preprocess) -> np.ndarray:
    """Labels at the size of the image, which those made by :func:`fixed` have already."""
    assert sample.labels is not None
    return preprocess.fit_labels(sample.labels) if isinstance(samples, Part) else sample.labels


def _has_objects(sample: Sample) -> bool:
    return sample.labels is not None and bool(sample.labels.any())


def _tensor(image: np.ndarray) -> Tensor:
    # Always a copy: the image may be the read-only file itself, which a tensor could write to.
    return torch.from_numpy(image.transpose(2, 0, 1).copy(order="C"))
