"""Every kind of image becomes uint8 of the wanted channels; image and labels stay aligned."""

import json
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import torch

from segmentation.data.preprocess import Preprocess
from segmentation.data.resize import resize_image, resize_labels
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from tests.errors import refuses

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet
RNG = np.random.default_rng(0)
GRAY = RNG.integers(10, 200, (40, 50, 1)).astype(np.uint8)
RGB = RNG.integers(10, 200, (40, 50, 3)).astype(np.uint8)


def deep(image: np.ndarray) -> np.ndarray:
    return (image.astype(np.uint16) * 16).astype(np.uint16)  # 12 of 16 bits, as cameras have


def disc(height: int, width: int, y: float, x: float, radius: float) -> np.ndarray:
    rows, columns = np.mgrid[:height, :width]
    return np.hypot(rows - y, columns - x) <= radius


@pytest.mark.parametrize("image", [GRAY, RGB, deep(GRAY), deep(RGB)])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("intensity", ["divide", "percentile"])
@pytest.mark.parametrize("more", [{}, {"polarity": "dark", "clahe": True, "resize": (31, 64)}])
def test_every_kind_becomes_uint8(
    image: np.ndarray, channels: Any, intensity: Any, more: dict[str, Any]
) -> None:
    before = image.copy()
    image.flags.writeable = False  # as the cache gives it
    done = Preprocess(channels=channels, intensity=intensity, **more).prepare(image)
    assert done.dtype == np.uint8 and done.flags.c_contiguous
    assert done.shape == (*more.get("resize", (40, 50)), channels)
    np.testing.assert_array_equal(image, before)


def test_divide() -> None:
    np.testing.assert_array_equal(Preprocess(intensity="divide").prepare(RGB), RGB)
    ramp = np.arange(65536, dtype=np.uint16).reshape(256, 256, 1)
    done = Preprocess(channels=1, intensity="divide").prepare(ramp)
    np.testing.assert_array_equal(done, (ramp / 257).round())


def test_channels() -> None:
    gray = Preprocess(channels=1, intensity="divide").prepare(RGB)[..., 0]
    luminance = RGB @ np.array([0.299, 0.587, 0.114])
    assert np.abs(gray - luminance).max() <= 0.51
    colour = Preprocess(channels=3, intensity="divide").prepare(GRAY)
    np.testing.assert_array_equal(colour, np.repeat(GRAY, 3, axis=2))


@pytest.mark.parametrize("low", [0.0, 0.5, 10.0])
@pytest.mark.parametrize("high", [60.0, 99.8, 100.0])
@pytest.mark.parametrize("image", [GRAY, RGB, deep(RGB)])
def test_percentiles(image: np.ndarray, low: float, high: float) -> None:
    done = Preprocess(channels=image.shape[2], low=low, high=high).prepare(image)
    ends = np.percentile(image, [low, high], method="inverted_cdf").astype(float)
    wanted = np.clip((image - ends[0]) / (ends[1] - ends[0]), 0, 1) * 255
    assert np.abs(done - wanted).max() <= 0.5 + 1e-9
    usual = np.percentile(image, [low, high])  # numpy's default interpolates between pixels
    assert np.abs(usual - ends).max() <= (1 if image.dtype == np.uint8 else 16)


@pytest.mark.parametrize("value", [0, 7, 255])
@pytest.mark.parametrize("dtype", [np.uint8, np.uint16])
@pytest.mark.parametrize("more", [{}, {"clahe": True}, {"intensity": "divide", "clahe": True}])
def test_constant_image(value: int, dtype: type, more: dict[str, Any]) -> None:
    done = Preprocess(**more).prepare(np.full((20, 30, 1), value, dtype))
    assert done.min() == done.max()


def test_polarity() -> None:
    dark = np.where(disc(40, 50, 20, 25, 9), 200, 20).astype(np.uint8)[..., None]
    keep, flip = Preprocess(channels=1), Preprocess(channels=1, polarity="dark")
    np.testing.assert_array_equal(flip.prepare(dark), keep.prepare(dark))
    np.testing.assert_array_equal(flip.prepare(255 - dark), keep.prepare(dark))
    assert keep.prepare(255 - dark)[20, 25] == 0
    np.testing.assert_array_equal(flip.prepare(deep(255 - dark)), keep.prepare(dark))


