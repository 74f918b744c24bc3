"""What is seen of images whose content is known."""

from pathlib import Path

import numpy as np
import pytest
from scipy import ndimage

from segmentation.data.cache import decoded
from segmentation.data.sample import Record, Sample, SegmentationDataset, Split
from segmentation.errors import UserError
from segmentation.experiments.plan.facts import data_facts, evenly, touching

SPLIT = Split(("a", "b"), ("c",), ("t",))


class Drawn(SegmentationDataset):
    """Squares of 10 pixels on a background; the test image has another bit depth and no truth."""

    def __init__(self, background: int = 300, channels: tuple[int, ...] = (1, 1, 1)) -> None:
        self.background, self.channels = background, dict(zip("abc", channels, strict=True))
        self.name = f"drawn-{background}-{'-'.join(map(str, channels))}"

    def index(self) -> list[Record]:
        return [Record(name, name, (), name, "g" if name == "a" else "") for name in "abct"]

    def read(self, record: Record) -> Sample:
        image = np.full((40, 60, self.channels.get(record.id, 1)), self.background, np.uint16)
        if record.id == "t":
            return Sample("t", image + 60_000, None)
        labels = np.zeros((40, 60), np.int32)
        labels[5:15, 5:15], labels[5:15, 15:25], labels[25:35, 40:50] = 1, 2, 3  # 1 and 2 touch
        image[labels > 0] = 2000
        if record.id == "c":
            labels[:], image[:] = 0, self.background
            labels[:, :15] = -1
        return Sample(record.id, image, labels, record.group)


def test_facts_of_known_images(tmp_path: Path) -> None:
    facts = data_facts(decoded(Drawn(), tmp_path), SPLIT)
    assert (facts.train, facts.val, facts.test, facts.groups) == (2, 1, 1, 1)
    assert facts.smallest == facts.largest == (40, 60) and facts.sizes == 1
    assert facts.bits == 11  # 2000; the test image's 16 are not seen
    assert facts.diameter == pytest.approx(2 * 10 / np.sqrt(np.pi))
    assert facts.touching == pytest.approx(4 / 6) and facts.objects == 3
    assert facts.empty == pytest.approx(1 / 3) and facts.area == 100
    assert facts.unannotated == pytest.approx(15 / 60 / 3)
    assert facts.background == "dark" and facts.channels == (1,) and not facts.colour


def test_a_bright_background(tmp_path: Path) -> None:
    assert data_facts(decoded(Drawn(4000), tmp_path), SPLIT).background == "bright"


def test_mixed_channels_are_refused_unless_gray_goes_with_colours(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"1 channel\(s\) \(a\) and 2 channel\(s\) \(b\); keep"):
        data_facts(decoded(Drawn(channels=(1, 2, 1)), tmp_path), SPLIT)
    assert data_facts(decoded(Drawn(channels=(1, 3, 1)), tmp_path), SPLIT).channels == (1, 3)


def test_touching_agrees_with_dilating_each_object() -> None:
    rng = np.random.default_rng(0)
    labels = (rng.random((30, 30)) < 0.3) * rng.integers(-1, 9, (30, 30))
    expected = [
        i
        for i in range(1, 9)
        if ((labels > 0) & (labels != i))[
            ndimage.binary_dilation(labels == i, np.ones((3, 3)))
        ].any()
    ]
    assert touching(labels).tolist() == expected


def test_images_to_look_at_are_spread_evenly() -> None:
    assert evenly(3, 50) == [0, 1, 2]
    assert evenly(101, 5) == [0, 25, 50, 75, 100]
