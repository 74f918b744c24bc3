"""Targets with classes: what they encode they find again, and their votes are sums of pixels."""

import copy
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from scipy import ndimage

from segmentation.errors import UserError
from segmentation.targets import (
    Classes,
    Contour,
    Distance,
    Flow,
    Foreground,
    StarConvex,
    Target,
    WithClasses,
)

NAMES = ["round", "long", "large"]


def truth(seed: int = 0, size: int = 64) -> tuple[np.ndarray, np.ndarray]:
    """Squares of three classes, some of which touch: ids and classes."""
    rng = np.random.default_rng(seed)
    labels = np.zeros((size, size), np.int32)
    for i, (y, x) in enumerate(np.ndindex(4, 4), start=1):
        side = int(rng.integers(9, 17))
        labels[y * 16 : y * 16 + side, x * 16 : x * 16 + side] = i
    return labels, np.concatenate([[0], rng.integers(1, 4, 16)]).astype(np.uint8)


def certain(target: Target, labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """The probabilities of a network that is always right: (classes, H, W) float32."""
    encoded = target.encode(labels, classes)
    if isinstance(target, Classes):
        return F.one_hot(encoded, 4).permute(2, 0, 1).float().numpy()
    assert isinstance(target, WithClasses)
    inner, head = encoded[:-1], F.one_hot(encoded[-1].long(), 4).permute(2, 0, 1)
    if isinstance(target.objects, Contour):
        inner = F.one_hot(inner[0].long(), 3).permute(2, 0, 1)
    return torch.cat([inner.float(), head.float()]).numpy()


@pytest.mark.parametrize(
    "objects", [Foreground(gap=1), Contour(width=1), Distance(), Flow(), StarConvex(grid=1)]
)
def test_objects_and_their_classes_come_back(objects: Target) -> None:
    labels, classes = truth()
    target = WithClasses(objects, NAMES)
    probs = certain(target, labels, classes)
    assert len(probs) == target.classes == objects.classes + 4
    found = target.decode(probs)
    assert found.max() == 16
    kinds = target.classify(probs, found)
    assert kinds is not None and kinds.dtype == np.uint8 and kinds[0] == 0
    for label in range(1, 17):
        (own,) = np.unique(labels[(found == label) & (labels > 0)])
        assert kinds[label] == classes[own]
    np.testing.assert_array_equal(found, objects.decode(probs[: objects.classes]))


def test_components_of_each_class_are_objects() -> None:
    labels, classes = truth()
    target = Classes(NAMES)
    pixels = classes[labels]
    found = target.decode(certain(target, labels, classes))
    parts = [ndimage.label(pixels == c, np.ones((3, 3)))[0] for c in (1, 2, 3)]
    assert found.max() == sum(part.max() for part in parts) > len(np.unique(pixels)) - 1
    for part in parts:  # the same partition
        pairs = np.unique(np.stack([found[part > 0], part[part > 0]]), axis=1)
        assert len(np.unique(pairs[0])) == len(np.unique(pairs[1])) == pairs.shape[1]
    kinds = target.classify(certain(target, labels, classes), found)
    assert kinds is not None
    np.testing.assert_array_equal(kinds[found], pixels)


def test_the_foreground_is_all_but_the_background() -> None:
    logits = torch.randn(2, 4, 5, 6, generator=torch.Generator().manual_seed(0))
    target = Classes(NAMES, threshold=0.8)
    probs = target.probabilities(logits)
    torch.testing.assert_close(probs, F.softmax(logits, 1))
    torch.testing.assert_close(target.foreground(probs), probs[:, 1:].sum(1))
    found = target.instances(probs[0].numpy())
    np.testing.assert_array_equal(found > 0, 1 - probs[0, 0].numpy() > 0.8)
    head = WithClasses(Foreground(), NAMES).probabilities(torch.cat([logits[:, :1], logits], 1))
    torch.testing.assert_close(head, torch.cat([logits[:, :1].sigmoid(), probs], 1))


def test_the_class_of_an_object_is_the_vote_of_its_pixels() -> None:
    rng = np.random.default_rng(0)
    probs = rng.random((5, 40, 30)).astype(np.float32)
    labels = rng.integers(0, 20, (40, 30)).astype(np.int32)
    target = WithClasses(Foreground(), NAMES)
    kinds = target.classify(probs, labels)
    votes = [[ndimage.sum(p, labels, i) for p in probs[2:]] for i in range(1, 20)]
    assert kinds is not None
    assert kinds[1:].tolist() == (np.argmax(votes, 1) + 1).tolist()
    halves = np.array_split(np.arange(40), 2)  # votes of parts add up
    total = sum(target.votes(probs[:, rows], np.clip(labels[rows], 0, None)) for rows in halves)
    np.testing.assert_allclose(total, target.votes(probs, labels))


def test_settings_of_the_decoding_are_those_of_the_objects() -> None:
    inner = Foreground(threshold=0.4, min_size=40, seed_distance=8)
    target = WithClasses(inner, NAMES)
    assert (target.threshold, target.min_size, target.seed_distance) == (0.4, 40, 8)
    assert target.tunable == inner.tunable
    other = copy.copy(target)
    other.threshold = 0.7
    assert (target.threshold, inner.threshold, other.threshold) == (0.4, 0.4, 0.7)
    half = target.at_scale(0.5)
    assert (half.min_size, half.seed_distance, target.min_size) == (160, 16, 40)
    assert target.settings() == {
        "class": "WithClasses",
        "class_names": tuple(NAMES),
        "objects": inner.settings(),
    }
    with pytest.raises(AttributeError, match="nothing"):
        _ = target.nothing


@pytest.mark.parametrize(
    ("names", "says"),
    [
        ([], "must be a list of 1 to 255 names"),
        ("ab", "must be a list"),
        (["a", "a"], "a, a: each name must be there once"),
        (["a", ""], "'' is no name"),
        (["a\n"], "is no name"),
        (["a/b"], "contains /"),
        (["background"], "'background' is class 0"),
    ],
)
def test_bad_names(names: Any, says: str) -> None:
    for make in (Classes, lambda names: WithClasses(Foreground(), names)):
        with pytest.raises(UserError, match=f"^target\\.names: .*{says}"):
            make(names)


def test_truth_without_classes_and_classes_within_classes() -> None:
    with pytest.raises(UserError, match="tells classes apart, but the truth has none"):
        Classes(NAMES).encode(truth()[0])
    with pytest.raises(UserError, match="Classes has classes of its own"):
        WithClasses(Classes(NAMES), NAMES)
