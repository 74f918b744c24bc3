"""From stored samples to single examples: windows, augmentation, encoding."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any, Protocol, TypedDict

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from segmentation.data.annotated import AnnotatedPixels
from segmentation.data.augment import Augmentation, random_crop
from segmentation.data.cache import SampleStore, StoredSample
from segmentation.data.copy_paste import CopyPaste, paste
from segmentation.data.mirrored import mirrored_apart
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample
from segmentation.data.samplers import Draw
from segmentation.targets import Foreground, Target
from segmentation.targets.border_weights import WeightMap


class Batch(TypedDict, total=False):
    """What the task receives; ``annotated`` only if an image of the part is annotated in part."""

    image: Tensor  # (B, C, H, W) uint8, after :meth:`Preprocess.prepare`
    target: Tensor  # what ``Target.encode`` made of the labels, at the image's size
    weight: Tensor  # (B, H, W) float32 of the pixels in the loss, where ``data.weight`` is set
    annotated: Tensor  # (B, H, W) bool, the pixels that count in the loss
    labels: Tensor  # (B, H', W') int32 instance ids at the size that is scored (evaluation)
    classes: Tensor  # (B, n + 1) uint8 class of each id, if there are classes (evaluation, B = 1)
    id: list[str]
    kind: list[str]
    group: list[str]  # in evaluation


class Samples(Protocol):
    """Prepared samples with labels: a whole store, a part of one, or what was made of it."""

    @property
    def entries(self) -> Sequence[StoredSample]: ...
    def __len__(self) -> int: ...
    def __getitem__(self, i: int, /) -> Sample: ...


@dataclass(frozen=True, eq=False)
class SampleSubset:
    """The samples of one part of a split, as prepared; their ``truth`` as it was read."""

    prepared: SampleStore
    raw: SampleStore
    places: Sequence[int]

    def __len__(self) -> int:
        return len(self.places)

    def __getitem__(self, i: int, /) -> Sample:
        return self.prepared[self.places[i]]

    def truth(self, i: int) -> np.ndarray | None:
        """(H, W) labels at the image's own size."""
        return self.raw[self.places[i]].labels

    @property
    def entries(self) -> list[StoredSample]:
        """What is known of each without reading it; ``objects`` before any crop."""
        both = ((self.prepared.entries[i], self.raw.entries[i]) for i in self.places)
        return [replace(entry, objects=raw.objects) for entry, raw in both]


@dataclass(frozen=True)
class TrainWindows:
    """How training examples are cut from images and augmented."""

    augmentation: str  # name of a recipe, applied after the crop
    crop: tuple[int, int] | None  # (height, width) of a random window; ``None``: the whole image
    zoom: tuple[float, float]  # range of random magnification of the window
    seed: int  # of the run
    copy_paste: float = 0.0  # probability that objects of another image are pasted into a window

    def cut(
        self,
        sample: Sample,
        augmentation: Augmentation | None,
        rng: np.random.Generator,
        pixel: tuple[int, int] | None = None,
        other: Sample | None = None,
    ) -> Sample:
        """One window that holds ``pixel``, augmented unless ``augmentation`` is ``None``.

        Objects of a window of ``other`` are pasted into it before.
        """
        image, labels, weight = sample.image, sample.labels, sample.weight
        assert labels is not None  # checked for the whole part by the data module
        mirrored = False
        if self.crop is not None:
            about = self.crop, rng, self.zoom, pixel
            image, labels, weight, mirrored = random_crop(image, labels, weight, *about)
        if mirrored or other is not None:
            sample = replace(sample, image=image, labels=labels, weight=weight)
            if mirrored:
                sample = mirrored_apart(sample)
            if other is not None:
                sample = paste(sample, self.cut(other, None, rng), rng)
            image, labels, weight = sample.image, sample.labels, sample.weight
            assert labels is not None
        if augmentation is not None:
            image, labels, weight = augmentation(image, labels, weight, rng)
        return replace(sample, image=image, labels=labels, weight=weight)


