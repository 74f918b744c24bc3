"""Which samples train, validate and test: decided by ids alone, the same on every machine.

Kept by hand because the draws are frozen: a new release moves no sample of an old experiment.

>>> from segmentation.data.sample import Sample
>>> images = [Sample(f"i{n}", None, None, group="ab"[n % 2]) for n in range(6)]
>>> RandomSplit(val=1, test=2)(images).test, GroupSplit(val=0, test=1)(images).test
(('i2', 'i3'), ('i0', 'i2', 'i4'))
"""

import logging
import unicodedata
from abc import ABC, abstractmethod
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmentation.data import parts
from segmentation.data.sample import PARTS, Item, Split, straddling
from segmentation.errors import UserError
from segmentation.io.files import check_regular


class Splitter(ABC):
    """Assigns samples to parts, whatever order they come in.

    All but :class:`OfficialSplit` and lists leave the dataset's own test set out, where it has one
    (``subset`` is ``"test"``). Amounts are counts (≥ 1) or shares (< 1) of all.
    """

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Split:
        """Split ``items``; a ``UserError`` if nothing is left to train on."""

    def sources_of(self, items: Sequence[Item]) -> dict[str, str]:
        """Id ► what each sample was acquired with: its group, ``""`` where that is not known."""
        return {item.id: item.group for item in items}

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Fold ``fold`` (from 0) of ``folds``, whose test parts hold every sample once.

        What remains trains and validates as it would without folds, with as many to validate. A
        ``UserError`` if there are too few samples or groups, or this kind of split has no folds.
        """
        kind = type(self).__name__
        remedy = "set data.split to one that has, such as RandomSplit or GroupSplit"
        raise UserError(f"split: {kind} has no folds; {remedy}")


@dataclass(frozen=True)
class RandomSplit(Splitter):
    """Shuffle single samples by a seed: fair only where samples are independent.

    Args:
        val, test: How many samples to validate and to test on.
        seed: Of the shuffle, ≥ 0. The test part does not depend on ``val``.
        stratify: Give every kind its share of each part (largest remainders first).
    """

    val: float = 0.1
    test: float = 0.15
    seed: int = 0
    stratify: bool = True

    def __call__(self, items: Sequence[Item]) -> Split:
        items = parts.open_to_all(items)
        val_count, test_count = parts.part_sizes(self.val, self.test, len(items))
        order = parts.shuffled(items, self.seed)
        test = parts.draw(order, test_count, self.stratify)
        val = parts.draw([i for i in order if i.id not in test], val_count, self.stratify)
        return parts.assigned(items, dict.fromkeys(test, "test") | dict.fromkeys(val, "val"))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Test parts differ by at most one sample, in all and (if ``stratify``) in each kind."""
        items = parts.open_to_all(items)
        parts.check_folds("sample(s)", len(items), folds)
        order = parts.shuffled(items, self.seed)
        if self.stratify:
            order.sort(key=lambda item: item.kind)
        val = parts.part_size("val", self.val, len(items))
        return parts.with_test(
            items, order[fold::folds], RandomSplit(val, 0, self.seed, self.stratify)
        )


@dataclass(frozen=True)
class LeakyRandomSplit(RandomSplit):
    """As :class:`RandomSplit`, for published scores of samples that leak; the log says so."""

    test: float = 0.2

    def __call__(self, items: Sequence[Item]) -> Split:
        return self._warned(items, super().__call__(items))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        return self._warned(items, super().fold(items, fold, folds))

    @staticmethod
    def _warned(items: Sequence[Item], split: Split) -> Split:
        logging.getLogger(__name__).warning(
            "split: LeakyRandomSplit leaks: %d group(s) (sequences, subjects) lie in several parts,"
            " so scores are too good; use SequenceSplit, BlockSplit or GroupSplit",
            len(straddling({item.id: item.group for item in items}, split)),
        )
        return split


