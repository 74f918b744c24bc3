"""What the published studies need beside an ordinary training: fixed copies, tiles, blank images.

``configs/reproduce`` uses it. A study's data module takes any dataset as its ``source``; a network
that was trained on tiles is wrapped in :class:`GridTiles`.
"""

import json
import threading
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, Literal

import numpy as np
import torch
from lightning import Callback
from torch import Tensor, nn

from segmentation.data.annotated import AnnotatedPixels
from segmentation.data.augment import Augmentation
from segmentation.data.cache import SampleStore, StoredSample, derived
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.examples import EvalSet, Samples, TrainSet, TrainWindows, weigh
from segmentation.data.sample import PARTS, Sample, SegmentationDataset, Split
from segmentation.errors import UserError
from segmentation.inference import network_stride
from segmentation.models.blocks import check_positive

VERSION = 2  # raise when fixed copies get other pixels for the same settings


class StudyDataModule(SegmentationDataModule):
    """Any dataset, treated as a published study did.

    Args:
        source: The dataset.
        copies: Train on so many fixed versions of each image, the first one as it is and the others
            augmented (and cropped) once for all: the same pixels every epoch. ``null`` augments
            anew every epoch.
        copies_in_val: Enlarge the validation images likewise. The scores are then not those of the
            images.
        division: Cut each training image into a grid of so many rows and columns, and train on the
            tiles; wrap the network in :class:`GridTiles` to evaluate so.
        blank: Training tiles (or undivided images) without any object: ``"keep"`` or ``"drop"``
            them, or ``"add"`` for each image one of nothing but its background.
        empty: Images without any object: ``"keep"``; ``"drop"`` them from training;
            ``"drop_everywhere"`` also leaves them out of validation and test, whose scores then say
            nothing of false alarms.
        score_at: ``"native"`` scores at the image's own size, ``"network"`` at that of
            ``preprocess.resize`` or ``crop``.
        kwargs: See :class:`SegmentationDataModule`.

    Raises:
        UserError: A setting is out of its range, or does not fit the data.
    """

    def __init__(
        self,
        source: SegmentationDataset,
        copies: int | None = None,
        copies_in_val: bool = False,
        division: int = 1,
        blank: Literal["keep", "drop", "add"] = "keep",
        empty: Literal["keep", "drop", "drop_everywhere"] = "keep",
        score_at: Literal["native", "network"] = "native",
        **kwargs: Any,
    ) -> None:
        super().__init__(source, **kwargs)
        for name, value in (("copies", copies), ("division", division)):
            if value is not None and value < 1:
                raise UserError(f"data.{name}: {value} must be positive")
        if self.windows.crop is not None and division > 1:
            raise UserError(
                f"data.division: {division} cuts whole images into tiles; set data.crop to null"
            )
        self.copies, self.copies_in_val, self.division = copies, copies_in_val, division
        self.blank, self.empty, self.native = blank, empty, score_at == "native"

    def setup(self, stage: str | None = None) -> None:
        if not (self.native or self.preprocess.resize or self.preprocess.crop):
            raise UserError(
                "data.score_at: network needs model.preprocess.resize or model.preprocess.crop"
            )
        super().setup(stage)

    def divided(self, entries: Sequence[StoredSample]) -> Split:
        split = super().divided(entries)
        parts = {"keep": (), "drop": ("train",), "drop_everywhere": PARTS}[self.empty]
        full = {entry.id for entry in entries if entry.objects != 0}
        return replace(
            split, **{p: tuple(filter(full.__contains__, getattr(split, p))) for p in parts}
        )

    def training_set(self) -> TrainSet:
        samples: Samples = self.parts["train"]
        if self.copies is not None or self.blank == "add" or self.weight is not None:
            samples = self._fixed("train", self.windows, self.blank == "add")
        if self.division > 1 or self.blank == "drop":
            samples = TiledSamples(samples, self.division, self.blank != "drop")
        windows = self.windows if self.copies is None else None
        return TrainSet(samples, self.target, windows, self.preprocess)

    def evaluation_set(self, name: str) -> EvalSet:
        samples: Samples = self.parts[name]
        if name == "val" and self.copies is not None and self.copies_in_val:
            samples = self._fixed("val", replace(self.windows, crop=None))
        return EvalSet(samples, self.target, self.weight, self.native, self.groups)

    def pixels(self, name: str) -> np.ndarray:
        if self.native:
            return super().pixels(name)
        return self.preprocess.fit_image(self.raw[self._places[name]].image)

    def truth(self, name: str) -> np.ndarray:
        return super().truth(name) if self.native else self.shown(name)[1]

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        if self.native:
            return super().shown(name)
        sample = self.prepared[self._places[name]]
        assert sample.labels is not None
        return sample.image, sample.labels, None

    def _fixed(self, name: str, windows: TrainWindows, blank: bool = False) -> SampleStore:
        """What does not change from epoch to epoch, computed once and cached.

        Each image comes ``copies`` times: as it is, then in other windows and augmentations, drawn
        as those of a training without copies but with the epoch left out of the seed. With
        ``blank`` it is followed by one of nothing but its background. In training, pixels get the
        weights of the labels that come out.
        """
        part, copies = self.parts[name], self.copies
        weight = self.weight if name == "train" else None
        augmentation = None
        if copies is not None:
            augmentation = Augmentation(windows.augmentation, self.preprocess.in_channels)
        numbers = [*range(copies or 1), *([-1] if blank else [])]
        pixels, one_at_a_time = AnnotatedPixels(part.entries), threading.Lock()
        items = [(place, i, copy) for i, place in enumerate(part.places) for copy in numbers]

        def make(item: tuple[int, int, int]) -> Sample:
            place, index, copy = item
            sample = part.prepared[place]
            rng = np.random.default_rng([windows.seed, index, abs(copy), copy < 0])
            if copy < 0:
                sample = blank_image(sample, rng)
            if copies is not None:
                assert sample.labels is not None
                pixel = None if copy < 0 else pixels.draw(index, sample.labels, rng)
                with one_at_a_time:  # the steps of a recipe keep their source of random numbers
                    sample = windows.cut(sample, augmentation if copy > 0 else None, rng, pixel)
            if copy != 0:
                sample = replace(sample, id=f"{sample.id}#{'blank' if copy < 0 else copy}")
            return sample if weight is None else weigh(sample, weight)

        about = [VERSION, None if weight is None else weight.key]
        # A recipe's name does not say what it does, so what it does enters the key.
        about += [repr(augmentation), str((windows.crop, windows.zoom, windows.seed))]
        return derived(part.prepared, make, items, "training", json.dumps(about), self.cache)


