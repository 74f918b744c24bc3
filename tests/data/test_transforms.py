"""One generator decides every pixel; labels move with the image and are never interpolated."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import albumentations as A
import cv2
import numpy as np
import pytest

from segmentation.data import transforms
from segmentation.data.transforms import RECIPES, Augmentation, pad_reflect, random_crop
from segmentation.errors import UserError

every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_channels = pytest.mark.parametrize("channels", [1, 3])


def scene(height: int = 64, width: int = 64, channels: int = 3) -> tuple[np.ndarray, np.ndarray]:
    """Discs with ids of their own, bright if the id is odd: read-only, as from the cache."""
    labels = np.zeros((height, width), np.int32)
    for i, (y, x) in enumerate(np.ndindex(3, 4)):
        centre = (int((x + 0.5) * width / 4), int((y + 0.5) * height / 3))
        cv2.circle(labels, centre, height // 8, i * 3 + 2, -1)
    image = np.where(labels % 2 == 1, 210, 40).astype(np.uint8)
    image = np.repeat(image[..., None], channels, axis=2)
    image.flags.writeable = labels.flags.writeable = False
    return image, labels


def run(recipe: str, seed: int, image: np.ndarray, labels: np.ndarray) -> tuple[Any, Any]:
    return Augmentation(recipe, image.shape[2])(image, labels, np.random.default_rng(seed))


@every_recipe
@every_channels
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_dtypes_shapes_and_ids(recipe: str, channels: int, dtype: type) -> None:
    image, labels = scene(channels=channels)
    labels = labels.astype(dtype)
    before = image.copy(), labels.copy()
    augmentation = Augmentation(recipe, channels)
    for seed in range(12):
        new, moved = augmentation(image, labels, np.random.default_rng(seed))
        assert new.dtype == np.uint8 and new.shape == image.shape
        assert moved.dtype == dtype and moved.shape == labels.shape
        assert set(np.unique(moved)) <= set(np.unique(labels))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


@every_recipe
@every_channels
def test_same_seed_same_pixels(recipe: str, channels: int) -> None:
    image, labels = scene(channels=channels)
    used = Augmentation(recipe, channels)
    for seed in range(8):  # an object that has been used before has no memory of it
        first = used(image, labels, np.random.default_rng(seed))
        second = run(recipe, seed, image, labels)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


@every_recipe
def test_different_seeds_differ(recipe: str) -> None:
    image, labels = scene()
    rng = np.random.default_rng(0)
    image = rng.integers(0, 256, image.shape).astype(np.uint8)
    found = {run(recipe, seed, image, labels)[0].tobytes() for seed in range(24)}
    assert len(found) == {"none": 1, "flips": 8}.get(recipe, len(found))
    assert len(found) > {"none": 0, "flips": 7}.get(recipe, 20)


@every_recipe
@every_channels
def test_image_and_labels_move_alike(recipe: str, channels: int) -> None:
    """The image says which ids are odd, so after any warp both must still agree."""
    image, labels = scene(channels=channels)
    for seed in range(20):
        new, moved = run(recipe, seed, image, labels)
        gray = new.astype(float).mean(axis=2)
        inner = cv2.erode((moved > 0).astype(np.uint8), np.ones((5, 5), np.uint8)) > 0
        odd = gray[inner & (moved % 2 == 1)]
        even = gray[inner & (moved % 2 == 0)]
        if odd.size and even.size:
            # Noise has a σ of at most 16 of 255; brightness changes for all pixels alike.
            assert np.percentile(odd, 2) > np.percentile(even, 98)


def test_decisions_are_independent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Albumentations' own seeding would apply two steps with p = .5 always together."""

    def two() -> list[A.BasicTransform]:
        return [A.InvertImg(p=0.5), A.HorizontalFlip(p=0.5), A.OneOf([A.VerticalFlip(p=1)], p=0.5)]

    monkeypatch.setitem(RECIPES, "two", two)
    image = np.array([[[0], [1]], [[2], [3]]], np.uint8)
    augmentation = Augmentation("two", 1)
    counts: Counter[tuple[bool, bool, bool]] = Counter()
    for index in range(800):
        rng = np.random.default_rng([0, 0, index, 0])  # as the data module seeds
        new, moved = augmentation(image, image[..., 0], rng)
        assert moved.tobytes() == (255 - new if new.min() > 9 else new).tobytes()
        counts[bool(new.min() > 9), bool(moved[0, 0] % 2), bool(moved[0, 0] > 1)] += 1
    assert len(counts) == 8
    assert min(counts.values()) > 60 and max(counts.values()) < 140  # 100 each, 4 σ


@every_recipe
@pytest.mark.parametrize("size", [(40, 72), (72, 40), (1, 9), (1, 1)])
def test_oblong_images_keep_their_shape(recipe: str, size: tuple[int, int]) -> None:
    image, labels = (np.resize(a, s) for a, s in zip(scene(), [(*size, 3), size], strict=True))
    for seed in range(10):
        new, moved = run(recipe, seed, image, labels)
        assert new.shape == image.shape and moved.shape == labels.shape


def test_flips_reach_every_symmetry() -> None:
    for size, count in (((3, 3), 8), ((2, 3), 4)):
        labels = np.arange(size[0] * size[1], dtype=np.uint8).reshape(size)
        image = labels[..., None]
        found = set()
        for seed in range(80):
            new, moved = run("flips", seed, image, labels)
            np.testing.assert_array_equal(new[..., 0], moved)
            found.add(moved.tobytes())
        assert len(found) == count


def test_gray_stays_gray() -> None:
    image, labels = scene()
    for recipe in RECIPES:
        if recipe != "unetpp_keras":  # noise there is drawn for each channel
            steps = [step for step in RECIPES[recipe]() if not isinstance(step, A.GaussNoise)]
            for step in steps:
                step.p = 1
            new = A.Compose(steps, seed=0)(image=image, mask=labels.astype(np.uint8))["image"]
            assert (new == new[..., :1]).all(), recipe


def test_many_and_large_ids() -> None:
    labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
    image = np.zeros((300, 300, 3), np.uint8)
    with pytest.raises(UserError, match=r"90000 objects in one training window; set a smaller"):
        run("unetpp_keras", 0, image, labels)
    window = labels[-64:, -64:]
    assert window.min() > 65535
    for seed in range(10):
        moved = run("unetpp_keras", seed, image[:64, :64], window)[1]
        assert set(np.unique(moved)) <= set(np.unique(window))


def test_unknown_recipe() -> None:
    with pytest.raises(UserError, match=r"no recipe is called 'lihgt'; choose from none, flips, "):
        Augmentation("lihgt")


@pytest.mark.parametrize("size", [(32, 32), (20, 48), (64, 80)])
def test_crops_are_windows_of_the_image(size: tuple[int, int]) -> None:
    image = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    corners = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cut, labels = random_crop(image[..., None], image, size, rng)
        assert cut.shape == (*size, 1) and labels.shape == size
        np.testing.assert_array_equal(cut[..., 0], labels)
        y, x = divmod(int(labels[0, 0]), 80)
        np.testing.assert_array_equal(labels, image[y : y + size[0], x : x + size[1]])
        corners.add((y, x))
    assert len(corners) == 1 if size == (64, 80) else len(corners) > 50


def test_crops_reach_every_border() -> None:
    image = np.arange(100, dtype=np.uint8).reshape(10, 10)
    seen = set()
    for seed in range(200):
        labels = random_crop(image[..., None], image, (8, 8), np.random.default_rng(seed))[1]
        seen.add(int(labels[0, 0]))
    assert seen == {y * 10 + x for y in range(3) for x in range(3)}


def test_zoom() -> None:
    columns = np.tile(np.arange(400, dtype=np.int32), (400, 1))
    image = (columns[..., None] // 2).astype(np.uint8)
    zooms = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cut, labels = random_crop(image, columns, (128, 100), rng, (0.5, 2.0))
        assert cut.shape == (128, 100, 1)
        assert np.abs(cut[..., 0] - labels / 2).max() <= 1.5
        zooms.append(99 / (labels[0, -1] - labels[0, 0]))
    assert 0.49 < min(zooms) < 0.55 and 1.85 < max(zooms) < 2.1
    assert 35 <= sum(zoom < 1 for zoom in zooms) <= 65  # log-uniform: as often smaller as larger


def test_zoomed_image_and_labels_stay_aligned() -> None:
    image, labels = scene(96, 128, 1)
    ids = np.unique(labels)
    for seed in range(30):
        rng = np.random.default_rng(seed)
        cut, moved = random_crop(image, labels, (64, 64), rng, (0.4, 2.5))
        assert set(np.unique(moved)) <= set(ids)
        inner = cv2.erode((moved > 0).astype(np.uint8), np.ones((3, 3), np.uint8)) > 0
        wrong = (cut[..., 0] > 125) != (moved % 2 == 1)
        assert wrong[inner].mean() < 0.01 if inner.any() else True


@pytest.mark.parametrize("size", [(3, 200), (200, 3), (1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.3, 3.0)])
def test_small_images_are_reflected(size: tuple[int, int], zoom: tuple[float, float]) -> None:
    labels = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    image = (labels % 256).astype(np.uint8)[..., None].repeat(3, axis=2)
    for seed in range(10):
        cut, moved = random_crop(image, labels, (64, 64), np.random.default_rng(seed), zoom)
        assert cut.shape == (64, 64, 3) and moved.shape == (64, 64)
        assert set(np.unique(moved)) <= set(np.unique(labels))


def test_padding() -> None:
    array = np.arange(6).reshape(2, 3)
    assert pad_reflect(array, 2, 3) is array and pad_reflect(array, 1, 1) is array
    np.testing.assert_array_equal(
        pad_reflect(array, 2, 5), np.pad(array, [(0, 0), (1, 1)], "reflect")
    )
    np.testing.assert_array_equal(pad_reflect(array, 5, 3)[:, 0], [3, 0, 3, 0, 3])
    row = np.arange(3)[None]
    np.testing.assert_array_equal(pad_reflect(row, 3, 5), [[1, 0, 1, 2, 1]] * 3)


def test_every_draw_comes_from_the_generator(monkeypatch: pytest.MonkeyPatch) -> None:
    """Global generators, which workers share or reset, decide nothing."""
    image, labels = scene()
    first = [run(recipe, 3, image, labels)[0].tobytes() for recipe in RECIPES]
    np.random.seed(1)
    transforms.random.seed(1)
    cv2.setRNGSeed(5)
    assert [run(recipe, 3, image, labels)[0].tobytes() for recipe in RECIPES] == first


def test_import_asks_no_network(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): print('NETWORK', args); raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "import segmentation.data.transforms\n"
        "print(sys.modules['albumentations'].__version__)\n"
    )
    clean = {"PATH": "", "HOME": str(tmp_path)}
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env=clean,
        cwd=root,
        check=True,
    )
    assert "NETWORK" not in done.stdout and done.stdout.strip() and done.stderr == ""