@pytest.mark.parametrize("gamma", [0.5, 1.0, 2.2])
@pytest.mark.parametrize("channels", [1, 3])
def test_gamma(gamma: float, channels: Any) -> None:
    plain = Preprocess(channels=channels, polarity="dark")
    before, after = (p.prepare(255 - RGB) for p in (plain, replace(plain, gamma=gamma)))
    assert after.shape == before.shape  # of the intensity and polarity that are wanted
    assert np.abs(after - (before / 255) ** gamma * 255).max() <= 0.5 + 1e-9


@pytest.mark.parametrize("size", [(64, 96), (61, 50), (5, 3), (1, 1), (1, 40)])
def test_clahe_is_opencvs_on_the_whole_image(size: tuple[int, int]) -> None:
    gray = RNG.integers(0, 256, size).astype(np.uint8)
    wanted = cv2.createCLAHE(3.0, (8, 8)).apply(gray)
    plain = Preprocess(channels=1, intensity="divide", clahe=True, clahe_limit=3.0)
    np.testing.assert_array_equal(plain.prepare(gray[..., None])[..., 0], wanted)
    for image in (gray[..., None], np.repeat(gray[..., None], 3, axis=2)):
        done = replace(plain, channels=3).prepare(image)  # gray stays gray
        np.testing.assert_array_equal(done, np.repeat(wanted[..., None], 3, axis=2))


def test_clahe_of_colours_changes_lightness_alone() -> None:
    image = cv2.GaussianBlur(RNG.integers(60, 190, (64, 64, 3)).astype(np.uint8), (0, 0), 4)
    done = Preprocess(intensity="divide", clahe=True).prepare(image)
    before, after = (cv2.cvtColor(i, cv2.COLOR_RGB2LAB).astype(int) for i in (image, done))
    lightness = cv2.createCLAHE(2.0, (8, 8)).apply(before[..., 0].astype(np.uint8))
    assert np.abs(after[..., 0] - lightness).max() <= 3  # what the way to RGB and back costs
    assert np.abs(after[..., 1:] - before[..., 1:]).mean() < 2


@pytest.mark.parametrize("size", [(128, 128), (37, 53), (200, 64), (96, 96)])
def test_image_and_labels_are_resized_alike(size: tuple[int, int]) -> None:
    labels = np.zeros((96, 120), np.int32)
    labels[disc(96, 120, 30.2, 41.7, 12)] = 5
    labels[disc(96, 120, 70.9, 90.1, 15)] = 80000
    image = np.where(labels > 0, 255, 0).astype(np.uint8)[..., None]
    small = resize_labels(labels, size)
    assert small.dtype == np.int32 and small.shape == size
    assert np.unique(small).tolist() == [0, 5, 80000]  # never mixed
    grown = resize_image(image, size)[..., 0].astype(float)
    for label in (5, 80000):
        ours = np.argwhere(small == label).mean(0)
        about = np.zeros_like(grown)
        top, left = np.argwhere(small == label).min(0) - 2
        bottom, right = np.argwhere(small == label).max(0) + 3
        about[top:bottom, left:right] = grown[top:bottom, left:right]
        rows, columns = np.mgrid[: size[0], : size[1]]
        theirs = [(about * axis).sum() / about.sum() for axis in (rows, columns)]
        np.testing.assert_allclose(ours, theirs, atol=0.12)
        true = (np.argwhere(labels == label).mean(0) + 0.5) * np.array(size) / (96, 120) - 0.5
        np.testing.assert_allclose(ours, true, atol=0.12)


def test_prepared_labels_have_the_images_size() -> None:
    labels = np.eye(40, 50, dtype=np.int32)
    sample = Sample("a", RGB, labels, "group", "kind", "train")
    done = Preprocess(resize=(20, 20)).prepare_sample(sample)
    assert done.image.shape == (20, 20, 3) and done.labels is not None
    np.testing.assert_array_equal(done.labels, resize_labels(labels, (20, 20)))
    assert (done.id, done.group, done.kind, done.subset) == ("a", "group", "kind", "train")


def test_normalize_is_the_formula() -> None:
    batch = torch.from_numpy(RNG.integers(0, 256, (2, 3, 4, 5)).astype(np.uint8))
    one = Preprocess(mean=(0.3,), std=(0.2,)).normalize(batch)
    assert one.dtype == torch.float32
    torch.testing.assert_close(one, (batch.float() / 255 - 0.3) / 0.2)
    each = Preprocess(mean=MEAN, std=STD).normalize(batch)
    for channel in range(3):
        wanted = (batch[:, channel].float() / 255 - MEAN[channel]) / STD[channel]
        torch.testing.assert_close(each[:, channel], wanted)
    assert Preprocess(mean=(0,), std=(1,)).normalize(batch).dtype == torch.float32


