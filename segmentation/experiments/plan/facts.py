"""What can be seen of a data set, and of this machine, before anything is trained."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import psutil
import torch

from segmentation.data.cache import SampleStore, usable_cores
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Sample, Split, evenly
from segmentation.errors import UserError
from segmentation.experiments.plan.one_kind import OneKind, Shown, as_one_kind, one_kind
from segmentation.objects import light_of

PICTURES = 50  # images whose pixels are looked at


@dataclass(frozen=True)
class DataFacts:
    """Of the training and validation images; of the test images only how many there are.

    Attributes:
        train, val, test: How many images.
        groups: How many patients, plates or sequences the images come from; 0 if none is named.
        kinds: Kinds of images, the most frequent first, where the data set tells.
        smallest, largest: (height, width) of the images of the fewest and the most pixels.
        sizes: How many different sizes.
        channels: How many channels the images have: each number that occurs.
        colour: Whether three channels differ in some image.
        bits: 8 to 16: of the greatest value.
        mean, std: Of the pixels, gray, 0…1, each image stretched between its percentiles.
        background: ``"dark"``, ``"bright"`` or ``"middle"``: where the median background lies.
        objects: In an image, the median.
        empty: Share of images without an object.
        diameter: Of the objects in pixels, median over the images' medians; 0 without objects.
        area: Of small objects in pixels: one in a hundred is smaller.
        touching: Share of objects that touch another one.
        unannotated: Share of pixels that nobody annotated.
        classes: Names of the classes.
        looked_at: Images whose pixels were looked at.
        one_kind: These as bright objects on dark; ``None`` of other channels than one or three.
    """

    train: int
    val: int
    test: int
    groups: int
    kinds: tuple[str, ...]
    smallest: tuple[int, int]
    largest: tuple[int, int]
    sizes: int
    channels: tuple[int, ...]
    colour: bool
    bits: int
    mean: float
    std: float
    background: str
    objects: float
    empty: float
    diameter: float
    area: int
    touching: float
    unannotated: float
    classes: tuple[str, ...]
    looked_at: int
    one_kind: OneKind | None = None


@dataclass(frozen=True)
class Machine:
    """What computes here.

    Attributes:
        cores: That this process may use.
        device: ``"cpu"``, ``"cuda"`` or ``"mps"``.
        name: Of the GPU.
        memory: GiB, of the GPU or else of the machine.
        half: Whether bfloat16 is faster; of a processor it is measured with the network.
    """

    cores: int
    device: str
    name: str
    memory: float
    half: bool


def machine_facts() -> Machine:
    """Of this machine."""
    cores = usable_cores()
    if torch.cuda.is_available():
        memory = torch.cuda.get_device_properties(0).total_memory / 2**30
        half = torch.cuda.is_bf16_supported(including_emulation=False)
        return Machine(cores, "cuda", torch.cuda.get_device_name(0), memory, half)
    device = "mps" if torch.backends.mps.is_available() else "cpu"
    return Machine(cores, device, device, psutil.virtual_memory().total / 2**30, False)


def data_facts(store: SampleStore, split: Split, classes: Sequence[str] = ()) -> DataFacts:
    """Of the training and validation images of a data set.

    Args:
        store: All samples, decoded.
        split: Their parts.
        classes: Names of the classes.

    Raises:
        UserError: An image has no truth, or the images have numbers of channels that do not go
            together.
    """
    open_to_us = {*split.train, *split.val}
    places = [i for i, entry in enumerate(store.entries) if entry.id in open_to_us]
    entries = [store.entries[i] for i in places]
    for entry in (entry for entry in entries if entry.labels is None):
        raise UserError(f"{entry.id}: has no mask; add it, or take the image out")
    channels = _channels({entry.id: entry.image[1][2] for entry in entries})
    shapes = sorted((e.image[1][:2] for e in entries), key=lambda s: (s[0] * s[1], s))
    diameters = [entry.diameter for entry in entries if entry.diameter is not None]
    counts = [entry.objects or 0 for entry in entries]
    looks = [_look(store[places[i]]) for i in evenly(len(places), PICTURES)]
    views = [look.shown for look in looks if look.shown is not None]
    areas = np.concatenate([look.areas for look in looks])
    level = float(np.median([k.level for k in looks if k.level is not None] or [0.5]))
    return DataFacts(
        train=len(split.train),
        val=len(split.val),
        test=len(split.test),
        groups=len({entry.group for entry in store.entries} - {""}),
        kinds=tuple(k for k, _ in Counter(e.kind for e in entries if e.kind).most_common()),
        smallest=(shapes[0][0], shapes[0][1]),
        largest=(shapes[-1][0], shapes[-1][1]),
        sizes=len(set(shapes)),
        channels=channels,
        colour=any(look.colour for look in looks),
        bits=max(8, max(look.top for look in looks).bit_length()),
        mean=round(float(np.mean([look.mean for look in looks])), 2),
        std=round(float(np.sqrt(np.mean([look.var for look in looks]))), 2),
        background=light_of(level),
        objects=float(np.median(counts)),
        empty=counts.count(0) / len(counts),
        diameter=float(np.median(diameters)) if diameters else 0.0,
        area=int(np.percentile(areas, 1)) if len(areas) else 0,
        touching=sum(look.touching for look in looks) / max(1, len(areas)),
        unannotated=sum(e.unannotated for e in entries) / sum(h * w for h, w in shapes),
        classes=tuple(classes),
        looked_at=len(looks),
        one_kind=one_kind(views) if len(views) == len(looks) else None,
    )


def _channels(found: dict[str, int]) -> tuple[int, ...]:
    """The numbers that occur; one and three go together, for gray can be repeated."""
    firsts = {number: name for name, number in reversed(found.items())}
    if len(firsts) > 1 and not firsts.keys() <= {1, 3}:
        both = " and ".join(f"{n} channel(s) ({firsts[n]})" for n in sorted(firsts))
        raise UserError(f"the images have {both}; keep each kind in a data root of its own")
    return tuple(sorted(firsts))


class _Look(NamedTuple):
    """One image: of its gray values in 0…1, stretched, and of its objects."""

    mean: float
    var: float
    level: float | None  # the background's median
    top: int  # greatest value, as read
    colour: bool
    areas: np.ndarray
    touching: int
    shown: Shown | None  # as bright objects on dark


def _look(sample: Sample) -> _Look:
    labels, image = sample.labels, sample.image
    assert labels is not None
    count = image.shape[2]
    how = Preprocess("gray" if count in (1, 3) else tuple(range(count)))
    gray = how.prepare(image).mean(axis=2, dtype=np.float32) / 255
    outside = gray[labels == 0]
    areas = np.bincount(np.maximum(labels.reshape(-1).astype(np.intp), 0))[1:]
    return _Look(
        float(gray.mean()),
        float(gray.var()),
        float(np.median(outside)) if outside.size else None,
        int(image.max()),
        count == 3 and bool((image != image[..., :1]).any()),
        areas[areas > 0],
        len(touching(labels)),
        as_one_kind(image, labels) if count in (1, 3) else None,
    )


def touching(labels: np.ndarray) -> np.ndarray:
    """The ids of objects with a pixel beside another object's, of (H, W) ids.

    >>> touching(np.array([[1, 2, 0], [0, 0, 0], [3, -1, 4]])).tolist()
    [1, 2]
    """
    found = []
    for one, other in (
        (labels[1:], labels[:-1]),
        (labels[:, 1:], labels[:, :-1]),
        (labels[1:, 1:], labels[:-1, :-1]),
        (labels[1:, :-1], labels[:-1, 1:]),
    ):
        meet = (one != other) & (one > 0) & (other > 0)
        found += [one[meet], other[meet]]
    return np.unique(np.concatenate(found))
