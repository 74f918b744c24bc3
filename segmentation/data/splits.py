"""Which samples train, validate and test: decided by ids alone, the same on every machine."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Protocol

import numpy as np

from segmentation.errors import UserError

PARTS = ("train", "val", "test")
OFFICIAL_TEST = "test"  # the subset of samples that a dataset's authors test on


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
    """The dataset's own test set; validation is drawn from its training set.

    Args:
        val: Samples to validate on, from the training set: a count (≥ 1) or a share (< 1).
        seed: Of the draw, ≥ 0.
    """

    val: float = 0.1
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> Split:
        test = tuple(sorted(item.id for item in items if item.subset == OFFICIAL_TEST))
        if not test:
            raise UserError("split: this dataset holds no official test set; use RandomSplit")
        drawn = RandomSplit(val=self.val, test=0, seed=self.seed)(items)
        return Split(drawn.train, drawn.val, test)


def _open_to_all(items: Sequence[Item]) -> list[Item]:
    """All but the official test set, sorted by id."""
    return sorted((i for i in items if i.subset != OFFICIAL_TEST), key=lambda item: item.id)


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
    counts = []
    for part, amount in (("val", val), ("test", test)):
        if not amount >= 0 or (amount >= 1 and not float(amount).is_integer()):
            raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
        count = int(amount) if amount >= 1 else round(amount * total)
        # A share of a handful still means: at least one.
        counts.append(max(1, count) if amount > 0 else 0)
    if sum(counts) >= total:
        raise UserError(
            f"split: val={val} and test={test} of {total} leave nothing to train on; ask for fewer"
        )
    return counts[0], counts[1]


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
