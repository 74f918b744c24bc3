"""The door for Python: an array goes in, objects come out."""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import segmentation
from segmentation.errors import UserError
from segmentation.io.images import read_image
from tests.predict.predicting import altered, make_images


def test_an_array_goes_in_and_objects_come_out(checkpoint: Path, tmp_path: Path) -> None:
    model = segmentation.load(checkpoint, device="cpu")
    image = read_image(make_images(tmp_path) / "sub/image1.tif")
    labels = model.predict(image)
    assert isinstance(labels, np.ndarray) and labels.dtype == np.int32
    assert labels.shape == image.shape[:2] and labels.max() > 0
    np.testing.assert_array_equal(model.predict(image[..., 0]), labels)  # gray, without an axis
    found = model.predict(image, probabilities=True, measurements=True, pixel_size=(0.5, 0.5))
    assert isinstance(found, segmentation.Prediction) and found.measurements is not None
    np.testing.assert_array_equal(found.labels, labels)
    np.testing.assert_array_equal(found.mask, found.probabilities > 0.5)
    assert found.probabilities.dtype == np.float32
    areas = np.bincount(labels.ravel())[1:]
    assert found.measurements["area"].tolist() == areas.tolist()
    assert found.measurements["area_um2"].tolist() == pytest.approx((areas / 4).tolist())
    assert not model.net.training
    plain = model.predict(image, probabilities=True)
    assert isinstance(plain, segmentation.Prediction) and plain.measurements is None


def test_several_checkpoints_are_an_ensemble(checkpoint: Path, tmp_path: Path) -> None:
    other = altered(checkpoint, tmp_path / "x.ckpt", lambda c: c["preprocess"].update(gamma=0.5))
    both = segmentation.load(checkpoint, other, device="cpu", tta=True)
    assert len(both.members) == 1 and both.tta and both.members[0].tta
    image = np.random.default_rng(0).integers(0, 255, (20, 30, 3), np.uint8)
    alone = [segmentation.load(path, device="cpu", tta=True) for path in (checkpoint, other)]
    mean = np.mean([one.maps(image) for one in alone], axis=0)
    np.testing.assert_array_equal(both.maps(image), mean)


@pytest.mark.parametrize(
    "image",
    [
        np.zeros((5, 6), np.float32),
        np.zeros(5, np.uint8),
        np.zeros((2, 5, 6, 3), np.uint8),
    ],
)
def test_what_is_no_image_is_refused(checkpoint: Path, image: np.ndarray) -> None:
    with pytest.raises(UserError, match=r"the image is .* give \(H, W\) or \(H, W, C\)"):
        segmentation.load(checkpoint, device="cpu").predict(image)


def test_an_image_of_many_channels_asks_which(checkpoint: Path) -> None:
    with pytest.raises(UserError, match=r"has 4 channels, and .*channels is rgb; say which"):
        segmentation.load(checkpoint, device="cpu").predict(np.zeros((5, 6, 4), np.uint8))


def test_pixels_of_a_big_endian_file(checkpoint: Path) -> None:
    model, image = segmentation.load(checkpoint, device="cpu"), np.arange(48, dtype=np.uint16)
    image = np.tile(image * 900, (32, 1))
    np.testing.assert_array_equal(model.predict(image.astype(">u2")), model.predict(image))


@pytest.mark.parametrize("size", [0.5, (0, 1), (-1, 1), (np.nan, 1), (1, 1, 1), ()])
def test_a_pixel_has_a_height_and_a_width(checkpoint: Path, size: Any) -> None:
    with pytest.raises(UserError, match=r"pixel_size: .* must be \(height, width\), both above 0"):
        segmentation.load(checkpoint, device="cpu").predict(
            np.zeros((5, 6), np.uint8), measurements=True, pixel_size=size
        )


def test_importing_the_package_takes_no_time() -> None:
    code = "import sys, segmentation; segmentation.load; assert 'torch' in sys.modules"
    quick = "import sys, segmentation; dir(segmentation); assert 'torch' not in sys.modules"
    for text in (quick, code):
        subprocess.run([sys.executable, "-c", text], check=True, timeout=300)
    with pytest.raises(AttributeError, match="nothing"):
        segmentation.nothing  # noqa: B018
