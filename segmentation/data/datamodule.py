"""From stored samples to batches: the only part of ``segmentation.data`` that knows Lightning."""

import json
import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from lightning import LightningDataModule
from lightning.pytorch.overrides.distributed import UnrepeatedDistributedSampler
from lightning.pytorch.utilities import rank_zero_warn
from torch.utils.data import DataLoader, Dataset

from segmentation.data.augment import Augmentation
from segmentation.data.cache import (
    SampleStore,
    StoredSample,
    decoded,
    derived,
    prepared,
    usable_cores,
)
from segmentation.data.classes import check_classes, class_levels
from segmentation.data.consistency import check_channels, check_crop, check_part, leaking_stacks
from segmentation.data.corrections import Corrected
from segmentation.data.examples import Batch, EvalSet, SampleSubset, TrainSet, TrainWindows, weigh
from segmentation.data.masks import Doubt, Finding, cautions, doubts
from segmentation.data.parts import read_fold
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import PARTS, Source, Split, straddling, thinned
from segmentation.data.samplers import Sampling, TrainSampler
from segmentation.data.sources import (
    APART,
    SourceSplit,
    about_test,
    check_known,
    torn_sources,
    with_sources,
)
from segmentation.data.splits import ListSplit, RandomSplit, Splitter
from segmentation.errors import UserError
from segmentation.objects import to_gray
from segmentation.targets import Foreground, Target
from segmentation.targets.border_weights import WeightMap


@dataclass(frozen=True)
class DataFiles:
    """How the files of a dataset are corrected and kept.

    Attributes:
        corrections: File of samples to drop and masks to prefer, as ``segmentation audit`` writes.
        allow: What is doubtful but right here, by its word in the message: ``duplicates`` (images
            equal to the pixel in different parts of the split; refused by ``fit`` alone),
            ``images`` (masks equal to their images), ``no_objects``, ``no_background``,
            ``inverted``, ``smooth``, ``reused_ids``, ``classes``. What would be refused is a
            warning then, and a warning is silent.
        cache: Folder of the decoded data; ``$SEGMENTATION_CACHE`` or the user's cache by default.
    """

    corrections: str | None = None
    allow: list[Doubt] = field(default_factory=list)
    cache: str | None = None


