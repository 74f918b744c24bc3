"""Samples of three kinds of cells, as a reader gives them."""

from collections.abc import Sequence

import numpy as np

from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.datasets.synthetic_classes import NAMES, cells_of_classes
from segmentation.datasets.synthetic_nuclei import in_levels


class Cells(SegmentationDataset):
    """So many images of a size; ``classes`` is what becomes of the classes of each."""

    name = "cells"

    def __init__(
        self, count: int = 8, size: tuple[int, int] = (64, 64), only: Sequence[int] = (1, 2, 3)
    ) -> None:
        self.count, self.size, self.only = count, size, only
        self.class_names: Sequence[str] = NAMES
        self.classes = True

    def index(self) -> Sequence[Record]:
        stamp = f"{self.size} {self.only}"
        return [Record(f"cells_{i}", "", (), f"{stamp} {i}") for i in range(self.count)]

    def read(self, record: Record) -> Sample:
        rng = np.random.default_rng([1, int(record.id.partition("_")[2])])
        image, labels, classes = cells_of_classes(rng, self.size)
        labels = np.where(np.isin(classes, self.only)[labels], labels, 0).astype(np.int32)
        classes[~np.isin(classes, self.only)] = 0
        known = classes if self.classes else None
        return Sample(record.id, in_levels(image, 8)[..., None], labels, classes=known)
