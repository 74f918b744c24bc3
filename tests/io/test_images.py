"""Every format and every way in which a file can be broken: pixels as saved, or one clear line."""

import csv
import itertools
import re
import struct
import zlib
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from scipy import ndimage

from segmentation.errors import UserError
from segmentation.io.files import write_bytes, write_table
from segmentation.io.images import decode_image, decode_mask, read_image, read_mask, write_image
from segmentation.objects import (
    binary_mask,
    check_size,
    count_overlap,
    distance_transform,
    label_components,
    merge_objects,
    renumber,
)

HEIGHT, WIDTH = 33, 47


def pixels(channels: int, bits: int = 8) -> np.ndarray:
    """Smooth and coloured, every channel another, alpha not opaque: (H, W[, C])."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    planes = [x * 5, y * 7, 255 - x * 5, 40 + y * 4][:channels]
    if channels == 2:
        planes = [x * 5, 40 + y * 4]
    image = np.stack(planes, -1).astype(np.uint8 if bits == 8 else np.uint16)
    if bits == 16:
        image = image * 16 + 3  # 12 of 16 bits, and not a multiple of what 8 bits could hold
    return image[..., 0] if channels == 1 else image


def encode(suffix: str, image: np.ndarray) -> bytes:
    """By OpenCV, from RGB(A)."""
    if image.ndim == 3:
        image = image[..., [2, 1, 0, 3][: image.shape[2]]]
    done, data = cv2.imencode(suffix, image)
    assert done
    return data.tobytes()


def png(header: tuple[int, ...], *chunks: tuple[bytes, bytes]) -> bytes:
    """A PNG by hand: width, height, bits and colour type, then chunks with right checksums."""
    first = (b"IHDR", struct.pack(">IIBBBBB", *header, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n"
    for kind, body in (first, *chunks, (b"IEND", b"")):
        data += struct.pack(">I", len(body)) + kind + body
        data += struct.pack(">I", zlib.crc32(kind + body))
    return data


def gray_alpha_png(image: np.ndarray) -> bytes:
    big = image.astype(image.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in big)
    header = (WIDTH, HEIGHT, 8 * image.itemsize, 4)
    return png(header, (b"IDAT", zlib.compress(rows)))


def refused(data: bytes, capfd: pytest.CaptureFixture[str]) -> str:
    """The one line that refuses a file, after making sure that nothing else is said."""
    with pytest.raises(UserError) as caught:
        decode_image(data, "folder/cell_1.tif")
    text = str(caught.value)
    assert "\n" not in text and text.startswith("folder/cell_1.tif: ")
    assert re.search(r"; (save|copy|convert|export|remove|cut)", text), f"no remedy: {text}"
    with pytest.raises(UserError):
        decode_mask(data, "mask")
    assert capfd.readouterr() == ("", "")
    return text


@pytest.mark.parametrize("bits", [8, 16])
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_round_trip(channels: int, bits: int) -> None:
    image = pixels(channels, bits)
    data = gray_alpha_png(image) if channels == 2 else encode(".png", image)
    read = decode_image(data, "x")
    wanted = np.atleast_3d(image)[..., : 1 if channels < 3 else 3]
    assert read.dtype == image.dtype and read.flags.c_contiguous
    np.testing.assert_array_equal(read, wanted)


def test_bmp_and_jpeg_round_trip() -> None:
    for channels in (1, 3, 4):
        image = pixels(channels)
        read = decode_image(encode(".bmp", image), "x")
        np.testing.assert_array_equal(read, np.atleast_3d(image)[..., :3])
    for channels in (1, 3):
        image = pixels(channels)
        read = decode_image(encode(".jpg", image), "x")
        image = np.atleast_3d(image)
        assert read.shape == image.shape and read.dtype == np.uint8
        assert np.abs(read.astype(int) - image).mean() < 5  # red is where red was


def test_png_of_one_bit_palette_and_odd_chunks(capfd: pytest.CaptureFixture[str]) -> None:
    rows = np.packbits(pixels(1) > 100, axis=1)
    data = zlib.compress(b"".join(b"\0" + row.tobytes() for row in rows))
    one_bit = decode_mask(png((WIDTH, HEIGHT, 1, 0), (b"IDAT", data)), "x")
    np.testing.assert_array_equal(one_bit, np.where(pixels(1) > 100, 255, 0))
    # A broken colour profile is nothing that libpng need warn of: only pixels matter.
    odd = png((WIDTH, HEIGHT, 1, 0), (b"iCCP", b"x\0\0nonsense"), (b"IDAT", data))
    np.testing.assert_array_equal(decode_mask(odd, "x"), one_bit)
    palette = (b"PLTE", bytes([10, 20, 30, 200, 100, 50]))
    coloured = decode_image(png((WIDTH, HEIGHT, 1, 3), palette, (b"IDAT", data)), "x")
    assert coloured[0, 0].tolist() == [10, 20, 30] and coloured[0, -1].tolist() == [200, 100, 50]
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("suffix", [".png", ".tif", ".jpg", ".bmp"])
@pytest.mark.parametrize("channels", [1, 3])
def test_every_truncation_is_refused(
    suffix: str, channels: int, capfd: pytest.CaptureFixture[str]
) -> None:
    data = encode(suffix, pixels(channels))
    decode_image(data, "whole")
    for length in {*range(0, 40, 7), *range(40, len(data) - 8, len(data) // 12), len(data) - 8}:
        refused(data[:length], capfd)


def test_truncated_and_filled_up_with_zeros(capfd: pytest.CaptureFixture[str]) -> None:
    for suffix in (".png", ".jpg"):
        data = encode(suffix, pixels(3))
        assert "corrupt" in refused(data[: len(data) // 2] + bytes(4096), capfd)


def test_jpeg_may_be_followed_by_what_cameras_append() -> None:
    data = encode(".jpg", pixels(3))
    np.testing.assert_array_equal(decode_image(data + b"trailer", "x"), decode_image(data, "x"))


def test_corrupt_png_chunk(capfd: pytest.CaptureFixture[str]) -> None:
    data = bytearray(encode(".png", pixels(3)))
    data[len(data) // 2] ^= 0x40
    assert "checksum" in refused(bytes(data), capfd)


@pytest.mark.parametrize(
    "content", [b"", b"hello\n", b"<!DOCTYPE html>\n<p>Not found", b"GIF89a.."]
)
def test_not_an_image(content: bytes, capfd: pytest.CaptureFixture[str]) -> None:
    assert "not a PNG" in refused(content, capfd) or not content


def test_files_are_named_in_messages(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"gone\.png: cannot be read \(No such file"):
        read_image(tmp_path / "gone.png")
    with pytest.raises(UserError, match="Is a directory"):
        read_mask(tmp_path)
    (tmp_path / "text.png").write_text("text")
    with pytest.raises(UserError, match=r"text\.png: not a PNG, TIFF, JPEG or BMP image"):
        read_image(tmp_path / "text.png")


def test_masks() -> None:
    mask = np.where(pixels(1) > 100, 255, 0).astype(np.uint8)
    for shown in (mask, np.stack([mask] * 3, -1), np.stack([mask] * 3 + [255 - mask], -1)):
        np.testing.assert_array_equal(decode_mask(encode(".png", shown), "x"), mask)
    with pytest.raises(UserError, match=r"x: a mask must be gray.*; save it as one channel"):
        decode_mask(encode(".png", pixels(3)), "x")
    labels = pixels(1, 16)
    np.testing.assert_array_equal(decode_mask(encode(".png", labels), "x"), labels)


def test_binary_mask() -> None:
    for values in ([0, 255], [0, 1], [0], [7], [0, 65535]):
        mask = np.resize(np.array(values, np.uint16), (3, 4))
        np.testing.assert_array_equal(binary_mask(mask, "x"), mask > 0)
    with pytest.raises(UserError, match=r"m\.png: .* holds 0, 1, 2; or else save the mask"):
        binary_mask(np.arange(3, dtype=np.uint8)[None], "m.png", "or else ")
    with pytest.raises(UserError, match=r"holds 1, 255;"):
        binary_mask(np.array([[1, 255]], np.uint8), "m.png")
    smooth = np.zeros((64, 64), np.uint8)
    cv2.circle(smooth, (32, 32), 20, 255, -1)
    with pytest.raises(UserError, match=r"holds 0, 1, .*, …; .*without smoothing"):
        binary_mask(decode_mask(encode(".jpg", smooth), "m.jpg"), "m.jpg")


def test_label_components_touch_at_corners() -> None:
    labels = label_components(np.array([[1, 0, 0, 1], [0, 1, 0, 1]], bool))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [[1, 0, 0, 2], [0, 1, 0, 2]])


def test_merge_objects() -> None:
    first, second, hidden = (np.zeros((2, 4), np.uint8) for _ in range(3))
    first[:, :2], hidden[1, 3], second[:, 1:] = 255, 255, 255
    labels = merge_objects([("a", first), ("h", hidden), ("b", second)], (2, 4))
    assert labels.dtype == np.int32
    np.testing.assert_array_equal(labels, [[1, 2, 2, 2]] * 2)  # the hidden one keeps no id
    assert not merge_objects([], (2, 4)).any()
    with pytest.raises(UserError, match=r"b: the mask is 2×4 .* its image is 4×2; export both"):
        merge_objects([("b", first)], (4, 2))


def test_consecutive() -> None:
    for labels, wanted in (
        ([[0, 5, 9]], [[0, 1, 2]]),
        ([[70000, 9]], [[2, 1]]),
        ([[0, 0]], [[0, 0]]),
        ([[1, 2]], [[1, 2]]),
    ):
        done = renumber(np.array(labels))
        assert done.dtype == np.int32
        np.testing.assert_array_equal(done, wanted)


def test_check_size_ignores_channels() -> None:
    check_size("x", (4, 5), (4, 5, 3))
    with pytest.raises(UserError, match="the mask is 5×4"):
        check_size("x", (5, 4), (4, 5, 3))


def test_writing(tmp_path: Path) -> None:
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
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(UserError, match=r"cannot be written .*; choose a folder with write"):
        write_bytes(tmp_path / "file" / "x", b"")


def test_tables(tmp_path: Path) -> None:
    rows = [{"b": 'x,"y"\nz', "a": "中"}, {"a": 0.5}]
    write_table(tmp_path / "new" / "x.csv", ("a", "b"), iter(rows))
    text = (tmp_path / "new" / "x.csv").read_bytes().decode("utf-8")
    assert text == 'a,b\n中,"x,""y""\nz"\n0.5,\n'
    with (tmp_path / "new" / "x.csv").open(newline="", encoding="utf-8") as file:
        assert list(csv.DictReader(file)) == [rows[0], {"a": "0.5", "b": ""}]
    with pytest.raises(ValueError, match="not in fieldnames: 'c'"):
        write_table(tmp_path / "x.csv", ("a", "b"), [{"c": 1}])
    assert [path.name for path in tmp_path.iterdir()] == ["new"]  # nothing begun
    with pytest.raises(UserError, match=r"cannot be written .*; choose a folder with write"):
        write_table(tmp_path / "new" / "x.csv" / "y.csv", ("a",), [])


def test_full_disk_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_bytes(tmp_path / "x", b"old")

    real = Path.open

    def full(path: Path, mode: str = "r", *more: Any, **named: Any) -> Any:
        if "w" not in mode:
            return real(path, mode, *more, **named)
        path.touch()
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(UserError, match=r"x: cannot be written \(No space left on device\)"):
        write_bytes(tmp_path / "x", b"new")
    assert {path.name for path in tmp_path.iterdir()} == {"x"}
    assert (tmp_path / "x").read_bytes() == b"old"


def test_overlap_counts_pixels_that_several_masks_claim() -> None:
    one, two, three = (np.zeros((6, 8), np.uint8) for _ in range(3))
    one[:3], two[2:5], three[2, :4] = 255, 255, 1
    assert count_overlap([("one", one), ("two", two)]) == 8
    assert count_overlap([("one", one), ("two", two), ("three", three)]) == 8  # each pixel once
    assert count_overlap([("one", one)]) == count_overlap([]) == 0


def test_distances_are_exact_wherever_the_array_lies() -> None:
    """OpenCV's own differ in the last bit with threads and alignment."""
    mask = np.random.default_rng(0).random((211, 173)) > 0.0005
    exact = ndimage.distance_transform_edt(mask).astype(np.float32)
    threads = cv2.getNumThreads()
    try:
        for count, offset in itertools.product((1, 2, 3), (0, 1, 3)):
            cv2.setNumThreads(count)
            moved = np.zeros(mask.size + 8, bool)[offset : offset + mask.size].reshape(mask.shape)
            moved[:] = mask
            np.testing.assert_array_equal(distance_transform(moved), exact)
    finally:
        cv2.setNumThreads(threads)


def test_distances_without_an_outside() -> None:
    """The diagonal, which no distance within the image exceeds."""
    assert (distance_transform(np.ones((3, 4), bool)) == 5).all()
    assert not distance_transform(np.zeros((3, 4), bool)).any()
