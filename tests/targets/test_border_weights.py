"""Border weights against the plain definition: every object's distance over the whole image."""

from pathlib import Path

import cv2
import numpy as np
import pytest

from segmentation.__main__ import main
from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.errors import UserError
from segmentation.io.images import read_image, write_image
from segmentation.objects import label_components
from segmentation.targets import Foreground
from segmentation.targets.border_weights import (
    BorderWeight,
    border_weights,
    class_weights,
    separated,
)
from tests.helpers import refusal


def plain(labels: np.ndarray, w0: float, sigma: float) -> np.ndarray:
    """Ronneberger's equation 2 as it stands, on the background."""
    ids = np.unique(labels[labels > 0])
    if len(ids) < 2:
        return np.zeros(labels.shape)
    away = [(labels != i).astype(np.uint8) for i in ids]
    stack = [cv2.distanceTransform(a, cv2.DIST_L2, cv2.DIST_MASK_PRECISE) for a in away]
    d1, d2 = np.sort(np.stack(stack).astype(np.float64), axis=0)[:2]
    return np.where(labels > 0, 0, w0 * np.exp(-((d1 + d2) ** 2) / (2 * sigma**2)))


@pytest.mark.parametrize("sigma", [2.0, 5.0, 25.0])
@pytest.mark.parametrize("shape", [(128, 160), (97, 41)])
def test_is_the_definition_to_a_hundred_thousandth(shape: tuple[int, int], sigma: float) -> None:
    rng = np.random.default_rng(3)
    _, labels = make_nuclei(rng, *shape, "fluorescence")
    assert labels.max() > 3
    found = border_weights(labels, 10, sigma)
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, plain(labels, 10, sigma), atol=1e-5)


def test_two_bars_by_hand() -> None:
    """Between two walls d1 + d2 is one more than the gap is wide, wherever one stands in it."""
    labels = np.zeros((20, 30), np.int32)
    labels[:, :10], labels[:, 14:] = 7, 9  # ids with gaps
    found = border_weights(labels, w0=10, sigma=5)
    np.testing.assert_allclose(found[:, 10:14], 10 * np.exp(-(5**2) / 50), rtol=1e-6)
    assert not found[:, :10].any() and not found[:, 14:].any()


def test_a_full_image_of_touching_objects() -> None:
    labels = np.arange(1, 65, dtype=np.int32).reshape(8, 8).repeat(3, 0).repeat(3, 1)
    assert not border_weights(labels).any()
    assert (BorderWeight()(labels) == 1).all()


def test_class_weights_even_out_both_classes() -> None:
    labels = np.zeros((10, 10), np.uint16)
    labels[:2] = 3
    weights = class_weights(labels)
    assert weights.dtype == np.float32 and weights.mean() == pytest.approx(1)
    assert weights[labels > 0].sum() == pytest.approx(weights[labels == 0].sum())
    assert (class_weights(np.zeros((4, 4), int)) == 1).all()
    assert (class_weights(np.ones((4, 4), int)) == 1).all()


def test_border_weight_is_the_sum_and_its_key_tells_it() -> None:
    _, labels = make_nuclei(np.random.default_rng(0), 64, 64, "fluorescence")
    weight = BorderWeight(w0=3, sigma=2)
    both = border_weights(labels, 3, 2) + class_weights(labels)
    np.testing.assert_array_equal(weight(labels), both)
    flat = BorderWeight(w0=3, sigma=2, balance=False)
    np.testing.assert_array_equal(flat(labels), border_weights(labels, 3, 2) + 1)
    keys = {
        w.key for w in (weight, flat, BorderWeight(3, 3), BorderWeight(4, 2), BorderWeight(3, 2))
    }
    assert len(keys) == 4


def test_a_gap_gives_touching_objects_a_border() -> None:
    labels = np.zeros((20, 40), np.int32)
    labels[:, 4:20], labels[:, 20:36] = 1, 2
    assert not border_weights(labels)[:, 4:36].any()
    weight = BorderWeight(w0=10, sigma=5, balance=False, gap=1)
    found = weight(labels)
    between = 1 + 10 * np.exp(-(3**2) / 50)  # two pixels wide: d1 + d2 = 1 + 2
    np.testing.assert_allclose(found[:, 19:21], between, rtol=1e-6)
    assert (found[:, 5:19] == 1).all() and (found[:, 21:35] == 1).all()
    # Where the target of the same gap has background, and only there.
    apart = Foreground(gap=1).encode(labels)[0].numpy()
    np.testing.assert_array_equal(apart, separated(labels, 1) > 0)
    assert not apart[:, 19:21].any() and apart.sum() == 20 * 30
    np.testing.assert_array_equal(separated(labels, 0), labels)
    assert weight.key != BorderWeight(w0=10, sigma=5, balance=False).key


def test_ids_and_dtypes_say_nothing() -> None:
    _, labels = make_nuclei(np.random.default_rng(1), 64, 64, "fluorescence")
    found = border_weights(labels)
    for dtype in (np.uint8, np.uint16, np.int64, np.uint32):
        np.testing.assert_allclose(border_weights(labels.astype(dtype)), found, atol=2e-6)
    np.testing.assert_allclose(border_weights(labels * 30_000_000), found, atol=2e-6)
    view = np.repeat(labels, 2, axis=0)[::2]
    view.flags.writeable = False
    np.testing.assert_allclose(border_weights(view), found, atol=2e-6)


def test_settings_out_of_range() -> None:
    for settings in ({"w0": np.inf}, {"w0": np.nan}, {"sigma": np.inf}, {"gap": -1}):
        with pytest.raises(UserError, match=f"^data.weight.{next(iter(settings))}: "):
            BorderWeight(**settings)  # type: ignore[arg-type]
    with pytest.raises(UserError, match=r"data\.weight\.w0: -1 must not be negative"):
        BorderWeight(w0=-1)
    with pytest.raises(UserError, match=r"data\.weight\.sigma: 0 must be positive"):
        BorderWeight(sigma=0)


def test_the_figure(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mask = np.zeros((40, 60), np.uint8)
    mask[5:20, 5:25] = mask[5:20, 28:50] = 255
    write_image(tmp_path / "mask.png", mask)
    write_image(tmp_path / "labels.png", label_components(mask > 0).astype(np.uint8))
    for name in ("mask", "labels"):
        argv = ["weights", f"--mask={tmp_path / name}.png", f"--output={tmp_path}/out/{name}.png"]
        assert main(argv) == 0
    figures = [read_image(tmp_path / "out" / f"{name}.png") for name in ("mask", "labels")]
    assert (figures[0] == figures[1]).all() and len(np.unique(figures[0])) > 50
    argv = ["weights", f"--mask={tmp_path}/gone.png", f"--output={tmp_path}/x.png"]
    assert "gone.png" in refusal(capsys, argv)
    argv = ["weights", f"--mask={tmp_path}/mask.png", f"--output={tmp_path}/x.png", "--sigma=0"]
    assert "sigma: 0.0 must be positive" in refusal(capsys, argv)
    argv = ["weights", f"--mask={tmp_path}/mask.png", f"--output={tmp_path}/x.xyz"]
    assert "x.xyz" in refusal(capsys, argv)
    assert {path.name for path in tmp_path.iterdir()} == {"mask.png", "labels.png", "out"}
