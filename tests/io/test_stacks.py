"""Stacks: every plane as it was saved, its scale, or a refusal; never something else in silence."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segmentation.errors import UserError
from segmentation.io.images import read_image
from segmentation.io.stacks import open_planes
from segmentation.io.write import write_stack
from tests.errors import refuses

RNG = np.random.default_rng(0)
STACK = RNG.integers(0, 2**16, (6, 21, 34)).astype(np.uint16)
BYTES = (STACK >> 8).astype(np.uint8)
RGB = RNG.integers(0, 256, (4, 21, 34, 3)).astype(np.uint8)
SCALE = {
    "PhysicalSizeX": 0.25,
    "PhysicalSizeXUnit": "µm",
    "PhysicalSizeY": 500.0,
    "PhysicalSizeYUnit": "nm",
    "PhysicalSizeZ": 2.0,
    "PhysicalSizeZUnit": "µm",
}


def tiff(path: Path, image: np.ndarray, **settings: Any) -> Path:
    tifffile.imwrite(path, image, **{"photometric": "minisblack", **settings})
    return path


def pages(path: Path, images: list[np.ndarray], **settings: Any) -> Path:
    """Page by page, as many programs and loops do."""
    with tifffile.TiffWriter(path) as file:
        for image in images:
            file.write(image, **{"photometric": "minisblack", **settings})
    return path


@pytest.mark.parametrize(
    ("settings", "axes", "lengths"),
    [
        ({"metadata": None}, "I", (6,)),
        ({"metadata": None, "byteorder": ">", "compression": "zlib"}, "I", (6,)),
        ({"metadata": None, "bigtiff": True, "compression": "lzw"}, "I", (6,)),
        ({}, "Q", (6,)),
        ({"metadata": {"axes": "ZYX"}}, "Z", (6,)),
        ({"ome": True, "metadata": {"axes": "TYX"}}, "T", (6,)),
        ({"ome": True, "metadata": {"axes": "TZYX"}}, "TZ", (2, 3)),
        ({"ome": True, "metadata": {"axes": "ZTYX"}, "compression": "lzma"}, "ZT", (2, 3)),
        ({"imagej": True, "metadata": {"axes": "ZYX"}}, "Z", (6,)),
        ({"imagej": True, "metadata": {"axes": "TZYX"}}, "TZ", (2, 3)),
    ],
)
@pytest.mark.parametrize("stack", [STACK, BYTES])
def test_every_plane_is_read(
    stack: np.ndarray, settings: dict[str, Any], axes: str, lengths: tuple[int, ...], tmp_path: Path
) -> None:
    path = tiff(tmp_path / "x.tif", stack.reshape(*lengths, 21, 34), **settings)
    planes = open_planes(path)
    assert (planes.axes, planes.lengths, len(planes)) == (axes, lengths, 6)
    assert planes.size == (21, 34)
    read = list(planes)
    assert all(plane.dtype == stack.dtype for plane in read)
    np.testing.assert_array_equal(np.stack(read), stack[..., None])
    pages(path, list(stack), **{k: v for k, v in settings.items() if k == "compression"})
    np.testing.assert_array_equal(np.stack(list(open_planes(path))), stack[..., None])
    position = planes.position(4)
    assert position == (dict(zip(axes, (1, 1), strict=True)) if len(axes) == 2 else {axes: 4})


def test_one_rgb_image_is_no_stack(tmp_path: Path) -> None:
    for settings, image in (
        ({}, RGB[0]),
        ({"metadata": None}, RGB[0]),
        ({"ome": True, "metadata": {"axes": "YXS"}}, RGB[0]),
        ({"planarconfig": "separate"}, np.moveaxis(RGB[0], 2, 0)),
    ):
        path = tiff(tmp_path / "x.tif", image, **{"photometric": "rgb", **settings})
        planes = open_planes(path)
        assert (planes.axes, len(planes)) == ("", 1)
        (read,) = planes
        np.testing.assert_array_equal(read, RGB[0])
    with tifffile.TiffWriter(path) as file:  # nor is a thumbnail a plane
        file.write(STACK[0], metadata=None)
        file.write(STACK[0, ::2, ::2], subfiletype=1, metadata=None)
    (read,) = open_planes(path)
    np.testing.assert_array_equal(read[..., 0], STACK[0])
    planes = open_planes(tiff(tmp_path / "x.tif", RGB, photometric="rgb"))
    assert (planes.axes, len(planes)) == ("Q", 4)
    np.testing.assert_array_equal(np.stack(list(planes)), RGB)


def test_refusals(tmp_path: Path) -> None:
    path, small = tmp_path / "x.tif", STACK[0, :10]
    for made, says in (
        (pages(path, [STACK[0], small], metadata=None), r"mixed sizes \(10×34, 21×34, H×W\); save"),
        (pages(path, [STACK[0], small, STACK[1]]), "mixed sizes"),
    ):
        refuses(says, open_planes, made)
    narrow = np.zeros((40, 30, 5), np.uint8)
    tifffile.imwrite(path, narrow, ome=True, metadata={"axes": "ZYX"})
    refuses(r"x.tif: 40 planes of 30×5 pixels .* 5 channels", open_planes, path)
    pages(path, [STACK[0], BYTES[0]])
    refuses("holds 2 images; save each", open_planes, path)
    with tifffile.TiffWriter(path, ome=True) as file:
        for _ in range(2):
            file.write(STACK, photometric="minisblack", metadata={"axes": "ZYX"})
    refuses("holds 2 images; save each", open_planes, path)
    for settings in ({"truncate": True}, {"volumetric": True, "tile": (16, 16)}):
        tiff(path, STACK, **settings)
        refuses("a stack of 6 planes in one piece; save", open_planes, path)
    refuses(r"nothing.tif: cannot be read \(No such file", open_planes, tmp_path / "nothing.tif")


@pytest.mark.parametrize(
    "settings",
    [{"metadata": None}, {"ome": True}, {"imagej": True, "metadata": {"axes": "ZYX"}}, {}],
)
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_a_truncated_stack_does_not_lose_planes_in_silence(
    settings: dict[str, Any], compression: str | None, tmp_path: Path
) -> None:
    path = tiff(tmp_path / "x.tif", BYTES, compression=compression, **settings)
    data = path.read_bytes()
    for length in (*range(0, len(data), len(data) // 40), len(data) - 1):
        path.write_bytes(data[:length])
        try:
            read = list(open_planes(path))
        except UserError as error:
            assert str(error).startswith(str(path)) and "\n" not in str(error)
        else:  # the last bytes may be padding
            assert len(data) - length < 200, length
            np.testing.assert_array_equal(np.stack(read)[..., 0], BYTES)


def test_scale_of_ome(tmp_path: Path) -> None:
    path = tiff(tmp_path / "x.ome.tif", STACK, metadata={"axes": "ZYX", **SCALE})
    calibration = open_planes(path).calibration
    assert calibration.layout == "ome" and calibration.pixel_size == (0.5, 0.25)
    for unit in ("pixel", "reference frame"):
        tiff(path, STACK, metadata={"axes": "ZYX", **SCALE, "PhysicalSizeXUnit": unit})
        assert open_planes(path).calibration.pixel_size is None
    tiff(path, STACK, metadata={"axes": "ZYX"})
    assert open_planes(path).calibration.pixel_size is None


@pytest.mark.parametrize(
    ("unit", "um"),
    [("um", 1), ("micron", 1), ("\\u00B5m", 1), ("nm", 1e-3), ("mm", 1e3), ("pixel", None)],
)
def test_scale_of_imagej(unit: str, um: float | None, tmp_path: Path) -> None:
    about = {"axes": "ZYX", "unit": unit, "spacing": 3.0}
    path = tiff(tmp_path / "x.tif", BYTES, imagej=True, metadata=about, resolution=(4, 2))
    calibration = open_planes(path).calibration
    assert calibration.layout == "imagej"
    assert calibration.pixel_size == (None if um is None else pytest.approx((um / 2, um / 4)))


def test_scale_of_resolution_tags(tmp_path: Path) -> None:
    path = tmp_path / "x.tif"
    for resolution, unit, wanted in (
        ((20000, 10000), "CENTIMETER", (1, 0.5)),
        ((25400, 25400), "INCH", (1, 1)),
        ((300, 300), "INCH", None),  # for printing
        ((72, 72), "INCH", None),
        ((1, 1), "NONE", None),
        ((20000, 20000), "NONE", None),
    ):
        tiff(path, STACK[0], resolution=resolution, resolutionunit=unit)
        size = open_planes(path).calibration.pixel_size
        assert size == (None if wanted is None else pytest.approx(wanted))


def rewritten(source: Path, pixels: np.ndarray, tmp_path: Path) -> Path:
    path = tmp_path / "written.tif"
    path.write_bytes(write_stack(pixels, open_planes(source)))
    return path


@pytest.mark.parametrize("dtype", [np.uint8, np.uint16, np.uint32])
def test_results_keep_planes_and_scale(dtype: type, tmp_path: Path) -> None:
    pixels = STACK.astype(dtype) + np.array(70000 if dtype is np.uint32 else 0, dtype)
    source = tmp_path / "x.tif"
    for settings, layout in (
        ({"ome": True, "metadata": {"axes": "TZYX", **SCALE, "TimeIncrement": 2.0}}, "ome"),
        (
            {
                "imagej": True,
                "metadata": {"axes": "TZYX", "unit": "\\u00B5m", "spacing": 2.0, "finterval": 5.0},
                "resolution": (4, 2),
            },
            "imagej" if dtype is not np.uint32 else "ome",
        ),
        ({"metadata": None, "resolution": (40000, 20000), "resolutionunit": 3}, "plain"),
    ):
        tiff(source, STACK.reshape(2, 3, 21, 34), **settings)
        before = open_planes(source)
        path = rewritten(source, pixels, tmp_path)
        read = tifffile.imread(path)
        assert read.dtype == dtype
        np.testing.assert_array_equal(read.reshape(pixels.shape), pixels)
        after = open_planes(path)
        assert (after.axes, after.lengths) == (before.axes, before.lengths)
        assert after.calibration.layout == layout
        assert after.calibration.pixel_size == pytest.approx(before.calibration.pixel_size)
        assert after.calibration.pixel_size == pytest.approx((0.5, 0.25))
        if after.calibration.layout == before.calibration.layout:
            assert after.calibration.metadata == before.calibration.metadata


def test_overlays_and_images_of_one_plane(tmp_path: Path) -> None:
    for settings in ({"metadata": None}, {"ome": True, "metadata": {"axes": "YX", **SCALE}}):
        source = tiff(tmp_path / "x.tif", STACK[0], **settings)
        path = rewritten(source, STACK[:1], tmp_path)
        np.testing.assert_array_equal(tifffile.imread(path), STACK[0])
        np.testing.assert_array_equal(read_image(path)[..., 0], STACK[0])
        np.testing.assert_array_equal(read_image(rewritten(source, RGB[:1], tmp_path)), RGB[0])
    source = tiff(tmp_path / "x.tif", STACK[:4], ome=True, metadata={"axes": "ZYX"})
    written = open_planes(rewritten(source, RGB, tmp_path))
    assert written.axes == "Z"
    np.testing.assert_array_equal(np.stack(list(written)), RGB)