@dataclass(frozen=True)
class GroupSplit(Splitter):
    """Shuffle whole groups (patients, wells, sequences): none straddles two parts.

    Args:
        val, test: How many groups to validate and to test on.
        seed: Of the shuffle, ≥ 0. The test part does not depend on ``val``.
    """

    val: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> Split:
        items = parts.open_to_all(items)
        groups = parts.shuffled(parts.groups_of(items), self.seed)
        needed = 1 + (self.val > 0) + (self.test > 0)
        if len(groups) < needed:
            few = f"{len(groups)} group(s) cannot make {needed} parts"
            raise UserError(f"split: {few}; use RandomSplit if the samples are independent")
        val, test = parts.part_sizes(self.val, self.test, len(groups))
        part = dict.fromkeys(groups[: test + val], "val") | dict.fromkeys(groups[:test], "test")
        return parts.assigned(items, {i.id: part[i.group] for i in items if i.group in part})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the shuffled groups out: the numbers of groups differ by one at most."""
        items = parts.open_to_all(items)
        groups = parts.shuffled(parts.groups_of(items), self.seed)
        parts.check_folds("group(s)", len(groups), folds)
        rest = GroupSplit(parts.part_size("val", self.val, len(groups)), 0, self.seed)
        return parts.with_test(items, [i for i in items if i.group in groups[fold::folds]], rest)


@dataclass(frozen=True)
class IndexSplit(Splitter):
    """Cut the samples, sorted by id, into blocks: the last ones test, those before validate."""

    val: float = 0.15
    test: float = 0.15

    def __call__(self, items: Sequence[Item]) -> Split:
        items = parts.open_to_all(items)
        val, test = parts.part_sizes(self.val, self.test, len(items))
        part = ["train"] * (len(items) - val - test) + ["val"] * val + ["test"] * test
        return parts.assigned(items, {i.id: p for i, p in zip(items, part, strict=True)})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The test parts are contiguous; the last samples of what remains validate."""
        items = parts.open_to_all(items)
        block = parts.fold_block("sample(s)", len(items), fold, folds)
        rest = IndexSplit(parts.part_size("val", self.val, len(items)), 0)
        return parts.with_test(items, items[block], rest)


