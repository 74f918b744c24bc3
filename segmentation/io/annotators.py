"""Several people's truth of the same images, and what they agree on."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path

import numpy as np

from segmentation.errors import UserError
from segmentation.io.regions import Truth, class_of_ids
from segmentation.io.truth import Files, Found, Masks, Plane, Size, TruthReader
from segmentation.objects import binary_mask, check_size, renumber


class Annotators:
    """Reads the truth of several annotators as what they :func:`agree` on.

    Args:
        names: Of the annotators, at least two different ones.
        readers: One each, which see all files alike.
    """

    def __init__(self, names: Sequence[str], readers: Sequence[TruthReader]) -> None:
        if len(set(names)) < max(2, len(names)):
            raise UserError(f"annotators: {', '.join(names)} must be two or more different ones")
        self.names, self.readers = tuple(names), tuple(readers)
        self._files: dict[tuple[Path, ...], list[tuple[Path, ...]]] = {}  # of all ► of each

    @property
    def class_names(self) -> tuple[str, ...]:
        return self.readers[0].class_names

    @property
    def mask_type(self) -> Masks:
        return self.readers[0].mask_type

    @property
    def settings(self) -> str:
        """See :class:`TruthReader`; the order matters, for objects are the first one's."""
        return f"{self.readers[0].settings}|{len(self.names)} annotators"

    def find(self, places: Sequence[Path], images: Mapping[str, Path]) -> Found:
        """The files of each image, of all annotators; each must have the same images."""
        pairs = zip(self.readers, places, strict=True)
        return self.join([reader.find(place, images) for reader, place in pairs])

    def join(self, found: Sequence[Mapping[str, tuple[Path, ...]]]) -> Found:
        """The files of each image from those of each annotator; one that lacks any: UserError."""
        joined: Found = {}
        for name in sorted(set(chain.from_iterable(found))):
            pairs = zip(self.names, found, strict=True)
            if lacking := [who for who, files in pairs if name not in files]:
                raise UserError(
                    f"{name}: {lacking[0]} has no truth of it, another annotator has; add it, or "
                    "remove it everywhere"
                )
            each = [files[name] for files in found]
            joined[name] = tuple(chain.from_iterable(each))
            self._files[joined[name]] = each
        return joined

    def opinions(
        self, name: str, files: Files, shape: Size = None, plane: Plane = None
    ) -> list[Truth]:
        """What each annotator says of an image, in their order; see :meth:`TruthReader.read`."""
        read: list[Truth] = []
        for reader, own in self._each(files):
            one = reader.read(name, own, shape, plane)
            where = str(next(iter(own), name))
            if read:
                check_size(where, one.labels.shape, read[0].labels.shape)
            if reader.mask_type == "binary" and one.values is not None:
                binary_mask(one.values, where)
            read.append(one)
        return read

    def read(self, name: str, files: Files, shape: Size = None, plane: Plane = None) -> Truth:
        """What the annotators agree on; see :meth:`TruthReader.read`."""
        return agree(self.opinions(name, files, shape, plane), name)

    def needs_size(self, files: Sequence[Path]) -> bool:
        """See :class:`TruthReader`."""
        return any(reader.needs_size(own) for reader, own in self._each(files))

    def overlaps(self, name: str, files: Files, shape: Size, plane: Plane = None) -> int:
        """Pixels that several objects of one annotator claim, over all of them."""
        pairs = self._each(files)
        return sum(reader.overlaps(name, own, shape, plane) for reader, own in pairs)

    def _each(self, files: Files) -> list[tuple[TruthReader, tuple[Path, ...]]]:
        return list(zip(self.readers, self._files[tuple(map(Path, files))], strict=True))


def agree(opinions: Sequence[Truth], name: str) -> Truth:
    """What several annotators agree on.

    A pixel is background where all say so, and foreground where all do and, where there are
    classes, of one class. All others are not annotated: -1. The objects are the first annotator's,
    as far as the others see foreground there. Where nothing is left it is a :class:`UserError`.

    >>> one, other = Truth(np.int32([[1, 1, 0, 2]])), Truth(np.int32([[0, 1, 0, 1]]))
    >>> agree([one, other], "a").labels.tolist()
    [[-1, 1, 0, 2]]
    """
    first, *others = opinions
    disputed = first.labels < 0
    for other in others:
        disputed |= (other.labels < 0) | ((other.labels > 0) != (first.labels > 0))
        if first.classes is not None and other.classes is not None:
            disputed |= first.classes[first.labels.clip(0)] != other.classes[other.labels.clip(0)]
    if disputed.all():
        raise UserError(f"{name}: the annotators agree on no pixel; are they of the same image?")
    labels = np.where(disputed, -1, first.labels)
    classes = None if first.classes is None else class_of_ids(labels, first.classes)
    return Truth(renumber(labels), classes)
