"""Images with wrong bytes anywhere: read, or refused in one line; never a traceback or a hang."""

import time
import tracemalloc
from collections.abc import Callable, Iterator
from pathlib import Path

import imagecodecs
import numpy as np
import pytest

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask
from segmentation.io.stacks import open_planes
from segmentation.io.windows import TiffWindows
from tests.encoded import npy, pillow, tiff
from tests.regressions.conftest import picture

NUMBERS = [0, 1, 8, 2**16 - 1, 2**16, 2**24, 2**31 - 1, 2**32 - 1]
GRAY, LABELS = picture(0)
RGB = np.stack([GRAY, GRAY.T, GRAY[::-1]], axis=-1)


def seeds() -> list[bytes]:
    tile = {"tile": (32, 32)}
    return [
        pillow(RGB, "PNG"),
        pillow(LABELS.astype(np.uint8), "PNG", mode="P"),
        bytes(imagecodecs.png_encode(LABELS.astype(np.uint16))),
        pillow(RGB, "JPEG"),
        pillow(RGB, "BMP"),
        npy(LABELS),
        tiff(GRAY),
        tiff(RGB, compression="zlib", predictor=True, photometric="rgb"),
        tiff(LABELS.astype(np.uint16), compression="lzw", **tile),
        tiff(RGB, compression="jpeg", photometric="ycbcr", **tile),
        tiff(LABELS > 0, photometric="minisblack"),
        tiff(np.stack([GRAY] * 3), imagej=True, metadata={"axes": "ZYX"}),
        tiff(np.stack([GRAY] * 3), ome=True, metadata={"axes": "CYX"}, photometric="minisblack"),
        tiff(GRAY.astype(np.float32), bigtiff=True),
    ]


def mutated(data: bytes, rng: np.random.Generator) -> bytes:
    """Up to five changes, most of them in the header or the end."""
    wrong = bytearray(data)
    for _ in range(rng.integers(1, 6)):
        ends = min(len(wrong), 600)
        at = int(rng.integers(ends if rng.random() < 0.7 else len(wrong)))
        at = len(wrong) - 1 - int(rng.integers(ends)) if rng.random() < 0.3 else at
        change = rng.integers(5)
        if change == 0:
            wrong[at] = rng.integers(256)
        elif change == 1:
            wrong[at : at + 4] = int(rng.choice(NUMBERS)).to_bytes(4, "little")
        elif change == 2:
            wrong[at : at + 2] = b"\xff\xff"
        elif change == 3:
            del wrong[at : at + int(rng.integers(1, 50))]
        else:
            wrong[at:at] = rng.bytes(int(rng.integers(1, 40)))
        wrong = wrong or bytearray(b"x")
    return bytes(wrong)


def readings(path: Path, data: bytes) -> Iterator[Callable[[], object]]:
    yield lambda: decode_image(data, str(path))
    yield lambda: decode_mask(data, str(path))
    yield lambda: next(iter(open_planes(path)))
    if data[:2] in (b"II", b"MM"):
        yield lambda: TiffWindows(path).__exit__()


@pytest.mark.parametrize("number", range(14))
def test_wrong_bytes_are_read_or_refused(number: int, tmp_path: Path) -> None:
    data, path, rng = seeds()[number], tmp_path / "x", np.random.default_rng(number)
    right = decode_image(data, "x") if number in (0, 2) else None  # of PNG every change is told
    start = time.monotonic()
    tracemalloc.start()
    for _ in range(40):
        path.write_bytes(wrong := mutated(data, rng))
        for place, read in enumerate(readings(path, wrong)):
            try:
                found = read()
                assert place or right is None or np.array_equal(np.asarray(found), right)
            except UserError as error:
                assert str(error).startswith(f"{path}: ") and "\n" not in str(error)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 2**29 and time.monotonic() - start < 20
