"""Which samples train, validate and test: decided by ids alone, the same on every machine."""

import hashlib
import json
import logging
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from segmentation.errors import UserError

PARTS = ("train", "val", "test")
OFFICIAL_TEST, OFFICIAL_VAL = "test", "val"  # subsets that a dataset's authors chose

_log = logging.getLogger(__name__)


class Item(Protocol):
    """What a split needs to know of a sample (a cache entry, or a sample itself)."""

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
    """Sample ids by part. A sample may be in none of them, never in two.

    Raises:
        UserError: A sample is listed twice.
    """

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


class Splitter(ABC):
    """Assigns samples to parts, whatever order they come in.

    Splits that draw at random or by position leave the dataset's own test set out, where it has one
    (``subset`` is ``"test"``): adding its files changes no split, and only :class:`OfficialSplit`
    and lists use them.
    """

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Split:
        """Split ``items``; the order within each part is that of the ids.

        Raises:
            UserError: Nothing is left to train on, or a listed id does not exist.
        """


@dataclass(frozen=True)
class RandomSplit(Splitter):
    """Shuffle single samples by a seed: fair only where samples are independent.

    Args:
        val: Samples to validate on: a count (≥ 1) or a share (< 1) of all.
        test: Samples to test on, likewise.
        seed: Of the shuffle, ≥ 0. The test part does not depend on ``val``.
        stratify: Give every kind its share of each part (largest remainders first).
    """

    val: float = 0.1
    test: float = 0.15
    seed: int = 0
    stratify: bool = True

    def __call__(self, items: Sequence[Item]) -> Split:
        items = _open_to_all(items)
        val_count, test_count = _counts(self.val, self.test, len(items))
        order = _shuffled([item.id for item in items], self.seed)
        kinds = {item.id: item.kind if self.stratify else "" for item in items}
        test = _draw(order, kinds, test_count)
        val = _draw([name for name in order if name not in test], kinds, val_count)
        return _parts(items, {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")})


@dataclass(frozen=True)
class LeakyRandomSplit(RandomSplit):
    """As :class:`RandomSplit`, where samples are not independent; the log says that it leaks.

    Some published scores were measured so: the networks had all but seen their test images.

    Args:
        val, test, seed, stratify: As there.
    """

    test: float = 0.2

    def __call__(self, items: Sequence[Item]) -> Split:
        split = super().__call__(items)
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
        val: Groups to validate on: a count (≥ 1) or a share (< 1) of all groups.
        test: Groups to test on, likewise.
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
        val, test = _counts(self.val, self.test, len(groups))
        part = dict.fromkeys(groups[:test], "test")
        part.update(dict.fromkeys(groups[test : test + val], "val"))
        return _parts(items, {i.id: part[i.group] for i in items if i.group in part})


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
        items = _open_to_all(items)
        val, test = _counts(self.val, self.test, len(items))
        part = ["train"] * (len(items) - val - test) + ["val"] * val + ["test"] * test
        return _parts(items, {i.id: p for i, p in zip(items, part, strict=True)})


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
        items = _open_to_all(items)
        sequences = _sequences(items)
        names = ", ".join(sorted(sequences)[:9]) or "one"
        if len(sequences) < 2:
            raise UserError(f"split: two sequences are needed, there is {names}; use BlockSplit")
        tested = max(sequences) if self.test is None else self.test
        if tested not in sequences:
            raise UserError(f"split: no sequence is called {tested!r}; test is one of {names}")
        part = dict.fromkeys(sequences.pop(tested), "test")
        for name, ids in sequences.items():
            part |= _blocks(name, ids, self.val, 0, self.gap)
        return _parts(items, part)


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
        items = _open_to_all(items)
        part: dict[str, str] = {}
        for name, ids in _sequences(items).items():
            part |= _blocks(name, ids, self.val, self.test, self.gap)
        return _parts(items, part)


@dataclass(frozen=True)
class ListSplit(Splitter):
    """Take the parts from text files with one sample id a line (``#`` starts a comment).

    Args:
        train: Path of the list of training ids.
        val: Path of the list of validation ids.
        test: Path of the list of test ids.
    """

    train: str
    val: str
    test: str

    def __call__(self, items: Sequence[Item]) -> Split:
        """Split by the lists; each part keeps its list's order."""
        known = sorted(item.id for item in items)
        parts = {}
        for part in PARTS:
            path = getattr(self, part)
            parts[part] = _read_list(path)
            for name in sorted(set(parts[part]) - set(known)):
                raise UserError(
                    f"{path}: no sample is called {name!r} (one is called {known[0]!r}); list ids "
                    "like that, without suffix"
                )
        return Split(**parts)


@dataclass(frozen=True)
class OfficialSplit(Splitter):
    """The dataset's own test set, and its own validation set where it has one.

    Args:
        val: Where it has none, samples of the training set to validate on: a count (≥ 1) or a share
            (< 1).
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
        if self.train is not None:
            if not 0 < self.train <= len(train):
                raise UserError(
                    f"split: train={self.train} is not between 1 and {len(train)}, all there are"
                )
            train = tuple(sorted(_shuffled(list(train), self.seed)[: self.train]))
        return Split(train, val, test)


def straddling(digests: Mapping[str, str], split: Split) -> list[list[str]]:
    """Groups of samples with the same digest that lie in more than one part, each sorted by id.

    Args:
        digests: Hash of each image's pixels by sample id.
        split: Samples in none of its parts are ignored.
    """
    part = {name: p for p in PARTS for name in getattr(split, p)}
    groups: dict[str, list[str]] = defaultdict(list)
    for name in sorted(part):
        groups[digests[name]].append(name)
    return [names for names in groups.values() if len({part[name] for name in names}) > 1]


def _open_to_all(items: Sequence[Item]) -> list[Item]:
    """All but the official test set, sorted by id."""
    return sorted((i for i in items if i.subset != OFFICIAL_TEST), key=lambda item: item.id)


def _sequences(items: list[Item]) -> dict[str, list[str]]:
    """Ids of each group, in order."""
    if not items:
        raise UserError("split: there is nothing to train on; check the data")
    sequences: dict[str, list[str]] = defaultdict(list)
    for item in items:
        sequences[item.group].append(item.id)
    return dict(sequences)


def _blocks(name: str, ids: list[str], val: float, test: float, gap: float) -> dict[str, str]:
    """Part of each id of a sequence: train, val and test, each of the two after a gap."""
    amounts = (("val", val), ("test", test), ("gap", gap))
    counts = {part: _count(part, amount, len(ids)) for part, amount in amounts}
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


def _shuffled(names: list[str], seed: int) -> list[str]:
    if seed < 0:
        raise UserError(f"split: seed={seed} must not be negative")
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _counts(val: float, test: float, total: int) -> tuple[int, int]:
    """How many of ``total`` validate and test; at least one is left to train on."""
    counts = _count("val", val, total), _count("test", test, total)
    if sum(counts) >= total:
        raise UserError(
            f"split: val={val} and test={test} of {total} leave nothing to train on; ask for fewer"
        )
    return counts


def _count(part: str, amount: float, total: int) -> int:
    if not amount >= 0 or (amount >= 1 and not float(amount).is_integer()):
        raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
    count = int(amount) if amount >= 1 else round(amount * total)
    # A share of a handful still means: at least one.
    return max(1, count) if amount > 0 else 0


def _draw(order: list[str], kinds: dict[str, str], count: int) -> set[str]:
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


def _parts(items: Sequence[Item], part: dict[str, str]) -> Split:
    return Split(*(tuple(i.id for i in items if part.get(i.id, "train") == p) for p in PARTS))
