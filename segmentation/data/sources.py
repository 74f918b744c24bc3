"""What images were acquired with: a split that keeps it apart, and what a test says of it.

Images of one source (microscope, stain, plate, patient, film) resemble each other. A test on
sources that were trained on, too, is a score for more of the same.
"""

import csv
import io
import unicodedata
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

from segmentation.data.cache import StoredSample
from segmentation.data.parts import (
    assigned,
    check_folds,
    open_to_all,
    part_size,
    shuffled,
    with_test,
)
from segmentation.data.sample import PARTS, Item, Split
from segmentation.data.splits import Splitter
from segmentation.errors import UserError
from segmentation.io.files import check_regular
from segmentation.io.listing import some_of

SHARED = "share their sources with training: a score for more of the same"
APART = "test images are from sources never trained on"
FEW = "use RandomSplit, which divides image by image: a score for more of the same"


@dataclass(frozen=True)
class SourceSplit(Splitter):
    """Keep whole sources for validation and test: a score for what was never trained on.

    >>> from segmentation.data.sample import Sample
    >>> images = [Sample(f"i{n}", None, None, group="abc"[n % 3]) for n in range(6)]
    >>> SourceSplit(val=1, test=1)(images)
    Split(train=('i1', 'i4'), val=('i0', 'i3'), test=('i2', 'i5'))

    Args:
        val, test: How many images, or which share of them, to validate and to test on: the sources,
            shuffled, fill that as far as they fit (at least one), so a larger one trains.
        seed: Of the shuffle, ≥ 0. The test part does not depend on ``val``.
        sources: CSV file with the columns ``id`` and ``source``, as ``segmentation audit`` writes;
            ``null`` takes the groups that the data set knows, such as subfolders.
    """

    val: float = 0.15
    test: float = 0.15
    seed: int = 0
    sources: str | None = None

    def __call__(self, items: Sequence[Item]) -> Split:
        items = open_to_all(self._grouped(items))
        sizes = Counter(item.group for item in items)
        needed = 1 + (self.val > 0) + (self.test > 0)
        if len(sizes) < needed:
            have = f"{len(sizes)} source(s) ({some_of(sorted(sizes))}) cannot make {needed} parts"
            raise UserError(f"split: {have}; {FEW}")
        order = shuffled(sorted(sizes), self.seed)
        test = _fitting("test", self.test, order, sizes)
        val = _fitting("val", self.val, [s for s in order if s not in test], sizes)
        if len(test) + len(val) == len(sizes):
            of = f"{len(items)} images of {len(sizes)} sources"
            amounts = f"val={self.val} and test={self.test} of {of}"
            raise UserError(f"split: {amounts} leave nothing to train on; ask for fewer")
        part = dict.fromkeys(val, "val") | dict.fromkeys(test, "test")
        return assigned(items, {i.id: part[i.group] for i in items if i.group in part})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the sources out, the largest first, each to the fold with the fewest images."""
        items = open_to_all(self._grouped(items))
        sizes = Counter(item.group for item in items)
        check_folds("source(s)", len(sizes), folds)
        dealt: list[list[str]] = [[] for _ in range(folds)]
        for source in sorted(shuffled(sorted(sizes), self.seed), key=lambda s: -sizes[s]):
            min(dealt, key=lambda fold: sum(sizes[s] for s in fold)).append(source)
        tested = [item for item in items if item.group in dealt[fold]]
        return with_test(items, tested, replace(self, test=0, sources=None))

    def sources_of(self, items: Sequence[Item]) -> dict[str, str]:
        if self.sources is None:
            return super().sources_of(items)
        return read_sources(Path(self.sources).expanduser())

    def _grouped(self, items: Sequence[Item]) -> list["_Grouped"]:
        """The items by their sources; a ``UserError`` where one has none."""
        known = self.sources_of(items)
        lacking = sorted(i.id for i in items if i.subset != "test" and not known.get(i.id))
        if lacking:
            where = self.sources or "the data set (in a folder of images a subfolder is a source)"
            raise UserError(
                f"split: {len(lacking)} of {len(items)} images have no source in {where}, such as "
                f"{lacking[0]}; give data.split.sources, which segmentation audit writes, or "
                f"{FEW}"
            )
        return [_Grouped(i.id, known.get(i.id, ""), i.kind, i.subset) for i in items]


class _Grouped(NamedTuple):
    """An item whose group is its source."""

    id: str
    group: str
    kind: str
    subset: str


def with_sources(entries: Sequence[StoredSample], source: Any) -> list[StoredSample]:
    """Stored samples, their groups the sources that their dataset tells, where it does."""
    told = getattr(source, "source_of", None)
    return (
        [replace(one, group=told(one.id) or one.group) for one in entries] if told else [*entries]
    )


def check_known(sources: Mapping[str, str], images: Collection[str]) -> None:
    """Raise a :class:`UserError` unless the source of each of these images is known."""
    lacking = sorted(image for image in images if not sources.get(image))
    if lacking:
        raise UserError(
            f"data.sampling.balance_by source: {len(lacking)} of {len(images)} training images "
            f"have no source, such as {lacking[0]}; name them by subfolders or by "
            "data.split.sources of SourceSplit, or balance by kind"
        )


def read_sources(path: Path) -> dict[str, str]:
    """Id ► source, from a CSV file with these two columns.

    Raises:
        UserError: It cannot be read, lacks a column or a value, or names an image twice.
    """
    check_regular(path)
    try:
        text = unicodedata.normalize("NFC", path.read_text(encoding="utf-8-sig"))  # as ids are
        rows = list(csv.DictReader(io.StringIO(text), strict=True))
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = getattr(error, "strerror", None) or "not a CSV file in UTF-8"
        raise UserError(f"{path}: cannot be read ({reason}); write a line id,source each") from None
    found: dict[str, str] = {}
    for number, row in enumerate(rows, 2):
        name, source = ((row.get(column) or "").strip() for column in ("id", "source"))
        if not name or not source:
            raise UserError(f"{path}, line {number}: lacks an id or a source; write id,source")
        if found.setdefault(name, source) != source:
            both = f"{name} is of {found[name]} and of {source}"
            raise UserError(f"{path}, line {number}: {both}; leave one")
    if not found:
        raise UserError(f"{path}: names no image; write a head id,source and a line for each")
    return found


def about_test(sources: Mapping[str, str], trained: Collection[str], test: Collection[str]) -> str:
    """A line on what a test tells, by the sources of its images; empty where they are not known.

    >>> about_test({"a": "x", "b": "y"}, ["a"], ["b"])
    'test images are from sources never trained on'
    """
    seen = {sources.get(name, "") for name in trained}
    tested = [sources.get(name, "") for name in test]
    shared = sum(source in seen - {""} for source in tested)
    if shared:
        of = "" if shared == len(tested) else f"{shared} of {len(tested)} "
        return f"{of}test images {SHARED}"
    return APART if seen and tested and "" not in seen.union(tested) else ""


def torn(sources: Mapping[str, str], split: Split) -> dict[str, list[str]]:
    """Source ► the parts of a split, in order, of each source that lies in several."""
    parts: dict[str, set[str]] = {}
    for part in PARTS:
        for name in getattr(split, part):
            parts.setdefault(sources.get(name, ""), set()).add(part)
    return {
        source: sorted(parts[source], key=PARTS.index)
        for source in sorted(parts)
        if source and len(parts[source]) > 1
    }


def torn_sources(sources: Mapping[str, str], split: Split) -> list[str]:
    """A line if a split has images of one source in several parts and three could be apart."""
    if not (found := torn(sources, split)) or len({*sources.values()} - {""}) < 3:
        return []
    source, parts = next(iter(found.items()))
    return [
        f"split: {len(found)} source(s) lie in several parts, such as {source} in "
        f"{' and '.join(parts)}, so the test is {SHARED.partition(': ')[2]}; keep each in one, as "
        "SourceSplit does"
    ]


def _fitting(part: str, amount: float, order: Sequence[str], sizes: Mapping[str, int]) -> list[str]:
    """The sources whose images fit into an amount of all, in this order; at least one."""
    left, found = part_size(part, amount, sum(sizes.values())), []
    for source in order if left else ():
        if sizes[source] <= left:
            found.append(source)
            left -= sizes[source]
    return found or sorted(order, key=lambda source: sizes[source])[: amount > 0]
