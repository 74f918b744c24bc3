"""Folds: every sample is tested once, and nothing else of a split changes."""

import random
from collections import Counter
from collections.abc import Sequence

import pytest

from segmentation.data.sample import PARTS, Split
from segmentation.data.splits import (
    BlockSplit,
    GroupSplit,
    IndexSplit,
    ListSplit,
    OfficialSplit,
    RandomSplit,
    SequenceSplit,
    Splitter,
)
from tests.data.test_splits import EVERY, FILMS, Thing, film, things
from tests.errors import refuses


def folded(splitter: Splitter, items: Sequence[Thing], folds: int) -> list[Split]:
    return [splitter.fold(items, fold, folds) for fold in range(folds)]


@pytest.mark.parametrize("folds", [2, 3, 5, 12])
@pytest.mark.parametrize("splitter", [*EVERY, *FILMS, OfficialSplit()])
def test_folds_test_every_sample_once(splitter: Splitter, folds: int) -> None:
    items = film(84, 40, 61) if isinstance(splitter, BlockSplit) else things()
    count = len(items)
    items.append(Thing("official", "g00", "a", "test"))
    splits = folded(splitter, items, folds)
    tested = Counter(name for split in splits for name in split.test)
    assert tested == Counter(item.id for item in items[:-1])  # the official test set in none
    for split in splits:
        assert split.train and split.val and split.test
        assert all(list(part) == sorted(part) for part in (split.train, split.val, split.test))
        assert "official" not in {*split.train, *split.val}
        if getattr(splitter, "gap", 0) == 0:
            assert len(split.train) + len(split.val) + len(split.test) == count
    assert folded(splitter, random.Random(1).sample(items, count + 1), folds) == splits


@pytest.mark.parametrize("val", [0.1, 7, 0.001, 0])
def test_folds_are_of_one_size_and_stratified(val: float) -> None:
    items = things(59)
    kinds = {item.id: item.kind for item in items}
    every = Counter(kinds.values())
    for folds in (2, 4, 7):
        for split in folded(RandomSplit(val=val, seed=3), items, folds):
            assert len(split.test) in (59 // folds, 59 // folds + 1)
            for kind, count in Counter(kinds[name] for name in split.test).items():
                assert count in (every[kind] // folds, every[kind] // folds + 1)
            # As many to validate as without folds: the share is of all samples.
            assert len(split.val) == len(RandomSplit(val=val)(items).val)
    plain = folded(RandomSplit(stratify=False), things(), 5)
    assert any(Counter(kinds.get(n, "c") for n in split.test)["a"] != 6 for split in plain)
    seeds = [folded(RandomSplit(seed=seed), items, 4) for seed in (1, 1, 2)]
    assert seeds[0] == seeds[1] != seeds[2]
    # Another validation set leaves the test parts alone.
    for split, other in zip(folded(RandomSplit(val=9, seed=1), items, 4), seeds[0], strict=True):
        assert split.test == other.test and split.val != other.val


def test_folds_keep_groups_whole() -> None:
    items = things()
    groups = {item.id: item.group for item in items}
    for splitter in (GroupSplit(val=2), GroupSplit(val=0.15, seed=4)):
        for split in folded(splitter, items, 5):
            found = [{groups[name] for name in getattr(split, part)} for part in PARTS]
            assert len(found[2]) in (2, 3) and len(found[1]) == 2
            assert sum(map(len, found)) == len(set().union(*found)) == 12
    assert folded(GroupSplit(seed=1), items, 3) != folded(GroupSplit(seed=2), items, 3)


def test_folds_of_films() -> None:
    items = film(10, 4, 10)
    one, two, three = folded(SequenceSplit(val=2, gap=1, test="02"), items, 3)
    assert {name[:2] for name in one.test} == {"01"} and len(one.test) == 10
    assert two.test == tuple(f"02/t{t:03}" for t in range(4))
    assert two.train == tuple(f"{s}/t{t:03}" for s in ("01", "03") for t in range(7))
    assert two.val == ("01/t008", "01/t009", "03/t008", "03/t009")
    assert three == SequenceSplit(val=2, gap=1)(items)  # which tests on the last sequence
    assert [len(s.test) for s in folded(SequenceSplit(val=1, gap=0), items, 2)] == [20, 4]

    def times(split: Split) -> list[list[int]]:
        return [[int(name[4:]) for name in getattr(split, part)] for part in PARTS]

    # Gaps around the block that is tested, and before the one that validates.
    first, middle, last = map(times, folded(BlockSplit(val=3, gap=1), film(18), 3))
    assert first == [[*range(7, 14)], [15, 16, 17], [*range(6)]]
    assert middle == [[0, *range(13, 18)], [2, 3, 4], [*range(6, 12)]]
    assert last == [[*range(7)], [8, 9, 10], [*range(12, 18)]]
    # Too few before the block: some of the sequence's last samples validate too.
    second = times(BlockSplit(val=3, gap=1).fold(film(18), 1, 6))
    assert second == [[*range(7, 16)], [0, 1, 17], [3, 4, 5]]
    starts = [times(split)[2][0] for split in folded(IndexSplit(val=1), film(10), 3)]
    assert starts == [0, 3, 6]


def test_folds_around_an_official_test_set() -> None:
    subsets = ["train"] * 20 + ["val"] * 6 + ["test"] * 4
    items = [Thing(f"i{n:02}", subset=subset) for n, subset in enumerate(subsets)]
    for split in folded(OfficialSplit(val=2, train=11), items, 4):
        assert len(split.val) == 6 and len(split.train) == 11  # as many as the official list holds
        assert not {"i26", "i27", "i28", "i29"} & {*split.train, *split.val, *split.test}
    refuses("train=21 is not between 1 and 13", OfficialSplit(train=21).fold, items, 0, 4)


@pytest.mark.parametrize(
    ("splitter", "items", "says"),
    [
        (
            RandomSplit(),
            things(4),
            r"4 sample\(s\) cannot make 5 folds; ask for 4",
        ),
        (
            GroupSplit(),
            film(9, 9),
            r"2 group\(s\) cannot make 5 folds; ask for 2 or",
        ),
        (SequenceSplit(), film(9, 9), r"2 sequence\(s\) cannot make 5 folds; ask for 2"),
        (SequenceSplit(), film(9), r"1 sequence\(s\) cannot make 5 folds; at least two are needed"),
        (IndexSplit(), things(3), r"3 sample\(s\) cannot make 5 folds"),
        (BlockSplit(), film(20, 4), r"4 sample\(s\) of sequence 02 cannot make 5 folds"),
        (BlockSplit(), [], "there is nothing to train on; check the data"),
        (BlockSplit(val=8, gap=2), film(12), "val=8, test=0, gap=2 of the 8 sample.s. of seq"),
        (RandomSplit(val=8), things(10), "val=8 and test=0 of 8 leave nothing to train on; ask"),
        (RandomSplit(seed=-1), things(), "seed=-1 must not be negative"),
        (ListSplit("a", "b", "c"), things(), "ListSplit has no folds; set data.split to one that"),
    ],
)
def test_folds_that_cannot_be_made(splitter: Splitter, items: list[Thing], says: str) -> None:
    refuses(f"^split: {says}", splitter.fold, items, 0, 5)
