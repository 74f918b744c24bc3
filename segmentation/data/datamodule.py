"""From cached samples to batches: the only part of ``segmentation.data`` that knows Lightning."""

import os
from collections import Counter
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import cv2
import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from segmentation.cores import usable_cores
from segmentation.data.augment import Augmentation
from segmentation.data.cache import Store, decoded, prepared
from segmentation.data.corrections import Corrected
from segmentation.data.examples import (
    Batch,
    EvalSet,
    Part,
    TrainSet,
    Windows,
    draw_weights,
    fixed,
)
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Source
from segmentation.data.samplers import TrainSampler, UnrepeatedDistributedSampler
from segmentation.data.splits import PARTS, RandomSplit, Split, Splitter, straddling
from segmentation.errors import UserError
from segmentation.objects import to_gray
from segmentation.targets import Foreground, Target
from segmentation.targets.border_weights import WeightMap


class SegmentationDataModule(LightningDataModule):
    """Cache, split, crop, augment, batch. A dataset's own module only names its source.

    How images are prepared and labels are encoded belongs to the task, which keeps both in its
    checkpoint. ``fit`` and its like hand the task's own to ``preprocess`` and ``target``.

    Args:
        source: The dataset's index and reader.
        split: Assigns samples to train, val and test; ``null`` is ``RandomSplit()``. (As a default
            class it would hand its numbers on to whatever class a config chooses.)
        crop: Training window, one side or (height, width); ``null`` trains on whole images.
        zoom: Range of random magnification of the window, such as ``[0.6, 1.6]``.
        augmentation: Name of a recipe in ``segmentation.data.augment``.
        balance: 0 shows each image once an epoch. Above 0 images are drawn at random with
            probability ∝ (pixels / images of its kind) ^ balance: rare kinds and large images more
            often. 0.5 evens kinds out by the square root.
        length: Training draws per epoch; the number of training examples by default.
        copies: Train on so many fixed versions of each image, the first one as it is and the others
            augmented (and cropped) once for all: the same pixels every epoch. ``null`` augments
            anew every epoch.
        copies_in_val: Enlarge the validation images likewise. Some published studies did; the
            scores are then not those of the images.
        division: Cut each training image into a grid of so many rows and columns, and train on the
            tiles; wrap the network in ``GridTiles`` to evaluate so.
        blank: Training tiles (with division 1, images) without any object: ``"keep"`` or ``"drop"``
            them, or ``"add"`` for each image one of nothing but its background.
        empty: Images without any object: ``"keep"``; ``"drop"`` them from training; ``"balance"``
            draws images with and without objects equally often; ``"drop_everywhere"`` also leaves
            them out of validation and test, whose scores then say nothing of false alarms.
        weight: Weights of the pixels in the loss, such as ``segmentation.targets.border_weights``'.
        batch_size: Per device, in training. Evaluation takes one image at a time, at its own size.
        num_workers: Loading processes; ``null`` takes one a core, at most 8, shared by the devices.
        score_at: ``"native"`` scores at the image's own size; ``"network"`` at
            ``preprocess.resize``, as published studies with a fixed size did.
        seed: Of order, crops and augmentation, ≥ 0; ``null`` takes ``seed_everything``'s.
        cache: Folder of the decoded data; ``$SEGMENTATION_CACHE`` or the user's cache by default.
        corrections: File of samples to drop and masks to prefer, as ``segmentation audit`` writes.
        duplicates: What to do in ``fit`` when images that are equal to the pixel lie in different
            parts of the split: ``"refuse"``, or ``"allow"`` with a warning.
        fold: Cross-validate: test on this fold, 0 to ``folds`` - 1, and train and validate on the
            rest, all divided in the way of ``split``. ``null`` is the split itself.
        folds: Number of folds.
        preprocess: What is done to every image: the task's; by default ``Preprocess()``.
        target: How labels are encoded: the task's; by default ``Foreground()``.

    Raises:
        UserError: A setting is out of its range; in :meth:`setup`, where data and settings do not
            fit together.
    """

    split: Split

    def __init__(
        self,
        source: Source,
        split: Splitter | None = None,
        crop: int | tuple[int, int] | None = 256,
        zoom: tuple[float, float] = (1.0, 1.0),
        augmentation: str = "light",
        balance: float = 0.0,
        length: int | None = None,
        copies: int | None = None,
        copies_in_val: bool = False,
        division: int = 1,
        blank: Literal["keep", "drop", "add"] = "keep",
        empty: Literal["keep", "drop", "balance", "drop_everywhere"] = "keep",
        weight: WeightMap | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        score_at: Literal["native", "network"] = "native",
        seed: int | None = None,
        cache: str | None = None,
        corrections: str | None = None,
        duplicates: Literal["refuse", "allow"] = "refuse",
        fold: int | None = None,
        folds: int = 5,
        preprocess: Preprocess | None = None,
        target: Target | None = None,
    ) -> None:
        super().__init__()
        self.crop = (crop, crop) if isinstance(crop, int) else crop
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        for name, value, fits, wanted in (
            ("crop", crop, self.crop is None or min(self.crop) > 0, "positive"),
            ("zoom", zoom, 0 < zoom[0] <= zoom[1], "a range of positive magnifications"),
            ("balance", balance, balance >= 0, "at least 0"),
            ("length", length, length is None or length > 0, "positive"),
            ("copies", copies, copies is None or copies > 0, "positive"),
            ("division", division, division > 0, "positive"),
            ("batch_size", batch_size, batch_size > 0, "positive"),
            ("num_workers", num_workers, num_workers is None or num_workers >= 0, "at least 0"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
            ("folds", folds, folds > 1, "at least 2"),
            ("fold", fold, fold is None or 0 <= fold < folds, f"from 0 to {folds - 1}"),
        ):
            if not fits:
                raise UserError(f"data.{name}: {value} must be {wanted}")
        if crop is None and tuple(zoom) != (1.0, 1.0):
            raise UserError(f"data.zoom: {zoom} needs a data.crop; set one, or zoom to [1, 1]")
        if crop is not None and division > 1:
            raise UserError(
                f"data.division: {division} cuts whole images into tiles; set data.crop to null"
            )
        self.source = source if corrections is None else Corrected(source, corrections)
        self.splitter = split or RandomSplit()
        self.fold, self.folds = fold, folds
        self.zoom, self.augmentation, self.balance = zoom, augmentation, balance
        self.length, self.batch_size, self.num_workers = length, batch_size, num_workers
        self.copies, self.copies_in_val, self.division = copies, copies_in_val, division
        self.blank, self.empty, self.weight = blank, empty, weight
        self.score_at: Literal["native", "network"] = score_at
        self.cache = None if cache is None else Path(cache)
        self.duplicates = duplicates
        self.preprocess, self.target = preprocess or Preprocess(), target or Foreground()
        Augmentation(augmentation)  # an unknown name is refused before any work is done

    def prepare_data(self) -> None:
        """Fill the cache: on one process, while the others wait."""
        self._open()

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, split, and check that data and settings fit together.

        Raises:
            UserError: They do not, or a file is at fault. What would stop the test after a training
                is found before it.
        """
        self.raw, store = self._open()
        self.prepared = store
        self._places = {entry.id: i for i, entry in enumerate(store.entries)}
        if self.fold is None:
            split = self.splitter(store.entries)
        else:
            split = self.splitter.fold(store.entries, self.fold, self.folds)
        self.split = self._without_empty(split)
        self.parts = {name: Part(store, getattr(self.split, name)) for name in PARTS}
        if stage in ("fit", None):
            self._check("train")
            self._check_crop(self.parts["train"])
            self._check_duplicates()
            self._training = self._train_set()
        if stage in ("fit", "validate", None):
            self._check("val")
        if stage == "test" or (stage in ("fit", None) and self.split.test):
            self._check("test")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented windows, in an order drawn anew each epoch; an incomplete batch is dropped."""
        data = self._training
        weights = None
        if self.balance > 0 or self.empty == "balance":
            weights = draw_weights(data.entries, self.balance, self.empty == "balance")
        rank, world = self._rank()
        sampler = TrainSampler(len(data), self.seed, weights, self.length, rank, world)
        size = min(self.batch_size, len(sampler))
        return self._loader(data, sampler, size, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Each validation image once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Each test image once."""
        return self._eval_loader("test")

    def gray(self, name: str) -> np.ndarray:
        """The image called ``name`` as it was read: (H, W) gray, uint8 or uint16, as scored."""
        image = self.raw[self._places[name]].image
        if self.score_at == "network":
            image = self.preprocess.fit_image(image)
        return to_gray(image)

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The prepared (H, W, C) uint8 image and its true (H, W) foreground, as scored."""
        sample = self.prepared[self._places[name]]
        assert sample.labels is not None
        if self.score_at == "network":
            return sample.image, self.preprocess.fit_labels(sample.labels) > 0
        whole = replace(self.preprocess, crop=None, resize=None)
        return whole.prepare(self.raw[self._places[name]].image), sample.labels > 0

    def _train_set(self) -> TrainSet:
        """The training examples."""
        windows = Windows(self.augmentation, self.crop, self.zoom, self.seed)
        samples: Part | Store = self.parts["train"]
        if self.copies is not None or self.blank == "add" or self.weight is not None:
            samples = self._fixed("train", windows, self.blank == "add")
        return TrainSet(
            samples,
            self.preprocess,
            self.target,
            windows,
            self.copies is not None,
            self.division,
            self.blank != "drop",
        )

    def _fixed(self, name: str, windows: Windows, blank: bool = False) -> Store:
        return fixed(
            self.parts[name], self.preprocess, windows, self.copies, blank, self.weight, self.cache
        )

    def _eval_loader(self, name: str) -> DataLoader[Batch]:
        rank, world = self._rank()
        samples: Part | Store = self.parts[name]
        if name == "val" and self.copies is not None and self.copies_in_val:
            samples = self._fixed("val", Windows(self.augmentation, None, (1.0, 1.0), self.seed))
        data = EvalSet(samples, self.preprocess, self.target, self.score_at, self.weight)
        # No padding: 13 images on 2 processes are scored as 13. Being a DistributedSampler
        # already, it is not replaced by Lightning.
        sampler = UnrepeatedDistributedSampler(data, world, rank, shuffle=False)
        return self._loader(data, sampler, batch_size=1, drop_last=False)

    def _loader(
        self, data: Dataset[Any], sampler: Any, batch_size: int, drop_last: bool
    ) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            workers = min(8, usable_cores()) // self._rank()[1]
        return DataLoader(
            data,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
            # Its own, or each loader's start would draw from the global one: a resumed run starts
            # them at other times than an undisturbed one.
            generator=torch.Generator(),
        )

    def _open(self) -> tuple[Store, Store]:
        raw = decoded(self.source, self.cache)
        return raw, prepared(raw, self.preprocess.prepare_sample, self.preprocess.key, self.cache)

    def _rank(self) -> tuple[int, int]:
        return (
            (0, 1) if self.trainer is None else (self.trainer.global_rank, self.trainer.world_size)
        )

    def _check(self, name: str) -> None:
        part, (_, world) = self.parts[name], self._rank()
        if len(part) == 0:
            raise UserError(
                f"{self.source.name}: the split leaves no image in {name}; change data.split"
            )
        if len(part) < world:
            raise UserError(
                f"{self.source.name}: {len(part)} image(s) in {name} for {world} processes; "
                "lower trainer.devices or enlarge the part"
            )
        for entry in part.entries:
            if entry.labels is None:
                raise UserError(
                    f"{self.source.name}: {entry.id} is in {name} but has no mask; add it, or "
                    "leave the image out of the split"
                )
        if self.score_at == "network" and not (self.preprocess.resize or self.preprocess.crop):
            raise UserError(
                "data.score_at: network needs model.preprocess.resize or model.preprocess.crop"
            )

    def _without_empty(self, split: Split) -> Split:
        if self.empty not in ("drop", "drop_everywhere"):
            return split
        empty = {entry.id for entry in self.prepared.entries if entry.objects == 0}
        kept = {
            name: tuple(i for i in getattr(split, name) if i not in empty)
            for name in (PARTS if self.empty == "drop_everywhere" else ("train",))
        }
        return replace(split, **kept)

    def _check_duplicates(self) -> None:
        """Refuse images that are equal to the pixel and lie in different parts."""
        found = straddling({entry.id: entry.digest for entry in self.raw.entries}, self.split)
        if not found:
            return
        first, second = found[0][:2]
        what = (
            f"{self.source.name}: {len(found)} group(s) of identical images lie in more than one "
            f"part of the split (such as {first} and {second}): scores would be too good"
        )
        if self.duplicates == "refuse":
            raise UserError(
                f"{what}; drop them by data.corrections (see segmentation audit), or set "
                "data.duplicates to allow"
            )
        rank_zero_warn(what)

    def _check_crop(self, part: Part) -> None:
        shapes = Counter(tuple(entry.image[1][:2]) for entry in part.entries)
        if self.crop is None:
            if len(shapes) > 1 and self.batch_size > 1:
                raise UserError(
                    f"data.crop: null needs images of one size, these have {len(shapes)} (such as "
                    f"{', '.join('×'.join(map(str, s)) for s in list(shapes)[:2])}); set a crop, "
                    "model.preprocess.resize, or batch_size 1"
                )
            return
        height, width = (max(s[i] for s in shapes) for i in (0, 1))
        if self.crop[0] > height and self.crop[1] > width:
            raise UserError(
                f"data.crop: {self.crop[0]}×{self.crop[1]} is larger than every image (at most "
                f"{height}×{width}, H×W); lower it"
            )


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism
