"""Encode and decode are each other's inverse where that is possible, and say what they lose."""

import inspect
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segmentation.errors import UserError
from segmentation.metrics import overlaps
from segmentation.targets import Contour, Distance, Flow, Foreground, otsu


def discs(height: int = 40, width: int = 60) -> np.ndarray:
    """Three discs that do not touch, of 5, 49 and 197 pixels or so, ids in reading order."""
    labels = np.zeros((height, width), np.int32)
    for label, (y, x, radius) in enumerate([(5, 8, 1), (8, 30, 4), (25, 20, 8)], start=1):
        cv2.circle(labels, (x, y), radius, label, -1)
    return labels


def probabilities(labels: np.ndarray) -> np.ndarray:
    return np.where(labels > 0, 0.9, 0.1).astype(np.float32)[None]


def test_encode() -> None:
    labels = discs()
    labels[labels == 3] = 100_000
    for dtype in (np.int32, np.int64, np.uint32):
        target = Foreground().encode(labels.astype(dtype))
        assert target.shape == (1, 40, 60) and target.dtype == torch.uint8
        np.testing.assert_array_equal(target[0].numpy(), labels > 0)
    assert not Foreground().encode(np.zeros((3, 4), np.int32)).any()


def test_decode_finds_what_was_encoded() -> None:
    labels = discs()
    found = Foreground().decode(probabilities(labels))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, labels)
    for empty in (np.zeros((1, 5, 6), np.float32), np.full((1, 5, 6), 0.5, np.float32)):
        assert not Foreground().decode(empty).any()
    assert (Foreground().decode(np.ones((1, 5, 6), np.float32)) == 1).all()


@pytest.mark.parametrize("min_size", [0, 1, 5, 6, 49, 50, 10_000])
def test_min_size(min_size: int) -> None:
    labels = discs()
    areas = np.bincount(labels.ravel())[1:]
    kept = [label for label, area in enumerate(areas, start=1) if area >= min_size]
    wanted = np.zeros_like(labels)
    for new, label in enumerate(kept, start=1):
        wanted[labels == label] = new  # numbered without gaps
    found = Foreground(min_size=min_size).decode(probabilities(labels))
    assert found.dtype == np.int32
    np.testing.assert_array_equal(found, wanted)


