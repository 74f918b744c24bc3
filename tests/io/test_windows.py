"""Windows of a TIFF on disk are the crops of the image that is read whole."""

import errno
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.io import windows as module
from segmentation.io import write as write_module
from segmentation.io.images import read_image, write_image
from segmentation.io.windows import BandStore, TiffWindows
from segmentation.io.write import write_tiff
from tests.errors import refuses

SIZE = (75, 52)


def pixels(dtype: str, *more: int) -> np.ndarray:
    rng = np.random.default_rng(0)
    return rng.integers(0, np.iinfo(dtype).max, (*SIZE, *more), dtype, endpoint=True)


LAYOUTS: dict[str, dict[str, Any]] = {
    "mapped": {},
    "strips": {"rowsperstrip": 7, "compression": "zlib"},
    "predicted": {"rowsperstrip": 16, "compression": "zlib", "predictor": True},
    "one strip": {"rowsperstrip": SIZE[0], "compression": "lzma"},
    "tiles": {"tile": (32, 16)},
    "deflated tiles": {"tile": (16, 32), "compression": "zlib"},
    "big": {"bigtiff": True, "tile": (32, 32), "compression": "lzw"},
    "big endian": {"byteorder": ">"},
    "big endian tiles": {"byteorder": ">", "tile": (16, 16)},
}
KINDS: dict[str, tuple[tuple[int, ...], dict[str, Any]]] = {
    "gray": ((), {"photometric": "minisblack"}),
    "white is 0": ((), {"photometric": "miniswhite"}),
    "gray and alpha": ((2,), {"photometric": "minisblack", "extrasamples": ["unassalpha"]}),
    "rgb": ((3,), {"photometric": "rgb"}),
    "rgba": ((4,), {"photometric": "rgb", "extrasamples": ["unassalpha"]}),
    "planes": ((3,), {"photometric": "rgb", "planarconfig": "separate"}),
}


def write(path: Path, image: np.ndarray, **settings: Any) -> Path:
    if settings.get("planarconfig") == "separate":
        image = image.transpose(2, 0, 1)
    tifffile.imwrite(path, image, **{"metadata": None, **settings})
    return path


def check_windows(path: Path) -> None:
    whole = read_image(path)
    rng = np.random.default_rng(1)
    with TiffWindows(path) as image:
        assert image.shape == whole.shape and image.dtype == whole.dtype
        places = [(0, SIZE[0], 0, SIZE[1]), (SIZE[0] - 1, SIZE[0], SIZE[1] - 1, SIZE[1])]
        for _ in range(8):
            top, bottom = sorted(rng.choice(SIZE[0] + 1, 2, replace=False))
            left, right = sorted(rng.choice(SIZE[1] + 1, 2, replace=False))
            places.append((top, bottom, left, right))
        for top, bottom, left, right in places:
            found = image.read(slice(top, bottom), slice(left, right))
            np.testing.assert_array_equal(found, whole[top:bottom, left:right])
            assert found.dtype == whole.dtype and found.dtype.isnative


@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
def test_windows_are_crops(tmp_path: Path, layout: str, kind: str, dtype: str) -> None:
    more, settings = KINDS[kind]
    write(tmp_path / "image.tif", pixels(dtype, *more), **LAYOUTS[layout], **settings)
    check_windows(tmp_path / "image.tif")


def test_palettes_pyramids_and_what_other_programs_write(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels("uint8") > 99, photometric="minisblack")
    check_windows(path)
    colours = np.random.default_rng(0).integers(0, 2**16, (3, 256), "uint16")
    tifffile.imwrite(path, pixels("uint8"), photometric="palette", colormap=colours)
    check_windows(path)
    write_image(path, pixels("uint16", 3))
    check_windows(path)
    packbits = cv2.imencode(".tif", pixels("uint8", 3), [cv2.IMWRITE_TIFF_COMPRESSION, 32773])[1]
    path.write_bytes(packbits.tobytes())
    check_windows(path)
    for compression in ("jpeg", "zstd"):
        settings: dict[str, Any] = {"compression": compression, "photometric": "rgb"}
        tifffile.imwrite(path, pixels("uint8", 3), tile=(32, 32), **settings)
        check_windows(path)
    with tifffile.TiffWriter(path, ome=True) as tiff:  # a pyramid
        for scale, more in ((1, {"subifds": 1}), (2, {"subfiletype": 1})):
            tiff.write(pixels("uint8", 3)[::scale, ::scale], photometric="rgb", **more)
    check_windows(path)


