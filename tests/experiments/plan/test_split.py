"""How images of one's own are divided, by groups and by likely sources."""

from typing import Any

import pytest

from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.evaluation.audit.sources import LikelySource
from segmentation.experiments.plan.choices import Choice
from segmentation.experiments.plan.split import choose_by_sources, choose_split


@pytest.mark.parametrize(
    ("groups", "stack", "name"),
    [
        ([""] * 3, False, "RandomSplit"),
        ([*"aabbcc"], False, "GroupSplit"),
        ([*"aab"], False, "SequenceSplit"),
        ([*"aaaa"], True, "BlockSplit"),
    ],
)
def test_split(groups: list[str], stack: bool, name: str) -> None:
    assert choose_split(len(groups), groups, stack).value["class_path"].endswith(name)
    assert choose_split(1000, [""] * 1000, False).value["init_args"]["val"] == 100
    with pytest.raises(UserError, match=r"2 image\(s\) with masks: at least 3 are needed"):
        choose_split(2, ["", ""], False)


def by_sources(*sizes: int) -> Choice:
    """The choice for likely sources of so many images."""
    names = [[f"{n}-{i}" for i in range(size)] for n, size in enumerate(sizes)]
    likely = [LikelySource(f"source-{n}", "", images, {}) for n, images in enumerate(names)]
    entries: Any = [Sample(name, None, None) for images in names for name in images]  # type: ignore[arg-type]
    random = choose_split(len(entries), [""] * len(entries), False)
    return choose_by_sources(random, entries, likely, "mine_sources.csv")


def test_clear_sources_are_kept_apart() -> None:
    choice = by_sources(40, 30, 20, 15, 15, 3)
    values = {"val": 0.15, "test": 0.15, "seed": 0, "sources": "mine_sources.csv"}
    assert choice.value == {
        "class_path": "segmentation.data.sources.SourceSplit", "init_args": values
    }  # fmt: skip
    assert "make 6 likely sources, as mine_sources.csv says" in choice.reason
    assert "a score for what was never trained on" in choice.reason


@pytest.mark.parametrize(
    ("sizes", "found"),
    [
        ((50,), "1 likely source, too few to keep apart."),
        ((50, 40), "2 likely sources, too few to keep apart."),
        ((50, 40, 9, 9), "4 likely sources, 2 of them of 10 images or more. For one on what"),
        ((20, 20, 20), "make 20, 20 and 20 images to train, validate, test. For one on what"),
        ((40, 40, 40, 40, 40, 4), "images to train, validate, test. For one on what"),
        ((500, 10, 10), "one of which has nearly all images. For one on what"),
    ],
)
def test_other_images_are_divided_one_by_one_and_what_that_means(
    sizes: tuple[int, ...], found: str
) -> None:
    choice = by_sources(*sizes)
    assert choice.value["class_path"].endswith("RandomSplit")
    assert "The test is a score for more of the same" in choice.reason
    assert found in choice.reason
    assert ("SourceSplit that it proposes" in choice.reason) == (len(sizes) > 2)
