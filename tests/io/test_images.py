"""Every format and every way in which a file can be broken: pixels as saved, or one clear line."""

import re
import struct
import zlib
from io import BytesIO
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageOps

from segmentation.errors import UserError
from segmentation.io.images import (
    decode_image,
    decode_mask,
    read_image,
    read_mask,
    read_values,
    write_image,
)

HEIGHT, WIDTH = 33, 47
RNG = np.random.default_rng(0)


def pixels(channels: int, bits: int = 8) -> np.ndarray:
    """Smooth and coloured, every channel another, alpha not opaque: (H, W[, C])."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x * 5, y * 7, 255 - x * 5, 40 + y * 4][:channels]
    image = np.stack(planes, -1).astype(np.uint8 if bits == 8 else np.uint16)
    image = image if bits == 8 else image * 16 + 3  # not a multiple of what 8 bits could hold
    return image[..., 0] if channels == 1 else image


def encode(suffix: str, image: np.ndarray, *settings: int) -> bytes:
    """By OpenCV, from gray or RGB(A)."""
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(suffix, image, settings)
    assert done
    return data.tobytes()


def tiff(image: np.ndarray, **settings: Any) -> bytes:
    file = BytesIO()
    tifffile.imwrite(file, image, **settings)
    return file.getvalue()


def npy(image: Any) -> bytes:
    file = BytesIO()
    np.save(file, image)
    return file.getvalue()


def pillow(image: np.ndarray, kind: str, **settings: Any) -> bytes:
    file = BytesIO()
    Image.fromarray(image).save(file, kind, **settings)
    return file.getvalue()


def png(header: tuple[int, ...], rows: np.ndarray, *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: width, height, bits and colour type; the bytes of its rows; more chunks."""
    lines = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    first = (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (first, *chunks, (b"IDAT", lines), (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def refused(data: bytes, capfd: pytest.CaptureFixture[str], says: str = "") -> None:
    """One line refuses a file: its name, the reason, the remedy; and nothing else is said."""
    for decode in (decode_image, decode_mask):
        with pytest.raises(UserError) as caught:
            decode(data, "folder/cell_1.tif")
        text = str(caught.value)
        assert "\n" not in text and text.startswith("folder/cell_1.tif: ")
        assert re.search(r"; (save|copy|convert|export|remove|cut)", text), f"no remedy: {text}"
        assert says in text or (decode is decode_mask and "JPEG" in text)
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_round_trip(channels: int, bits: int) -> None:
    image = pixels(channels, bits)
    if channels == 2:
        rows = image.astype(image.dtype.newbyteorder(">"))
        data = png((WIDTH, HEIGHT, bits, 4), rows)
    else:
        data = encode(".png", image)
    read = decode_image(data, "x")
    assert read.dtype == image.dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, np.atleast_3d(image)[..., : 1 if channels < 3 else 3])


def test_bmp_jpeg_and_npy_round_trip() -> None:
    for channels in (1, 3, 4):
        image = np.atleast_3d(pixels(channels))
        shown = decode_image(encode(".bmp", pixels(channels)), "x")
        np.testing.assert_array_equal(shown, image[..., :3])  # without alpha
        np.testing.assert_array_equal(decode_image(npy(pixels(channels)), "x"), image)
    for channels in (1, 3):
        data = encode(".jpg", pixels(channels))
        read, image = decode_image(data, "x"), np.atleast_3d(pixels(channels))
        assert read.shape == image.shape and read.dtype == np.uint8
        assert np.abs(read.astype(int) - image).mean() < 5  # red is where red was
        # Cameras append what they like.
        np.testing.assert_array_equal(decode_image(data + b"trailer", "x"), read)


def test_png_of_few_bits_palettes_and_odd_chunks(capfd: pytest.CaptureFixture[str]) -> None:
    rows = np.packbits(pixels(1) > 100, axis=1)
    one_bit = decode_mask(png((WIDTH, HEIGHT, 1, 0), rows), "x")
    np.testing.assert_array_equal(one_bit, np.where(pixels(1) > 100, 255, 0))
    # A broken colour profile is nothing that libpng need warn of: only pixels matter.
    odd = png((WIDTH, HEIGHT, 1, 0), rows, (b"iCCP", b"x\0\0nonsense"))
    np.testing.assert_array_equal(decode_mask(odd, "x"), one_bit)
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    data = png((WIDTH, HEIGHT, 1, 3), rows, palette, (b"tRNS", b"\0"))
    coloured = decode_image(data, "x")
    assert coloured[0, 0].tolist() == [10, 20, 30] and coloured[0, -1].tolist() == [200, 100, 50]
    np.testing.assert_array_equal(decode_mask(data, "x"), one_bit // 255)  # the indices
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_images_and_masks_are_turned_upright(kind: str, orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(RNG.integers(0, 2, (4, 6)), np.full((8, 8), 255)).astype(np.uint8)
    settings = {"tiffinfo" if kind == "TIFF" else "exif": exif}
    data = pillow(blocks, kind, **settings)
    shown = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    np.testing.assert_array_equal(decode_image(data, "x")[..., 0], np.asarray(shown))
    if kind != "JPEG":
        np.testing.assert_array_equal(decode_mask(data, "x"), np.asarray(shown))


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp", ".npy"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_truncation_is_refused(
    suffix: str, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    image = pixels(channels)
    data = npy(image) if suffix == ".npy" else encode(suffix, image)
    decode_image(data, "whole")
    end = len(data) - (13 if suffix == ".png" else 8)  # the last 12 bytes of a PNG are no pixels
    for length in {*range(0, 40, 7), *range(40, end, len(data) // 12), end}:
        refused(data[:length], capfd)
    if suffix in (".png", ".jpg"):
        refused(data[: len(data) // 2] + bytes(4096), capfd)
    if suffix == ".png":
        refused(data[:-30] + bytes([data[-30] ^ 64]) + data[-29:], capfd, "PNG is damaged (IDAT: ")


@pytest.mark.parametrize(
    "content",
    [
        *(b"", b"hello\n", b"<!DOCTYPE html>\n<p>Not found", b"GIF89a..", npy({"masks": 1})),
        *(
            npy(np.zeros((2, 3, 4, 5))),
            npy(np.zeros((5, 30, 40))),
            npy(np.zeros((0, 4))),
            npy(np.full((3, 4), "a")),
        ),
    ],
)
def test_not_an_image(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    refused(content, capfd)


@pytest.mark.parametrize("suffix", [".png", ".tif"])
def test_masks_are_gray(suffix: str) -> None:
    mask = np.where(pixels(1) > 100, 255, 0).astype(np.uint8)
    for shown in (mask, np.stack([mask] * 3, -1), np.stack([mask] * 4, -1)):
        np.testing.assert_array_equal(decode_mask(encode(suffix, shown), "x"), mask)
    with pytest.raises(UserError, match=r"x: a mask must be gray.*; save its ids"):
        decode_mask(encode(suffix, pixels(3)), "x")
    with pytest.raises(UserError, match=r"x: JPEG changes the values of a mask; save it as PNG"):
        decode_mask(encode(".jpg", mask), "x")


@pytest.mark.parametrize("encode_ids", [tiff, npy])
@pytest.mark.parametrize("dtype", ["u1", "u2", "u4", "i1", "i2", "i4", "i8", ">u2", ">i4", "f4"])
def test_ids_of_every_type(encode_ids: Any, dtype: str, tmp_path: Path) -> None:
    ids = (pixels(1) // 2).astype(dtype)
    found = decode_mask(encode_ids(ids), "x")
    np.testing.assert_array_equal(found, ids)
    assert found.dtype in (np.uint8, np.uint16, np.int32)
    (tmp_path / "x.tif").write_bytes(encode_ids(ids))
    assert read_values(tmp_path / "x.tif").dtype == np.dtype(dtype).newbyteorder("=")


@pytest.mark.parametrize(
    ("values", "why"),
    [
        (np.array([[0, -3]], np.int32), "id -3 is not within 0 … 2147483647; renumber"),
        (np.array([[0, 2**31]], np.uint32), "id 2147483648 is not within"),
        (np.array([[0, 2.0**25]], np.float32), "id 33554432 is not within 0 … 16777216"),
        (np.array([[0, 0.5]], np.float32), "float32 values that are no whole numbers, such as 0.5"),
        (np.array([[0, np.nan]], np.float32), "no whole numbers, such as nan: probabilities"),
    ],
)
def test_what_is_no_label_map(values: np.ndarray, why: str) -> None:
    for data in (tiff(values), npy(values)):
        with pytest.raises(UserError, match=f"x: .*{why}"):
            decode_mask(data, "x")


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("compression", [None, "zlib", "lzw", "zstd"])
@pytest.mark.parametrize("byteorder", ["<", ">"])
def test_tiff_round_trip(bits: int, compression: str | None, byteorder: str) -> None:
    common: dict[str, Any] = {"compression": compression, "byteorder": byteorder}
    gray, gray_alpha, rgb, rgba = (pixels(channels, bits) for channels in (1, 2, 3, 4))
    for image, settings in (
        (gray, {}),
        (gray, {"tile": (16, 16)}),
        (gray, {"rowsperstrip": 5, "predictor": compression is not None}),
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
        with pytest.raises(UserError, match="a mask must be gray, this one has colours; save"):
            decode_mask(data, "x")
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


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32])
def test_other_types_of_pixels_become_16_bits(dtype: type) -> None:
    values = (pixels(1) // 2).astype(dtype)
    whole = np.dtype(dtype).kind == "i"
    encoders = (npy,) if dtype is np.float16 else (npy, tiff)
    for image in (encode(values) for encode in encoders):
        found = decode_image(image, "x")
        assert found.dtype == np.uint16 and found.shape == (*values.shape[:2], 1)
        wanted = values[..., None].astype(float)
        scale = 1 if whole else 65535 / wanted.max()
        np.testing.assert_array_equal(found, np.rint(wanted * scale))


def test_negative_and_wide_integers() -> None:
    for values, wanted in (
        ([-100, 0, 300], [0, 100, 400]),
        ([2**31, 2**31 + 1, 2**32 - 1], [0, 0, 65535]),
        ([5, 6, 65535], [5, 6, 65535]),
    ):
        found = decode_image(npy(np.array([values], np.int64)), "x")
        assert found[0, :, 0].tolist() == wanted


def test_a_hot_pixel_leaves_the_contrast() -> None:
    values = np.linspace(0, 1, 10000, dtype=np.float32).reshape(100, 100)
    values[5, 5] = 1e9
    found = decode_image(npy(values), "x")
    assert found[5, 5, 0] == 65535 and len(np.unique(found)) > 3000


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_pixels_that_are_no_numbers_are_refused(value: float) -> None:
    values = np.ones((9, 9), np.float32)
    values[3, 4] = value
    with pytest.raises(
        UserError, match=r"x: float32 pixels from .*; replace those that are no fin"
    ):
        decode_image(npy(values), "x")


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


def test_writing(tmp_path: Path) -> None:
    for name, says in (("gone.png", r"gone\.png: cannot be read \(No such file"), ("", "Is a dir")):
        with pytest.raises(UserError, match=says):
            read_mask(tmp_path / name)
    for image in (pixels(1), pixels(3), pixels(1, 16), pixels(3, 16)):
        write_image(tmp_path / "new" / "x.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / "new" / "x.png"), np.atleast_3d(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]  # nothing temporary
    for image in (pixels(1), pixels(3), pixels(1, 16), pixels(3, 16), np.float32(pixels(1, 16))):
        write_image(tmp_path / "x.tif", image)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), image)
    for name in ("x.xyz", "x"):
        with pytest.raises(UserError, match=r"; use \.png or \.tif"):
            write_image(tmp_path / name, pixels(3))
