"""What every split is, and what they share."""

import hashlib
import json
from abc import ABC, abstractmethod
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Protocol

import numpy as np

from segmentation.errors import UserError

PARTS = ("train", "val", "test")
OFFICIAL_TEST, OFFICIAL_VAL = "test", "val"  # subsets that a dataset's authors chose


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


def open_to_all(items: Sequence[Item]) -> list[Item]:
    """All but the official test set, sorted by id."""
    return sorted((i for i in items if i.subset != OFFICIAL_TEST), key=lambda item: item.id)


def check_folds(what: str, total: int, folds: int) -> None:
    """Refuse more folds than there are things to put into them."""
    if total < folds:
        raise UserError(
            f"split: {total} {what} cannot make {folds} folds; "
            + (f"set data.folds to {total} or fewer" if total > 1 else "at least two are needed")
        )


def shuffled(names: list[str], seed: int) -> list[str]:
    if seed < 0:
        raise UserError(f"split: seed={seed} must not be negative")
    return [names[i] for i in np.random.default_rng(seed).permutation(len(names))]


def part_sizes(val: float, test: float, total: int) -> tuple[int, int]:
    """How many of ``total`` validate and test; at least one is left to train on."""
    counts = part_size("val", val, total), part_size("test", test, total)
    if sum(counts) >= total:
        raise UserError(
            f"split: val={val} and test={test} of {total} leave nothing to train on; ask for fewer"
        )
    return counts


def part_size(part: str, amount: float, total: int) -> int:
    if not amount >= 0 or (amount >= 1 and not float(amount).is_integer()):
        raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
    count = int(amount) if amount >= 1 else round(amount * total)
    # A share of a handful still means: at least one.
    return max(1, count) if amount > 0 else 0


def assigned(items: Sequence[Item], part: dict[str, str]) -> Split:
    return Split(*(tuple(i.id for i in items if part.get(i.id, "train") == p) for p in PARTS))
