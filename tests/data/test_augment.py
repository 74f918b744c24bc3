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

from segmentation.data import augment
from segmentation.data.augment import RECIPES, Augmentation, StainJitter, random_crop
from segmentation.errors import UserError

every_recipe = pytest.mark.parametrize("recipe", RECIPES)
every_channels = pytest.mark.parametrize("channels", [1, 2, 3, 4, 6])


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
    augmentation = Augmentation(recipe, image.shape[2])
    new, moved, weight = augmentation(image, labels, None, np.random.default_rng(seed))
    assert weight is None
    return new, moved


@every_recipe
@every_channels
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32, np.int32, np.int64])
def test_dtypes_shapes_and_ids(recipe: str, channels: int, dtype: type) -> None:
    image, labels = scene(channels=channels)
    labels = labels.astype(dtype)
    before = image.copy(), labels.copy()
    augmentation = Augmentation(recipe, channels)
    for seed in range(12):
        new, moved, _ = augmentation(image, labels, None, np.random.default_rng(seed))
        assert new.dtype == np.uint8 and new.shape == image.shape
        assert moved.dtype == dtype and moved.shape == labels.shape
        assert set(np.unique(moved)) <= set(np.unique(labels))
    np.testing.assert_array_equal(image, before[0])
    np.testing.assert_array_equal(labels, before[1])


@every_recipe
@every_channels
def test_same_seed_same_pixels(recipe: str, channels: int) -> None:
    """Whatever an object was used for before, and whatever global generators say."""
    image, labels = scene(channels=channels)
    used = Augmentation(recipe, channels)
    for seed in range(8):
        first = used(image, labels, None, np.random.default_rng(seed))[:2]
        np.random.seed(seed)
        augment.random.seed(seed)
        cv2.setRNGSeed(seed)
        second = run(recipe, seed, image, labels)
        for one, other in zip(first, second, strict=True):
            np.testing.assert_array_equal(one, other)


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
            # Noise has a σ of at most 20 of 255; brightness changes for all pixels alike, and the
            # strongest recipe inverts some images.
            inverted = recipe == "generalist" and np.median(odd) < np.median(even)
            odd, even = (even, odd) if inverted else (odd, even)
            assert np.percentile(odd, 2) > np.percentile(even, 98)


@pytest.mark.parametrize(
    ("channels", "rgb"), [(1, True), (2, True), (3, True), (3, False), (6, True)]
)
def test_what_exists_for_colours_alone_is_left_out(channels: int, rgb: bool) -> None:
    text = "".join(repr(Augmentation(recipe, channels, rgb)) for recipe in RECIPES)
    assert ("HueSaturation" in text) == ("ToGray" in text) == (channels == 3 and rgb)
    assert ("CLAHE" in text) == (channels == 1 or (channels == 3 and rgb))
    assert "GaussNoise" in text and "RandomGamma" in text


def test_every_channel_moves_alike() -> None:
    """Also where OpenCV takes four channels at once: a channel is deformed as if alone."""
    image = np.random.default_rng(0).integers(0, 255, (64, 64, 6), np.uint8)
    labels = np.zeros((64, 64), np.uint8)
    for recipe in ("dic_keras", "ultrasound"):
        for seed in range(6):
            rng = np.random.default_rng
            whole = Augmentation(recipe, 6)(image, labels, None, rng(seed))[0]
            three = Augmentation(recipe, 3, rgb=False)(image[..., 3:], labels, None, rng(seed))[0]
            # OpenCV rounds otherwise for another number of channels.
            assert np.abs(whole[..., 3:].astype(int) - three).max() < 6


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
        new, moved, _ = augmentation(image, image[..., 0], None, rng)
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


