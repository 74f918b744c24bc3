"""Splits that draw at random: single samples, or whole groups."""

import logging
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
    shuffled,
    straddling,
)
from segmentation.errors import UserError

_log = logging.getLogger(__name__)


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
        items = open_to_all(items)
        val_count, test_count = part_sizes(self.val, self.test, len(items))
        order = shuffled([item.id for item in items], self.seed)
        kinds = {item.id: item.kind if self.stratify else "" for item in items}
        test = _draw(order, kinds, test_count)
        val = _draw([name for name in order if name not in test], kinds, val_count)
        return assigned(items, {**dict.fromkeys(test, "test"), **dict.fromkeys(val, "val")})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the shuffled samples out, kind after kind (if ``stratify``).

        Any two test parts differ by at most one sample, in all and in each kind.
        """
        items = open_to_all(items)
        check_folds("sample(s)", len(items), folds)
        order = shuffled([item.id for item in items], self.seed)
        if self.stratify:
            kinds = {item.id: item.kind for item in items}
            order.sort(key=lambda name: kinds[name])
        val = part_size("val", self.val, len(items))
        test = order[fold::folds]
        rest = [item for item in items if item.id not in set(test)]
        drawn = RandomSplit(val, 0, self.seed, self.stratify)(rest)
        return replace(drawn, test=tuple(sorted(test)))


@dataclass(frozen=True)
class LeakyRandomSplit(RandomSplit):
    """As :class:`RandomSplit`, where samples are not independent; the log says that it leaks.

    Some published scores were measured so: the networks had all but seen their test images.

    Args:
        val, test, seed, stratify: As there.
    """

    test: float = 0.2

    def __call__(self, items: Sequence[Item]) -> Split:
        return self._told(items, super().__call__(items))

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        return self._told(items, super().fold(items, fold, folds))

    @staticmethod
    def _told(items: Sequence[Item], split: Split) -> Split:
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
        items = open_to_all(items)
        groups = shuffled(sorted({item.group for item in items}), self.seed)
        needed = 1 + (self.val > 0) + (self.test > 0)
        if len(groups) < needed:
            raise UserError(
                f"split: {len(groups)} group(s) cannot make {needed} parts; use RandomSplit if the "
                "samples are independent"
            )
        val, test = part_sizes(self.val, self.test, len(groups))
        part = dict.fromkeys(groups[:test], "test")
        part.update(dict.fromkeys(groups[test : test + val], "val"))
        return assigned(items, {i.id: part[i.group] for i in items if i.group in part})

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Deal the shuffled groups out: the numbers of groups differ by one at most."""
        items = open_to_all(items)
        groups = shuffled(sorted({item.group for item in items}), self.seed)
        check_folds("group(s)", len(groups), folds)
        val = part_size("val", self.val, len(groups))
        tested = set(groups[fold::folds])
        rest = [item for item in items if item.group not in tested]
        test = tuple(item.id for item in items if item.group in tested)
        return replace(GroupSplit(val, 0, self.seed)(rest), test=test)


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
