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
    """Sample ids by part. A sample may be in none of them, never in two."""

    train: tuple[str, ...]
    val: tuple[str, ...]
    test: tuple[str, ...]

    def __post_init__(self) -> None:
        seen: dict[str, str] = {}
        for part in PARTS:
            for name in getattr(self, part):
                if name in seen:
                    raise UserError(
                        f"split: {name} is in {seen[name]} and again in {part}; list each sample once"
                    )
                seen[name] = part

    def to_json(self) -> str:
        """The ids and a hash over them, to be kept beside a run."""
        parts = asdict(self)
        digest = hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:16]
        counts = {part: len(ids) for part, ids in parts.items()}
        return json.dumps({"sha256": digest, "counts": counts, **parts}, indent=1)


class Splitter(ABC):
    """Assigns samples to parts."""

    @abstractmethod
    def __call__(self, items: Sequence[Item]) -> Split:
        """Split ``items``, which arrive sorted by id.

        Raises:
            UserError: A part comes out empty or a listed id does not exist.
        """


@dataclass(frozen=True)
class RandomSplit(Splitter):
    """Shuffle single samples by a seed: fair only where samples are independent.

    Args:
        val: Samples to validate on: a count (≥ 1) or a share (< 1) of all.
        test: Samples to test on, likewise.
        seed: Of the shuffle. The test part does not depend on ``val``.
        stratify: Give every kind its share of each part (largest remainders first).
    """

    val: float = 0.1
    test: float = 0.15
    seed: int = 0
    stratify: bool = True

    def __call__(self, items: Sequence[Item]) -> Split:
        order = _shuffled([item.id for item in items], self.seed)
        kinds = {item.id: item.kind if self.stratify else "" for item in items}
        test = _draw(order, kinds, _count(self.test, len(items), "test"))
        rest = [name for name in order if name not in test]
        val = _draw(rest, kinds, _count(self.val, len(items), "val"))
        return _parts(items, {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")})


@dataclass(frozen=True)
class GroupSplit(Splitter):
    """Shuffle whole groups (patients, wells, sequences): none straddles two parts.

    Args:
        val: Groups to validate on: a count (≥ 1) or a share (< 1) of all groups.
        test: Groups to test on, likewise.
        seed: Of the shuffle.
    """

    val: float = 0.15
    test: float = 0.15
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> Split:
        groups = _shuffled(sorted({item.group for item in items}), self.seed)
        if len(groups) < 3:
            raise UserError(
                f"split: {len(groups)} group(s) cannot make train, val and test; use RandomSplit "
                "if the samples are independent"
            )
        test, val = _count(self.test, len(groups), "test"), _count(self.val, len(groups), "val")
        part = {g: "test" if i < test else "val" if i < test + val else "train"
                for i, g in enumerate(groups)}
        return _parts(items, {item.id: part[item.group] for item in items})


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
        test = _count(self.test, len(items), "test")
        start = len(items) - test - _count(self.val, len(items), "val")
        part = ["train"] * start + ["val"] * (len(items) - test - start) + ["test"] * test
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
        known = {item.id for item in items}
        parts = {}
        for part in PARTS:
            path = getattr(self, part)
            try:
                lines = [line.partition("#")[0].strip() for line in Path(path).read_text().splitlines()]
            except OSError as error:
                raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
            parts[part] = tuple(line for line in lines if line)
            for name in parts[part]:
                if name not in known:
                    raise UserError(
                        f"{path}: no sample is called {name!r} (one is called "
                        f"{next(iter(sorted(known)))!r}); list ids without folder and suffix"
                    )
        return Split(**parts)


@dataclass(frozen=True)
class OfficialSplit(Splitter):
    """The dataset's own test set; validation is drawn from its training set.

    Args:
        val: Samples to validate on, from the training set: a count (≥ 1) or a share (< 1).
        seed: Of the draw.
    """

    val: float = 0.1
    seed: int = 0

    def __call__(self, items: Sequence[Item]) -> Split:
        test = [i for i in items if i.subset == "test"]
        rest = [i for i in items if i.subset != "test"]
        if not test:
            raise UserError("split: this dataset holds no official test set; use RandomSplit")
        drawn = RandomSplit(val=self.val, test=0, seed=self.seed)(rest)
        return Split(drawn.train, drawn.val, tuple(i.id for i in test))


def _shuffled(names: list[str], seed: int) -> list[str]:
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def _count(amount: float, total: int, part: str) -> int:
    if amount < 0 or (amount >= 1 and amount != int(amount)):
        raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
    count = int(amount) if amount >= 1 else round(amount * total)
    if count == 0 and amount > 0:
        count = 1  # a share of a handful still means: at least one
    if count >= total:
        raise UserError(f"split: {part}={amount} of {total} leaves nothing to train on; ask for fewer")
    return count


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
