"""Folders of masks: paired, read, and told apart."""

from pathlib import Path

import numpy as np
import pytest
import tifffile

from segmentation.data.masks import facts_of
from segmentation.errors import UserError
from segmentation.evaluation import maps
from segmentation.io.images import write_image
from tests.errors import refuses

RNG = np.random.default_rng(0)


def cells(size: int = 60, step: int = 20) -> np.ndarray:
    """Nine touching squares: the label map that has most pixels beside another id."""
    rows = np.arange(size) // step
    return (1 + rows[:, None] * (size // step) + rows).astype(np.uint16)


def blobs(size: int = 60) -> np.ndarray:
    """Smooth probabilities of four round objects, (H, W) float32."""
    y, x = np.ogrid[:size, :size]
    centres = [(15, 15), (15, 45), (45, 15), (45, 45)]
    distance = np.min([np.hypot(y - a, x - b) for a, b in centres], axis=0)
    probs: np.ndarray = 1 / (1 + np.exp((distance - 9) / 1.2))
    return probs.astype(np.float32)


def decided(ids: np.ndarray, kind: maps.Kind = "auto", allow: tuple[str, ...] = ()) -> bool:
    return maps.holds_instances(
        {Path("a.png"): facts_of(ids, ids=True)}, kind, "--prediction", allow
    )[0]


def test_pairs() -> None:
    here, there = ({name: Path(name) for name in names} for names in ("abc", "bcd"))
    assert maps.pair(here, there, "--prediction", allow_missing=True) == ["b", "c"]
    with pytest.raises(UserError, match=r"--truth: 1 files .* --prediction: a; .*--allow_missing"):
        maps.pair(here, there, "--prediction", allow_missing=False)
    with pytest.raises(UserError, match=r"--prediction: 1 files .* --truth: d; "):
        maps.pair({"b": Path(), "c": Path()}, there, "--prediction", allow_missing=False)
    with pytest.raises(UserError, match=r"none of its 1 files .* \(such as x and a\)"):
        maps.pair(here, {"x": Path()}, "--prediction", allow_missing=True)


def test_probabilities_of_every_kind(tmp_path: Path) -> None:
    probs = blobs()
    write_image(tmp_path / "a.png", (probs * 255).round().astype(np.uint8))
    write_image(tmp_path / "b.tif", (probs * 65535).round().astype(np.uint16))
    tifffile.imwrite(tmp_path / "c.tif", probs)
    tifffile.imwrite(tmp_path / "d.tif", probs.astype(np.float64))
    np.save(tmp_path / "e.npy", probs.astype(np.float16))
    np.save(tmp_path / "f.npy", (probs * 65535).round().astype(np.uint16))
    kinds = {"a.png": 0.5 / 255, "b.tif": 1e-5, "c.tif": 0, "d.tif": 0, "e.npy": 5e-4}
    kinds["f.npy"] = 1e-5
    for name, close in kinds.items():
        found = maps.read_probability(tmp_path / name)
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, probs, rtol=0, atol=close + 1e-7)


@pytest.mark.parametrize(
    ("pixels", "why"),
    [
        (np.array([[0, 1.5]], np.float32), r"from 0 to 1\.5; they must lie in 0 … 1 \(logits"),
        (np.array([[-0.1, 0.5]], np.float32), r"from -0\.1"),
        (np.array([[0, np.nan]], np.float32), r"nan"),
        (np.array([[0, 5]], np.int32), r"probabilities of int32"),
    ],
)
def test_what_is_no_probability(tmp_path: Path, pixels: np.ndarray, why: str) -> None:
    tifffile.imwrite(tmp_path / "a.tif", pixels)
    refuses(rf"a\.tif: .*{why}", maps.read_probability, tmp_path / "a.tif")


@pytest.mark.parametrize("value", [1, 255, 65535])
def test_two_values_are_a_mask(value: int) -> None:
    ids = np.zeros((20, 20), np.uint16)
    ids[2:5, 2:5] = ids[9:12, 9:12] = value
    assert not decided(ids) and not decided(ids, "mask") and decided(ids, "instances")
    assert not decided(np.zeros((20, 20), np.uint8))


def test_label_maps_are_known() -> None:
    assert decided(cells())
    tiny = cells(60, 4)  # 225 touching objects of 16 pixels
    assert decided(tiny)
    specks = np.zeros((60, 60), np.uint16)
    specks[::3, ::3] = np.arange(1, 401).reshape(20, 20)  # of one pixel each
    assert decided(specks)
    in_parts = specks.copy()
    in_parts[:30] = cells()[:30]
    in_parts[in_parts == 5] = 0
    assert decided(in_parts)
    # Of a folder of label maps, an image with one object alone is one, too.
    one = Path("one.png"), facts_of((cells() == 3).astype(np.uint8), ids=True)
    both = dict([one, (Path("a.png"), facts_of(cells(), ids=True))])
    assert maps.holds_instances(both, "auto", "--truth") == (True, [])


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("noise", [0, 0.02])
def test_probabilities_are_no_labels(bits: int, noise: float) -> None:
    probs = np.clip(blobs() + RNG.normal(0, noise, (60, 60)), 0, 1)
    ids = (probs * (2**bits - 1)).round().astype(f"u{bits // 8}")
    refuses(r"a\.png: .*--probabilities.*--allow smooth", decided, ids)
    assert decided(ids, "instances", ("smooth",))


def test_classes_are_no_labels() -> None:
    """Three gray levels, as of background, rim and nucleus, in several objects."""
    ids = np.digitize(blobs(), [0.3, 0.8]) * 127
    ids[20:40:4, 55:58] = 127
    refuses(r"8 separate regions under 2 value.*--allow classes", decided, ids.astype(np.uint8))


@pytest.mark.parametrize("bits", [8, 16])
def test_labels_are_no_probabilities(tmp_path: Path, bits: int) -> None:
    path = tmp_path / "a.png"
    write_image(path, cells().astype(f"u{bits // 8}"))
    refuses(r"a\.png: a label map\? Its 9 values are small", maps.check_no_labels, [path])
    # A network that is sure of nothing, a smooth one, and one map that reaches the top.
    for probs in (np.full((60, 60), 0.1), 0.3 * blobs()):
        write_image(path, (probs * (2**bits - 1)).astype(f"u{bits // 8}"))
        maps.check_no_labels([path])
    write_image(path, cells().astype(f"u{bits // 8}"))
    write_image(tmp_path / "b.png", (blobs() * (2**bits - 1)).astype(f"u{bits // 8}"))
    maps.check_no_labels([path, tmp_path / "b.png"])
