"""TIFF as every program writes it: pixels as saved, or one clear line."""

from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segmentation.io.images import decode_image, decode_mask
from tests.encoded import HEIGHT, RNG, WIDTH, encode, npy, pillow, pixels, refused, tiff
from tests.errors import refuses


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd", "lzma", "packbits"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_round_trip(bits: int, compression: str | None, byteorder: str) -> None:
    common: dict[str, Any] = {"compression": compression, "byteorder": byteorder}
    gray, gray_alpha, rgb, rgba = (pixels(channels, bits) for channels in (1, 2, 3, 4))
    for image, settings in (
        (gray, {}),
        (gray, {"tile": (16, 16)}),
        (gray, {"rowsperstrip": 5, "predictor": compression not in (None, "packbits")}),
        (gray, {"bigtiff": True}),
        (gray_alpha, {"planarconfig": "contig", "extrasamples": ["unassalpha"]}),
        (gray_alpha, {"planarconfig": "contig", "extrasamples": ["assocalpha"]}),
        (rgb, {"photometric": "rgb", "tile": (16, 16)}),
        (rgba, {"photometric": "rgb", "extrasamples": ["unassalpha"]}),  # not multiplied in
        (rgb, {"photometric": "rgb", "planarconfig": "separate"}),
    ):
        stored = np.moveaxis(image, 2, 0) if settings.get("planarconfig") == "separate" else image
        read = decode_image(tiff(stored, **common, **settings), "x")
        assert read.dtype == image.dtype and read.flags.c_contiguous, settings
        wanted = np.atleast_3d(image)[..., : 3 if image.shape[-1] in (3, 4) else 1]
        np.testing.assert_array_equal(read, wanted, err_msg=str(settings))


@pytest.mark.parametrize("dtype", ["u1", "u2", "f4", "i4"])
@pytest.mark.parametrize("count", [2, 4, 5])
def test_channels_that_are_no_colours(count: int, dtype: str) -> None:
    """Wherever they are stored, and each scaled by itself where it does not fit into 16 bits."""
    image = RNG.integers(0, 200, (HEIGHT, WIDTH, count)).astype(dtype)
    image[..., 1] *= 100 if dtype != "u1" else 1  # of another range
    if dtype == "f4":
        image[..., 1] = np.linspace(-1e9, 1e9, HEIGHT * WIDTH).reshape(HEIGHT, WIDTH)
    first = np.moveaxis(image, 2, 0)
    contiguous: dict[str, Any] = {"photometric": "minisblack", "planarconfig": "contig"}
    contiguous["extrasamples"] = ["unspecified"] * (count - 1)
    gray: dict[str, Any] = {"photometric": "minisblack"}
    files = [
        npy(image),
        tiff(image, **contiguous),
        tiff(image, **contiguous, tile=(16, 16), compression="zlib"),
        tiff(first, **gray, planarconfig="separate"),
        tiff(first, **gray, ome=True, metadata={"axes": "CYX"}),
        tiff(image, **contiguous, ome=True, metadata={"axes": "YXS"}),
        tiff(image, **gray),  # H pages of W×C, as its writer was not told better
    ]
    files += [tiff(first, imagej=True, metadata={"axes": "CYX"})] if dtype != "i4" else []
    for data in files[:6] + files[7:]:
        read = decode_image(data, "x")
        if dtype == "f4":
            wanted = [decode_image(npy(np.ascontiguousarray(one)), "x") for one in first]
            np.testing.assert_array_equal(read, np.concatenate(wanted, axis=2))
            assert (read.max(axis=(0, 1)) == 65535).all()  # each channel by itself
        else:
            np.testing.assert_array_equal(read, image)
        refuses("a mask must be gray, this one has colours; save", decode_mask, data, "x")
    narrow = np.ascontiguousarray(np.moveaxis(image, 1, 0))  # (47, 33, C): higher than wide
    columns = decode_image(tiff(narrow.astype("u1"), **gray), "x")
    np.testing.assert_array_equal(columns, narrow.astype("u1"))


def test_alpha_is_what_the_file_calls_so() -> None:
    for image, kinds, kept in (
        (pixels(4), ["unspecified"], [0, 1, 2, 3]),  # a fourth channel
        (pixels(4), ["unassalpha"], [0, 1, 2]),
        (pixels(2), ["unspecified"], [0, 1]),
        (pixels(2), ["assocalpha"], [0]),
    ):
        colour = "rgb" if image.shape[2] == 4 else "minisblack"
        data = tiff(image, photometric=colour, extrasamples=kinds, planarconfig="contig")
        np.testing.assert_array_equal(decode_image(data, "x"), image[..., kept])


