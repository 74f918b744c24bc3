"""Which samples train, validate and test: decided by ids alone, the same on every machine.

Kept by hand because the draws are frozen: a new release moves no sample of an old experiment.

>>> from segmentation.data.sample import Sample
>>> images = [Sample(f"i{n}", np.zeros((8, 8, 1)), None, group="ab"[n % 2]) for n in range(6)]
>>> RandomSplit(val=1, test=2)(images).test, GroupSplit(val=0, test=1)(images).test
(('i2', 'i3'), ('i0', 'i2', 'i4'))
"""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Protocol

import numpy as np

from segmentation.errors import UserError

PARTS = ("train", "val", "test")
OFFICIAL_TEST, OFFICIAL_VAL = "test", "val"  # subsets that a dataset's authors chose

_log = logging.getLogger(__name__)


class Item(Protocol):
    """What a split needs to know of a sample: a stored one, or a sample itself."""

    @property
    def id(self) -> str: ...
    @property
    def group(self) -> str: ...
    @property
    def kind(self) -> str: ...
    @property
    def subset(self) -> str: ...


@dataclass(frozen=True)
class Split:
    """Sample ids by part. A sample may be in none of them; in two, it is a ``UserError``."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            for name in getattr(self, part):
                if name in seen:
                    raise UserError(
                        f"split: {name} is in {seen[name]} and again in {part}; list each sample "
                        "once"
                    )
                seen[name] = part

    def to_json(self) -> str:
        """The ids and a hash over them, to be kept beside a run."""
        parts = asdict(self)
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        counts = {part: len(ids) for part, ids in parts.items()}
        return json.dumps({"sha256": digest, "counts": counts, **parts}, indent=1)


def straddling(digests: Mapping[str, str], split: Split) -> list[list[str]]:
    """Groups of samples with the same digest that lie in more than one part, each sorted by id."""
    part = {name: p for p in PARTS for name in getattr(split, p)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(part):
        groups[digests[name]].append(name)
    return [names for names in groups.values() if len({part[name] for name in names}) > 1]


class Splitter(ABC):
    """Assigns samples to parts, whatever order they come in.

    Splits that draw at random or by position leave the dataset's own test set out, where it has one
    (``subset`` is ``"test"``): only :class:`OfficialSplit` and lists use it. Amounts are counts
    (≥ 1) or shares (< 1) of all.
    """

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Split:
        """Split ``items``; the order within each part is that of the ids.

        Raises:
            UserError: Nothing is left to train on, or a listed id does not exist.
        """

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Fold ``fold`` of ``folds`` (0 ≤ ``fold`` < ``folds``) of a cross-validation.

        The test parts of all folds are disjoint and hold every sample that is open to this split
        once. What remains trains and validates as it would without folds, with as many to validate.

        Raises:
            UserError: There are too few samples or groups for so many folds, nothing is left to
                train on, or this kind of split has no folds.
        """
        raise UserError(
            f"split: {type(self).__name__} has no folds; set data.split to one that has, such as "
            "RandomSplit or GroupSplit"
        )


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
        items = _open_to_all(items)
        val_count, test_count = _part_sizes(self.val, self.test, len(items))
        order = _shuffled([item.id for item in items], self.seed)
        kinds = {item.id: item.kind if self.stratify else "" for item in items}
        test = _draw(order, kinds, test_count)
        val = _draw([name for name in order if name not in test], kinds, val_count)
        return _assigned(items, dict.fromkeys(test, "test") | dict.fromkeys(val, "val"))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the shuffled samples out, kind after kind (if ``stratify``).

        Any two test parts differ by at most one sample, in all and in each kind.
        """
        items = _open_to_all(items)
        _check_folds("sample(s)", len(items), folds)
        order = _shuffled([item.id for item in items], self.seed)
        if self.stratify:
            kinds = {item.id: item.kind for item in items}
            order.sort(key=kinds.__getitem__)
        val = _part_size("val", self.val, len(items))
        rest = RandomSplit(val, 0, self.seed, self.stratify)
        return _tested(items, set(order[fold::folds]), rest)


@dataclass(frozen=True)
class LeakyRandomSplit(RandomSplit):
    """As :class:`RandomSplit`, where samples are not independent; the log says that it leaks.

    Some published scores were measured so: the networks had all but seen their test images.
    """

    test: float = 0.2

    def __call__(self, items: Sequence[Item]) -> Split:
        return self._warned(items, super().__call__(items))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        return self._warned(items, super().fold(items, fold, folds))

    @staticmethod
    def _warned(items: Sequence[Item], split: Split) -> Split:
        shared = straddling({item.id: item.group for item in items}, split)
        _log.warning(
            "split: LeakyRandomSplit leaks: %d group(s) (sequences, subjects) lie in several parts,"
            " so scores are too good; use SequenceSplit, BlockSplit or GroupSplit",
            len(shared),
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
        items = _open_to_all(items)
        groups = _shuffled(sorted({item.group for item in items}), self.seed)
        needed = 1 + (self.val > 0) + (self.test > 0)
        if len(groups) < needed:
            raise UserError(
                f"split: {len(groups)} group(s) cannot make {needed} parts; use RandomSplit if the "
                "samples are independent"
            )
        val, test = _part_sizes(self.val, self.test, len(groups))
        part = dict.fromkeys(groups[:test], "test")
        part |= dict.fromkeys(groups[test : test + val], "val")
        return _assigned(items, {i.id: part[i.group] for i in items if i.group in part})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the shuffled groups out: the numbers of groups differ by one at most."""
        items = _open_to_all(items)
        groups = _shuffled(sorted({item.group for item in items}), self.seed)
        _check_folds("group(s)", len(groups), folds)
        val = _part_size("val", self.val, len(groups))
        tested = {item.id for item in items if item.group in groups[fold::folds]}
        return _tested(items, tested, GroupSplit(val, 0, self.seed))


