"""Disjoint, in proportion, the same everywhere and in any order."""

import json
import logging
import random
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest

from segmentation.data.sample import PARTS, Split
from segmentation.data.splits import (
    BlockSplit,
    GroupSplit,
    IndexSplit,
    LeakyRandomSplit,
    ListSplit,
    OfficialSplit,
    RandomSplit,
    SequenceSplit,
    Splitter,
)
from segmentation.errors import UserError
from tests.errors import refuses


class Thing(NamedTuple):
    id: str
    group: str = ""
    kind: str = ""
    subset: str = ""


def things(count: int = 60) -> list[Thing]:
    """Sorted by id; kinds 3 : 2 : 1, and twelve groups of five."""
    kinds = "aaabbc"
    return [Thing(f"i{n:03}", f"g{n % 12:02}", kinds[n % 6]) for n in range(count)]


def film(*lengths: int) -> list[Thing]:
    """Frames of sequences 01, 02, …"""
    return [Thing(f"{s:02}/t{t:03}", f"{s:02}") for s, n in enumerate(lengths, 1) for t in range(n)]


EVERY: list[Splitter] = [
    *(RandomSplit(), GroupSplit(), IndexSplit(), RandomSplit(stratify=False)),
    *(LeakyRandomSplit(), BlockSplit(gap=0)),
]
FILMS: list[Splitter] = [SequenceSplit(), BlockSplit(val=4, test=0.2, gap=3), BlockSplit()]


@pytest.mark.parametrize("splitter", EVERY)
def test_disjoint_complete_and_in_any_order(splitter: Splitter) -> None:
    items = things()
    split = splitter(items)
    parts = [getattr(split, part) for part in PARTS]
    assert all(parts)
    assert sorted(name for part in parts for name in part) == [item.id for item in items]
    assert all(list(part) == sorted(part) for part in parts)
    mixed = random.Random(1).sample(items, len(items))
    assert splitter(mixed) == split == splitter(items)


@pytest.mark.parametrize("kind", [RandomSplit, GroupSplit])
def test_seeds(kind: Callable[..., Splitter]) -> None:
    items = things()
    assert kind(seed=1)(items) != kind(seed=2)(items)
    # The test part is drawn first: another validation set leaves it alone.
    for amount in (0.05, 0.3, 2):
        assert kind(val=amount)(items).test == kind()(items).test
    refuses("seed=-1 must not be negative", kind(seed=-1), items)


def test_a_split_that_is_known() -> None:
    """A new release must not move samples between the parts of old experiments."""
    split = RandomSplit(val=2, test=3, seed=5)(things(12))
    assert (split.val, split.test) == (("i003", "i006"), ("i001", "i002", "i009"))


@pytest.mark.parametrize(
    ("amount", "count"), [(0, 0), (1, 1), (7, 7), (0.25, 15), (0.001, 1), (0.5, 30), (1.0, 1)]
)
def test_counts_and_shares(amount: float, count: int) -> None:
    for splitter in (RandomSplit(val=2, test=amount), IndexSplit(val=2, test=amount)):
        split = splitter(things())
        assert [len(part) for part in (split.train, split.val, split.test)] == [
            58 - count,
            2,
            count,
        ]


@pytest.mark.parametrize("splitter", EVERY[:-1])
@pytest.mark.parametrize(
    ("val", "test"), [(0.5, 0.5), (60, 0), (0, 60), (59, 1), (-1, 0), (0.1, 2.5), (0, float("nan"))]
)
def test_bad_amounts(splitter: Splitter, val: float, test: float) -> None:
    with pytest.raises(UserError, match=r"^split: .*(leave nothing to train on; ask|is neither)"):
        type(splitter)(val=val, test=test)(things())  # type: ignore[call-arg]


@pytest.mark.parametrize("splitter", EVERY)
@pytest.mark.parametrize("count", [0, 1, 2])
def test_too_few_samples(splitter: Splitter, count: int) -> None:
    refuses(r"^split: ", splitter, things(count))


def test_stratification() -> None:
    items = things()
    kinds = {item.id: item.kind for item in items}
    split = RandomSplit(val=6, test=12)(items)
    assert Counter(kinds[name] for name in split.test) == {"a": 6, "b": 4, "c": 2}
    assert Counter(kinds[name] for name in split.val) == {"a": 3, "b": 2, "c": 1}
    for count in range(1, 30):  # the largest remainder: never off by one or more, the sum exact
        found = Counter(kinds[name] for name in RandomSplit(val=0, test=count)(items).test)
        assert sum(found.values()) == count
        for kind, share in (("a", 1 / 2), ("b", 1 / 3), ("c", 1 / 6)):
            assert abs(found[kind] - share * count) < 1
    plain = [RandomSplit(0, 12, seed, stratify=False)(items).test for seed in range(20)]
    assert any(Counter(kinds[name] for name in test)["a"] != 6 for test in plain)


