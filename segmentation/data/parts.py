"""How samples are drawn, cut and counted: what the kinds of splits share."""

import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from segmentation.data.sample import PARTS, Item, Split
from segmentation.errors import UserError


def open_to_all(items: Sequence[Item]) -> list[Item]:
    """All but the official test set, sorted by id."""
    return sorted((i for i in items if i.subset != "test"), key=lambda item: item.id)


def groups_of(items: Sequence[Item]) -> list[str]:
    """The names of the groups, sorted."""
    return sorted({item.group for item in items})


def assigned(items: Sequence[Item], part: Mapping[str, str]) -> Split:
    """The parts of all items, by the part of each id; those without train."""
    return Split(*(tuple(i.id for i in items if part.get(i.id, "train") == p) for p in PARTS))


def with_test(
    items: Sequence[Item], tested: Sequence[Item], rest: Callable[[Sequence[Item]], Split]
) -> Split:
    """Test on some of the items and divide the others."""
    test = {item.id for item in tested}
    return replace(rest([i for i in items if i.id not in test]), test=tuple(sorted(test)))


def by_sequence(items: Sequence[Item], cut: Callable[[str, list[str]], dict[str, str]]) -> Split:
    """``cut`` gets the name of each group and its ids in order, and tells the part of each."""
    items = open_to_all(items)
    sequences: dict[str, list[str]] = defaultdict(list)
    for item in items:
        sequences[item.group].append(item.id)
    if not sequences:
        raise UserError("split: there is nothing to train on; check the data")
    return assigned(items, {k: v for s in sequences.items() for k, v in cut(*s).items()})


def shuffled(some: Sequence[Any], seed: int) -> list[Any]:
    """The same in an order that the seed, ≥ 0, decides."""
    if seed < 0:
        raise UserError(f"split: seed={seed} must not be negative")
    return [some[i] for i in np.random.default_rng(seed).permutation(len(some))]


def part_sizes(val: float, test: float, total: int) -> tuple[int, int]:
    """How many of ``total`` validate and test; at least one is left to train on."""
    counts = part_size("val", val, total), part_size("test", test, total)
    if sum(counts) >= total:
        amounts = f"val={val} and test={test} of {total}"
        raise UserError(f"split: {amounts} leave nothing to train on; ask for fewer")
    return counts


def part_size(part: str, amount: float, total: int) -> int:
    """How many of ``total`` a count or a share is; at least one unless it is 0."""
    if not amount >= 0 or (amount >= 1 and not float(amount).is_integer()):
        raise UserError(f"split: {part}={amount} is neither a share below 1 nor a count")
    count = int(amount) if amount >= 1 else round(amount * total)
    return max(1, count) if amount > 0 else 0  # a share of a handful still means: at least one


def draw(order: Sequence[Item], count: int, stratify: bool) -> set[str]:
    """The first ``count`` of ``order``, each kind in proportion (largest remainder)."""
    members: dict[str, list[str]] = defaultdict(list)
    for item in order:
        members[item.kind if stratify else ""].append(item.id)
    quota = {kind: count * len(names) / len(order) for kind, names in members.items()}
    take = {kind: int(share) for kind, share in quota.items()}
    by_remainder = sorted(quota, key=lambda kind: (take[kind] - quota[kind], kind))
    for kind in by_remainder[: count - sum(take.values())]:
        take[kind] += 1
    return {name for kind, names in members.items() for name in names[: take[kind]]}


def check_folds(what: str, total: int, folds: int) -> None:
    """Raise :class:`UserError` where there are fewer than one for each fold."""
    if total < folds:
        remedy = f"ask for {total} or fewer" if total > 1 else "at least two are needed"
        raise UserError(f"split: {total} {what} cannot make {folds} folds; {remedy}")


def fold_block(what: str, total: int, fold: int, folds: int) -> slice:
    """A fold's block of ``total``; blocks differ by one sample at most."""
    check_folds(what, total, folds)
    return slice(fold * total // folds, (fold + 1) * total // folds)


def block_parts(name: str, ids: list[str], val: float, test: float, gap: float) -> dict[str, str]:
    """Part of each id of a sequence: train, val and test, each of the two after a gap."""
    amounts = {"val": val, "test": test, "gap": gap}
    counts = {part: part_size(part, amount, len(ids)) for part, amount in amounts.items()}
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


def read_fold(text: str) -> tuple[int, int]:
    """``"0/5"`` ► (0, 5)."""
    found = re.fullmatch(r"(\d+)/(\d+)", text)
    if not found or not int(found[1]) < int(found[2]) or int(found[2]) < 2:
        raise UserError(f"data.fold: {text} must be K/N, N at least 2 and K from 0 to N - 1")
    return int(found[1]), int(found[2])