@dataclass(frozen=True)
class IndexSplit(Splitter):
    """Cut the samples, sorted by id, into contiguous blocks: train first, then val, then test.

    Args:
        val, test: How many samples to validate and to test on.
    """

    val: float = 0.15
    test: float = 0.15

    def __call__(self, items: Sequence[Item]) -> Split:
        items = _open_to_all(items)
        val, test = _part_sizes(self.val, self.test, len(items))
        part = ["train"] * (len(items) - val - test) + ["val"] * val + ["test"] * test
        return _assigned(items, {i.id: p for i, p in zip(items, part, strict=True)})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The test parts are contiguous; the last samples of what remains validate."""
        items = _open_to_all(items)
        start, stop = _fold_edges("sample(s)", len(items), fold, folds)
        val = _part_size("val", self.val, len(items))
        return _tested(items, {item.id for item in items[start:stop]}, IndexSplit(val, 0))


@dataclass(frozen=True)
class SequenceSplit(Splitter):
    """One sequence (group) tests; of each other one the last samples validate, the rest train.

    Neighbouring frames of a film are nearly the same image, so some between the training and the
    validation block are left out. Samples are in the order of their ids.

    Args:
        val: Samples of each training sequence to validate on.
        gap: Samples of each training sequence to leave out before these.
        test: Sequence to test on, such as ``"02"``; ``null`` takes the last one. Not for folds.
    """

    val: float = 0.15
    gap: float = 0.05
    test: str | None = None

    def __call__(self, items: Sequence[Item]) -> Split:
        sequences = _sequences(items)
        names = ", ".join(sorted(sequences)[:9]) or "one"
        if len(sequences) < 2:
            raise UserError(f"split: two sequences are needed, there is {names}; use BlockSplit")
        tested = max(sequences) if self.test is None else self.test
        if tested not in sequences:
            raise UserError(f"split: no sequence is called {tested!r}; test is one of {names}")
        return self._testing(items, [tested])

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """The sequences are the folds; where there are more of them, a fold tests several."""
        names = sorted(_sequences(items))
        _check_folds("sequence(s)", len(names), folds)
        return self._testing(items, names[fold::folds])

    def _testing(self, items: Sequence[Item], tested: Collection[str]) -> Split:
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            if name in tested:
                part |= dict.fromkeys(ids, "test")
            else:
                part |= _blocks(name, ids, self.val, 0, self.gap)
        return _assigned(_open_to_all(items), part)


@dataclass(frozen=True)
class BlockSplit(Splitter):
    """Cut every sequence (group) into blocks of time: train, val, test, with gaps in between.

    Less of a leak than random frames, but the test shows the cells of the training, which
    :class:`SequenceSplit` avoids. Samples are in the order of their ids.

    Args:
        val, test: How many samples of each sequence to validate and to test on (not for folds).
        gap: How many samples of each sequence to leave out before each of the two.
    """

    val: float = 0.15
    test: float = 0.15
    gap: float = 0.05

    def __call__(self, items: Sequence[Item]) -> Split:
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            part |= _blocks(name, ids, self.val, self.test, self.gap)
        return _assigned(_open_to_all(items), part)

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Each sequence is cut into ``folds`` blocks, of which one tests, with gaps around it.

        The samples before the tested block validate, as they would without folds; before the first
        block there are none, so there it is the last ones of the sequence.
        """
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            what = f"sample(s) of sequence {name or 'without name'}"
            start, stop = _fold_edges(what, len(ids), fold, folds)
            val, gap = (_part_size(n, getattr(self, n), len(ids)) for n in ("val", "gap"))
            before, after = ids[: max(0, start - gap)], ids[stop + gap :]
            part |= dict.fromkeys(ids, "gap") | dict.fromkeys(ids[start:stop], "test")
            # As in a circle that begins after the tested block, the last samples validate.
            part |= _blocks(name, after + before, val, 0, gap)
        return _assigned(_open_to_all(items), part)


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
        parts = {part: _read_list(getattr(self, part)) for part in PARTS}
        for part, names in parts.items():
            for name in sorted(set(names) - set(known)):
                raise UserError(
                    f"{getattr(self, part)}: no sample is called {name!r} (one is called "
                    f"{known[0]!r}); list ids like that, without suffix"
                )
        return Split(**parts)


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
        test, val = (
            tuple(sorted(item.id for item in items if item.subset == subset))
            for subset in (OFFICIAL_TEST, OFFICIAL_VAL)
        )
        if not test:
            raise UserError("split: this dataset holds no official test set; use RandomSplit")
        train = tuple(i.id for i in _open_to_all(items) if i.subset != OFFICIAL_VAL)
        if not train:
            raise UserError("split: the official lists leave nothing to train on; check the data")
        if not val:
            drawn = RandomSplit(val=self.val, test=0, seed=self.seed)(items)
            train, val = drawn.train, drawn.val
        return Split(self._some(train), val, test)

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """:class:`RandomSplit`'s folds over all but the official test set, which is in none.

        As many samples validate as the official validation set has, where there is one.
        """
        rest = _open_to_all(items)
        val = sum(item.subset == OFFICIAL_VAL for item in rest) or self.val
        split = RandomSplit(val=val, seed=self.seed).fold(rest, fold, folds)
        return replace(split, train=self._some(split.train))

    def _some(self, train: tuple[str, ...]) -> tuple[str, ...]:
        if self.train is None:
            return train
        if not 0 < self.train <= len(train):
            raise UserError(
                f"split: train={self.train} is not between 1 and {len(train)}, all there are"
            )
        return tuple(sorted(_shuffled(list(train), self.seed)[: self.train]))


