"""Which samples train, validate and test: decided by ids alone, the same on every machine."""

from segmentation.data.splits.base import (
    OFFICIAL_TEST,
    OFFICIAL_VAL,
    PARTS,
    Item,
    Split,
    Splitter,
    straddling,
)
from segmentation.data.splits.drawn import GroupSplit, LeakyRandomSplit, RandomSplit
from segmentation.data.splits.listed import ListSplit, OfficialSplit
from segmentation.data.splits.ordered import BlockSplit, IndexSplit, SequenceSplit

__all__ = [
    "OFFICIAL_TEST",
    "OFFICIAL_VAL",
    "PARTS",
    "BlockSplit",
    "GroupSplit",
    "IndexSplit",
    "Item",
    "LeakyRandomSplit",
    "ListSplit",
    "OfficialSplit",
    "RandomSplit",
    "SequenceSplit",
    "Split",
    "Splitter",
    "straddling",
]
