"""Pasted objects: whole, at their place, known by their labels."""

from typing import Any

import numpy as np
import pytest

from segmentation.data.copy_paste import CopyPaste, paste
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Sample
from segmentation.data.samplers import Sampling
from segmentation.errors import UserError
from segmentation.targets.border_weights import BorderWeight


def field(value: int, *boxes: tuple[int, int, int, int], ids: int = 1, **more: Any) -> Sample:
    """Squares of a value on black, with ids from ``ids`` on."""
    image, labels = np.zeros((40, 50, 1), np.uint8), np.zeros((40, 50), np.int32)
    for number, (top, left, bottom, right) in enumerate(boxes, ids):
        image[top:bottom, left:right] = value
        labels[top:bottom, left:right] = number
    return Sample("x", image, labels, **more)


def pasted(window: Sample, other: Sample, seed: int = 0) -> np.ndarray:
    result = paste(window, other, np.random.default_rng(seed))
    assert result.labels is not None and result.labels.dtype == np.int32
    assert result.image.dtype == window.image.dtype
    return result.labels


def test_whole_objects_are_pasted_with_their_pixels_and_new_ids() -> None:
    window = field(100, (2, 2, 8, 8), ids=7)
    other = field(200, (20, 20, 30, 30), (0, 30, 5, 40))  # the second is cut off by the border
    found = {seed: paste(window, other, np.random.default_rng(seed)) for seed in range(8)}
    counts = set()
    for result in found.values():
        assert result.labels is not None and window.labels is not None
        new = result.labels > 7
        counts.add(int(new.sum()))
        assert np.array_equal(result.labels == 7, window.labels == 7)
        assert (result.labels[:5, 30:40] == 0).all()
        if new.any():
            assert np.array_equal(new, other.labels == 1)
            assert (result.image[21:29, 21:29] == 200).all()
            assert 0 < result.image[20, 25, 0] < 200  # a soft border
            assert (result.image[2:8, 2:8] == 100).all()
    assert counts == {0, 100}


@pytest.mark.parametrize(("shift", "fits"), [(8, True), (5, False), (0, False)])
def test_no_object_hides_more_than_30_percent_of_another(shift: int, fits: bool) -> None:
    window = field(100, (10, 10, 20, 20))
    other = field(200, (10, 10 + shift, 20, 20 + shift))
    results = [pasted(window, other, seed) for seed in range(10)]
    assert any((labels > 1).any() for labels in results) == fits
    for labels in results:
        assert (labels == 1).sum() >= 70


def test_what_is_not_annotated_stays_so() -> None:
    window, other = field(100), field(200, (10, 10, 20, 20), (25, 25, 30, 30))
    assert window.labels is not None
    window.labels[:15] = -1
    for seed in range(10):
        labels = pasted(window, other, seed)
        assert (labels[:15] == -1).all() and set(np.unique(labels[15:])) <= {0, 1}


def test_classes_follow_their_objects() -> None:
    window = field(100, (2, 2, 8, 8), ids=2, classes=np.uint8([0, 0, 1]))
    other = field(200, (20, 20, 30, 30), ids=4, classes=np.uint8([0, 3, 3, 3, 2]))
    for seed in range(10):
        result = paste(window, other, np.random.default_rng(seed))
        assert result.labels is not None and result.classes is not None
        kinds = result.classes[result.labels]
        assert (kinds[2:8, 2:8] == 1).all() and set(np.unique(kinds[20:30, 20:30])) <= {0, 2}


def test_windows_of_other_sizes_are_left_alone() -> None:
    window = Sample("a", np.zeros((8, 8, 1), np.uint8), np.zeros((8, 8), np.int32))
    assert paste(window, field(9, (1, 1, 5, 5)), np.random.default_rng(0)) is window


def test_partners_are_of_the_same_kind_and_have_objects() -> None:
    class Entry:
        channels = ()

        def __init__(self, kind: str, objects: int) -> None:
            self.kind, self.objects, self.image = kind, objects, (0, (8, 8, 1), "|u1")

    entries = [Entry("a", 3), Entry("b", 2), Entry("a", 0), Entry("a", 5)]
    chooser, rng = CopyPaste(entries, 1.0), np.random.default_rng(0)  # type: ignore[arg-type]
    assert {chooser.partner(0, rng) for _ in range(20)} == {3}
    assert {chooser.partner(2, rng) for _ in range(40)} == {0, 3}
    assert {chooser.partner(1, rng) for _ in range(5)} == {None}
    never = CopyPaste(entries, 0.0)  # type: ignore[arg-type]
    before = rng.bit_generator.state
    assert never.partner(0, rng) is None and rng.bit_generator.state == before


def test_impossible_settings() -> None:
    source: Any = None
    with pytest.raises(UserError, match=r"data.sampling.copy_paste: 2 must be a probability"):
        SegmentationDataModule(source, sampling=Sampling(copy_paste=2))
    with pytest.raises(UserError, match=r"copy_paste: 0.5 must be 0 with data.weight"):
        SegmentationDataModule(source, sampling=Sampling(copy_paste=0.5), weight=BorderWeight())