@pytest.mark.parametrize("layout", ["mapped", "strips", "deflated tiles", "big endian"])
def test_one_plane_of_a_stack(tmp_path: Path, layout: str) -> None:
    stack = pixels("uint16", 3).transpose(2, 0, 1)
    path = write(tmp_path / "stack.tif", stack, photometric="minisblack", **LAYOUTS[layout])
    for page, plane in enumerate(stack):
        with TiffWindows(path, pages=(page,)) as image:
            assert image.shape == (*SIZE, 1)
            found = image.read(slice(3, 40), slice(5, 52))
            np.testing.assert_array_equal(found[..., 0], plane[3:40, 5:52])


@pytest.mark.parametrize("settings", [{}, {"compression": "zlib"}, {"tile": (16, 16)}])
def test_files_that_cannot_be_read(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "image.tif"
    refuses(r"image.tif: .*No such file", TiffWindows, path)
    path.write_bytes(b"not a TIFF")
    refuses(r"image.tif: .*the TIFF is damaged \(not a TIFF file", TiffWindows, path)
    write(path, np.zeros((3, 20, 20), np.uint8), photometric="minisblack", **settings)
    refuses(r"image.tif: .*a stack of 3 planes", TiffWindows, path)
    write(path, np.zeros((20, 20), np.float32), **settings)
    refuses(r"image.tif: .*float32", TiffWindows, path)
    write(path, pixels("uint8"), extratags=[(274, 3, 1, 6, True)], **settings)
    refuses(r"image.tif: .*save it upright", TiffWindows, path)
    write(path, pixels("uint8"), **settings)
    os.truncate(path, path.stat().st_size - 10)
    refuses(r"image.tif: .*truncated", TiffWindows, path)
    write(path, pixels("uint8"), compression="zlib", rowsperstrip=SIZE[0])
    monkeypatch.setattr(module, "_LARGEST", 1000)
    refuses(r"image.tif: .*save it in tiles", TiffWindows, path)


def test_a_segment_that_is_broken(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    tifffile.imwrite(path, pixels("uint8"), tile=(16, 16), compression="zlib")
    with tifffile.TiffFile(path) as tiff:
        place = tiff.pages.first.dataoffsets[17]
    with path.open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 20)
    with TiffWindows(path) as image, pytest.raises(UserError, match="TIFF is damaged") as error:
        image.read(slice(0, 75), slice(0, 52))
    assert "\n" not in str(error.value) and str(path) in str(error.value)


@pytest.mark.parametrize("dtype", ["uint8", "uint16"])
@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("wanted", [1, 3])
@pytest.mark.parametrize(
    "settings",
    [
        {},
        {"intensity": "divide"},
        {"intensity": "divide", "polarity": "dark", "gamma": 0.5},
        {"low": 0, "high": 100},
        {"low": 3, "high": 97, "polarity": "dark", "gamma": 0.7},
    ],
)
def test_windows_are_prepared_as_the_whole_image(
    dtype: str, channels: int, wanted: Any, settings: dict[str, Any]
) -> None:
    image = pixels(dtype, channels)
    image = (image // 3 + image.dtype.type(np.iinfo(dtype).max // 2)).astype(dtype)
    preprocess = Preprocess(channels=wanted, **settings)
    preprocess.check_windows()
    whole = preprocess.prepare(image)
    counts = sum(preprocess.histogram(image[top : top + 9]) for top in range(0, SIZE[0], 9))
    assert isinstance(counts, np.ndarray) and counts.sum() == whole.size
    table = preprocess.lookup(counts if preprocess.counted else np.zeros_like(counts))
    for top, left in ((0, 0), (17, 5), (70, 51)):
        window = preprocess.prepare_window(image[top : top + 21, left : left + 13], table)
        np.testing.assert_array_equal(window, whole[top : top + 21, left : left + 13])


@pytest.mark.parametrize(
    "settings", [{"clahe": True}, {"crop": (8, 8)}, {"resize": (8, 8)}], ids=lambda s: next(iter(s))
)
def test_what_needs_the_whole_image_is_refused(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"preprocess.{next(iter(settings))} needs the whole image"):
        Preprocess(**settings).check_windows()


@pytest.mark.parametrize("dtype", ["uint8", "uint16", "uint32", "float32"])
@pytest.mark.parametrize("shape", [(1, 1), (256, 256), (300, 700), (1000, 13)])
@pytest.mark.parametrize("band", [1, 100, 256, 5000])
def test_what_is_written_in_bands_is_the_image(
    tmp_path: Path, dtype: str, shape: tuple[int, int], band: int
) -> None:
    image = np.random.default_rng(0).integers(0, 2**32, shape, "uint32").astype(dtype)
    path = tmp_path / "new" / "image.tif"
    bands = (image[top : top + band] for top in range(0, shape[0], band))
    write_tiff(path, shape, np.dtype(dtype), bands)
    found = tifffile.imread(path)
    np.testing.assert_array_equal(found, image)
    assert found.dtype == dtype
    assert [p.name for p in path.parent.iterdir()] == ["image.tif"]
    if dtype in ("uint8", "uint16"):
        np.testing.assert_array_equal(read_image(path)[..., 0], image)


def test_stacks_and_colours_are_written_in_bands(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    for shape, rgb in (((2, 3, 300, 270), False), ((2, 300, 270, 3), True), ((9, 7, 3), True)):
        image = np.random.default_rng(0).integers(0, 256, shape, "uint8")
        flat = image.reshape(-1, *shape[-3:]) if rgb else image.reshape(-1, *shape[-2:])
        bands = (plane[top : top + 99] for plane in flat for top in range(0, shape[-2 - rgb], 99))
        write_tiff(path, shape, image.dtype, bands, rgb=rgb)
        np.testing.assert_array_equal(tifffile.imread(path).reshape(shape), image)


def test_large_files_have_64_bit_offsets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    image = pixels("uint8")
    for limit, big in ((image.size, False), (image.size - 1, True)):
        monkeypatch.setattr(write_module, "_CLASSIC", limit)
        write_tiff(tmp_path / "image.tif", SIZE, image.dtype, [image])
        with tifffile.TiffFile(tmp_path / "image.tif") as tiff:
            assert tiff.is_bigtiff == big
        check_windows(tmp_path / "image.tif")


def test_nothing_is_left_of_what_could_not_be_written(tmp_path: Path) -> None:
    path = tmp_path / "image.tif"
    path.write_bytes(b"before")

    def fails(error: Exception) -> Iterator[np.ndarray]:
        yield np.zeros((300, 300), np.uint8)
        raise error

    full = OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    refuses("No space left on device", write_tiff, path, (900, 300), np.dtype("uint8"), fails(full))
    with pytest.raises(UserError, match="of the input"):
        write_tiff(path, (900, 300), np.dtype("uint8"), fails(UserError("of the input")))
    with pytest.raises(ValueError, match="300 rows"):
        write_tiff(path, (301, 300), np.dtype("uint8"), [np.zeros((300, 300), np.uint8)])
    assert [p.name for p in tmp_path.iterdir()] == ["image.tif"]
    assert path.read_bytes() == b"before"
    (tmp_path / "file").touch()
    with pytest.raises(UserError, match="cannot be written"):
        write_tiff(tmp_path / "file" / "image.tif", (1, 1), np.dtype("uint8"), [])


def test_a_store_gives_back_what_it_got(tmp_path: Path) -> None:
    parts = [pixels("uint16"), np.zeros((0, 52), np.int32), pixels("uint8") > 99]
    with BandStore(tmp_path) as store:
        for part in parts:
            store.append(part)
        for _ in range(2):
            for part, found in zip(parts, store, strict=True):
                np.testing.assert_array_equal(found, part)
                assert found.dtype == part.dtype
            read = store.reader()
            np.testing.assert_array_equal(read(slice(3, 9), slice(2, 5)), parts[0][3:9, 2:5])
            joined = np.concatenate([parts[0][70:], parts[2][:5]])
            np.testing.assert_array_equal(read(slice(70, 80), slice(0, 52)), joined)
            store.append(parts[0])
            parts.append(parts[0])
    assert not list(tmp_path.iterdir())
    with BandStore(tmp_path) as first, BandStore(tmp_path, beside=first) as second:  # one file
        for value in range(6):
            (first, second)[value % 2].append(np.full((2, 3), value))
        assert [int(rows[0, 0]) for rows in (*first, *second)] == [0, 2, 4, 1, 3, 5]
    (tmp_path / "file").touch()
    refuses("cannot be written", BandStore, tmp_path / "file")
