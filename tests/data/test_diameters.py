"""Diameters of training images' objects, against closed forms."""

from typing import Any

import numpy as np
import pytest

from segmentation.data.diameters import TrainingDiameters
from segmentation.data.sample import Sample
from segmentation.errors import UserError


def picture(seed: int, level: float = 60.0, radius: int = 6, size: int = 64) -> Sample:
    """Dark noise with some bright discs."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    rows, columns = np.mgrid[:size, :size]
    step = size // 3
    for n, (y, x) in enumerate([(i, j) for i in range(3) for j in range(3)], 1):
        inside = (rows - step * (y + 0.5)) ** 2 + (columns - step * (x + 0.5)) ** 2 < radius**2
        labels[inside] = n
    image = np.clip(rng.normal(level, 8, labels.shape) + 100 * (labels > 0), 0, 255)
    return Sample(str(seed), image.astype(np.uint8)[..., None], labels)


def areas(sample: Sample) -> np.ndarray:
    assert sample.labels is not None
    return np.bincount(sample.labels.ravel())[1:]


SAMPLES = [picture(i, 40 + i, 4 + i % 4) for i in range(30)]
NOTHING = Sample("a", SAMPLES[0].image, np.full((64, 64), -1, np.int32))
TRAINING = TrainingDiameters.of([*SAMPLES, NOTHING])


def test_diameters_and_how_usual_they_are() -> None:
    each = [2 * np.sqrt(np.median(areas(sample)) / np.pi) for sample in SAMPLES]
    assert TRAINING.of_each == pytest.approx(each)
    assert TRAINING.median == pytest.approx(2 ** np.median(np.log2(each)))
    assert TRAINING.quantile(0.95) == pytest.approx(max(each), rel=0.1)
    like = [TRAINING.likeness(diameter) for diameter in (9, 11, 22, 3)]
    assert max(like[:2]) > 0.8 and max(like[2:]) < 0.05
    one = TrainingDiameters(np.array([8.0]))
    assert one.likeness(8 * 2**0.25) == pytest.approx(np.exp(-0.5))
    empty = TrainingDiameters.of([NOTHING])
    assert empty.median is None and empty.likeness(9.0) == 0


def test_plain_values_keep_them() -> None:
    again = TrainingDiameters.stored_in({"training_diameters": TRAINING.plain()})
    assert again is not None
    np.testing.assert_allclose(again.of_each, TRAINING.of_each, atol=5e-4)
    empty = TrainingDiameters.stored_in({"training_diameters": []})
    assert empty is not None and empty.median is None
    assert TrainingDiameters.stored_in({}) is None


def test_older_files_hold_them_in_a_table() -> None:
    rows = [[0.1, 0.2, 3.0, 1.0], [0.1, 0.2, None, None], [0.1, 0.2, 4.0, 1.0]]
    older = {"version": 1, "groups": {"brightness": 2, "size of objects": 2}, "images": rows}
    known = TrainingDiameters.stored_in({"description": older})
    assert known is not None and known.of_each.tolist() == [8, 16]
    assert TrainingDiameters.stored_in({"description": older | {"version": 99}}) is None


@pytest.mark.parametrize(
    "about",
    [
        {"training_diameters": [[1.0]]},
        {"training_diameters": "x"},
        {"training_diameters": [0.0]},
        {"description": {"version": 1, "images": "x"}},
        {"description": {"version": 1}},
        {"description": []},
    ],
)
def test_broken_ones_are_refused(about: dict[str, Any]) -> None:
    with pytest.raises(UserError, match="diameters of the training images are broken"):
        TrainingDiameters.stored_in(about)
