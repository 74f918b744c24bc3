"""Label maps of images that are decoded in blocks of rows: objects joined across their borders."""

from collections.abc import Callable, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

import numpy as np
from scipy.ndimage import find_objects
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from segmentation.io.windows import BandStore
from segmentation.objects import label_components
from segmentation.targets.base import winners

_NO_BOX = np.array([2**31 - 1, 2**31 - 1, 0, 0], np.int32)  # of no pixels: grows with any
MOST = 2**24  # pixels of an object's box (4096²) that is cut out; each takes some 60 bytes


class Crop(NamedTuple):
    """Part of a label map that shows some objects whole, and no others: (rows, columns) int32."""

    rows: slice
    columns: slice
    labels: np.ndarray


def overlapping_blocks(
    bands: Iterable[np.ndarray], height: int, rows: int, halo: int
) -> Iterator[tuple[np.ndarray, slice]]:
    """Regroup an image's bands, (K, any number, W) from top to bottom, into blocks that overlap.

    It yields a block of ``rows`` (the last may have fewer) with ``halo`` rows more above and below
    where the image has them; and which of its rows are its own.
    """
    start = first = end = 0  # rows of the image: of the block, and of what is kept
    kept: list[np.ndarray] = []
    for band in bands:
        kept.append(band)
        end += band.shape[1]
        while start < height and end >= min(start + rows + halo, height):
            stop, last = min(start + rows, height), min(start + rows + halo, height)
            joined = np.concatenate(kept, axis=1) if len(kept) > 1 else kept[0]
            yield joined[:, : last - first], slice(start - first, stop - first)
            start, above = stop, max(stop - halo, 0)
            kept, first = [joined[:, above - first :]], above