@every_recipe
@every_channels
@pytest.mark.parametrize("size", [(64, 64), (48, 80)])
def test_weights_move_with_their_labels(recipe: str, channels: int, size: tuple[int, int]) -> None:
    """Neither interpolated nor brightened: each weight still stands on its own label."""
    image, labels = scene(*size, channels)
    values = np.random.default_rng(0).uniform(0.1, 11, labels.max() + 1).astype(np.float32)
    weight = values[labels]
    weight.flags.writeable = False
    augmentation = Augmentation(recipe, channels)
    for seed in range(12):
        new, moved, weights = augmentation(image, labels, weight, np.random.default_rng(seed))
        assert weights is not None and weights.dtype == np.float32 and weights.shape == size
        assert moved.dtype == labels.dtype
        np.testing.assert_array_equal(weights, values[moved])
        for one, other in zip((new, moved), run(recipe, seed, image, labels), strict=True):
            np.testing.assert_array_equal(one, other)  # weights change no draw


@every_recipe
def test_borders_are_reflected(recipe: str) -> None:
    """Nothing black or background moves in: an object that fills the window still does."""
    labels = np.full((64, 64), 7, np.int32)
    image = np.full((64, 64, 1), 128, np.uint8)
    for seed in range(12):
        new, moved = run(recipe, seed, image, labels)
        assert (moved == 7).all() and (new.min() > 40 or recipe == "generalist")  # its gamma


