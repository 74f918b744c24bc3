"""From cached samples to batches: the only part of ``segmentation.data`` that knows Lightning."""

import os
from collections import Counter
from pathlib import Path
from typing import Any, Literal, TypedDict

import cv2
import numpy as np
import torch
from lightning import LightningDataModule
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from segmentation.data.cache import Entry, Store, decoded, prepared
from segmentation.data.preprocess import Preprocess, resize_image, resize_labels
from segmentation.data.sample import Sample, Source
from segmentation.data.samplers import Draw, TrainSampler, UnrepeatedDistributedSampler
from segmentation.data.splits import RandomSplit, Split, Splitter
from segmentation.data.transforms import Augmentation, random_crop
from segmentation.errors import UserError
from segmentation.targets import Foreground, Target


class Batch(TypedDict, total=False):
    """What the task receives.

    Keys:
        image: (B, C, H, W) uint8, after :meth:`Preprocess.prepare`.
        target: What ``Target.encode`` made of the labels, at the image's size.
        labels: (B, H', W') int32 instance ids at the size that is scored (evaluation).
        id, kind: As in :class:`Sample`.
    """

    image: Tensor
    target: Tensor
    labels: Tensor
    id: list[str]
    kind: list[str]


class TrainSet(Dataset[dict[str, Any]]):
    """Crops, augmentation and encoding, one seed per (run, epoch, sample).

    Each item is one example of a :class:`Batch`.

    Args:
        samples: Prepared samples with labels.
        target: Encodes the labels.
        augmentation: Applied after the crop.
        crop: (height, width), or ``None`` for the whole image.
        zoom: Range of random magnification.
        seed: Of the run.
    """

    def __init__(
        self,
        samples: "Part",
        target: Target,
        augmentation: Augmentation,
        crop: tuple[int, int] | None,
        zoom: tuple[float, float],
        seed: int,
    ) -> None:
        self.samples, self.target, self.augmentation = samples, target, augmentation
        self.crop, self.zoom, self.seed = crop, zoom, seed

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, draw: Draw) -> dict[str, Any]:
        sample = self.samples[draw.index]
        rng = draw.rng(self.seed)
        image, labels = sample.image, sample.labels
        assert labels is not None  # checked for the whole part by the data module
        labels = resize_labels(labels, (image.shape[0], image.shape[1]))
        if self.crop is not None:
            image, labels = random_crop(image, labels, self.crop, rng, self.zoom)
        image, labels = self.augmentation(image, labels, rng)
        target = self.target.encode(labels.astype(np.int32))
        return {"image": _tensor(image), "target": target, "id": sample.id, "kind": sample.kind}


class EvalSet(Dataset[dict[str, Any]]):
    """Whole images, in order, with their labels at the size that is scored.

    Each item is one example of a :class:`Batch`.
    """

    def __init__(
        self, samples: "Part", target: Target, score_at: Literal["native", "network"]
    ) -> None:
        self.samples, self.target, self.score_at = samples, target, score_at

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        labels = sample.labels
        assert labels is not None
        seen = resize_labels(labels, (sample.image.shape[0], sample.image.shape[1]))
        if self.score_at == "network":
            labels = seen
        return {
            "image": _tensor(sample.image),
            "target": self.target.encode(seen.astype(np.int32)),
            "labels": torch.from_numpy(labels.astype(np.int32)),
            "id": sample.id,
            "kind": sample.kind,
        }


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