def test_settings_survive_a_checkpoint_and_yaml(tmp_path: Path) -> None:
    settings = Preprocess(mean=MEAN, std=STD, resize=(32, 48), polarity="dark")
    torch.save(settings.plain(), tmp_path / "x.ckpt")
    loaded = Preprocess(**torch.load(tmp_path / "x.ckpt", weights_only=True))
    assert loaded == settings and hash(loaded) == hash(settings)
    assert Preprocess(**json.loads(json.dumps(settings.plain()))) == settings  # lists for tuples
    other = replace(settings, low=1.0, std=(1.0,))
    assert settings.differences(other) == ["low", "std"]
    assert settings.differences(loaded) == []


def test_key_is_of_what_prepare_does() -> None:
    plain = Preprocess()
    assert plain.key == replace(plain, mean=(0.5,), std=(0.5,)).key
    for change in ({"channels": 1}, {"low": 1.0}, {"clahe": True}, {"resize": (8, 8)}):
        assert replace(plain, **change).key != plain.key


@pytest.mark.parametrize(
    ("settings", "says"),
    [
        ({"channels": 2}, "channels 2 must be gray, rgb, bright_on_dark, or a list"),
        ({"channels": [1, 1]}, r"channels \(1, 1\) must be"),
        ({"channels": [-1]}, "channels"),
        ({"pixel_size": 0.0}, "pixel_size 0.0 must be positive"),
        ({"diameter": 30.0, "resize": (8, 8)}, "resize and diameter exclude each other"),
        ({"diameter": 30.0, "magnification": 2.0}, "diameter and magnification exclude each"),
        ({"magnification": 0.0}, "magnification 0.0 must be within 1/64"),
        ({"intensity": "minmax"}, "intensity 'minmax' must be divide or percentile"),
        ({"polarity": "light"}, "polarity 'light' must be keep or dark"),
        ({"low": 50.0, "high": 50.0}, "low 50.0 must be at least 0 and below high, 50.0"),
        ({"low": -1.0}, "low -1.0"),
        ({"high": 101.0}, "high 101.0 must be at most 100"),
        ({"high": math.nan}, "low 0.5 must be at least 0 and below high, nan"),
        ({"mean": (0.1, 0.2)}, r"mean \(0.1, 0.2\) must be one finite number, or one for"),
        ({"channels": 1, "std": (1.0, 1.0)}, "std .* one for each of the 1 channels"),
        ({"mean": (math.nan,)}, "mean"),
        ({"std": (0.0,)}, r"std \(0.0,\) must be positive: one"),
        ({"std": ()}, "std"),
        ({"clahe_limit": 0.0}, "clahe_limit 0.0 must be positive"),
        ({"gamma": 0.0}, "gamma 0.0 must be positive"),
        ({"gamma": math.nan}, "gamma nan must be positive"),
        ({"resize": (0, 5)}, r"resize \(0, 5\) must be \(height, width\)"),
        ({"resize": (256,)}, "resize"),
    ],
)
def test_bad_settings(settings: dict[str, Any], says: str) -> None:
    refuses(f"^preprocess: {says}", Preprocess, **settings)


@pytest.mark.parametrize("image", [GRAY[..., 0], RGB.astype(np.float32)])
def test_other_images_are_refused(image: np.ndarray) -> None:
    with pytest.raises(ValueError, match=r"expected .* uint8 or uint16, got"):
        Preprocess().prepare(image)


def test_crop_is_cut_from_the_middle_and_pasted_back() -> None:
    image = np.arange(420 * 580, dtype=np.uint32).reshape(420, 580, 1).astype(np.uint8)
    settings = Preprocess(channels=1, intensity="divide", crop=(416, 576))
    cropped = settings.prepare(image)
    np.testing.assert_array_equal(cropped, image[2:418, 2:578])
    labels = image[..., 0].astype(np.int32)
    np.testing.assert_array_equal(settings.fit_labels(labels), labels[2:418, 2:578])
    np.testing.assert_array_equal(settings.fit_image(image), cropped)
    maps = torch.from_numpy(cropped[..., 0].astype(np.float32))[None, None]
    whole = settings.restore(maps, (420, 580))
    assert whole.shape == (1, 1, 420, 580)
    np.testing.assert_array_equal(whole[0, 0, 2:418, 2:578].numpy(), cropped[..., 0])
    assert whole.sum() == maps.sum()  # nothing outside


