"""Every format and every way in which a file can be broken: pixels as saved, or one clear line."""

from io import BytesIO
from pathlib import Path
from typing import Any

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
from segmentation.io.stacks import open_planes
from tests.encoded import HEIGHT, RNG, WIDTH, encode, npy, pillow, pixels, png, refused, tiff
from tests.errors import refuses


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
def test_images_and_masks_are_turned_upright(kind: str, orientation: int, tmp_path: Path) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    blocks = np.kron(RNG.integers(0, 2, (4, 6)), np.full((8, 8), 255)).astype(np.uint8)
    settings = {"tiffinfo" if kind == "TIFF" else "exif": exif}
    data = pillow(blocks, kind, **settings)
    shown = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    (tmp_path / "x").write_bytes(data)
    for found in (decode_image(data, "x"), *open_planes(tmp_path / "x")):
        np.testing.assert_array_equal(found[..., 0], np.asarray(shown))
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
    refuses(r"x: a mask must be gray.*; save its ids", decode_mask, encode(suffix, pixels(3)), "x")
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
        refuses(f"x: .*{why}", decode_mask, data, "x")


@pytest.mark.parametrize("dtype", [np.float16, np.float32, np.float64, np.int8, np.int16, np.int32])
def test_other_types_of_pixels_become_16_bits(dtype: type) -> None:
    values = (pixels(1) // 2).astype(dtype)
    whole = np.dtype(dtype).kind == "i"
    encoders = (npy,) if dtype is np.float16 else (npy, tiff)
    for image in (encoder(values) for encoder in encoders):
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


def test_writing(tmp_path: Path) -> None:
    for name, says in (("gone.png", r"gone\.png: cannot be read \(No such file"), ("", "Is a dir")):
        refuses(says, read_mask, tmp_path / name)
    for image in (pixels(1), pixels(3), pixels(1, 16), pixels(3, 16)):
        write_image(tmp_path / "new" / "x.png", image)
        np.testing.assert_array_equal(read_image(tmp_path / "new" / "x.png"), np.atleast_3d(image))
    assert [path.name for path in (tmp_path / "new").iterdir()] == ["x.png"]  # nothing temporary
    for image in (pixels(1), pixels(3), pixels(1, 16), pixels(3, 16), np.float32(pixels(1, 16))):
        write_image(tmp_path / "x.tif", image)
        np.testing.assert_array_equal(tifffile.imread(tmp_path / "x.tif"), image)
    for name in ("x.xyz", "x"):
        refuses(r"; use \.png or \.tif", write_image, tmp_path / name, pixels(3))