def test_groups_stay_whole() -> None:
    items = things()
    groups = {item.id: item.group for item in items}
    for seed in range(5):
        split = GroupSplit(val=0.25, test=2, seed=seed)(items)
        found = [{groups[name] for name in getattr(split, part)} for part in PARTS]
        assert [len(names) for names in found] == [7, 3, 2]
        assert len(set().union(*found)) == 12
    with pytest.raises(UserError, match=r"1 group\(s\) cannot make 3 parts; use RandomSplit"):
        GroupSplit()([Thing("a"), Thing("b"), Thing("c")])
    two = [Thing("a", "x"), Thing("b", "y")]
    assert len(GroupSplit(val=1, test=0)(two).val) == 1
    refuses(r"2 group\(s\) cannot make 3 parts", GroupSplit(), two)


def test_index_split_is_contiguous() -> None:
    split = IndexSplit(val=2, test=0.25)(things(20))
    names = [f"i{n:03}" for n in range(20)]
    assert [*split.train] == names[:13]
    assert [*split.val] == names[13:15]
    assert [*split.test] == names[15:]


@pytest.mark.parametrize("splitter", FILMS)
def test_films(splitter: Splitter) -> None:
    """Contiguous in time, nothing twice, the frames of a gap in no part, in any order."""
    items = film(84, 40, 61)
    split = splitter(items)
    assert splitter(random.Random(1).sample(items, len(items))) == split
    times = {item.id: int(item.id[4:]) for item in items}
    for group in ("01", "02", "03"):
        blocks = [[times[n] for n in getattr(split, p) if n[:2] == group] for p in PARTS]
        for block in blocks:
            assert block == list(range(block[0], block[-1] + 1)) if block else True
        train, val, test = blocks
        if isinstance(splitter, SequenceSplit) and group == "03":
            assert not train and not val and len(test) == 61
            continue
        later = [block for block in (val, test) if block]
        for before, after in zip([train, *later], later, strict=False):
            count = len([item for item in items if item.group == group])
            gap = splitter.gap if splitter.gap >= 1 else round(splitter.gap * count)  # type: ignore[attr-defined]
            assert after[0] - before[-1] - 1 == gap > 0
        assert train[0] == 0 and later[-1][-1] == max(t for n, t in times.items() if n[:2] == group)
    # The dataset's own test set stays out.
    assert splitter([*items, Thing("99/t000", "99", subset="test")]) == split


def test_films_in_numbers() -> None:
    split = SequenceSplit(val=2, gap=3)(film(10, 4))
    assert split.train == tuple(f"01/t{t:03}" for t in range(5))
    assert split.val == ("01/t008", "01/t009")
    assert split.test == tuple(f"02/t{t:03}" for t in range(4))
    split = SequenceSplit(val=0.2, gap=0, test="01")(film(4, 10))
    assert (len(split.train), len(split.val), split.test[0]) == (8, 2, "01/t000")
    assert SequenceSplit(val=0)(film(9, 9)).train == tuple(f"01/t{t:03}" for t in range(9))
    split = BlockSplit(val=1, test=0.2, gap=2)(film(10))
    assert split.train == tuple(f"01/t{t:03}" for t in range(3))
    assert (split.val, split.test) == (("01/t005",), ("01/t008", "01/t009"))
    assert BlockSplit(val=0, test=0)(film(3, 2)).train == tuple(item.id for item in film(3, 2))


@pytest.mark.parametrize(
    ("splitter", "items", "says"),
    [
        (SequenceSplit(), film(84), "two sequences are needed, there is 01; use BlockSplit"),
        (SequenceSplit(), [Thing("a")], "there is one; use BlockSplit"),
        (SequenceSplit(test="03"), film(9, 9), "no sequence is called '03'; test is one of 01, 02"),
        (SequenceSplit(val=8, gap=1), film(9, 9), "val=8, test=0, gap=1 of the 9 sample.s. of seq"),
        (SequenceSplit(gap=-1), film(9, 9), "gap=-1 is neither a share below 1 nor a count"),
        (SequenceSplit(val=1.5), film(9, 9), "val=1.5 is neither"),
        (BlockSplit(), film(20, 4), "of sequence 02 leave nothing to train on; ask for fewer"),
        (BlockSplit(), [Thing("a")], "of sequence without name leave nothing to train on"),
        (BlockSplit(), [], "there is nothing to train on; check the data"),
        (SequenceSplit(), [], "there is nothing to train on; check the data"),
    ],
)
def test_films_that_cannot_be_split(splitter: Splitter, items: list[Thing], says: str) -> None:
    refuses(f"^split: .*{says}", splitter, items)


