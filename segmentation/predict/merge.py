"""Instances of an image that is decoded in blocks of rows, joined across the blocks' borders."""

from collections.abc import Iterable, Iterator

import cv2
import numpy as np
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components


def blocks(
    bands: Iterable[np.ndarray], height: int, rows: int, halo: int
) -> Iterator[tuple[np.ndarray, slice]]:
    """Regroup an image's bands into blocks that overlap.

    Args:
        bands: (K, any number, W) arrays, from top to bottom.
        height: Of the image.
        rows: Of each block; the last may have fewer.
        halo: So many rows more above and below each block, where the image has them.

    Yields:
        A block with its halo, (K, up to rows + 2 · halo, W), and which of its rows are its own.
    """
    start, first = 0, 0  # rows of the image: where the block starts, and what is kept starts
    kept: list[np.ndarray] = []
    end = 0
    for band in bands:
        kept.append(band)
        end += band.shape[1]
        while start < height and end >= min(start + rows + halo, height):
            stop, last = min(start + rows, height), min(start + rows + halo, height)
            joined = np.concatenate(kept, axis=1) if len(kept) > 1 else kept[0]
            yield joined[:, : last - first], slice(start - first, stop - first)
            start, above = stop, max(stop - halo, 0)
            kept, first = [joined[:, above - first :]], above


class Merge:
    """Numbers that are unique in the whole image, from labels that are unique in a block.

    Objects are joined where two blocks show the same rows, on both sides of their border as far as
    half the halo. Within each connected piece of foreground there, the two labels that overlap most
    of all mutually are one object. So connected components come out exactly as those of the whole
    image, whatever their size and with any halo ≥ 1; and so does every object that both blocks,
    seeing a halo of it, decode alike, touching others or not.

    Args:
        halo: Rows that a block has beyond its own, ≥ 1.
    """

    def __init__(self, halo: int) -> None:
        if halo < 1:
            raise ValueError(f"halo must be at least 1, got {halo}")
        self._reach = (halo + 1) // 2
        self._below: np.ndarray | None = None  # the last block's labels, half a halo at its end
        self._pairs: list[np.ndarray] = []
        self._areas: list[np.ndarray] = [np.zeros(1, np.int64)]
        self._count = 0

    def add(self, labels: np.ndarray, own: slice) -> np.ndarray:
        """Take the next block, from top to bottom.

        Args:
            labels: (block with its halo, W) ids ≥ 0, 0 = background.
            own: Which of the rows are the block's own.

        Returns:
            (own rows, W) int32: provisional ids, into the table of :meth:`finish`.
        """
        count = int(labels.max(initial=0))
        labels = np.where(labels > 0, labels + self._count, 0).astype(np.int32)
        if self._below is not None:
            above = min(self._reach, own.start)
            seen = labels[own.start - above : own.start + len(self._below) - above]
            self._pairs.append(same_objects(self._below[: len(seen)], seen))
        above = min(self._reach, own.stop)
        self._below = labels[own.stop - above : own.stop + self._reach].copy()
        final = labels[own]
        ids = final[final > 0] - (self._count + 1)
        self._areas.append(np.bincount(ids, minlength=count))
        self._count += count
        return final

    def finish(self, min_size: int = 0) -> tuple[np.ndarray, np.ndarray]:
        """What the provisional ids become, after the last block.

        Args:
            min_size: Objects of fewer pixels become background.

        Returns:
            Final id of each provisional one, int32, consecutive from the top of the image; and the
            area in pixels of each final id, (objects,) int64.
        """
        areas = np.concatenate(self._areas)
        pairs = np.concatenate([np.zeros((2, 0), np.int64), *self._pairs], axis=1)
        edges = coo_array((np.ones(pairs.shape[1], np.int8), tuple(pairs)), shape=(len(areas),) * 2)
        groups = connected_components(edges, directed=False)[1]
        sizes = np.bincount(groups, weights=areas).astype(np.int64)
        sizes[groups[0]] = 0  # the background, which is joined with nothing
        kept = sizes >= max(min_size, 1)
        _, first = np.unique(groups, return_index=True)
        order = np.argsort(first)
        order = order[kept[order]]
        ids = np.zeros(len(sizes), np.int32)
        ids[order] = np.arange(1, len(order) + 1)
        return ids[groups], sizes[order]


def same_objects(one: np.ndarray, other: np.ndarray) -> np.ndarray:
    """Which ids of two label maps of the same pixels are one object.

    Args:
        one: (H, W) int32, 0 = background.
        other: The same pixels, decoded in another block.

    Returns:
        (2, pairs) int64: in each connected piece of what is foreground in either, the ids that
        overlap in more pixels than with any other id, seen from both.
    """
    pieces = cv2.connectedComponents(((one > 0) | (other > 0)).astype(np.uint8), connectivity=8)[1]
    both = (one > 0) & (other > 0)
    found = np.stack([array[both].astype(np.int64) for array in (pieces, one, other)])
    order = np.lexsort(found)
    found = found[:, order]
    changes = np.ones(found.shape[1], bool)
    changes[1:] = (found[:, 1:] != found[:, :-1]).any(axis=0)
    starts = np.flatnonzero(changes)
    counts = np.diff(starts, append=found.shape[1])
    triples = found[:, starts]
    triples = triples[:, np.argsort(counts, kind="stable")]
    mutual = np.ones(triples.shape[1], bool)
    for axis in (1, 2):
        keys = triples[[0, axis]]
        # The last of equal keys, which overlaps most: the first from behind.
        _, last = np.unique(keys[:, ::-1], axis=1, return_index=True)
        best = np.zeros(triples.shape[1], bool)
        best[triples.shape[1] - 1 - last] = True
        mutual &= best
    return triples[1:, mutual]