class TiledSamples:
    """Samples cut into a grid of ``division`` × ``division`` tiles, each a sample."""

    def __init__(self, samples: Samples, division: int, keep_blank: bool = True) -> None:
        self.samples, self.division = samples, division
        for entry in samples.entries:
            height, width = entry.image[1][:2]
            if height % division or width % division:
                raise UserError(
                    f"data.division: {division}×{division} tiles do not divide {entry.id} of "
                    f"{height}×{width} (H×W); set model.preprocess.resize or crop to multiples of "
                    f"{division}"
                )
        grid = range(division)
        self.tiles = [(i, r, c) for i in range(len(samples)) for r in grid for c in grid]
        if not keep_blank:
            self.tiles = [t for t in self.tiles if np.any(self._tile(*t).labels > 0)]  # type: ignore[operator]
            if not self.tiles:
                raise UserError("data.blank: drop leaves nothing to train on; use keep")

    def __len__(self) -> int:
        return len(self.tiles)

    def __getitem__(self, i: int, /) -> Sample:
        return self._tile(*self.tiles[i])

    @property
    def entries(self) -> list[StoredSample]:
        """The entry of each tile's sample."""
        entries = self.samples.entries
        return [entries[place] for place, _, _ in self.tiles]

    def _tile(self, place: int, row: int, column: int) -> Sample:
        sample = self.samples[place]
        rows, columns = (side // self.division for side in sample.image.shape[:2])
        window = np.s_[row * rows : (row + 1) * rows, column * columns : (column + 1) * columns]
        labels, weight = (a if a is None else a[window] for a in (sample.labels, sample.weight))
        return replace(sample, image=sample.image[window], labels=labels, weight=weight)


def blank_image(sample: Sample, rng: np.random.Generator) -> Sample:
    """An image of the same size whose pixels are all drawn from this one's background."""
    labels, image = sample.labels, sample.image
    assert labels is not None
    background = image[labels == 0]
    if len(background) == 0:
        background = np.zeros((1, image.shape[2]), image.dtype)
    drawn = background[rng.integers(len(background), size=labels.shape)]
    return replace(sample, image=drawn, labels=np.zeros_like(labels))


class GridTiles(nn.Module):
    """Any network, which evaluates an image in ``division`` × ``division`` tiles.

    For networks trained on such tiles (``data.division``): in training it passes batches through,
    as they are tiles already. In evaluation each tile is answered by itself, so that a network sees
    no more around a pixel than in training; nothing overlaps and nothing is blended. Images whose
    sides are no multiples of ``stride`` are padded before, so that all tiles are alike.

    Args:
        net: (B, C, h, w) ► logits (B, K, h, w). Its parameters stand under ``tile_net`` in the
            state dict.
        division: Tiles per row and per column, ≥ 1.
        tile_batch: Tiles that the network gets at once, ≥ 1, which bounds the memory.

    Attributes:
        in_channels, classes: The network's, or ``None`` if it does not tell.
        stride: What height and width must be multiples of in evaluation.
        train_stride: The same of the tiles in training.
        whole_image: It divides whole images itself: prediction must not cut them.

    >>> GridTiles(nn.Conv2d(1, 2, 3, padding=1), 2).eval()(torch.zeros(1, 1, 8, 6)).shape
    torch.Size([1, 2, 8, 6])
    """

    whole_image = True

    def __init__(self, net: nn.Module, division: int, tile_batch: int = 64) -> None:
        super().__init__()
        check_positive(division=division, tile_batch=tile_batch)
        self.tile_net, self.division, self.tile_batch = net, division, tile_batch
        encoder = getattr(net, "encoder", None)
        inputs = getattr(net, "in_channels", getattr(encoder, "in_channels", None))
        self.in_channels: int | None = inputs
        self.classes: int | None = getattr(net, "classes", None)
        self.train_stride = network_stride(net)
        self.stride = division * self.train_stride

    def forward(self, image: Tensor) -> Any:
        """(B, C, H, W) float, in training tiles ► logits (B, K, H, W), in training the network's.

        In evaluation, H or W that is no multiple of ``division`` is a ``ValueError``.
        """
        if self.training:
            return self.tile_net(image)
        n, (batch, channels, height, width) = self.division, image.shape
        if height % n or width % n:
            raise ValueError(f"{n}x{n} tiles do not divide an image of {height}x{width}")
        grid = image.reshape(batch, channels, n, height // n, n, width // n)
        tiles = grid.permute(0, 2, 4, 1, 3, 5).flatten(0, 2)  # row by row of each image
        logits = torch.cat([self.tile_net(some) for some in torch.split(tiles, self.tile_batch)])
        grid = logits.reshape(-1, n, n, *logits.shape[1:])
        return grid.permute(0, 3, 1, 4, 2, 5).flatten(4, 5).flatten(2, 3)


class SameTiles(Callback):
    """Refuses to train on other tiles than the network evaluates in."""

    def on_train_start(self, trainer: Any, pl_module: Any) -> None:
        data, net = trainer.datamodule, pl_module.net
        trained, answered = (getattr(one, "division", 1) for one in (data, net))
        if trained != answered:
            raise UserError(
                f"data.division is {trained} but model.net.division is {answered}: train and "
                "evaluate on the same tiles"
            )
