"""Pixels as files of every format, made by other libraries or by hand."""

import re
import struct
import zlib
from io import BytesIO
from typing import Any

import cv2
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask

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


def pillow(pixels: np.ndarray, kind: str, mode: str = "", **settings: Any) -> bytes:
    file, image = BytesIO(), Image.fromarray(pixels)
    (image.convert(mode) if mode else image).save(file, kind, **settings)
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