def test_tiff_of_other_programs() -> None:
    smooth = cv2.GaussianBlur(RNG.integers(0, 256, (64, 48, 3), np.uint8), (0, 0), 9)
    jpeg = decode_image(encode(".tif", smooth, cv2.IMWRITE_TIFF_COMPRESSION, 7), "x")
    assert np.abs(jpeg.astype(int) - smooth).max() < 20
    rgba = pixels(4)
    data = pillow(rgba, "TIFF", compression="tiff_lzw")
    np.testing.assert_array_equal(decode_image(data, "x"), rgba[..., :3])
    pyramid = BytesIO()
    with tifffile.TiffWriter(pyramid) as file:
        file.write(rgba[..., :3], subifds=1, photometric="rgb", metadata=None)
        file.write(rgba[::2, ::2, :3], subfiletype=1, photometric="rgb", metadata=None)
        file.write(rgba[::4, ::4, :3], subfiletype=1, photometric="rgb", metadata=None)
    np.testing.assert_array_equal(decode_image(pyramid.getvalue(), "x"), rgba[..., :3])
    planes = tiff(np.moveaxis(rgba[..., :3], 2, 0), imagej=True, metadata={"axes": "CYX"})
    np.testing.assert_array_equal(decode_image(planes, "x"), rgba[..., :3])


def test_tiff_of_one_bit_white_as_zero_and_palettes() -> None:
    bits = pixels(1) > 100
    wanted = np.where(bits, 255, 0)
    black, white = (tiff(bits, photometric=kind) for kind in ("minisblack", "miniswhite"))
    np.testing.assert_array_equal(decode_image(black, "x")[..., 0], wanted)
    np.testing.assert_array_equal(decode_image(white, "x")[..., 0], 255 - wanted)
    for data in (black, white, pillow(bits, "TIFF", compression="group4")):
        np.testing.assert_array_equal(decode_mask(data, "x"), wanted)
    for image in (pixels(1), pixels(1, 16)):
        data = tiff(image, photometric="miniswhite")
        inverted = np.iinfo(image.dtype).max - image
        np.testing.assert_array_equal(decode_image(data, "x")[..., 0], inverted)
        np.testing.assert_array_equal(decode_mask(data, "x"), image)
    colours = RNG.integers(0, 2**16, (3, 256)).astype(np.uint16)
    data = tiff(pixels(1), photometric="palette", colormap=colours)
    shown = (colours[:, pixels(1)] >> 8).transpose(1, 2, 0)
    np.testing.assert_array_equal(decode_image(data, "x"), shown)
    np.testing.assert_array_equal(decode_mask(data, "x"), pixels(1))


ZEROS = np.zeros((5, 21, 34), np.uint8)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (tiff(ZEROS), "a stack of 5 planes; save each plane as its own file"),
        (tiff(ZEROS, volumetric=True, tile=(16, 16)), "a stack of 5 planes in one piece"),
        (tiff(pixels(4), photometric="separated"), "colours are stored as SEPARATED; convert"),
        (tiff(pixels(3), photometric="cielab"), "colours are stored as CIELAB; convert"),
        (tiff(pixels(3), photometric="ycbcr"), "colours are stored as YCBCR; convert"),
    ],
)
def test_refusals(data: bytes, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    refused(data, capfd, says)


def test_a_header_that_asks_for_too_much(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(tiff(pixels(1)))
    with tifffile.TiffFile(BytesIO(bytes(data))) as file:
        offsets = [file.pages.first.tags[name].offset for name in ("ImageWidth", "ImageLength")]
    for offset in offsets:
        data[offset + 8 : offset + 12] = (2**16).to_bytes(4, "little")
        data[offset + 2 : offset + 4] = (4).to_bytes(2, "little")
    refused(bytes(data), capfd, "65536×65536 pixels are too many; cut it into tiles")


@pytest.mark.parametrize("compression", [None, "zlib", "lzw"])
@pytest.mark.parametrize("planes", [1, 3])
def test_truncated_or_damaged_tiff(
    compression: str | None, planes: int, capfd: pytest.CaptureFixture[str]
) -> None:
    image = RNG.integers(0, 256, (planes, HEIGHT, WIDTH), np.uint8)
    data = tiff(image, photometric="minisblack", compression=compression, metadata=None)
    for length in range(8, len(data), len(data) // 25):
        refused(data[:length], capfd)
    damaged = bytearray(data)
    damaged[8:60] = bytes(52)
    refused(bytes(damaged), capfd)
    if compression and planes == 1:
        with tifffile.TiffFile(BytesIO(data)) as file:
            place = file.pages.first.dataoffsets[0]
        damaged = bytearray(data)
        damaged[place + 100 : place + 500] = bytes(400)
        refused(bytes(damaged), capfd, "the TIFF is damaged (")