class SegmentationDataModule(LightningDataModule):
    """Cache, split, crop, augment, batch. A dataset's own module only names its source.

    How images are prepared and labels are encoded belongs to the task, which keeps both in its
    checkpoint; this module asks the trainer's task for them.

    Args:
        source: The dataset's index and reader.
        split: Assigns samples to train, val and test; ``null`` is ``RandomSplit()``. (As a default
            class it would hand its numbers on to whatever class a config chooses.)
        crop: Training window, one side or (height, width); ``null`` trains on whole images.
        zoom: Range of random magnification of the window, such as ``[0.6, 1.6]``.
        augmentation: Name of a recipe in ``segmentation.data.transforms``.
        balance: 0 shows each image once an epoch. Above 0 images are drawn at random with
            probability ∝ (pixels / images of its kind) ^ balance: rare kinds and large images more
            often. 0.5 evens kinds out by the square root.
        length: Training draws per epoch; the number of training images by default.
        batch_size: Per device, in training. Evaluation takes one image at a time, at its own size.
        num_workers: Loading processes; ``null`` takes one a core, at most 8, shared by the devices.
        score_at: ``"native"`` scores at the image's own size; ``"network"`` at
            ``preprocess.resize``, as published studies with a fixed size did.
        seed: Of order, crops and augmentation, ≥ 0; ``null`` takes ``seed_everything``'s.
        cache: Folder of the decoded data; ``$SEGMENTATION_CACHE`` or the user's cache by default.

    Raises:
        UserError: A setting is out of its range; in :meth:`setup`, where data and settings do not
            fit together.
    """

    preprocess: Preprocess
    target: Target
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
        batch_size: int = 8,
        num_workers: int | None = None,
        score_at: Literal["native", "network"] = "native",
        seed: int | None = None,
        cache: str | None = None,
    ) -> None:
        super().__init__()
        self.crop = (crop, crop) if isinstance(crop, int) else crop
        self.seed = int(os.environ.get("PL_GLOBAL_SEED", 0)) if seed is None else seed
        for name, value, fits, wanted in (
            ("crop", crop, self.crop is None or min(self.crop) > 0, "positive"),
            ("zoom", zoom, 0 < zoom[0] <= zoom[1], "a range of positive magnifications"),
            ("balance", balance, balance >= 0, "at least 0"),
            ("length", length, length is None or length > 0, "positive"),
            ("batch_size", batch_size, batch_size > 0, "positive"),
            ("num_workers", num_workers, num_workers is None or num_workers >= 0, "at least 0"),
            ("seed", self.seed, self.seed >= 0, "at least 0"),
        ):
            if not fits:
                raise UserError(f"data.{name}: {value} must be {wanted}")
        if crop is None and tuple(zoom) != (1.0, 1.0):
            raise UserError(f"data.zoom: {zoom} needs a data.crop; set one, or zoom to [1, 1]")
        self.source, self.splitter = source, split or RandomSplit()
        self.zoom, self.augmentation, self.balance = zoom, augmentation, balance
        self.length, self.batch_size, self.num_workers = length, batch_size, num_workers
        self.score_at: Literal["native", "network"] = score_at
        self.cache = None if cache is None else Path(cache)
        self.preprocess, self.target = Preprocess(), Foreground()
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
        self.split = self.splitter(store.entries)
        self.parts = {
            name: Part(store, getattr(self.split, name)) for name in ("train", "val", "test")
        }
        if stage in ("fit", None):
            self._check("train")
            self._check_crop(self.parts["train"])
        if stage in ("fit", "validate", None):
            self._check("val")
        if stage == "test" or (stage in ("fit", None) and self.split.test):
            self._check("test")

    def train_dataloader(self) -> DataLoader[Batch]:
        """Augmented windows, in an order drawn anew each epoch; an incomplete batch is dropped."""
        part = self.parts["train"]
        augmentation = Augmentation(self.augmentation, self.preprocess.channels)
        data = TrainSet(part, self.target, augmentation, self.crop, self.zoom, self.seed)
        weights = _kind_weights(part, self.balance) if self.balance > 0 else None
        rank, world = self._rank()
        sampler = TrainSampler(len(part), self.seed, weights, self.length, rank, world)
        size = min(self.batch_size, len(sampler))
        return self._loader(data, sampler, size, drop_last=True)

    def val_dataloader(self) -> DataLoader[Batch]:
        """Each validation image once."""
        return self._eval_loader("val")

    def test_dataloader(self) -> DataLoader[Batch]:
        """Each test image once."""
        return self._eval_loader("test")

    def gray(self, name: str, size: tuple[int, int]) -> np.ndarray:
        """The image called ``name`` as it was read, as (H, W) gray uint8 or uint16 of ``size``."""
        image = self.raw[self._places[name]].image
        gray = image[..., 0] if image.shape[2] == 1 else cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        return resize_image(gray[..., None], size)[..., 0]

    def shown(self, name: str) -> tuple[np.ndarray, np.ndarray]:
        """The prepared (H, W, C) uint8 image and its true (H, W) foreground, at the scored size."""
        sample = self.prepared[self._places[name]]
        assert sample.labels is not None
        size = sample.labels.shape if self.score_at == "native" else sample.image.shape[:2]
        size = (size[0], size[1])
        return resize_image(sample.image, size), resize_labels(sample.labels, size) > 0

    def _eval_loader(self, name: str) -> DataLoader[Batch]:
        rank, world = self._rank()
        data = EvalSet(self.parts[name], self.target, self.score_at)
        # No padding: 13 images on 2 processes are scored as 13. Being a DistributedSampler
        # already, it is not replaced by Lightning.
        sampler = UnrepeatedDistributedSampler(data, world, rank, shuffle=False)
        return self._loader(data, sampler, batch_size=1, drop_last=False)

    def _loader(
        self, data: Dataset[Any], sampler: Any, batch_size: int, drop_last: bool
    ) -> DataLoader[Batch]:
        workers = self.num_workers
        if workers is None:
            workers = min(8, os.cpu_count() or 1) // self._rank()[1]
        return DataLoader(
            data,
            batch_size,
            sampler=sampler,
            num_workers=workers,
            drop_last=drop_last,
            pin_memory=torch.cuda.is_available(),
            persistent_workers=workers > 0,
            worker_init_fn=_one_thread,
        )

    def _open(self) -> tuple[Store, Store]:
        module = None if self.trainer is None else self.trainer.lightning_module
        if module is not None:
            self.preprocess, self.target = module.preprocess, module.target  # type: ignore[assignment]
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
        if self.score_at == "network" and self.preprocess.resize is None:
            raise UserError("data.score_at: network needs model.preprocess.resize to be set")

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


def _kind_weights(part: Part, power: float) -> list[float]:
    counts = Counter(entry.kind for entry in part.entries)
    return [
        float((np.prod(entry.image[1][:2]) / counts[entry.kind]) ** power) for entry in part.entries
    ]


def _tensor(image: np.ndarray) -> Tensor:
    # Always a copy: the image may be the read-only file itself, which a tensor could write to.
    return torch.from_numpy(image.transpose(2, 0, 1).copy(order="C"))


def _one_thread(_: int) -> None:
    cv2.setNumThreads(0)  # the workers themselves are the parallelism
