"""TIFF in all its layouts: pixels as saved, or a refusal; never something else in silence."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask

RNG = np.random.default_rng(0)
RGBA = RNG.integers(0, 256, (21, 34, 4)).astype(np.uint8)
RGB, GRAY_ALPHA, GRAY = RGBA[..., :3], RGBA[..., :2], RGBA[..., 0]


def tiff(image: np.ndarray, **settings: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, image, **settings)
    return file.getvalue()


def lzw(image: np.ndarray, *settings: int) -> bytes:
    """By OpenCV, from gray or RGB(A); LZW unless told otherwise."""
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(".tif", image, settings)
    assert done
    return data.tobytes()


def deep(image: np.ndarray) -> np.ndarray:
    """16 bits, of which 12 are used and the last are not 0."""
    return image.astype(np.uint16) * 16 + 3


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzma"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_round_trip(bits: int, compression: str | None, byteorder: str) -> None:
    common: dict[str, Any] = {"compression": compression, "byteorder": byteorder}
    for image, settings in (
        (GRAY, {}),
        (GRAY, {"tile": (16, 16)}),
        (GRAY, {"rowsperstrip": 5, "predictor": compression is not None}),
        (GRAY, {"bigtiff": True}),
        (GRAY_ALPHA, {"planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        (GRAY_ALPHA, {"planarconfig": "contig", "extrasamples": ["assocalpha"]}),
        (RGB, {"photometric": "rgb"}),
        (RGB, {"photometric": "rgb", "tile": (16, 16)}),
        (RGBA, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),  # not multiplied in
        (RGBA, {"photometric": "rgb", "extrasamples": ["unspecified"]}),
        (RGB, {"photometric": "rgb", "planarconfig": "separate"}),
    ):
        image = deep(image) if bits == 16 else image
        wanted = np.atleast_3d(image)[..., : 3 if image.shape[-1] in (3, 4) else 1]
        stored = np.moveaxis(image, 2, 0) if settings.get("planarconfig") == "separate" else image
        read = decode_image(tiff(stored, **common, **settings), "x")
        assert read.dtype == image.dtype and read.flags.c_contiguous, settings
        np.testing.assert_array_equal(read, wanted, err_msg=str(settings))


def test_compressions_that_need_opencv() -> None:
    for image in (GRAY, RGB, deep(GRAY), deep(RGB), deep(RGBA)):
        read = decode_image(lzw(image), "x")
        assert read.dtype == image.dtype
        np.testing.assert_array_equal(read, np.atleast_3d(image)[..., :3])
    opaque = RGBA.copy()
    opaque[..., 3] = 255
    np.testing.assert_array_equal(decode_image(lzw(opaque), "x"), RGB)
    smooth = cv2.GaussianBlur(RGB, (0, 0), 9)
    jpeg = decode_image(lzw(smooth, cv2.IMWRITE_TIFF_COMPRESSION, 7), "x")
    assert np.abs(jpeg.astype(int) - smooth).max() < 20
    np.testing.assert_array_equal(decode_mask(lzw(deep(GRAY)), "x"), deep(GRAY))


def test_white_is_zero() -> None:
    for image in (GRAY, deep(GRAY)):
        data = tiff(image, photometric="miniswhite")
        read = decode_image(data, "x")[..., 0]
        np.testing.assert_array_equal(read, np.iinfo(image.dtype).max - image)
        np.testing.assert_array_equal(decode_mask(data, "x"), image)


def test_one_bit() -> None:
    bits = GRAY > 128
    wanted = np.where(bits, 255, 0)
    black, white = (tiff(bits, photometric=kind) for kind in ("minisblack", "miniswhite"))
    np.testing.assert_array_equal(decode_image(black, "x")[..., 0], wanted)
    np.testing.assert_array_equal(decode_image(white, "x")[..., 0], 255 - wanted)
    for data in (black, white, tiff(bits)):
        np.testing.assert_array_equal(decode_mask(data, "x"), wanted)


def test_palette_colours_images_and_leaves_masks() -> None:
    colours = RNG.integers(0, 2**16, (3, 256)).astype(np.uint16)
    data = tiff(GRAY, photometric="palette", colormap=colours)
    wanted = (colours[:, GRAY] >> 8).transpose(1, 2, 0)
    np.testing.assert_array_equal(decode_image(data, "x"), wanted)
    np.testing.assert_array_equal(decode_mask(data, "x"), GRAY)


ZEROS = np.zeros((5, 21, 34), np.uint8)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff(ZEROS), "a stack of 5 planes; save each plane as its own file"),
        (tiff(ZEROS, imagej=True), "a stack of 5 planes"),
        (tiff(ZEROS, volumetric=True, tile=(16, 16)), "a stack of 5 planes"),
        (tiff(ZEROS, photometric="minisblack", planarconfig="separate"), "5 channels; convert"),
        (tiff(RGB, photometric="minisblack", planarconfig="contig"), "3 channels; convert"),
        (
            tiff(GRAY_ALPHA, planarconfig="contig", extrasamples=["unspecified"]),
            "2 channels; convert it to gray",
        ),
        (tiff(GRAY.astype(np.float32)), "pixels are float32; save them as 8 or 16 bit integers"),
        (tiff(GRAY.astype(np.float64)), "pixels are float64; save"),
        (tiff(GRAY.astype(np.int16)), "pixels are int16; save"),
        (tiff(GRAY.astype(np.int32)), "pixels are int32; save"),
        (tiff(RGBA, photometric="separated"), "colours are stored as SEPARATED; convert"),
        (tiff(RGB, photometric="cielab"), "colours are stored as CIELAB; convert"),
    ],
)
def test_refusals(data: bytes, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(UserError) as caught:
        decode_image(data, "cell.tif")
    assert str(caught.value).startswith(f"cell.tif: {says}")
    assert "\n" not in str(caught.value)
    assert capfd.readouterr() == ("", "")


def test_lzw_with_alpha_that_opencv_would_multiply_in() -> None:
    pillow = pytest.importorskip("PIL.Image")  # OpenCV marks no alpha in what it writes
    for alpha, reads in ((RGBA[..., 3:], False), (np.full_like(RGBA[..., 3:], 255), True)):
        file = BytesIO()
        image = pillow.fromarray(np.concatenate([RGB, alpha], axis=2))
        image.save(file, "TIFF", compression="tiff_lzw")
        if reads:
            np.testing.assert_array_equal(decode_image(file.getvalue(), "x"), RGB)
        else:
            with pytest.raises(UserError, match="this layout of pixels is not read with LZW"):
                decode_image(file.getvalue(), "x")


def test_a_header_that_asks_for_too_much(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tiff(GRAY))
    with tifffile.TiffFile(BytesIO(bytes(data))) as file:
        offsets = [file.pages.first.tags[name].offset for name in ("ImageWidth", "ImageLength")]
    for offset in offsets:
        data[offset + 8 : offset + 12] = (2**16).to_bytes(4, "little")
        data[offset + 2 : offset + 4] = (4).to_bytes(2, "little")
    with pytest.raises(UserError, match="65536×65536 pixels are too many; cut it into tiles"):
        decode_image(bytes(data), "x")


@pytest.mark.parametrize("settings", [{}, {"compression": "zlib"}])
def test_truncated_or_corrupt(settings: dict[str, Any], capfd: pytest.CaptureFixture[str]) -> None:
    data = tiff(RGB, photometric="rgb", **settings)
    for length in range(8, len(data), len(data) // 15):
        with pytest.raises(UserError, match=r"x: the TIFF is (truncated|broken).*; copy or export"):
            decode_image(data[:length], "x")
    broken = bytearray(data)
    broken[8:60] = bytes(52)
    with pytest.raises(UserError, match=r"x: .*; (save|copy)"):
        decode_image(bytes(broken), "x")
    if settings:
        broken = bytearray(data)
        broken[-40:-20] = bytes(20)
        with pytest.raises(UserError, match="the TIFF is broken"):
            decode_image(bytes(broken), "x")
    assert capfd.readouterr() == ("", "")


def test_a_stack_that_ends_early_is_not_its_first_plane() -> None:
    data = tiff(np.stack([GRAY, GRAY, GRAY]), photometric="minisblack")
    with pytest.raises(UserError, match="x: a stack of 3 planes"):
        decode_image(data, "x")
    with tifffile.TiffFile(BytesIO(data)) as file:
        second = file.pages[1].offset  # type: ignore[union-attr]
    with pytest.raises(UserError, match=r"x: (the TIFF is (truncated|broken)|a stack)"):
        decode_image(data[: second + 4], "x")