def warp(recipe: str, seed: int, size: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """For each pixel the row and the column that it came from."""
    labels = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    moved = run(recipe, seed, np.zeros((*size, 1), np.uint8), labels)[1]
    return np.divmod(moved, size[1])


def affine(recipe: str, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """A warp of 128×192 as new = A old + b about the middle, fitted there; b / sides."""
    sides = np.array([192, 128])
    window = np.s_[48:80, 80:112]
    rows, columns = (a[window].reshape(-1) for a in warp(recipe, seed, (128, 192)))
    y, x = (a[window].reshape(-1) for a in np.indices((128, 192)))
    new, old = (np.stack(points, axis=1) - (sides - 1) / 2 for points in ((x, y), (columns, rows)))
    known = np.column_stack([new, np.ones(len(new))])
    found = np.linalg.lstsq(known, old, rcond=None)[0]
    assert np.abs(known @ found - old).max() < 1.5, "not affine"
    linear = np.linalg.inv(found[:2].T)
    return linear, -linear @ found[2] / sides


@pytest.mark.parametrize("recipe", ["dic_keras", "small_unet"])
def test_ranges_of_the_affine_recipes(recipe: str) -> None:
    """Measured on what comes out, not read from the settings."""
    keras = recipe == "dic_keras"
    shift, angle, zoom = (0.2, 40, (1 / 1.2, 1 / 0.8)) if keras else (0.1, 180, (0.9, 1.1))
    found = [affine(recipe, seed) for seed in range(150)]
    mirrored = [np.linalg.det(linear) < 0 for linear, _ in found]
    assert 50 < sum(mirrored) < 100
    shifts = np.abs([moved for _, moved in found]).max(axis=0)
    assert (shifts > 0.85 * shift).all() and (shifts < shift + 0.01).all()
    zooms = np.abs([np.linalg.det(linear) for linear, _ in found]) ** 0.5
    assert zoom[0] - 0.01 < min(zooms) < zoom[0] + 0.05
    assert zoom[1] - 0.05 < max(zooms) < zoom[1] + 0.01
    signs = np.where(mirrored, -1, 1)[:, None]
    x, y = (np.array([linear[:, 0] for linear, _ in found]) * signs).T  # where (1, 0) goes
    angles = np.abs(np.degrees(np.arctan2(y, x)))
    assert 0.9 * angle < angles.max() < angle + 5  # stretched after being turned
    stretched = max(np.linalg.cond(linear) for linear, _ in found)
    assert stretched > 1.4 if keras else stretched < 1.05


@pytest.mark.parametrize("recipe", ["dic_keras", "ultrasound"])
def test_what_is_below_stays_below(recipe: str) -> None:
    mirrored = 0
    for seed in range(60):
        rows, columns = warp(recipe, seed, (64, 96))
        assert rows[40:].mean() > rows[:24].mean()
        mirrored += columns[:, :40].mean() > columns[:, 56:].mean()
    assert 15 < mirrored < 45


@pytest.mark.parametrize("size", [(512, 512), (700, 1024), (256, 512), (64, 48)])
def test_coarse_elastic(size: tuple[int, int]) -> None:
    """The middle of the 3×3 grid is drawn itself; what lies between is smooth and never folds."""
    sigma = 10 * min(1, min(size) / 512)
    deform = augment.CoarseElastic(p=1)
    deform.set_random_state(np.random.default_rng(0), augment.random.Random(0))
    middles = []
    centre = size[0] // 2, size[1] // 2
    for _ in range(150):
        maps = deform.get_params_dependent_on_data({"shape": (*size, 3)}, {})
        x, y = maps["map_x"], maps["map_y"]
        assert x.shape == y.shape == size and x.dtype == y.dtype == np.float32
        (xy, xx), (yy, yx) = np.gradient(x[::4, ::4]), np.gradient(y[::4, ::4])
        assert (xx * yy - xy * yx).min() > 0
        middles.append((x[centre] - centre[1], y[centre] - centre[0]))
    assert np.std(middles, axis=0) == pytest.approx([sigma] * 2, rel=0.15)
    assert np.abs(np.mean(middles, axis=0)).max() < 0.3 * sigma
    assert abs(np.corrcoef(np.transpose(middles))[0, 1]) < 0.25


def test_a_recipe_says_all_that_it_does() -> None:
    """Its description enters the key of the cache of fixed copies."""
    assert "CoarseElastic(p=0.3, sigma=6)" in repr(Augmentation("ultrasound"))
    assert "rotate=(-40.0, 40.0)" in repr(Augmentation("dic_keras"))
    texts = {repr(Augmentation(recipe)) for recipe in RECIPES}
    assert len(texts) == len(RECIPES) and not any(" at 0x" in text for text in texts)


@pytest.mark.parametrize("channels", [None, 1, 2, 3, 4, 5, 6, 7, 8, 16])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.float32])
def test_symmetries_are_those_of_albumentations(channels: int | None, dtype: type) -> None:
    """Drawn alike from the same state, which they leave alike, and equal bit for bit."""
    shape = (24, 24) if channels is None else (24, 24, channels)
    array = np.random.default_rng(0).integers(0, 255, shape).astype(dtype)
    mine, theirs = augment.D4(p=1), A.D4(p=1)
    states = [np.random.default_rng(1), np.random.default_rng(1)]
    for step, state in zip((mine, theirs), states, strict=True):
        step.set_random_state(state, augment.random.Random(1))
    seen = set()
    for _ in range(60):
        found, wanted = (step(image=array, mask=array) for step in (mine, theirs))
        seen.add(wanted["image"].tobytes())
        for name in ("image", "mask"):
            assert found[name].dtype == dtype and found[name].flags.c_contiguous
            np.testing.assert_array_equal(found[name], wanted[name])
    assert len(seen) == 8 and states[0].random() == states[1].random()


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


@every_recipe
def test_ids_at_the_limit(recipe: str) -> None:
    for largest in (65535, 65536, 2**31 - 1):
        labels = np.pad(np.full((4, 4), largest, np.int32), 2)
        moved = run(recipe, 1, labels[..., None].astype(np.uint8), labels)[1]
        assert moved.dtype == np.int32 and set(np.unique(moved)) == {0, largest}


