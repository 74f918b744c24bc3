"""Windows of images that are annotated in part only."""

from collections.abc import Iterable

import numpy as np

from segmentation.data.cache import StoredSample

_CHUNK = 1 << 24  # pixels that are looked at at once


class AnnotatedPixels:
    """Draws annotated pixels of samples, each of a sample's with the same probability.

    Where they lie is counted row by row when a sample is first drawn, once a process: of a large
    image with a few annotated windows nothing but rows is read after that.
    """

    def __init__(self, entries: Iterable[StoredSample]) -> None:
        self.partial = {i for i, entry in enumerate(entries) if entry.unannotated}
        self._sums: dict[int, np.ndarray] = {}

    def draw(
        self, index: int, labels: np.ndarray, rng: np.random.Generator
    ) -> tuple[int, int] | None:
        """Row and column in the (H, W) labels of sample ``index``, -1 = not annotated.

        ``None`` where all of it is annotated, or nothing.
        """
        if index not in self.partial:
            return None
        if index not in self._sums:
            self._sums[index] = row_sums(labels)
        sums = self._sums[index]
        if not sums[-1]:
            return None
        number = int(rng.integers(sums[-1]))
        row = int(np.searchsorted(sums, number, side="right"))
        columns = np.flatnonzero(labels[row] >= 0)
        return row, int(columns[number - sums[row]])  # counted from the end of the row


def row_sums(labels: np.ndarray) -> np.ndarray:
    """(H, W) labels ► (H,) int64: annotated pixels up to and with each row.

    >>> row_sums(np.array([[0, -1], [-1, -1], [3, 0]])).tolist()
    [1, 1, 3]
    """
    rows = max(1, _CHUNK // max(1, labels.shape[1]))
    parts = (labels[i : i + rows] >= 0 for i in range(0, len(labels), rows))
    return np.concatenate([np.count_nonzero(part, axis=1) for part in parts]).cumsum()