class LabelMap:
    """A label map whose rows wait in a store, made of blocks that were labelled one by one.

    Objects are joined where two blocks show the same rows, on both sides of their border as far as
    half the ``halo`` (≥ 1). Within each connected piece of foreground there, the two labels that
    overlap most of all mutually are one object. So connected components come out exactly as those
    of the whole image, whatever their size; and so does every object that both blocks, seeing a
    halo of it, decode alike, touching others or not.

    Attributes:
        areas: (objects,) int64: pixels of each object. Known after :meth:`finish`, as are the
            following. The ids are 1, 2, …, in the order in which :meth:`crops` shows the objects.
        boxes: (objects, 4) int32: top, left, and the first row and column beyond the object.
        too_large: Ids of objects whose boxes have more than ``MOST`` pixels.
        classes: (objects + 1,) uint8, the class of each id by the votes of all its pixels, or
            ``None``.
    """

    def __init__(self, store: BandStore, halo: int) -> None:
        self._store, self._reach = store, (halo + 1) // 2
        self._below: np.ndarray | None = None  # the last block's labels, half a halo at its end
        self._tops = [0]  # of each block, and where the last one ends
        self._count = 0  # of the ids given so far, which are provisional
        self._pairs = [np.zeros((2, 0), np.int64)]  # of them that are one object
        self._areas = [np.zeros(1, np.int64)]
        self._boxes = [np.zeros((1, 4), np.int32)]
        self._votes: list[np.ndarray] = []
        self.classes: np.ndarray | None = None

    def append(self, labels: np.ndarray, own: slice, votes: np.ndarray | None = None) -> None:
        """Take the next block, (rows with the halo, W) ids ≥ 0, of which some rows are its own.

        ``votes`` are those of the objects' pixels there, (n + 1, K), where they have classes.
        """
        count = int(labels.max(initial=0))
        if votes is not None:
            self._votes.append(np.zeros((count, votes.shape[1])))
            self._votes[-1][: len(votes) - 1] = votes[1:]
        labels = np.where(labels > 0, labels + self._count, 0).astype(np.int32)
        if self._below is not None:
            above = min(self._reach, own.start)
            seen = labels[own.start - above : own.start + len(self._below) - above]
            self._pairs.append(matching_ids(self._below[: len(seen)], seen))
        above = min(self._reach, own.stop)
        self._below = labels[own.stop - above : own.stop + self._reach].copy()
        final, top = labels[own], self._tops[-1]
        self._store.append(final)
        numbers = np.maximum(final - self._count, 0)
        self._areas.append(np.bincount(numbers.reshape(-1), minlength=count + 1)[1:])
        boxes = np.tile(_NO_BOX, (count, 1))
        for box, place in zip(boxes, find_objects(numbers, count), strict=True):
            if place is not None:  # it is not in the halo alone
                rows, columns = place
                box[:] = rows.start + top, columns.start, rows.stop + top, columns.stop
        self._boxes.append(boxes)
        self._count += count
        self._tops.append(top + len(final))

    def finish(self, min_size: int = 0) -> None:
        """Number the objects, after the last block; those of fewer pixels become background."""
        areas = np.concatenate(self._areas)
        pairs = np.concatenate(self._pairs, axis=1)
        edges = coo_array((np.ones(pairs.shape[1], np.int8), tuple(pairs)), shape=(len(areas),) * 2)
        groups = connected_components(edges, directed=False)[1]
        sizes = np.bincount(groups, weights=areas).astype(np.int64)
        sizes[groups[0]] = 0  # the background, which is joined with nothing
        _, first = np.unique(groups, return_index=True)
        found = np.argsort(first)  # from the top of the image
        found = found[sizes[found] >= max(min_size, 1)]
        boxes = np.tile(_NO_BOX, (len(sizes), 1))
        provisional = np.concatenate(self._boxes)
        np.minimum.at(boxes[:, :2], groups, provisional[:, :2])
        np.maximum.at(boxes[:, 2:], groups, provisional[:, 2:])
        boxes, tops = boxes[found], np.array(self._tops)
        block = np.searchsorted(tops, boxes[:, 0], side="right") - 1
        # Those that end in the next block at the latest are shown together, in one crop a block.
        alone = boxes[:, 2] > tops[np.minimum(block + 2, len(tops) - 1)]
        pixels = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64).prod(axis=1)
        order = np.lexsort((alone, block))
        self.areas, self.boxes = sizes[found][order], boxes[order]
        self._alone, self._block = alone[order], block[order]
        self.too_large = (np.flatnonzero((alone & (pixels > MOST))[order]) + 1).tolist()
        if self._votes:
            votes = np.concatenate([np.zeros((1, self._votes[0].shape[1])), *self._votes])
            sums = np.zeros((len(sizes), votes.shape[1]))
            np.add.at(sums, groups, votes)
            self.classes = winners(sums[[groups[0], *found[order]]])
        ids = np.zeros(len(sizes), np.int32)
        ids[found[order]] = np.arange(1, len(order) + 1)
        self._ids = ids[groups]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The blocks, (rows, W) int32."""
        return (self._ids[part] for part in self._store)

    def reader(self) -> Callable[[slice, slice], np.ndarray]:
        """Reads ids of some rows and columns."""
        read = self._store.reader()
        return lambda rows, columns: self._ids[read(rows, columns)]

    def crops(self) -> Iterator[Crop]:
        """Show every object but those that are too large, once, in the order of their ids."""
        read, count = self.reader(), len(self.areas)
        new = self._alone | (np.diff(self._block, prepend=-1) != 0)  # starts a crop
        for first, stop in pairwise([*np.flatnonzero(new).tolist(), count]):
            if stop in self.too_large:
                continue
            top, left = self.boxes[first:stop, :2].min(axis=0).tolist()
            bottom, right = self.boxes[first:stop, 2:].max(axis=0).tolist()
            rows, columns = slice(top, bottom), slice(left, right)
            labels = read(rows, columns)
            labels[(labels <= first) | (labels > stop)] = 0
            yield Crop(rows, columns, labels)


def matching_ids(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which ids of two (H, W) int32 label maps of the same pixels are one object: (2, pairs).

    In each connected piece of what is foreground in either, it is the ids that overlap in more
    pixels than with any other id, seen from both.
    """
    pieces = label_components((one > 0) | (other > 0))
    both = (one > 0) & (other > 0)
    found = np.stack([array[both].astype(np.int64) for array in (pieces, one, other)])
    found = found[:, np.lexsort(found)]  # much faster than np.unique
    starts = np.flatnonzero((np.diff(found, axis=1, prepend=-1) != 0).any(axis=0))
    counts = np.diff(starts, append=found.shape[1])
    triples = found[:, starts[np.argsort(counts, kind="stable")]]
    mutual = np.ones(triples.shape[1], bool)
    for axis in (1, 2):
        # The last of equal keys, which overlaps most: the first from behind.
        _, last = np.unique(triples[[0, axis]][:, ::-1], axis=1, return_index=True)
        best = np.zeros(triples.shape[1], bool)
        best[triples.shape[1] - 1 - last] = True
        mutual &= best
    return triples[1:, mutual]