def test_restore_undoes_resize_and_crop_together() -> None:
    settings = Preprocess(channels=1, crop=(40, 60), resize=(20, 30))
    assert settings.prepare(np.zeros((50, 70, 1), np.uint8)).shape == (20, 30, 1)
    whole = settings.restore(torch.ones(2, 3, 20, 30), (51, 73))
    assert whole.shape == (2, 3, 51, 73)
    np.testing.assert_array_equal(whole[1, 2, 5:45, 6:66].numpy(), 1)
    assert whole[1, 2].sum() == 40 * 60
    same = Preprocess(channels=1).restore(torch.ones(1, 1, 5, 7), (5, 7))
    assert same.shape == (1, 1, 5, 7)


def test_crop_larger_than_the_image() -> None:
    settings = Preprocess(crop=(50, 20))
    with pytest.raises(UserError, match=r"crop 50×20 is larger than the image of 40×60 \(H×W\)"):
        settings.prepare(np.zeros((40, 60, 3), np.uint8))
    sample = Sample("a1", np.zeros((40, 60, 3), np.uint8), None)
    refuses(r"^a1: model\.preprocess\.crop", settings.prepare_sample, sample)
    refuses(r"preprocess: crop \(0, 3\) must be \(height, width\)", Preprocess, crop=(0, 3))


def test_chosen_channels_are_stretched_one_by_one() -> None:
    rng = np.random.default_rng(0)
    image = np.stack([rng.integers(0, top, (30, 20)) for top in (50, 60000, 900, 7)], 2)
    names = ("DAPI", "GFP", "RFP", "Cy5")
    done = Preprocess((2, "DAPI"), gamma=0.5).prepare(image.astype(np.uint16), names)
    for place, channel in enumerate((2, 0)):
        alone = Preprocess("gray", gamma=0.5).prepare(image[..., [channel]].astype(np.uint16))
        np.testing.assert_array_equal(done[..., place], alone[..., 0])


@pytest.mark.parametrize(
    ("channels", "names", "says"),
    [
        ("gray", (), "has 5 channels, and preprocess.channels is gray; say which"),
        ("rgb", tuple("abcde"), r"has 5 channels \(a, b, c, d, e\)"),
        ((0, 5), (), "no channel 5 in the image, which has 5;"),
        (("a", "z"), tuple("abcde"), r"no channel z in the image, which has 5 \(a, b, c, d, e\)"),
    ],
)
def test_channels_that_an_image_lacks(channels: Any, names: Any, says: str) -> None:
    refuses(says, Preprocess(channels).prepare, np.zeros((4, 4, 5), np.uint8), names)


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_many_channels_are_resized_alike(count: int) -> None:
    image = np.random.default_rng(0).integers(0, 255, (32, 48, count), dtype=np.uint8)
    for size in ((16, 24), (50, 60)):
        done = resize_image(image, size)
        for i in range(count):
            alone = resize_image(image[..., [i]], size)[..., 0]
            # OpenCV rounds halves in another way where two channels are averaged.
            np.testing.assert_allclose(done[..., i], alone, atol=count == 2, rtol=0)


def test_pixel_size_and_diameter_magnify() -> None:
    assert Preprocess(pixel_size=0.5).scale((0.25, 0.25), None) == 0.5
    assert Preprocess(diameter=30).scale(None, 15.0) == 2.0
    assert Preprocess().scale(None, None) == 1.0 and not Preprocess().rescales
    assert Preprocess(magnification=2.0).scale((0.5, 0.5), 9.0) == 2.0
    assert Preprocess(magnification=2.0).rescales
    image, labels = np.zeros((40, 60, 1), np.uint8), np.zeros((40, 60), np.int32)
    image[10:20, 10:30], labels[10:20, 10:30] = 200, 1
    done = Preprocess("gray", pixel_size=0.5).prepare_sample(Sample("a", image, labels), 0.5)
    assert done.image.shape == (20, 30, 1) and done.labels is not None
    np.testing.assert_array_equal(done.labels > 0, done.image[..., 0] > 127)


@pytest.mark.parametrize(
    ("settings", "known", "says"),
    [
        ({"pixel_size": 0.5}, (None, None), "does not tell its pixel size"),
        ({"pixel_size": 0.5}, ((0.0, 0.0), None), "pixels of 0 × 0 µm"),
        ({"pixel_size": 0.5}, ((0.5, 0.25), None), "pixels of 0.5 × 0.25 µm; .* square"),
        ({"pixel_size": 0.5}, ((500.0, 500.0), None), r"magnified by 1e\+03"),
        ({"diameter": 30.0}, (None, None), "the diameter of its objects"),
    ],
)
def test_a_scale_that_is_not_known(settings: Any, known: Any, says: str) -> None:
    refuses(says, Preprocess(**settings).scale, *known)