class TrainSet(Dataset[dict[str, Any]]):
    """One seed per (run, epoch, sample); each item is one example of a :class:`Batch`.

    Without ``windows`` the samples are taken as they are; ``preprocess`` made their images.
    """

    def __init__(
        self, samples: Samples, target: Target, windows: TrainWindows | None, preprocess: Preprocess
    ) -> None:
        self.samples, self.target, self.windows = samples, target, windows
        about = preprocess.in_channels, preprocess.channels == "rgb"
        self.augmentation = Augmentation(windows.augmentation, *about) if windows else None
        self.pixels = AnnotatedPixels(samples.entries)
        self.copy_paste = CopyPaste(samples.entries, windows.copy_paste if windows else 0.0)

    def __len__(self) -> int:
        return len(self.samples)

    def without_objects(self, most: int = 64) -> list[str]:
        """What is doubtful if some windows of partly annotated images teach background alone."""
        some = sorted(self.pixels.partial)[:most]
        if not some or any(self[i]["target"].any() for i in some):
            return []
        kind = type(self.target).__name__
        return [
            f"in {len(some)} training windows of images that are annotated in part {kind} finds "
            "nothing but background to learn: annotate whole objects, or choose another "
            "model.target, such as Foreground"
        ]

    def __getitem__(self, draw: Draw | int) -> dict[str, Any]:
        if isinstance(draw, int):  # Lightning's order, to overfit: the same windows every time
            draw = Draw(draw, epoch=0, repeat=0)
        sample = self.samples[draw.index]
        if self.windows is not None:
            rng = draw.rng(self.windows.seed)
            assert sample.labels is not None
            pixel = self.pixels.draw(draw.index, sample.labels, rng)
            partner = self.copy_paste.partner(draw.index, rng)
            other = None if partner is None else self.samples[partner]
            sample = self.windows.cut(sample, self.augmentation, rng, pixel, other)
        item = _example(sample, self.target, bool(self.pixels.partial))
        if sample.weight is not None:
            item["weight"] = torch.from_numpy(sample.weight.copy())
        return item


@dataclass(frozen=True, eq=False)
class EvalSet(Dataset[dict[str, Any]]):
    """Whole images, in order; each item is one example of a :class:`Batch`."""

    samples: Samples
    target: Target
    weight: WeightMap | None  # of the pixels in the loss
    native: bool = True  # score at the images' own size, rather than at the network's
    groups: Mapping[str, str] = field(default_factory=dict)  # by id, instead of the sample's own

    @cached_property
    def partial(self) -> bool:
        """Whether some image has pixels that are not annotated."""
        return any(entry.unannotated for entry in self.samples.entries)

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        sample = self.samples[index]
        labels = sample.labels
        assert labels is not None
        item = _example(sample, self.target, self.partial)
        item["group"] = self.groups.get(sample.id, sample.group)
        if self.weight is not None:
            item["weight"] = torch.from_numpy(self.weight(labels))
        if self.native and isinstance(self.samples, SampleSubset):
            labels = self.samples.truth(index)
            assert labels is not None
        if sample.classes is not None:
            item["classes"] = torch.from_numpy(sample.classes.copy())
        return item | {"labels": torch.from_numpy(labels.astype(np.int32))}


def weigh(sample: Sample, weight: WeightMap) -> Sample:
    """The sample with the weights of its pixels."""
    assert sample.labels is not None
    return replace(sample, weight=weight(sample.labels))


def _example(sample: Sample, target: Target, partial: bool) -> dict[str, Any]:
    """One example; ``partial`` where labels may be -1."""
    assert sample.labels is not None
    labels, classes = sample.labels, (sample.classes,) * bool(target.class_names)
    # Foreground takes ids as they are stored, which saves a third of its time.
    if partial or type(target).encode is not Foreground.encode:
        labels = labels.astype(np.int32)
    if partial:
        known = torch.from_numpy(target.learnable(labels))
        encoded = target.encode(labels.clip(0), *classes).masked_fill_(~known, 0)
        more = {"annotated": known}
    else:
        encoded, more = target.encode(labels, *classes), {}
    # Always a copy: the image may be the read-only file itself, which a tensor could write to.
    image = torch.from_numpy(sample.image.transpose(2, 0, 1).copy(order="C"))
    return {"image": image, "target": encoded, "id": sample.id, "kind": sample.kind, **more}