@pytest.mark.parametrize("size", [(32, 32), (20, 48), (64, 80)])
def test_crops_are_windows_of_the_image(size: tuple[int, int]) -> None:
    image = np.arange(64 * 80, dtype=np.uint16).reshape(64, 80)
    corners = set()
    for seed in range(60):
        rng = np.random.default_rng(seed)
        cut, labels, *_ = random_crop(image[..., None], image, None, size, rng)
        assert cut.shape == (*size, 1) and labels.shape == size
        np.testing.assert_array_equal(cut[..., 0], labels)
        y, x = divmod(int(labels[0, 0]), 80)
        np.testing.assert_array_equal(labels, image[y : y + size[0], x : x + size[1]])
        corners.add((y, x))
    assert len(corners) == 1 if size == (64, 80) else len(corners) > 50


def test_zoom() -> None:
    columns = np.tile(np.arange(400, dtype=np.int32), (400, 1))
    image = (columns[..., None] // 2).astype(np.uint8)
    zooms = []
    for seed in range(100):
        rng = np.random.default_rng(seed)
        cut, labels, *_ = random_crop(image, columns, None, (128, 100), rng, (0.5, 2.0))
        assert cut.shape == (128, 100, 1)
        assert np.abs(cut[..., 0] - labels / 2).max() <= 1.5
        zooms.append(99 / (labels[0, -1] - labels[0, 0]))
    assert 0.49 < min(zooms) < 0.55 and 1.85 < max(zooms) < 2.1
    assert 35 <= sum(zoom < 1 for zoom in zooms) <= 65  # log-uniform: as often smaller as larger


@pytest.mark.parametrize("size", [(3, 200), (200, 3), (1, 40), (40, 1), (1, 1)])
@pytest.mark.parametrize("zoom", [(1.0, 1.0), (0.3, 3.0)])
def test_small_images_are_reflected(size: tuple[int, int], zoom: tuple[float, float]) -> None:
    labels = np.arange(size[0] * size[1], dtype=np.int32).reshape(size)
    image = (labels % 256).astype(np.uint8)[..., None].repeat(3, axis=2)
    for seed in range(10):
        rng = np.random.default_rng(seed)
        cut, moved, none, _ = random_crop(image, labels, None, (64, 64), rng, zoom)
        assert none is None
        assert cut.shape == (64, 64, 3) and moved.shape == (64, 64)
        assert set(np.unique(moved)) <= set(np.unique(labels))


def test_weights_are_cropped_with_their_labels() -> None:
    image, labels = scene(48, 60, 1)
    values = np.random.default_rng(0).uniform(0.1, 11, labels.max() + 1).astype(np.float32)
    weight = values[labels]
    for seed in range(30):
        for size in ((32, 32), (64, 40)):
            rng = np.random.default_rng(seed)
            cut, moved, weights, _ = random_crop(image, labels, weight, size, rng, (0.4, 2.5))
            assert weights is not None and weights.dtype == np.float32
            np.testing.assert_array_equal(weights, values[moved])
            rng = np.random.default_rng(seed)
            bare, *_ = random_crop(image, labels, None, size, rng, (0.4, 2.5))
            np.testing.assert_array_equal(cut, bare)


def test_import_asks_no_network(tmp_path: Path) -> None:
    code = (
        "import socket, sys\n"
        "def refuse(*args, **kwargs): print('NETWORK', args); raise OSError('no network')\n"
        "socket.socket.connect = socket.getaddrinfo = socket.create_connection = refuse\n"
        "import segmentation.data.augment\n"
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


def test_stains_change_colours_and_leave_gray_images_gray() -> None:
    rng = np.random.default_rng(0)
    coloured = rng.integers(0, 256, (64, 64, 3), dtype=np.uint8)
    gray = np.repeat(coloured[..., :1], 3, 2)
    jitter = StainJitter(method="random_preset", p=1)
    assert np.array_equal(jitter(image=gray)["image"], gray)
    assert not np.array_equal(jitter(image=coloured)["image"], coloured)
    recipe, labels = Augmentation("stains"), np.zeros((64, 64), np.int32)
    for seed in range(20):
        done = recipe(gray, labels, None, np.random.default_rng(seed))[0]
        assert done.std(axis=2).mean() < 12  # nothing but noise tells the channels apart