class SegmentationDataModule(LightningDataModule):
    """Cache, split, crop, augment, batch. A dataset's own module only names its source.

    How images are prepared and labels are encoded belongs to the task, which keeps both in its
    checkpoint; the commands hand its own to ``preprocess`` and ``target``.

    Args:
        source: The dataset's index and reader.
        split: Assigns samples to train, val and test; ``null`` is ``RandomSplit()``. (As a default
            class it would hand its numbers on to whatever class a config chooses.)
        fold: Cross-validate: ``"K/N"`` tests on fold K (from 0) of N and trains and validates on
            the rest, all divided in the way of ``split``. ``null`` is the split itself.
        crop: Training window, one side or (height, width); ``null`` trains on whole images.
        zoom: Range of random magnification of the window, such as ``[0.6, 1.6]``.
        augmentation: Name of a recipe in ``segmentation.data.augment``.
        sampling: Which training images are drawn, and how often.
        weight: Weights of the pixels in the loss, such as ``segmentation.targets.border_weights``'.
        batch_size: Per device, in training. Evaluation takes one image at a time, at its own size.
        num_workers: Loading processes; ``null`` takes one a core, at most 8, shared by the devices.
        files: Corrections of the dataset, what is doubtful in it but right, and its cache.
        preprocess: What is done to every image: the task's; by default ``Preprocess()``.
        target: How labels are encoded: the task's; by default ``Foreground()``.

    A setting out of its range is a :class:`UserError`.
    """

    split: Split

    def __init__(
        self,
        source: Source,
        split: Splitter | None = None,
        fold: str | None = None,
        crop: int | tuple[int, int] | None = 256,
        zoom: tuple[float, float] = (1.0, 1.0),
        augmentation: str = "light",
        sampling: Sampling = Sampling(),
        weight: WeightMap | None = None,
        batch_size: int = 8,
        num_workers: int | None = None,
        files: DataFiles = DataFiles(),
        preprocess: Preprocess | None = None,
        target: Target | None = None,
    ) -> None:
        super().__init__()
        sides = (crop, crop) if isinstance(crop, int) else crop
        seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if sampling.seed is None else sampling.seed
        length, balance, pasted = sampling.length, sampling.balance, sampling.copy_paste
        for name, value, fits, wanted in (
            ("crop", crop, sides is None or min(sides) > 0, "positive"),
            ("zoom", zoom, 0 < zoom[0] <= zoom[1], "a range of positive magnifications"),
            ("zoom", zoom, crop or tuple(zoom) == (1, 1), "[1, 1] without a data.crop; set one"),
            ("sampling.balance", balance, balance >= 0, "at least 0"),
            ("sampling.length", length, length is None or length > 0, "positive"),
            ("sampling.seed", seed, seed >= 0, "at least 0"),
            ("sampling.copy_paste", pasted, 0 <= pasted <= 1, "a probability"),
            ("sampling.copy_paste", pasted, not (pasted and weight), "0 with data.weight"),
            ("batch_size", batch_size, batch_size > 0, "positive"),
            ("num_workers", num_workers, num_workers is None or num_workers >= 0, "at least 0"),
        ):
            if not fits:
                raise UserError(f"data.{name}: {value} must be {wanted}")
        self.fold = None if fold is None else read_fold(fold)
        self.source = Corrected(source, files.corrections) if files.corrections else source
        self.splitter = split or RandomSplit()
        self.windows = TrainWindows(augmentation, sides, zoom, seed, pasted)
        Augmentation(augmentation)  # an unknown name is refused before any work is done
        self.sampling, self.weight = sampling, weight
        self.drawn_more: dict[str, float] = {}  # id ► by which; see HardExamples
        self.batch_size, self.num_workers = batch_size, num_workers
        self.allow, self._told = frozenset(files.allow), set[str]()
        self.cache = None if files.cache is None else Path(files.cache)
        self.preprocess, self.target = preprocess or Preprocess(), target or Foreground()

    def prepare_data(self) -> None:
        """Fill the cache: on one process, while the others wait."""
        self._prepared()

    def setup(self, stage: str | None = None) -> None:
        """Open the cache, split, and check that data and settings fit together.

        A :class:`UserError` where they do not, or a file is at fault. What would stop the test
        after a training is found before it.
        """
        self.prepared = self._prepared()
        self._places = {entry.id: i for i, entry in enumerate(self.raw.entries)}
        self.split = self.divided(self.raw.entries)
        places = {name: [self._places[i] for i in getattr(self.split, name)] for name in PARTS}
        self.parts = {k: SampleSubset(self.prepared, self.raw, v) for k, v in places.items()}
        fits = stage in ("fit", None)
        if fits:
            self._check("train")
            shapes = (entry.image[1][:2] for entry in self.parts["train"].entries)
            check_crop(self.windows.crop, shapes, self.batch_size)
            self._check_duplicates()
            self._training = self.training_set()
            self._tell(self._training.without_objects())
        if fits or stage == "validate":
            self._check("val")
        if stage == "test" or (fits and self.split.test):
            self._check("test")
        self._check_masks()
        self._tell(leaking_stacks(self.raw.entries, self.split))
        if isinstance(self.splitter, ListSplit):  # of others it is what was asked for
            self._tell(torn_sources(self.sources, self.split))
        named = getattr(self.source, "class_names", ())
        self._tell(check_classes(self.raw, places, self.target, named))

    @property
    def content(self) -> str:
        """The key of all images and masks: other ones, another key."""
        return self.raw.folder.name

    @property
    def digests(self) -> dict[str, str]:
        """Id ► digest of the image's pixels; not of duplicates that are allowed across parts."""
        digests = {entry.id: entry.digest for entry in self.raw.entries}
        if "duplicates" in self.allow:
            twins = {image for ids in straddling(digests, self.split) for image in ids}
            digests = {image: one for image, one in digests.items() if image not in twins}
        return digests

    def divided(self, entries: Sequence[StoredSample]) -> Split:
        """The parts of all samples."""
        if isinstance(self.splitter, SourceSplit):  # the others go by what the files tell alone
            entries = with_sources(entries, self.source)
        if self.fold is None:
            return self.splitter(entries)
        return self.splitter.fold(entries, *self.fold)

    @cached_property
    def sources(self) -> dict[str, str]:
        """Id ► what each image was acquired with, ``""`` where that is not known."""
        return self.splitter.sources_of(with_sources(self.raw.entries, self.source))

    @property
    def groups(self) -> dict[str, str]:
        """Id ► by which intervals are drawn: groups of files; others where none was trained on."""
        if about_test(self.sources, self.split.train, self.split.test) == APART:
            return self.sources
        return {entry.id: entry.group for entry in self.raw.entries}

    def training_set(self) -> TrainSet:
        """The training examples."""
        part, store, weight = self.parts["train"], self.prepared, self.weight
        samples: Any = part
        if weight is not None:  # computed once and cached
            about = (part.places, "weighted", weight.key, self.cache)
            samples = derived(store, lambda i: weigh(store[i], weight), *about)
        return TrainSet(samples, self.target, self.windows, self.preprocess)

    def evaluation_set(self, name: str) -> EvalSet:
        """The examples of ``val`` or ``test``."""
        return EvalSet(self.parts[name], self.target, self.weight, groups=self.groups)

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented windows, in an order drawn anew each epoch; an incomplete batch is dropped."""
        data, sampling = self._training, self.sampling
        about = self.windows.seed, self.drawn(), sampling.length
        sampler = TrainSampler(len(data), *about, *self._rank())
        return self._loader(data, sampler, min(self.batch_size, len(sampler)), drop_last=True)

    def drawn(self) -> list[float] | None:
        """How often each training example is drawn, relative to the others; ``None``: each once."""
        sources = self.sources if self.sampling.balance_by == "source" else None
        if sources is not None:
            check_known(sources, self.split.train)
        return self.sampling.weights(self._training.samples.entries, self.drawn_more, sources)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Each validation image once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Each test image once."""
        return self._eval_loader("test")

    def pixels(self, name: str) -> np.ndarray:
        """The image called ``name``, (H, W, C) uint8 or uint16, as baselines look at it.

        It is as it was read; of chosen channels it is their mean, each stretched by itself.
        """
        if isinstance(self.preprocess.channels, str):
            return self.raw[self._places[name]].image
        mean = self.shown(name)[0].mean(axis=2, keepdims=True)
        return np.asarray(mean.round().astype(np.uint8))

    def truth(self, name: str) -> np.ndarray:
        """(H, W) ids of the image called ``name``: 0 background, -1 not annotated."""
        labels = self.raw[self._places[name]].labels
        assert labels is not None
        return labels

    def class_levels(self, count: int) -> np.ndarray:
        """(count,) mean gray value of each class in at most 200 training images: a baseline."""
        places = [self._places[i] for i in self.split.train]
        some = [self.raw[i] for i in thinned(places, 200)]
        return class_levels((to_gray(self.pixels(one.id)) for one in some), some, count)

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray | None]:
        """The prepared (H, W, C) uint8 image and its truth, as scored.

        The truth is (H, W) ids, 0 background, -1 not annotated; and, where the target tells classes
        apart, (n + 1,) the class of each.
        """
        sample = self.raw[self._places[name]]
        assert sample.labels is not None
        whole = replace(self.preprocess, crop=None, resize=None)
        classes = sample.classes if self.target.class_names else None
        return whole.prepare(sample.image, sample.channels), sample.labels, classes

    def _eval_loader(self, name: str) -> DataLoader[Batch]:
        rank, world = self._rank()
        data = self.evaluation_set(name)
        # No padding: 13 images on 2 processes are scored as 13. Being a DistributedSampler
        # already, it is not replaced by Lightning.
        sampler = UnrepeatedDistributedSampler(data, world, rank, shuffle=False)
        return self._loader(data, sampler, 1)

    def _loader(
        self, data: Dataset[Any], sampler: Any, batch_size: int, drop_last: bool = False
    ) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            workers = min(8, usable_cores()) // self._rank()[1]
        more: dict[str, Any] = {"num_workers": workers, "persistent_workers": workers > 0}
        more |= {"drop_last": drop_last, "pin_memory": torch.cuda.is_available()}
        # A generator of its own, or each loader's start would draw from the global one: a resumed
        # run starts them at other times than an undisturbed one.
        more |= {"worker_init_fn": _one_thread, "generator": torch.Generator()}
        return DataLoader(data, batch_size, sampler=sampler, **more)

    @cached_property
    def raw(self) -> SampleStore:
        """The samples as they were read; opened once, for that reads every file."""
        return decoded(self.source, self.cache)

    @property
    def diameter(self) -> float | None:
        """Median over the training images of their objects' median diameter, in pixels."""
        known = [*self._diameters.values()]
        return float(np.median(known)) if known else None

    @cached_property
    def _diameters(self) -> dict[str, float]:
        """Id ► median diameter of the objects of each training image that has any."""
        train = {*self.divided(self.raw.entries).train}
        each = ((entry.id, entry.diameter) for entry in self.raw.entries if entry.id in train)
        return {name: diameter for name, diameter in each if diameter is not None}

    def _prepared(self) -> SampleStore:
        how = self.preprocess
        check_channels(self.raw.entries, how)
        if not how.rescales:
            return prepared(self.raw, how.prepare_sample, how.key, self.cache)
        scales = self._scales()
        key = json.dumps([how.key, scales])
        return prepared(self.raw, lambda s: how.prepare_sample(s, scales[s.id]), key, self.cache)

    def _scales(self) -> dict[str, float]:
        """Id ► by which an image is magnified for the network.

        Training images by their own objects; others by the median of those, as their own truth
        must not help to find it.
        """
        usual, scales = self.diameter, {}
        for entry in self.raw.entries:
            diameter = self._diameters.get(entry.id, usual)
            try:
                scales[entry.id] = self.preprocess.scale(entry.pixel_size, diameter)
            except UserError as error:
                raise UserError(f"{entry.id}: {error}") from None
        return scales

    def _rank(self) -> tuple[int, int]:
        trainer = self.trainer
        return (0, 1) if trainer is None else (trainer.global_rank, trainer.world_size)

    def _check(self, name: str) -> None:
        try:
            check_part(name, self.parts[name].entries, self._rank()[1])
        except UserError as error:
            raise UserError(f"{self.source.name}: {error}") from None

    def _check_duplicates(self) -> None:
        """Refuse images that are equal to the pixel and lie in different parts."""
        found = straddling({entry.id: entry.digest for entry in self.raw.entries}, self.split)
        if not found:
            return
        what = (
            f"{self.source.name}: {len(found)} group(s) of identical images lie in more than one "
            f"part of the split (such as {found[0][0]} and {found[0][1]}): scores would be too "
            "good; drop them by data.files.corrections (see segmentation audit)"
        )
        self._warn([Finding("duplicates", True, what)])

    def _check_masks(self) -> None:
        """Refuse masks that cannot be right, and warn about unlikely ones."""
        self._warn(doubts(self.raw.entries))
        for name, part in self.parts.items():
            if part.entries and all(entry.objects == 0 for entry in part.entries):
                what = f"none of the {len(part)} {name} images holds an object"
                self._warn([Finding("no_objects", False, f"{what}; choose another data.split")])

    def _warn(self, found: Iterable[Finding]) -> None:
        self._tell(cautions(found, self.allow, "set data.files.allow: [{}]"))

    def _tell(self, lines: Iterable[str]) -> None:
        for line in lines:
            if line not in self._told:  # a training is set up again for its test
                rank_zero_warn(line)
            self._told.add(line)


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism
