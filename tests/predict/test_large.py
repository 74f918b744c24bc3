"""From disk to disk in windows: what the task says of the image in memory."""

from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from scipy.ndimage import find_objects
from torch import Tensor, nn

from segmentation.data.preprocess import Preprocess
from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.errors import UserError
from segmentation.experiments.studies import GridTiles
from segmentation.io.images import read_image
from segmentation.io.windows import BandStore, TiffWindows
from segmentation.predict import large
from segmentation.predict.label_map import LabelMap
from segmentation.predict.large import Plane, plane_on_disk
from segmentation.predictor import Predictor
from segmentation.targets import Foreground
from tests.tiny import PREPROCESS

NAMES = ("mask", "labels", "probabilities")


class Blurred(nn.Module):
    """Bright is foreground. Two poolings and what a random convolution adds."""

    stride, in_channels, classes = 4, 3, 1

    def __init__(self, seed: int = 0, gain: float = 4.0) -> None:
        super().__init__()
        torch.manual_seed(seed)
        self.gain = gain
        self.conv = nn.Conv2d(3, 1, 5, padding=2)

    def forward(self, image: Tensor) -> Tensor:
        coarse = nn.functional.avg_pool2d(self.conv(image), 4)
        wide = nn.functional.interpolate(coarse, scale_factor=4)
        return self.gain * (image.mean(1, keepdim=True) + 0.3 * wide)


def model(net: nn.Module | None = None, preprocess: Preprocess = PREPROCESS) -> Predictor:
    return Predictor(net or Blurred(), preprocess, Foreground())


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """Nuclei, 310×205, in tiles."""
    pixels, _ = make_nuclei(np.random.default_rng(0), 310, 205, "fluorescence")
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels, tile=(64, 64), compression="zlib")
    return path


def predicted(predictor: Predictor, path: Path, **more: Any) -> tuple[Plane, dict[str, np.ndarray]]:
    with ExitStack() as stack:
        windows = stack.enter_context(TiffWindows(path))
        found = plane_on_disk(
            predictor, windows, lambda: stack.enter_context(BandStore(path.parent)), **more
        )
        maps = {name: list(getattr(found, name)) for name in NAMES[: None if more else 2]}
        assert isinstance(found.labels, LabelMap)
        check_crops(found.labels, np.concatenate(maps["labels"]))
        assert sorted(p.name for p in path.parent.iterdir()) == [path.name]
    return found, {name: np.concatenate(parts) for name, parts in maps.items()}


def check_crops(labels: LabelMap, whole: np.ndarray) -> None:
    """Each object is shown once, with all its pixels and no others, in the order of the ids."""
    shown = []
    for crop in labels.crops():
        ids = np.unique(crop.labels[crop.labels > 0]).tolist()
        shown += ids
        wanted = whole[crop.rows, crop.columns]
        np.testing.assert_array_equal(crop.labels, np.where(np.isin(wanted, ids), wanted, 0))
        assert (crop.labels > 0).sum() == labels.areas[np.array(ids) - 1].sum()
    assert shown == sorted(shown)
    assert sorted([*shown, *labels.too_large]) == list(range(1, len(labels.areas) + 1))
    for box, place in zip(labels.boxes.tolist(), find_objects(whole), strict=True):
        assert place is not None
        assert box == [place[0].start, place[1].start, place[0].stop, place[1].stop]


@pytest.mark.parametrize("members", [1, 2])
@pytest.mark.parametrize("min_size", [0, 30])
def test_it_is_what_the_task_says_of_the_whole_image(
    image: Path, members: int, min_size: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Preprocess(low=2, high=99, polarity="dark", gamma=0.7, mean=(0.5,), std=(0.3,))
    target = Foreground(min_size=min_size)
    ensemble, *others = (
        Predictor(Blurred(seed), preprocess, target)
        for seed, preprocess in enumerate((PREPROCESS, other)[:members])
    )
    ensemble.members = others
    monkeypatch.setattr(large, "_BLOCK", 205 * 40)
    found, files = predicted(ensemble, image, probabilities=True, tile=96, halo=5)
    probs = ensemble.maps(read_image(image))
    wanted = target.decode(probs)
    assert found.exact and ensemble.target.min_size == min_size
    areas = found.labels.areas
    clear = np.abs(probs[0] - 0.5) > 1e-5  # elsewhere rounding may decide
    assert clear.mean() > 0.999
    np.testing.assert_allclose(files["probabilities"] / 65535, probs[0], atol=2e-5)
    np.testing.assert_array_equal((files["mask"] == 255)[clear], (probs[0] > 0.5)[clear])
    assert found.foreground_pixels == (files["mask"] > 0).sum()
    assert len(areas) == wanted.max() > 10
    np.testing.assert_array_equal(np.sort(areas), np.sort(np.bincount(wanted.ravel())[1:]))
    np.testing.assert_array_equal(np.bincount(files["labels"].ravel())[1:], areas)
    pairs = np.unique(np.stack([files["labels"].ravel(), wanted.ravel()]), axis=1)
    assert pairs.shape[1] == wanted.max() + 1
    assert [files[name].dtype for name in NAMES] == ["u1", "i4", "u2"]


def test_symmetries_are_averaged(image: Path) -> None:
    whole = tifffile.imread(image)[:308, :204]  # multiples of the stride
    tifffile.imwrite(image, whole)
    tta = Predictor(Blurred(), PREPROCESS, Foreground(), tta=True)
    _, files = predicted(tta, image, probabilities=True, tile=96)
    probs = tta.maps(read_image(image))
    np.testing.assert_allclose(files["probabilities"] / 65535, probs[0], atol=2e-5)


def test_more_objects_than_16_bits_count(tmp_path: Path) -> None:
    pixels = np.zeros((600, 600), np.uint8)
    pixels[::2, ::2] = 255
    tifffile.imwrite(tmp_path / "image.tif", pixels)

    class Bright(Blurred):
        def forward(self, image: Tensor) -> Tensor:
            return image[:, :1] - 0.5

    bright = model(Bright(), Preprocess())
    found, files = predicted(bright, tmp_path / "image.tif", probabilities=True, tile=256)
    assert len(found.labels.areas) == 300 * 300 and (found.labels.areas == 1).all()
    assert np.array_equal(files["labels"][::2, ::2].ravel(), np.arange(1, 90001))


def test_an_image_without_objects(tmp_path: Path) -> None:
    tifffile.imwrite(tmp_path / "image.tif", np.zeros((50, 60), np.uint8))
    nothing = model(Blurred(gain=0.0), Preprocess())
    found, files = predicted(nothing, tmp_path / "image.tif")
    assert found.foreground_pixels == 0 and len(found.labels.areas) == 0
    assert not files["labels"].any() and not files["mask"].any()
    assert not list(found.probabilities)  # only what is asked for is kept


class Pooled(Blurred):
    """Sees its whole input."""

    def forward(self, image: Tensor) -> Tensor:
        return image[:, :1] - image.mean((1, 2, 3), keepdim=True)


def test_tiles_are_chosen_by_what_the_network_sees() -> None:
    size = (500, 400)
    tiling, exact = model().tiling(size, 128)
    assert exact and 2 <= tiling.margin <= 6 and tiling.ramp == 16
    tiling, exact = model(Pooled()).tiling(size, 128)
    assert not exact and (tiling.margin, tiling.ramp) == (16, 16)
    tiling, exact = model(Pooled()).tiling(size, 512)
    assert exact and tiling.margin == 0


def test_what_cannot_be_predicted_in_tiles(image: Path) -> None:
    for what, fault in (
        (model(preprocess=Preprocess(clahe=True)), "clahe needs the whole image"),
        (model(GridTiles(Blurred(), 2)), "GridTiles, which divides the whole image"),
    ):
        with pytest.raises(UserError, match=fault):
            predicted(what, image, tile=96)
    with pytest.raises(UserError, match=r"tile of 98 pixels .* set it to 100"):
        predicted(model(), image, tile=98)
