"""Star-convex polygons, against walks pixel by pixel, closed forms and polygons drawn by others."""

import math
from typing import Any

import numpy as np
import pytest
import torch
from skimage.measure import points_in_poly
from torch import Tensor, nn

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.fitting import check_fit
from segmentation.inference import d4_mean
from segmentation.metrics import overlaps
from segmentation.targets import StarConvex, WithClasses
from segmentation.targets.star_convex import drawn, star_distances, summit_plateaus
from segmentation.training.tuning import Search
from tests.targets.test_targets import touching_discs


def walked(labels: np.ndarray, rays: int) -> np.ndarray:
    """StarDist's distances: a walk along each ray until another id, its last step corrected."""
    found = np.zeros((rays, *labels.shape))
    for ray in range(rays):
        angle = 2 * math.pi / rays * ray
        down, right = math.sin(angle), math.cos(angle)
        for (row, column), own in np.ndenumerate(labels):
            y = x = 0.0
            while own:
                y, x = y + down, x + right
                there = round(row + y), round(column + x)
                inside = all(0 <= a < b for a, b in zip(there, labels.shape, strict=True))
                if not inside or labels[there] != own:
                    back = 1 - 0.5 / max(abs(down), abs(right))
                    found[ray, row, column] = math.hypot(y - back * down, x - back * right)
                    break
    return found


def disc(radius: float, height: int = 41, width: int = 41) -> np.ndarray:
    y, x = np.mgrid[:height, :width]
    inside: np.ndarray = (y - height // 2) ** 2 + (x - width // 2) ** 2 <= radius**2
    return inside.astype(np.int32)


def one(labels: np.ndarray, rays: int = 32, grid: int = 1) -> np.ndarray:
    return star_distances(labels, np.zeros((rays, *labels.shape), np.float32), grid)


@pytest.mark.parametrize("rays", [4, 32])
def test_distances_are_those_of_a_walk(rays: int) -> None:
    labels = touching_discs()[:60, 20:80]
    labels[50:52, 3:9] = labels[59, 59] = 7  # a thin one in two parts, one pixel at the corner
    wanted = walked(labels, rays)
    np.testing.assert_allclose(one(labels, rays), wanted, atol=1e-4)
    some = one(labels, rays, grid=2)
    known = some[0] > 0
    np.testing.assert_allclose(some[:, known], wanted[:, known], atol=1e-4)
    assert not some[:, ~known].any()
    # As many in even as in odd rows and columns: a network may see them differently.
    rows, columns = np.nonzero(one(np.ones((100, 100), np.int32), 4, grid=2)[0])
    assert np.bincount(rows % 2 * 2 + columns % 2).tolist() == [500] * 4


def test_distances_of_a_disc() -> None:
    radius, labels = 15.0, disc(15)
    angles = np.arange(32) * 2 * np.pi / 32
    for row, column in ((20, 20), (12, 24), (26, 10)):
        y, x = row - 20, column - 20
        along = y * np.sin(angles) + x * np.cos(angles)
        wanted = -along + np.sqrt(along**2 + radius**2 - y * y - x * x)
        np.testing.assert_allclose(one(labels)[:, row, column], wanted, atol=1.0)


def test_encode() -> None:
    labels = touching_discs()
    labels[labels == 3] = 1_900_000_000
    encoded = StarConvex(rays=8, grid=1).encode(labels)
    assert encoded.shape == (10, 128, 128) and encoded.dtype == torch.float32
    assert torch.equal(encoded[0] > 0, torch.from_numpy(labels > 0))
    assert encoded[1].max() == 1 and not encoded[:, labels == 0].any()
    assert not StarConvex().encode(np.zeros((3, 4), np.int32)).any()


@pytest.mark.parametrize("to_foreground", [False, True])
def test_objects_come_back(to_foreground: bool) -> None:
    y, x = np.mgrid[:128, :128]
    labels = touching_discs()
    labels[((y - 55) / 6) ** 2 + ((x - 100) / 14) ** 2 <= 1] = 9  # an ellipse
    labels[120, 3] = labels[122, 3] = labels[124:126, 3] = 0
    labels[120, 3], labels[121, 3], labels[126, 20] = 10, 11, 12  # single pixels, two that touch
    target = StarConvex(grid=1, smooth=0, to_foreground=to_foreground)
    found = target.decode(target.encode(labels).numpy())
    assert found.dtype == np.int32 and found.max() == len(np.unique(labels)) - 1
    table = overlaps(labels, found)
    assert np.sort(table.iou)[-found.max() :].min() > (0.98 if to_foreground else 0.9)
    if to_foreground:
        np.testing.assert_array_equal(found > 0, labels > 0)


@pytest.mark.parametrize("to_foreground", [False, True])
def test_one_object_or_none_fills_the_image(to_foreground: bool) -> None:
    target = StarConvex(grid=1, smooth=0, to_foreground=to_foreground)
    whole = target.encode(np.ones((24, 40), np.int32)).numpy()  # one plateau: a single polygon
    assert (target.decode(whole) == 1).mean() > 0.85 and target.decode(whole).max() == 1
    assert not target.decode(np.zeros((34, 24, 40), np.float32)).any()


def test_polygons_are_those_of_others() -> None:
    """The best first, of which none shares much with what is seen of those before."""
    rng = np.random.default_rng(0)
    centres = rng.integers(0, 60, (60, 2))
    distances = rng.uniform(2, 9, (60, 1)) * rng.uniform(0.7, 1, (60, 16))
    plateaus = np.ones((60, 60), np.int32) + np.arange(3600).reshape(60, 60)
    angles = np.arange(16) * np.pi / 8
    around = np.stack([np.sin(angles), np.cos(angles)], 1)
    pixels = np.argwhere(np.ones((60, 60)))
    labels = np.zeros((60, 60), np.int32)
    areas = {0: 0.0}
    for centre, reach in zip(centres, distances, strict=True):
        corners = centre + reach[:, None] * around
        mask = points_in_poly(pixels, corners).reshape(60, 60)
        ids, shared = np.unique(labels[mask], return_counts=True)
        parts = zip(ids, shared, strict=True)
        if all(n <= 0.3 * min(areas[i], mask.sum()) for i, n in parts if i):
            areas[len(areas)] = mask.sum()
            labels[mask & (labels == 0)] = len(areas) - 1
    assert 20 < len(areas) < 50
    np.testing.assert_array_equal(drawn(centres, distances, plateaus, 0.3), labels)


def test_summits() -> None:
    height = np.zeros((9, 12), np.float32)
    height[2, 2], height[2, 5], height[2, 4] = 0.9, 0.8, 0.7
    height[6, 2:6], height[6, 9] = 0.6, 0.3
    summits = summit_plateaus(height, 0.3)
    assert np.argwhere(summits).tolist() == [[2, 2], [2, 5], [6, 2], [6, 3], [6, 4], [6, 5]]
    assert summits.max() == 3


def test_settings_of_the_decoding() -> None:
    labels = touching_discs()
    encoded = StarConvex(grid=1).encode(labels).numpy()
    encoded[1] *= 0.7
    assert not StarConvex(centre=0.75, smooth=0, to_foreground=False).decode(encoded).any()
    assert StarConvex(centre=0.65, smooth=0, min_size=500).decode(encoded).max() == 4
    # Summits of noise are smoothed away, where they would be objects of their own.
    noisy = encoded.copy()
    noisy[1] += np.random.default_rng(0).normal(0, 0.2, labels.shape) * (labels > 0)
    noisy[2:] *= 0.5  # polygons that leave room for others
    count = [StarConvex(smooth=s).decode(noisy.clip(0)).max() for s in (3, 0)]
    assert count[0] == 6 < count[1]
    twice = np.concatenate([encoded[:2], encoded[2:] * 1.5])  # polygons that overlap much
    count = [
        StarConvex(overlap=o, smooth=0, to_foreground=False).decode(twice).max()
        for o in (0.05, 0.9)
    ]
    assert count == [4, 6]


def test_averages_over_the_symmetries_are_exact() -> None:
    """Truth that is encoded after an image was turned is turned back to what it would have been."""
    target = StarConvex(rays=16, grid=1)
    labels = torch.from_numpy(touching_discs()[:, :100].copy())
    wanted = target.encode(labels.numpy())[None]

    def encoded(image: Tensor) -> Tensor:
        return target.encode(image[0, 0].int().numpy())[None]

    image = labels[None, None].float()
    mean = d4_mean(encoded, image, target.turned_back)
    torch.testing.assert_close(mean, wanted, atol=1e-4, rtol=0)
    both = WithClasses(target, ["a", "b"])
    more = torch.cat([wanted, torch.zeros(1, 3, *labels.shape)], 1)
    torch.testing.assert_close(
        both.turned_back(more, 3, True),
        torch.cat([target.turned_back(wanted, 3, True), more[:, -3:]], 1),
    )


def test_of_a_magnified_image() -> None:
    """The network's pixels are half of the image's."""
    labels = touching_discs()
    large = StarConvex(grid=1).encode(np.kron(labels, np.ones((2, 2), np.int32)))
    probs = nn.functional.interpolate(large[None], scale_factor=0.5, mode="bilinear")[0].numpy()
    for target in (StarConvex(to_foreground=False), WithClasses(StarConvex(), ["a"])):
        more = np.zeros((target.classes - 34, 128, 128), np.float32)
        found = target.at_scale(2.0).decode(np.concatenate([probs, more]))
        assert np.sort(overlaps(labels, found).iou)[-6:].min() > 0.85
        assert target.at_scale(1.0).settings() == target.settings()


def test_probabilities() -> None:
    logits = torch.randn(2, 10, 4, 5, generator=torch.Generator().manual_seed(0)).half()
    probs = StarConvex(rays=8).probabilities(logits)
    assert probs.dtype == torch.float32
    torch.testing.assert_close(probs[:, :2], logits[:, :2].float().sigmoid())
    torch.testing.assert_close(probs[:, 2:], 8 * logits[:, 2:].float().exp())
    assert torch.isfinite(StarConvex(rays=8).probabilities(1000 * logits)).all()
    target = StarConvex(rays=8)
    assert target.background == (-30.0,) * 10


def test_tuned() -> None:
    labels = touching_discs()
    probs = StarConvex(grid=1).encode(labels).numpy()
    probs[1] *= 0.35
    search = Search(StarConvex(to_foreground=False), "image_ap")
    search.add(probs, labels)
    assert search.value() == 0 and search.run() > 0.9
    assert search.settings()["centre"] < 0.35


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"rays": 30}, "rays: 30 must be a multiple of 4"),
        ({"rays": 0}, "rays: 0 must be"),
        ({"grid": 3}, "grid: 3 must be 1 or 2"),
        ({"centre": 1.5}, "centre: 1.5 is not between 0 and 1"),
        ({"overlap": 0}, "overlap: 0 is not between 0 and 1"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    with pytest.raises(UserError, match=f"^target\\.{says}"):
        StarConvex(**settings)


def test_images_are_not_stretched() -> None:
    with pytest.raises(UserError, match=r"preprocess\.resize: StarConvex learns lengths in pixels"):
        check_fit(nn.Identity(), StarConvex(), Preprocess(resize=(64, 64)))
