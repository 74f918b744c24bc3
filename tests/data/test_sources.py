"""Whole sources for validation and test, and what a test on them is said to be."""

from collections import Counter
from pathlib import Path

import pytest

from segmentation.data.sample import PARTS, Split
from segmentation.data.sources import (
    APART,
    SourceSplit,
    about_test,
    read_sources,
    torn,
    torn_sources,
)
from segmentation.errors import UserError
from tests.data.test_splits import Thing
from tests.errors import refuses

SIZES = {"a": 30, "b": 8, "c": 6, "d": 5, "e": 3, "f": 1}


def images(**sizes: int) -> list[Thing]:
    """So many images of each source."""
    return [Thing(f"{name}{n:02}", name) for name, count in sizes.items() for n in range(count)]


def sources(items: list[Thing]) -> dict[str, str]:
    return {item.id: item.group for item in items}


@pytest.mark.parametrize("seed", range(6))
def test_sources_stay_whole_and_fill_their_share(seed: int) -> None:
    items = images(**SIZES)
    split = SourceSplit(val=0.2, test=0.2, seed=seed)(items[::-1])
    assert not torn(sources(items), split)
    assert sorted(i for part in PARTS for i in getattr(split, part)) == sorted(sources(items))
    assert all(0 < len(getattr(split, part)) <= 11 for part in ("val", "test"))
    assert SourceSplit(val=1, test=0.2, seed=seed)(items).test == split.test
    smallest = SourceSplit(val=2, test=1, seed=seed)(items)  # larger than wanted, but one at least
    assert smallest.test == ("f00",) and smallest.val == ("e00", "e01", "e02")


@pytest.mark.parametrize("folds", [3, 6])
def test_folds_test_every_source_once_and_are_even(folds: int) -> None:
    items = images(**SIZES)
    splits = [SourceSplit(val=0.1).fold(items, fold, folds) for fold in range(folds)]
    assert Counter(i for split in splits for i in split.test) == Counter(item.id for item in items)
    for split in splits:
        assert split.train and split.val and not torn(sources(items), split)
    # The largest source is a fold of its own where there are several; the others are even.
    sizes = sorted(len(split.test) for split in splits)
    assert sizes == {3: [11, 12, 30], 6: [1, 3, 5, 6, 8, 30]}[folds]


def test_sources_from_a_file(tmp_path: Path) -> None:
    file = tmp_path / "sources.csv"
    file.write_text("﻿id,source,why\nx/1,one,\nx/2,one,\ny,two,\nz,three,\n", encoding="utf-8")
    items = [Thing(name) for name in ("x/1", "x/2", "y", "z")]
    split = SourceSplit(val=1, test=1, sources=str(file))
    assert split.sources_of(items) == {"x/1": "one", "x/2": "one", "y": "two", "z": "three"}
    assert not torn(split.sources_of(items), split(items))
    tested = [split.fold(items, fold, 3).test for fold in range(3)]
    assert sorted(tested) == [("x/1", "x/2"), ("y",), ("z",)]
    refuses(r"1 of 5 images have no source in .*csv, such as new", split, [*items, Thing("new")])


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("id,source\na,x\na,y\n", "line 3: a is of x and of y; leave one"),
        ("id,source\na,\n", "line 2: lacks an id or a source"),
        ("name,source\na,x\n", "line 2: lacks an id or a source"),
        ("id,source\n", "names no image"),
    ],
)
def test_bad_files(tmp_path: Path, text: str, says: str) -> None:
    (tmp_path / "bad.csv").write_text(text, encoding="utf-8")
    refuses(rf"bad\.csv.*({says})", read_sources, tmp_path / "bad.csv")
    refuses(r"absent\.csv: cannot be read", read_sources, tmp_path / "absent.csv")


def test_too_few_sources_and_none() -> None:
    more_of_the_same = "use RandomSplit, which divides image by image: a score for more of the same"
    two = r"^split: 2 source\(s\) \(a, b\) cannot make 3 parts; " + more_of_the_same
    refuses(two, SourceSplit(), images(a=3, b=3))
    with pytest.raises(UserError, match=r"^split: 2 source\(s\) cannot make 3 folds; ask for 2"):
        SourceSplit().fold(images(a=3, b=3), 0, 3)
    with pytest.raises(UserError, match=r"1 source\(s\) \(a\) cannot make 2 parts"):
        SourceSplit().fold(images(a=9, b=3, c=3), 1, 2)  # only a is left to train and validate
    with pytest.raises(UserError, match=r"3 of 3 images have no source in the data set.*subfolder"):
        SourceSplit()([Thing(name) for name in "abc"])
    with pytest.raises(
        UserError, match=r"val=2 and test=1 of 3 images of 3 sources leave nothing to"
    ):
        SourceSplit(val=2, test=1)(images(a=1, b=1, c=1))
    refuses("leave nothing to train on", SourceSplit(val=50, test=100), images(a=1, b=1, c=1))
    assert SourceSplit(val=0, test=1)(images(a=3, b=3)).val == ()


def test_what_a_test_is_said_to_be() -> None:
    items = images(a=2, b=2)
    known = sources(items)
    assert about_test(known, ["a00", "a01"], ["b00"]) == APART
    shared = "test images share their sources with training: a score for more of the same"
    assert about_test(known, ["a00", "b01"], ["a01", "b00"]) == shared
    assert about_test(known, ["a00"], ["a01", "b00"]) == f"1 of 2 {shared}"
    for trained, test in ((["a00", "?"], ["b00"]), (["a00"], ["?"]), ([], ["a00"]), (["a00"], [])):
        assert about_test(known, trained, test) == ""


def test_a_source_in_two_parts_is_named() -> None:
    items = images(a=2, b=2, c=1)
    split = Split(("a00", "b00"), ("c00",), ("a01", "b01"))
    assert torn(sources(items), split) == {"a": ["train", "test"], "b": ["train", "test"]}
    (line,) = torn_sources(sources(items), split)
    assert "2 source(s) lie in several parts, such as a in train and test, so the test" in line
    for one in ("", "the only one"):  # nothing could be done about it
        assert not torn_sources(dict.fromkeys(sources(items), one), split)
