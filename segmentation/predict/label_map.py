"""A label map on disk, and its objects, cut out of it block by block."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass

import numpy as np
from scipy.ndimage import find_objects

from segmentation.io.windows import BandStore

MOST = 2**24  # pixels of an object's box (4096²) that is cut out; each takes some 60 bytes


@dataclass(frozen=True)
class Crop:
    """Part of a label map that shows some objects whole, and no others.

    Attributes:
        rows: Of the label map.
        columns: Of it.
        labels: (rows, columns) int32 ids, 0 = background.
    """

    rows: slice
    columns: slice
    labels: np.ndarray


class LabelMap:
    """A label map whose rows wait on disk. Its ids are 1, 2, …, as :meth:`crops` shows the objects.

    Args:
        size: (H, W).
        spool: Where there is room for it.

    Attributes:
        areas: (objects,) int64: pixels of each object. Known after :meth:`finish`, as are the
            following.
        boxes: (objects, 4) int32: top, left, and the first row and column beyond the object.
        too_large: Ids of objects whose boxes have more than ``MOST`` pixels.
    """

    def __init__(self, size: tuple[int, int], spool: BandStore) -> None:
        self.size, self._spool = size, spool
        self._tops = [0]  # of each block, and where the last one ends
        self._count = 0
        self._boxes = [np.zeros((1, 4), np.int32)]

    def append(self, labels: np.ndarray, count: int) -> None:
        """Take the next rows, from top to bottom.

        Args:
            labels: (rows, W) int32: what ``segmentation.predict.merge.Merge.add`` returns.
            count: How many provisional ids there are so far.
        """
        self._spool.append(labels)
        top, new = self._tops[-1], count - self._count
        found = find_objects(np.maximum(labels - self._count, 0), new)
        boxes = np.tile(np.array([2**31 - 1, 2**31 - 1, 0, 0], np.int32), (new, 1))
        for box, place in zip(boxes, found, strict=True):
            if place is not None:  # it is not in the halo alone
                rows, columns = place
                box[:] = rows.start + top, columns.start, rows.stop + top, columns.stop
        self._boxes.append(boxes)
        self._count = count
        self._tops.append(top + len(labels))

    def finish(self, ids: np.ndarray, areas: np.ndarray) -> None:
        """Tell what ``segmentation.predict.merge.Merge.finish`` returns."""
        provisional = np.concatenate(self._boxes)
        boxes = np.zeros((len(areas) + 1, 4), np.int32)
        boxes[:, :2] = 2**31 - 1
        np.minimum.at(boxes[:, :2], ids, provisional[:, :2])
        np.maximum.at(boxes[:, 2:], ids, provisional[:, 2:])
        boxes = boxes[1:]
        tops = np.array(self._tops)
        block = np.searchsorted(tops, boxes[:, 0], side="right") - 1
        # Those that end in the next block at the latest are shown together, in one crop a block.
        ends = tops[np.minimum(block + 2, len(tops) - 1)]
        alone = boxes[:, 2] > ends
        pixels = (boxes[:, 2:] - boxes[:, :2]).astype(np.int64).prod(axis=1)
        order = np.lexsort((alone, block))
        self.areas, self.boxes = areas[order], boxes[order]
        self._alone, self._block = alone[order], block[order]
        self.too_large = np.flatnonzero((alone & (pixels > MOST))[order]) + 1
        renumbered = np.zeros(len(areas) + 1, np.int32)
        renumbered[order + 1] = np.arange(1, len(areas) + 1)
        self._ids = renumbered[ids]

    def __iter__(self) -> Iterator[np.ndarray]:
        """The blocks, (rows, W) int32."""
        return (self._ids[part] for part in self._spool)

    def crops(self) -> Iterator[Crop]:
        """Show every object but those that are too large, once, in the order of their ids."""
        read = self._spool.reader()
        for block in range(len(self._tops) - 1):
            first, last = np.searchsorted(self._block, [block, block + 1])
            middle = first + int(np.searchsorted(self._alone[first:last], True))
            if middle > first:
                yield self._crop(read, range(first, middle))
            for index in range(middle, last):
                if index + 1 not in self.too_large:
                    yield self._crop(read, range(index, index + 1))

    def _crop(self, read: Callable[[slice, slice], np.ndarray], indices: range) -> Crop:
        boxes = self.boxes[indices.start : indices.stop]
        top, left = boxes[:, :2].min(axis=0).tolist()
        bottom, right = boxes[:, 2:].max(axis=0).tolist()
        rows, columns = slice(top, bottom), slice(left, right)
        labels = self._ids[read(rows, columns)]
        others = (labels <= indices.start) | (labels > indices.stop)
        labels[others] = 0
        return Crop(rows, columns, labels)