@dataclass(frozen=True)
class SequenceSplit(Splitter):
    """One sequence (group) tests; of each other one the last samples (by id) validate.

    Neighbouring frames of a film are nearly the same image, so some are left out in between.

    Args:
        val: Samples of each training sequence to validate on.
        gap: Samples of each training sequence to leave out before these.
        test: Sequence to test on, such as ``"02"``; ``null`` takes the last one. Not for folds.
    """

    val: float = 0.15
    gap: float = 0.05
    test: str | None = None

    def __call__(self, items: Sequence[Item]) -> Split:
        sequences = parts.groups_of(parts.open_to_all(items))
        names = ", ".join(sequences[:9]) or "one"
        if len(sequences) == 1:
            raise UserError(f"split: two sequences are needed, there is {names}; use BlockSplit")
        if self.test not in (None, *sequences):
            raise UserError(f"split: no sequence is called {self.test!r}; test is one of {names}")
        return self._testing(items, sequences[-1:] if self.test is None else [self.test])

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The sequences are the folds; where there are more of them, a fold tests several."""
        names = parts.groups_of(parts.open_to_all(items))
        parts.check_folds("sequence(s)", len(names), folds)
        return self._testing(items, names[fold::folds])

    def _testing(self, items: Sequence[Item], tested: Collection[str]) -> Split:
        def cut(name: str, ids: list[str]) -> dict[str, str]:
            if name in tested:
                return dict.fromkeys(ids, "test")
            return parts.block_parts(name, ids, self.val, 0, self.gap)

        return parts.by_sequence(items, cut)


@dataclass(frozen=True)
class BlockSplit(Splitter):
    """Cut every sequence (group, by id) into train, val and test, with gaps in between.

    Less of a leak than random frames, but the test shows the cells of the training, which
    :class:`SequenceSplit` avoids.

    Args:
        val, test: How many samples of each sequence to validate and to test on (not for folds).
        gap: How many samples of each sequence to leave out before each of the two.
    """

    val: float = 0.15
    test: float = 0.15
    gap: float = 0.05

    def __call__(self, items: Sequence[Item]) -> Split:
        amounts = self.val, self.test, self.gap
        return parts.by_sequence(items, lambda name, ids: parts.block_parts(name, ids, *amounts))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """One of ``folds`` blocks of each sequence tests, those before it validate, with gaps."""

        def cut(name: str, ids: list[str]) -> dict[str, str]:
            what = f"sample(s) of sequence {name or 'without name'}"
            block = parts.fold_block(what, len(ids), fold, folds)
            val, gap = (parts.part_size(n, getattr(self, n), len(ids)) for n in ("val", "gap"))
            before, after = ids[: max(0, block.start - gap)], ids[block.stop + gap :]
            part = dict.fromkeys(ids, "gap") | dict.fromkeys(ids[block], "test")
            # As in a circle that begins after the tested block, the last samples validate:
            # before the first block there are none, so there it is the last ones of the sequence.
            return part | parts.block_parts(name, after + before, val, 0, gap)

        return parts.by_sequence(items, cut)


@dataclass(frozen=True)
class ListSplit(Splitter):
    """Take the parts, in their order, from text files with one sample id a line (``#`` comments).

    It has no folds: lists do not tell which samples belong together, as those of one patient may.

    Args:
        train, val, test: Paths of the lists.
    """

    train: str
    val: str
    test: str

    def __call__(self, items: Sequence[Item]) -> Split:
        known = sorted(item.id for item in items)
        return Split(*(self._read(getattr(self, part), known) for part in PARTS))

    @staticmethod
    def _read(path: str, known: Sequence[str]) -> tuple[str, ...]:
        check_regular(Path(path).expanduser())
        try:
            text = Path(path).expanduser().read_text(encoding="utf-8-sig")
        except (OSError, UnicodeDecodeError) as error:
            reason = getattr(error, "strerror", None) or "not a text file in UTF-8"
            raise UserError(f"{path}: cannot be read ({reason}); save one id a line") from None
        text = unicodedata.normalize("NFC", text)  # as ids are
        lines = (line.partition("#")[0].strip() for line in text.splitlines())
        names = tuple(line for line in lines if line)
        for name in sorted(set(names) - set(known)):
            what = f"no sample is called {name!r} (one is called {known[0]!r})"
            raise UserError(f"{path}: {what}; list ids like that, without suffix")
        return names


@dataclass(frozen=True)
class OfficialSplit(Splitter):
    """The dataset's own test set, and its own validation set where it has one.

    Args:
        val: Where it has none, how many samples of the training set to validate on.
        seed: Of the draws, ≥ 0.
        train: Train on so many samples only, drawn by the seed; ``null`` takes all.
    """

    val: float = 0.1
    seed: int = 0
    train: int | None = None

    def __call__(self, items: Sequence[Item]) -> Split:
        test = tuple(sorted(item.id for item in items if item.subset == "test"))
        if not test:
            raise UserError("split: this dataset holds no official test set; use RandomSplit")
        rest = parts.open_to_all(items)
        val = tuple(item.id for item in rest if item.subset == "val")
        train = tuple(item.id for item in rest if item.subset != "val")
        if not train:
            raise UserError("split: the official lists leave nothing to train on; check the data")
        if not val:
            drawn = RandomSplit(val=self.val, test=0, seed=self.seed)(rest)
            train, val = drawn.train, drawn.val
        return Split(self._some(train), val, test)

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """:class:`RandomSplit`'s folds over all but the official test set, which is in none."""
        # As many samples validate as in the official validation set, where there is one.
        val = sum(item.subset == "val" for item in items) or self.val
        split = RandomSplit(val=val, seed=self.seed).fold(items, fold, folds)
        return replace(split, train=self._some(split.train))

    def _some(self, train: tuple[str, ...]) -> tuple[str, ...]:
        count = len(train) if self.train is None else self.train
        if not 0 < count <= (most := len(train)):
            raise UserError(f"split: train={count} is not between 1 and {most}, all there are")
        return tuple(sorted(parts.shuffled(train, self.seed)[:count]))
