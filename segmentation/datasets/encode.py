"""Pixels to image files in every layout that the readers must know; for synthetic data."""

import io
import struct
import zlib

import cv2
import numpy as np


def encode(pixels: np.ndarray, suffix: str = ".png") -> bytes:
    """An image file's bytes, from (H, W) or (H, W, C) pixels.

    C = 1 is gray, 2 gray and alpha, 3 RGB, 4 RGB and alpha.

    Args:
        pixels: uint8 or uint16.
        suffix: Of the format, such as ".png". TIFF is not compressed.
    """
    channels = 1 if pixels.ndim == 2 else pixels.shape[2]
    if suffix == ".tif":
        return _encode_tiff(pixels, channels)
    if channels == 2:
        return _encode_gray_alpha(pixels)
    if channels == 3:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGB2BGR)
    elif channels == 4:
        pixels = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA)
    done, data = cv2.imencode(suffix, pixels)
    assert done
    return data.tobytes()


def encode_lzw(pixels: np.ndarray) -> bytes:
    """A TIFF file's bytes from (H, W) gray pixels, compressed as most microscopes' files are."""
    done, data = cv2.imencode(".tif", pixels, [cv2.IMWRITE_TIFF_COMPRESSION, 5])
    assert done
    return data.tobytes()


def _encode_tiff(pixels: np.ndarray, channels: int) -> bytes:
    """Uncompressed TIFF. OpenCV writes no gray and alpha, and cannot name the alpha of RGBA."""
    import tifffile

    file = io.BytesIO()
    tifffile.imwrite(
        file,
        pixels if channels > 1 else pixels.reshape(pixels.shape[:2]),
        photometric="rgb" if channels > 2 else "minisblack",
        planarconfig="contig" if channels > 1 else None,
        extrasamples=["unassalpha"] if channels in (2, 4) else None,
    )
    return file.getvalue()


def _encode_gray_alpha(pixels: np.ndarray) -> bytes:
    """PNG of (H, W, 2), chunk by chunk because OpenCV has no such image."""
    height, width = pixels.shape[:2]
    rows = pixels.astype(pixels.dtype.newbyteorder(">")).reshape(height, -1)
    scanlines = b"".join(b"\0" + row.tobytes() for row in rows)  # filter 0: bytes as they are
    header = struct.pack(">IIBBBBB", width, height, 8 * pixels.itemsize, 4, 0, 0, 0)
    data = b"\x89PNG\r\n\x1a\n"
    for name, body in ((b"IHDR", header), (b"IDAT", zlib.compress(scanlines)), (b"IEND", b"")):
        checksum = zlib.crc32(name + body)
        data += struct.pack(">I4s", len(body), name) + body + struct.pack(">I", checksum)
    return data
