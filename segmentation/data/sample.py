"""One image with its instance labels, what a dataset offers, and the parts of a split."""

import hashlib
import json
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np
from torch.utils.data import Dataset

from segmentation.data.masks import MaskFacts
from segmentation.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure

T = TypeVar("T")
PARTS = ("train", "val", "test")


@dataclass(frozen=True, slots=True)
class Sample:
    """An image and its truth, as decoded from the files.

    Attributes:
        id: Unique within its dataset; the stem of every output written for this image.
        image: (H, W, C) uint8 or uint16; three channels without names are red, green and blue.
        labels: (H, W) int32 instance ids, 0 = background, -1 = not annotated; ``None`` where no
            truth is known.
        group: What it was acquired with or from (microscope, patient, well, sequence), ``""`` where
            that is not known. A fair test is on groups that were not trained on.
        kind: Stratum for balanced sampling and for scores by kind, such as ``"histology"``.
        subset: Name of the official subset it belongs to, such as ``"train"``, or ``""``.
        weight: (H, W) float32 weights of the pixels in the loss, where a training asks for them.
        facts: What the file of the truth shows, where it may mean something else.
        classes: (n + 1,) uint8, the class 1…K of each id, 0 first; ``None`` without classes.
        channels: Names of the image's channels, where the file tells.
        pixel_size: (height, width) of a pixel in µm, where the file tells.

    >>> Sample("a", np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.int32)).kind
    ''
    """

    id: str
    image: np.ndarray
    labels: np.ndarray | None
    group: str = ""
    kind: str = ""
    subset: str = ""
    weight: np.ndarray | None = None
    facts: MaskFacts | None = None
    classes: np.ndarray | None = None
    channels: tuple[str, ...] = ()
    pixel_size: tuple[float, float] | None = None


@dataclass(frozen=True, slots=True)
class Record:
    """Where one sample lies, known without decoding it; see :class:`Sample`."""

    id: str
    image: str  # path, or member of an archive
    masks: tuple[str, ...]  # the same of its truth; empty when there is none
    stamp: str  # of the content of its files (checksums): other content, another stamp
    group: str = ""
    subset: str = ""
    more: tuple[str, ...] = ()  # paths of further files of the image, a channel each
    plane: int | None = None  # its number, from 0, where the files are stacks


class Source(Protocol):
    """A dataset on disk: an index that costs no decoding, and a reader for one record.

    ``name`` and ``version`` enter the cache's key: raise ``version`` when the reader changes.
    """

    name: str
    version: int

    def index(self) -> Sequence[Record]:
        """Every sample, sorted by id; a ``UserError`` if the root is not in the expected layout."""

    def read(self, record: Record) -> Sample:
        """Decode one sample; a ``UserError`` if a file is at fault, or mask and image differ."""


class SegmentationDataset(Dataset[Sample], Source):
    """Images and their label maps, read from their files when they are asked for.

    A subclass has a ``name``, ``index`` and ``read``: all that a data module needs, too. One may
    have a method ``source_of(id)``: what a sample was acquired with, where its group is less or
    its files do not tell.

    Args:
        root: Folder of its files, where it has any.

    >>> from segmentation.datasets import DSB2018
    >>> data = DSB2018("data/dsb2018")
    >>> len(data), data[0].labels.shape  # doctest: +SKIP
    (670, (256, 256))
    """

    version = 1

    def __init__(self, root: str | Path = "") -> None:
        self.root = root

    @cached_property
    def records(self) -> Sequence[Record]:
        """The index, made once."""
        return self.index()

    def __len__(self) -> int:
        return len(self.records)

    def __getitem__(self, i: int) -> Sample:
        return self.read(self.records[i])

    def __iter__(self) -> Iterator[Sample]:
        return map(self.read, self.records)

    def plot(self, i: int) -> "Figure":
        """Sample ``i`` as a picture, its objects outlined, dark where it is not annotated."""
        from matplotlib.figure import Figure
        from skimage.segmentation import mark_boundaries

        sample = self[i]
        image = sample.image / max(1, sample.image.max())
        shown = np.broadcast_to(image, (*image.shape[:2], 3))
        if sample.labels is not None:
            shown = mark_boundaries(shown, sample.labels.clip(0))
            shown[sample.labels < 0] *= 0.5
        axes = (figure := Figure()).subplots()
        axes.imshow(shown)
        axes.set(title=sample.id, xticks=(), yticks=())
        return figure


class Item(Protocol):
    """What a split needs to know of a sample: a stored one, or a sample itself."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def subset(self) -> str: ...


@dataclass(frozen=True)
class Split:
    """Sample ids by part. A sample may be in none of them; in two, it is a ``UserError``.

    >>> Split(train=("a", "b"), val=("c",), test=("d",)).test
    ('d',)
    """

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            for name in getattr(self, part):
                if name in seen:
                    both = f"{name} is in {seen[name]} and again in {part}"
                    raise UserError(f"split: {both}; list each sample once")
                seen[name] = part

    def to_json(self) -> str:
        """The ids and a hash over them, to be kept beside a run."""
        parts = asdict(self)
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        counts = {part: len(ids) for part, ids in parts.items()}
        return json.dumps({"sha256": digest, "counts": counts, **parts}, indent=1)


def straddling(digests: Mapping[str, str], split: Split) -> list[list[str]]:
    """Groups of samples with the same digest that lie in more than one part, each sorted by id."""
    part = {name: p for p in PARTS for name in getattr(split, p)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(part):
        groups[digests[name]].append(name)
    return [names for names in groups.values() if len({part[name] for name in names}) > 1]


def evenly(count: int, most: int) -> list[int]:
    """At most ``most`` of the numbers below ``count``, evenly spaced."""
    return sorted({int(i) for i in np.linspace(0, count - 1, min(count, most))})


def thinned(items: Sequence[T], most: int) -> Sequence[T]:
    """Every second, third … item, so that there are at most ``most``.

    >>> thinned("abcdefg", 3)
    'adg'
    """
    return items[:: -(-len(items) // most) or 1]