def test_probabilities_and_foreground() -> None:
    logits = torch.tensor([-200.0, -1.0, 0.0, 1.0, 200.0]).view(1, 1, 1, 5)
    probs = Foreground().probabilities(logits)
    torch.testing.assert_close(probs, 1 / (1 + torch.exp(-logits)))
    assert Foreground().foreground(probs).shape == (1, 1, 5)
    half = Foreground().probabilities(logits.bfloat16())
    assert half.dtype == torch.float32
    torch.testing.assert_close(half, probs)


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"threshold": 0.0}, "threshold: 0.0 is not between 0 and 1"),
        ({"threshold": 1.0}, "threshold"),
        ({"threshold": float("nan")}, "threshold"),
        ({"min_size": -1}, "min_size: -1 must not be negative"),
        ({"gap": -1}, "gap: -1 must not be negative"),
        ({"seed": 1}, "seed: 1 is not between 0 and 1"),
        ({"width": 0}, "width: 0 must be 1 to 100 pixels"),
        ({"width": 10**9}, "width: 1000000000 must be 1 to 100 pixels"),
        ({"position": "middle"}, "position: 'middle' must be"),
        ({"flow_error": -1}, "flow_error: -1 must not be negative"),
        ({"peak_distance": 0}, "peak_distance: 0 must be 1 pixel or more"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    for target in (Foreground, Contour, Distance, Flow):
        if settings.keys() <= inspect.signature(target).parameters.keys():
            with pytest.raises(UserError, match=f"^target\\.{says}"):
                target(**settings)


def touching_discs() -> np.ndarray:
    """Six discs: two pairs that touch, one alone, one that the image cuts off."""
    labels = np.zeros((128, 128), np.int32)
    y, x = np.mgrid[:128, :128]
    places = [(30, 30, 14), (30, 59, 14), (80, 35, 20), (88, 73, 18), (105, 112, 11), (0, 100, 12)]
    for label, (row, column, radius) in enumerate(places, start=1):
        disc = (y - row) ** 2 + (x - column) ** 2 <= radius * (radius + 1)
        labels[disc & (labels == 0)] = label
    return labels


def one_hot(target: Contour, labels: np.ndarray) -> np.ndarray:
    classes = target.encode(labels)
    return torch.nn.functional.one_hot(classes, 3).permute(2, 0, 1).float().numpy()


def slow_contour(labels: np.ndarray, inside: int, outside: int, between: int) -> np.ndarray:
    """Pixel by pixel: what else lies in the square around it."""
    classes = np.zeros(labels.shape, np.int64)
    for (y, x), own in np.ndenumerate(labels):

        def around(radius: int, y: int = y, x: int = x) -> np.ndarray:
            rows, columns = (slice(max(0, c - radius), c + radius + 1) for c in (y, x))
            return labels[rows, columns]

        if own == 0:
            classes[y, x] = 2 * bool(around(outside).any())
        else:
            other = around(between)
            edge = (around(inside) != own).any() or ((other != own) & (other > 0)).any()
            classes[y, x] = 2 if edge else 1
    return classes


CONTOURS = [
    ("straddling", 1, (1, 0, 1)),
    ("straddling", 2, (1, 1, 1)),
    ("straddling", 3, (2, 1, 2)),
    ("straddling", 4, (2, 2, 2)),
    ("inner", 1, (1, 0, 1)),
    ("inner", 3, (3, 0, 3)),
    ("outer", 1, (0, 1, 1)),
    ("outer", 2, (0, 2, 1)),
    ("outer", 3, (0, 3, 2)),
]


@pytest.mark.parametrize(("position", "width", "radii"), CONTOURS)
def test_contour_is_what_lies_near_a_border(
    position: Any, width: int, radii: tuple[int, int, int]
) -> None:
    labels = touching_discs()[:, :72]
    target = Contour(width, position).encode(labels)
    assert target.shape == labels.shape and target.dtype == torch.int64
    np.testing.assert_array_equal(target.numpy(), slow_contour(labels, *radii))
    # Ids say nothing but which pixels belong together, whatever their dtype.
    ids = np.array([0, 1_900_000_000, 7, 3, 2, 5, 1_900_000_001])[labels].astype(np.uint32)
    assert torch.equal(Contour(width, position).encode(ids), target)


@pytest.mark.parametrize(("position", "width", "radii"), CONTOURS)
def test_objects_that_touch_are_told_apart(
    position: Any, width: int, radii: tuple[int, int, int]
) -> None:
    labels, target = touching_discs(), Contour(width, position)
    found = target.decode(one_hot(target, labels))
    assert found.dtype == np.int32
    table = overlaps(labels, found)
    assert len(table.prediction) == 6
    best = np.sort(table.iou)[-6:]
    if position == "outer":  # the corner between two discs is narrower than two bands, and filled
        assert best.min() > 0.97
    else:
        np.testing.assert_array_equal(found > 0, labels > 0)
        # At the corner between two, one pixel may be as near to the one as to the other.
        assert (best == 1).all() if width < 3 else best.min() > 0.998


@pytest.mark.parametrize(("position", "width"), [("straddling", 2), ("inner", 3), ("outer", 2)])
def test_no_object_is_too_thin_to_be_found(position: Any, width: int) -> None:
    labels = np.zeros((40, 40), np.int32)
    labels[3, 3] = 1  # a pixel
    labels[10, 5:30] = 2  # a line
    labels[20:23, 5:30] = 3  # three rows: wide enough for a band of 1, not of 3
    labels[30:32, 5:20], labels[30:32, 20:35] = 4, 5  # touching
    target = Contour(width, position)
    classes = target.encode(labels).numpy()
    for label in range(1, 6):
        assert (classes[labels == label] == 1).any()
    rows = [1, 1, 1] if position == "outer" else [2, 1, 2]
    np.testing.assert_array_equal(classes[20:23, 6:29], np.tile(rows, (23, 1)).T)
    found = target.decode(one_hot(target, labels))
    assert len(np.unique(found)) == 6
    assert all(len(np.unique(found[labels == label])) == 1 for label in (1, 2, 3))


def test_straddling_foreground_is_as_large_as_the_objects() -> None:
    """All of P(contour) would add a rim to every object, also where the network is unsure."""
    labels, target = touching_discs(), Contour(2)
    hot = one_hot(target, labels)
    for blur in (0.0, 0.7, 1.2):
        probs = np.stack([cv2.GaussianBlur(h, (0, 0), blur) for h in hot]) if blur else hot
        foreground = target.foreground(torch.from_numpy(probs)[None])
        assert foreground.shape == (1, 128, 128)
        assert foreground.min() >= 0 and foreground.max() <= 1  # as the scores demand
        mask = foreground[0].numpy() > 0.5
        area, true = mask.sum(), (labels > 0).sum()
        assert abs(area / true - 1) < 0.02
        assert (probs[1] + probs[2] > 0.5).sum() / true > 1.09
        np.testing.assert_array_equal(target.decode(probs) > 0, mask)


def test_inner_foreground_is_the_sum_of_both() -> None:
    logits = torch.randn(2, 3, 8, 9, generator=torch.Generator().manual_seed(0)) * 3
    for target in (Contour(2, "inner"), Contour(1)):
        probs = target.probabilities(logits.bfloat16())
        assert probs.dtype == torch.float32
        torch.testing.assert_close(probs.sum(1), torch.ones(2, 8, 9))
        torch.testing.assert_close(target.foreground(probs), 1 - probs[:, 0])


def test_contour_decodes_by_threshold_and_size() -> None:
    labels = np.zeros((30, 60), np.int32)
    labels[3:27, 3:27], labels[10:18, 40:48] = 1, 2
    hot = one_hot(Contour(), labels)
    soft = hot * 0.6 + 0.4 / 3  # .733 where it is right
    np.testing.assert_array_equal(Contour().decode(soft), labels)
    assert not Contour(threshold=0.9).decode(soft).any()
    assert (Contour(min_size=65).decode(soft) == np.where(labels == 1, 1, 0)).all()
    nothing = np.zeros_like(hot)
    nothing[0] = 1
    assert not Contour().decode(nothing).any()
    everything = np.zeros_like(hot)
    everything[1] = 1
    assert (Contour().decode(everything) == 1).all()


def test_what_has_no_interior_is_an_object_all_the_same() -> None:
    probs = np.zeros((3, 20, 20), np.float32)
    probs[0] = 1
    probs[:, 5:9, 5:9] = np.array([0.1, 0.45, 0.45], np.float32)[:, None, None]
    probs[:, 5:9, 13:17] = np.array([0.1, 0.8, 0.1], np.float32)[:, None, None]
    found = Contour(2, "inner").decode(probs)
    assert found.max() == 2 and len(np.unique(found[5:9, 5:9])) == 1 and found[5, 5] > 0


def test_gap_pulls_touching_objects_apart() -> None:
    labels = np.zeros((10, 20), np.int32)
    labels[2:8, 2:10], labels[2:8, 10:18] = 1, 2
    wide, narrow = (Foreground(gap=gap) for gap in (2, 0))
    assert Foreground().decode(narrow.encode(labels).numpy().astype(np.float32)).max() == 1
    target = wide.encode(labels)[0].numpy()
    expected = labels > 0
    expected[:, 8:12] = False
    np.testing.assert_array_equal(target, expected)
    assert Foreground().decode(target[None].astype(np.float32)).max() == 2
    alone = np.where(labels == 1, 1, 0)
    np.testing.assert_array_equal(wide.encode(alone)[0].numpy(), alone)


def slow_otsu(gray: np.ndarray) -> np.ndarray:
    """Every threshold in turn: the one with the greatest variance between both classes."""
    best, chosen = -1.0, 0
    for threshold in np.unique(gray)[:-1]:
        above = gray > threshold
        share = above.mean()
        variance = share * (1 - share) * (gray[above].mean() - gray[~above].mean()) ** 2
        if variance > best * (1 + 1e-12):
            best, chosen = variance, int(threshold)
    bright = gray > chosen
    return ~bright if bright.mean() > 0.5 else bright


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
def test_otsu(dtype: type) -> None:
    rng = np.random.default_rng(0)
    truth = discs() > 0
    for contrast in (30, 60, 120):
        noisy = rng.normal(60, 12, truth.shape) + contrast * truth
        gray = noisy.clip(0, 255).round().astype(dtype)
        if dtype == np.uint16:
            gray = gray * 16
        np.testing.assert_array_equal(otsu(gray), slow_otsu(gray))
        # Dark objects on a bright background are found as well.
        np.testing.assert_array_equal(otsu(gray.max() - gray), slow_otsu(gray.max() - gray))
    assert not otsu(np.full((4, 5), 5, np.uint8)).any()
    assert (otsu(gray) == truth).mean() > 0.95
    assert (otsu(gray.max() - gray) == truth).mean() > 0.95