def _open_to_all(items: Sequence[Item]) -> list[Item]:
    """All but the official test set, sorted by id."""
    return sorted((i for i in items if i.subset != OFFICIAL_TEST), key=lambda item: item.id)


def _assigned(items: Sequence[Item], part: Mapping[str, str]) -> Split:
    return Split(*(tuple(i.id for i in items if part.get(i.id, "train") == p) for p in PARTS))


def _tested(items: Sequence[Item], tested: set[str], rest: Splitter) -> Split:
    """Test on some of the (sorted) items and divide the others."""
    split = rest([item for item in items if item.id not in tested])
    return replace(split, test=tuple(item.id for item in items if item.id in tested))


def _shuffled(names: list[str], seed: int) -> list[str]:
    if seed < 0:
        raise UserError(f"split: seed={seed} must not be negative")
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _part_sizes(val: float, test: float, total: int) -> tuple[int, int]:
    """How many of ``total`` validate and test; at least one is left to train on."""
    counts = _part_size("val", val, total), _part_size("test", test, total)
    if sum(counts) >= total:
        raise UserError(
            f"split: val={val} and test={test} of {total} leave nothing to train on; ask for fewer"
        )
    return counts


def _part_size(part: str, amount: float, total: int) -> int:
    if not amount >= 0 or (amount >= 1 and not float(amount).is_integer()):
        raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
    count = int(amount) if amount >= 1 else round(amount * total)
    return max(1, count) if amount > 0 else 0  # a share of a handful still means: at least one


def _draw(order: list[str], kinds: Mapping[str, str], count: int) -> set[str]:
    """The first ``count`` of ``order``, each kind in proportion (largest remainder)."""
    members: dict[str, list[str]] = defaultdict(list)
    for name in order:
        members[kinds[name]].append(name)
    quota = {kind: count * len(names) / len(order) for kind, names in members.items()}
    take = {kind: int(share) for kind, share in quota.items()}
    by_remainder = sorted(quota, key=lambda kind: (take[kind] - quota[kind], kind))
    for kind in by_remainder[: count - sum(take.values())]:
        take[kind] += 1
    return {name for kind, names in members.items() for name in names[: take[kind]]}


def _sequences(items: Sequence[Item]) -> dict[str, list[str]]:
    """Ids of each group that is open to all, in order."""
    sequences: dict[str, list[str]] = defaultdict(list)
    for item in _open_to_all(items):
        sequences[item.group].append(item.id)
    if not sequences:
        raise UserError("split: there is nothing to train on; check the data")
    return dict(sequences)


def _check_folds(what: str, total: int, folds: int) -> None:
    if total < folds:
        raise UserError(
            f"split: {total} {what} cannot make {folds} folds; "
            + (f"ask for {total} or fewer" if total > 1 else "at least two are needed")
        )


def _fold_edges(what: str, total: int, fold: int, folds: int) -> tuple[int, int]:
    """Where a fold's block begins and ends (exclusive); blocks differ by one sample at most."""
    _check_folds(what, total, folds)
    return fold * total // folds, (fold + 1) * total // folds


def _blocks(name: str, ids: list[str], val: float, test: float, gap: float) -> dict[str, str]:
    """Part of each id of a sequence: train, val and test, each of the two after a gap."""
    amounts = {"val": val, "test": test, "gap": gap}
    counts = {part: _part_size(part, amount, len(ids)) for part, amount in amounts.items()}
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


def _read_list(path: str) -> tuple[str, ...]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as one id a line") from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)
