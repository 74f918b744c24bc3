"""What training images were like, against its definition written out with loops."""

from typing import Any

import numpy as np
import pytest

from segmentation.data.description import Description, image_features
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


def features(sample: Sample) -> dict[str, list[float]]:
    assert sample.labels is not None
    return image_features(sample.image, np.bincount(sample.labels.ravel())[1:])


TRAINING = [picture(i, 40 + i, 4 + i % 4) for i in range(30)]


def test_features_of_known_images() -> None:
    flat = image_features(np.full((32, 32, 3), (255, 0, 0), np.uint8), np.zeros(0))
    assert flat["brightness"] == [pytest.approx(1 / 3, abs=1e-4)] * 5
    assert flat["colour"] == pytest.approx([2 / 3, -1 / 3, -1 / 3], abs=1e-4)
    assert flat["detail"] == [-3.0] * 5 and np.isnan(flat["size of objects"]).all()
    found = image_features(np.zeros((100, 100, 1), np.uint8), np.array([0, 314, 314, 314]))
    assert found["size of objects"] == pytest.approx([np.log2(20), 2], abs=1e-3)
    assert "colour" not in found
    fine = image_features(np.indices((64, 64)).sum(0)[..., None].astype(np.uint8) % 2 * 255,
                          np.zeros(0))  # fmt: skip
    assert fine["detail"][0] > max(fine["detail"][1:])
    for tiny in ((1, 1, 1), (3, 1, 2)):
        assert np.isfinite(image_features(np.zeros(tiny, np.uint8), np.zeros(0))["detail"]).all()


def test_distance_to_the_most_similar_training_image() -> None:
    training = Description.of(TRAINING)
    rows = [np.concatenate([*features(sample).values()]) for sample in TRAINING]
    least = [0.02] * 5 + [0.05] * 5 + [0.25] * 2
    spread = [max(float(np.std([row[k] for row in rows])), low) for k, low in enumerate(least)]

    def apart(one: Any, other: Any) -> float:
        each = [((a - b) / s) ** 2 for a, b, s in zip(one, other, spread, strict=True)]
        return float(np.sqrt(np.mean(each)))

    own = [min(apart(a, b) for b in rows if b is not a) for a in rows]
    new = np.concatenate([*features(picture(99, 90)).values()])
    wanted = min(apart(new, row) for row in rows) / np.quantile(own, 0.95)
    told = training.unlike(features(picture(99, 90)))
    assert told is not None and told[0] == pytest.approx(wanted)


def test_what_is_unlike_is_named() -> None:
    training = Description.of(TRAINING)
    like, bright, large = (picture(7, 47, 6), picture(7, 140, 6), picture(7, 47, 10))
    (own, _), (far, why), (size, other) = (
        training.unlike(features(one)) or (0, []) for one in (like, bright, large)
    )
    assert own < 1 < size < far
    assert why[0] == "brightness" and "size of objects" not in why
    assert other[0] == "size of objects"


def test_diameters() -> None:
    training = Description.of(TRAINING)
    each = [2 ** features(sample)["size of objects"][0] for sample in TRAINING]
    assert training.diameter == pytest.approx(np.median(each), rel=0.01)
    like = [training.likeness(diameter) for diameter in (9, 11, 22, 3)]
    assert max(like[:2]) > 0.8 and max(like[2:]) < 0.05
    empty = Description.of([Sample("a", TRAINING[0].image, np.zeros((64, 64), np.int32))])
    assert empty.diameter is None and empty.likeness(9.0) == 0


def test_plain_values_keep_it() -> None:
    nothing = Sample("a", TRAINING[0].image, np.zeros((64, 64), np.int32))
    training = Description.of([*TRAINING, nothing])
    again = Description.from_plain(training.plain())
    assert again is not None and again.groups == training.groups
    np.testing.assert_array_equal(again.rows, training.rows)
    assert training.plain()["diameters"]["0.5"] == pytest.approx(training.diameter)
    assert training.plain()["images"][-1][-2:] == [None, None]
    new = features(picture(99, 90))
    assert again.unlike(new) == training.unlike(new)


def test_nothing_is_said_where_nothing_is_known() -> None:
    new = features(picture(99))
    assert Description.of(TRAINING[:9]).unlike(new) is None
    colour = {**new, "colour": [0.0, 0.0, 0.0]}
    assert Description.of(TRAINING).unlike(colour) is None
    assert Description.from_plain(None) is None
    assert Description.from_plain({**Description.of(TRAINING).plain(), "version": 99}) is None


@pytest.mark.parametrize("change", [{"images": [[1.0]]}, {"groups": {}}, {"images": "x"}, None])
def test_broken_descriptions_are_refused(change: dict[str, Any] | None) -> None:
    stored: Any = [] if change is None else Description.of(TRAINING).plain() | change
    with pytest.raises(UserError, match="description of the training images is broken"):
        Description.from_plain(stored)
