"""Small files that would unpack to very many bytes, or never end, are refused before that."""

import io
import struct
import tracemalloc
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask
from segmentation.io.windows import TiffWindows

ZEROS = bytes(2**26)
SMALL = np.zeros((10, 10), np.uint8)


def tiff(data: bytes, compression: int, size: int = 10) -> bytes:
    """A TIFF of ``size`` × ``size`` pixels in one strip, with these bytes in it."""
    tags = {256: size, 257: size, 258: 8, 259: compression, 262: 1, 273: 122, 277: 1, 278: size}
    tags[279] = len(data)
    entries = b"".join(struct.pack("<HHII", tag, 4, 1, value) for tag, value in tags.items())
    return b"II*\0" + struct.pack("<IH", 8, len(tags)) + entries + bytes(4) + data


def png(width: int, height: int, colour: int, data: bytes, *more: tuple[bytes, bytes]) -> bytes:
    def chunk(kind: bytes, content: bytes) -> bytes:
        crc = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + crc

    head = struct.pack(">IIBBBBB", width, height, 8, colour, 0, 0, 0)
    chunks = [(b"IHDR", head), *more, (b"IDAT", data), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(*one) for one in chunks)


def npy(shape: tuple[int, ...], kind: str = "|u1") -> bytes:
    header = repr({"descr": kind, "fortran_order": False, "shape": shape}).encode()
    header += b" " * (-(len(header) + 11) % 64) + b"\n"
    return b"\x93NUMPY\1\0" + struct.pack("<H", len(header)) + header + bytes(100)


def picture(kind: str, size: int) -> bytes:
    file = io.BytesIO()
    Image.new("L", (size, size)).save(file, kind)
    return file.getvalue()


def jpeg_2000(size: int) -> bytes:
    return bytes(imagecodecs.jpeg2k_encode(np.zeros((size, size), np.uint8)))


def wide_jpeg() -> bytes:
    data = bytearray(picture("JPEG", 16))
    at = data.find(b"\xff\xc0")
    data[at + 5 : at + 9] = struct.pack(">HH", 20000, 20000)
    return bytes(data)


def many_pages(count: int, loop: bool) -> bytes:
    out = tiff(bytes(100), 1)[:-100]
    size = len(out) - 8
    for i in range(1, count):
        out = out[:-4] + struct.pack("<I", 8 + i * size) + out[8 : 8 + size]
    return out[:-4] + struct.pack("<I", 8 if loop else 0) + bytes(100)


DEFLATE = zlib.compress(ZEROS)
BOMBS: dict[str, Callable[[], bytes]] = {
    "tiff, deflate": lambda: tiff(DEFLATE, 8),
    "tiff, LZW": lambda: tiff(bytes(imagecodecs.lzw_encode(ZEROS[: 2**24])), 5),
    "tiff, PackBits": lambda: tiff(b"\x81\0" * 2**18, 32773),
    "tiff, Zstandard": lambda: tiff(bytes(imagecodecs.zstd_encode(ZEROS)), 50000),
    "tiff, JPEG": lambda: tiff(picture("JPEG", 8000), 7),
    "tiff, JPEG 2000": lambda: tiff(jpeg_2000(4000), 34712),
    "tiff, one colour": lambda: tiff(DEFLATE, 8, 30000),
    "tiff, loop": lambda: many_pages(20, loop=True),
    "png, declared": lambda: png(30000, 30000, 0, DEFLATE),
    "png, palette": lambda: png(30000, 30000, 3, DEFLATE, (b"PLTE", bytes(6))),
    "png, too large": lambda: png(2**20, 2**20, 0, DEFLATE),
    "jpeg, declared": wide_jpeg,
    "npy, 10^14": lambda: npy((10**7, 10**7)),
    "npy, beyond 64 bits": lambda: npy((2**40, 2**40)),
    "npy, negative": lambda: npy((-10, 10)),
    "npy, objects": lambda: npy((10, 10), "|O"),
}


def peak(act: Callable[[], Any]) -> int:
    """Bytes that Python and numpy held at most."""
    tracemalloc.start()
    try:
        act()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("bomb", BOMBS)
def test_bombs_are_refused(bomb: str) -> None:
    data = BOMBS[bomb]()

    def decode() -> None:
        for read in (decode_image, decode_mask):
            with pytest.raises(UserError, match=r"^folder/x: .*; "):
                read(data, "folder/x")

    assert peak(decode) < 2 * len(data) + 2**23


@pytest.mark.parametrize("chunk", [b"zTXt", b"iCCP"])
def test_what_no_pixel_depends_on_is_not_unpacked(chunk: bytes) -> None:
    """Also where the rest inflates beyond the pixels of the header."""
    for colour in (0, 3):
        more = [(chunk, b"a\0\0" + DEFLATE), *([(b"PLTE", bytes(6))] * (colour == 3))]
        data = png(10, 10, colour, zlib.compress(bytes(110)), *more)
        assert peak(lambda: decode_mask(data, "x")) < 2 * len(data) + 2**22  # noqa: B023


def test_a_wide_page_of_few_tiles_is_truncated(tmp_path: Path) -> None:
    """Else windows of it would ask for half a million tiles."""
    file = io.BytesIO()
    tifffile.imwrite(file, np.zeros((96, 120), np.uint8), tile=(32, 32), compression="lzw")
    wide = struct.pack("<HHII", 256, 4, 1, 2**24)
    data = file.getvalue().replace(struct.pack("<HHII", 256, 4, 1, 120), wide)
    (tmp_path / "x.tif").write_bytes(data)
    with pytest.raises(UserError, match=r"x\.tif: the TIFF is truncated"):
        TiffWindows(tmp_path / "x.tif")