@pytest.mark.parametrize("fold", [None, 1])
def test_a_leak_is_logged(fold: int | None, caplog: pytest.LogCaptureFixture) -> None:
    items = [*film(84, 84), Thing("03/t000", "03")]
    leaky, plain = (kind(val=0.1, test=0.2, seed=3) for kind in (LeakyRandomSplit, RandomSplit))
    with caplog.at_level(logging.WARNING):
        split = leaky(items) if fold is None else leaky.fold(items, fold, 5)
    assert len(caplog.records) == 1 and "LeakyRandomSplit leaks: 2 group(s)" in caplog.text
    assert split == (plain(items) if fold is None else plain.fold(items, fold, 5))
    assert len(caplog.records) == 1


def lists(folder: Path, **parts: str) -> ListSplit:
    for part in PARTS:
        (folder / f"{part}.txt").write_text(parts.get(part, ""), encoding="utf-8")
    return ListSplit(*(str(folder / f"{part}.txt") for part in PARTS))


def test_list_split(tmp_path: Path) -> None:
    splitter = lists(
        tmp_path, train="\ufeff# mine\ni003\n\n i001 # good\r\n", val="i002", test="i000\n"
    )
    assert splitter(things(6)) == Split(("i003", "i001"), ("i002",), ("i000",))


@pytest.mark.parametrize(
    ("parts", "says"),
    [
        ({"val": "i001\nx"}, r"val\.txt: no sample is called 'x' \(one is called 'i000"),
        ({"train": "i001", "test": "i001"}, "i001 is in train and again in test; list each sample"),
        ({"train": "i001\ni001"}, "i001 is in train and again in train"),
    ],
)
def test_bad_lists(parts: dict[str, str], says: str, tmp_path: Path) -> None:
    refuses(says, lists(tmp_path, **parts), things())


def test_lists_that_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "bytes").write_bytes(b"\xff\xfe\x00")
    for name, reason in (("gone", "No such"), ("", "Is a dir"), ("bytes", "not a text file in UT")):
        with pytest.raises(UserError, match=rf"{name}: cannot be read \({reason}"):
            ListSplit(str(tmp_path / name), "", "")(things())


def test_official_split_and_its_test_set() -> None:
    train = [item._replace(subset="train") for item in things(20)]
    test = [Thing(f"t{n}", kind="a", subset="test") for n in range(4)]
    split = OfficialSplit(val=5)([*test, *train])
    assert split.test == ("t0", "t1", "t2", "t3")
    assert len(split.val) == 5 and len(split.train) == 15
    assert {*split.train, *split.val} == {item.id for item in train}
    refuses("holds no official test set; use RandomSplit", OfficialSplit(), train)
    # Whoever downloads the official test set too trains and tests on what he did before.
    for splitter in EVERY[:-1]:
        assert splitter([*train, *test]) == splitter(train)
    refuses("nothing to train on", OfficialSplit(val=1), test)


def test_official_validation_set() -> None:
    subsets = ("train", "train", "val", "test", "train", "")
    items = [Thing(f"i{n}", subset=subset) for n, subset in enumerate(subsets)]
    split = OfficialSplit(val=2, seed=1)(items)
    assert split == Split(("i0", "i1", "i4", "i5"), ("i2",), ("i3",))
    assert OfficialSplit()([*reversed(items)]) == split
    refuses("the official lists leave nothing to train on", OfficialSplit(), items[2:4])
    refuses("no official test set", OfficialSplit(), items[:3])


def test_json_tells_one_split_from_another() -> None:
    split = RandomSplit()(things())
    found: dict[str, Any] = json.loads(split.to_json())
    assert found["counts"] == {part: len(getattr(split, part)) for part in PARTS}
    assert tuple(found["train"]) == split.train
    assert found["sha256"] == json.loads(RandomSplit()(things()).to_json())["sha256"]
    assert found["sha256"] != json.loads(RandomSplit(seed=1)(things()).to_json())["sha256"]
