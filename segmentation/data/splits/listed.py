"""Splits that somebody else made: lists in files, and a dataset's official one."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from segmentation.data.splits.base import (
    OFFICIAL_TEST,
    OFFICIAL_VAL,
    PARTS,
    Item,
    Split,
    Splitter,
    open_to_all,
    shuffled,
)
from segmentation.data.splits.drawn import RandomSplit
from segmentation.errors import UserError


@dataclass(frozen=True)
class ListSplit(Splitter):
    """Take the parts from text files with one sample id a line (``#`` starts a comment).

    It has no folds: lists do not tell which samples belong together, as those of one patient may.

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
        train = tuple(i.id for i in open_to_all(items) if i.subset != OFFICIAL_VAL)
        if not train:
            raise UserError("split: the official lists leave nothing to train on; check the data")
        if not val:
            drawn = RandomSplit(val=self.val, test=0, seed=self.seed)(items)
            train, val = drawn.train, drawn.val
        return Split(self._some(train), val, test)

    def fold(self, items: Sequence[Item], fold: int, folds: int) -> Split:
        """Folds over all but the official test set, which is in no part of any of them.

        They are :class:`RandomSplit`'s, with as many samples to validate on as the official
        validation set has, where there is one.
        """
        rest = open_to_all(items)
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
        return tuple(sorted(shuffled(list(train), self.seed)[: self.train]))


def _read_list(path: str) -> tuple[str, ...]:
    try:
        text = Path(path).expanduser().read_text(encoding="utf-8-sig")
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except UnicodeDecodeError:
        raise UserError(f"{path}: not a text file in UTF-8; save it as one id a line") from None
    lines = (line.partition("#")[0].strip() for line in text.splitlines())
    return tuple(line for line in lines if line)
