"""Splits by position: contiguous blocks, sequences, blocks of time."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass, replace

from segmentation.data.splits.base import (
    Item,
    Split,
    Splitter,
    assigned,
    check_folds,
    open_to_all,
    part_size,
    part_sizes,
)
from segmentation.errors import UserError


@dataclass(frozen=True)
class IndexSplit(Splitter):
    """Cut the samples, sorted by id, into contiguous blocks: train first, then val, then test.

    Args:
        val: Samples to validate on: a count (≥ 1) or a share (< 1).
        test: Samples to test on, likewise.
    """

    val: float = 0.15
    test: float = 0.15

    def __call__(self, items: Sequence[Item]) -> Split:
        items = open_to_all(items)
        val, test = part_sizes(self.val, self.test, len(items))
        part = ["train"] * (len(items) - val - test) + ["val"] * val + ["test"] * test
        return assigned(items, {i.id: p for i, p in zip(items, part, strict=True)})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The test parts are contiguous; the last samples of what remains validate."""
        items = open_to_all(items)
        start, stop = _fold_edges("sample(s)", len(items), fold, folds)
        val = part_size("val", self.val, len(items))
        rest = IndexSplit(val, 0)(items[:start] + items[stop:])
        return replace(rest, test=tuple(item.id for item in items[start:stop]))


@dataclass(frozen=True)
class SequenceSplit(Splitter):
    """One sequence (group) tests; of each other one the last samples validate, the rest train.

    Neighbouring frames of a film are nearly the same image, so some between the training and the
    validation block are left out. Samples are in the order of their ids.

    Args:
        val: Samples of each training sequence to validate on: a count (≥ 1) or a share (< 1).
        gap: Samples of each training sequence to leave out before these, likewise.
        test: Sequence to test on, such as ``"02"``; ``null`` takes the last one.
    """

    val: float = 0.15
    gap: float = 0.05
    test: str | None = None

    def __call__(self, items: Sequence[Item]) -> Split:
        items = open_to_all(items)
        sequences = _sequences(items)
        names = ", ".join(sorted(sequences)[:9]) or "one"
        if len(sequences) < 2:
            raise UserError(f"split: two sequences are needed, there is {names}; use BlockSplit")
        tested = max(sequences) if self.test is None else self.test
        if tested not in sequences:
            raise UserError(f"split: no sequence is called {tested!r}; test is one of {names}")
        return self._tested(items, sequences, {tested})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The sequences are the folds; where there are more of them, a fold tests several.

        ``test`` plays no part.
        """
        items = open_to_all(items)
        sequences = _sequences(items)
        check_folds("sequence(s)", len(sequences), folds)
        return self._tested(items, sequences, set(sorted(sequences)[fold::folds]))

    def _tested(
        self, items: list[Item], sequences: dict[str, list[str]], tested: set[str]
    ) -> Split:
        part: dict[str, str] = {}
        for name, ids in sequences.items():
            if name in tested:
                part |= dict.fromkeys(ids, "test")
            else:
                part |= _blocks(name, ids, self.val, 0, self.gap)
        return assigned(items, part)


@dataclass(frozen=True)
class BlockSplit(Splitter):
    """Cut every sequence (group) into blocks of time: train, val, test, with gaps in between.

    Less of a leak than random frames, but the test shows the cells of the training, which
    :class:`SequenceSplit` avoids. Samples are in the order of their ids.

    Args:
        val: Samples of each sequence to validate on: a count (≥ 1) or a share (< 1).
        test: Samples of each sequence to test on, likewise.
        gap: Samples of each sequence to leave out before each of the two, likewise.
    """

    val: float = 0.15
    test: float = 0.15
    gap: float = 0.05

    def __call__(self, items: Sequence[Item]) -> Split:
        items = open_to_all(items)
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            part |= _blocks(name, ids, self.val, self.test, self.gap)
        return assigned(items, part)

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Each sequence is cut into ``folds`` blocks, of which one tests, with gaps around it.

        The samples before the tested block validate, as they would without folds; before the first
        block there are none, so there it is the last ones of the sequence. ``test`` plays no part.
        """
        items = open_to_all(items)
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            what = f"sample(s) of sequence {name or 'without name'}"
            start, stop = _fold_edges(what, len(ids), fold, folds)
            val, gap = (
                part_size(n, v, len(ids)) for n, v in (("val", self.val), ("gap", self.gap))
            )
            before, after = ids[: max(0, start - gap)], ids[stop + gap :]
            part |= dict.fromkeys(ids, "gap") | dict.fromkeys(ids[start:stop], "test")
            # As in a circle that begins after the tested block, the last samples validate.
            part |= _blocks(name, after + before, val, 0, gap)
        return assigned(items, part)


def _sequences(items: list[Item]) -> dict[str, list[str]]:
    """Ids of each group, in order."""
    if not items:
        raise UserError("split: there is nothing to train on; check the data")
    sequences: dict[str, list[str]] = defaultdict(list)
    for item in items:
        sequences[item.group].append(item.id)
    return dict(sequences)


def _fold_edges(what: str, total: int, fold: int, folds: int) -> tuple[int, int]:
    """Where a fold's block begins and ends (exclusive); blocks differ by one sample at most."""
    check_folds(what, total, folds)
    return fold * total // folds, (fold + 1) * total // folds


def _blocks(name: str, ids: list[str], val: float, test: float, gap: float) -> dict[str, str]:
    """Part of each id of a sequence: train, val and test, each of the two after a gap."""
    amounts = (("val", val), ("test", test), ("gap", gap))
    counts = {part: part_size(part, amount, len(ids)) for part, amount in amounts}
    tail: list[str] = []
    for part in ("val", "test"):
        if counts[part]:
            tail += ["gap"] * counts["gap"] + [part] * counts[part]
    if len(tail) >= len(ids):
        raise UserError(
            f"split: val={val}, test={test}, gap={gap} of the {len(ids)} sample(s) of sequence "
            f"{name or 'without name'} leave nothing to train on; ask for fewer"
        )
    return dict(zip(ids, ["train"] * (len(ids) - len(tail)) + tail, strict=True))
