"""Damaged files are errors that name the file, wherever the format lets one know."""

import io
from collections.abc import Callable
from typing import Any

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask
from tests.encoded import pillow, tiff
from tests.regressions.conftest import picture

IMAGE, LABELS = picture(0)
IDS = LABELS.astype(np.uint16)


# How large a share of the pixels may be wrong where one byte is, unnoticed.
FILES: dict[str, tuple[Callable[[], bytes], bool, float]] = {
    "PNG, gray": (lambda: pillow(IMAGE, "PNG"), False, 0),
    "PNG, palette": (lambda: pillow(LABELS.astype(np.uint8), "PNG", mode="P"), True, 0),
    "PNG, 16 bit": (lambda: pillow(IDS, "PNG"), True, 0),
    "PNG, 1 bit": (lambda: pillow(LABELS > 0, "PNG"), True, 0),
    "TIFF, deflate": (lambda: tiff(IMAGE, compression="zlib", predictor=True), False, 0),
    "TIFF, LZW": (lambda: tiff(IMAGE, compression="lzw"), False, 0.005),
    "TIFF, LZW ids": (lambda: tiff(IDS, compression="lzw", rowsperstrip=8), True, 0.05),
    "TIFF, LZW tiles": (lambda: tiff(IDS, compression="lzw", tile=(32, 32)), True, 0.05),
    "TIFF, PackBits": (lambda: tiff(IDS, compression="packbits"), True, 0.02),
}


@pytest.mark.parametrize("name", FILES)
def test_a_wrong_byte_is_an_error_or_changes_few_pixels(name: str) -> None:
    encode, mask, most = FILES[name]
    decode, data, rng = decode_mask if mask else decode_image, encode(), np.random.default_rng(0)
    wanted, told, first, last = decode(data, "x"), 0, len(data) // 4, len(data) - 12
    if name.startswith("TIFF"):
        with tifffile.TiffFile(io.BytesIO(data)) as file:
            page: Any = file.pages[0]
            first, last = page.dataoffsets[0], page.dataoffsets[-1] + page.databytecounts[-1]
    for _ in range(60):
        wrong = bytearray(data)
        wrong[rng.integers(first, last)] ^= rng.integers(1, 256)
        try:
            found = decode(bytes(wrong), "folder/x")
        except UserError as error:
            assert str(error).startswith("folder/x: the ") and "is damaged" in str(error)
            told += 1
        else:
            assert found.shape == wanted.shape and np.mean(found != wanted) <= most
    assert told > 10 or name == "TIFF, PackBits"


@pytest.mark.parametrize("kind", ["jpg", "progressive", "tif"])
def test_what_libjpeg_mends_is_an_error(kind: str, capfd: pytest.CaptureFixture[str]) -> None:
    pytest.importorskip("simplejpeg")
    if kind == "tif":
        data = tiff(np.tile(IMAGE, (4, 4)), compression="jpeg", tile=(384, 384))
    else:
        data = pillow(np.tile(IMAGE, (4, 4)), "JPEG", progressive=kind == "progressive")
    told = 0
    for at in range(len(data) // 3, len(data) - 400, (len(data) - 400) // 15):
        try:
            decode_image(data[:at] + bytes(200) + data[at + 200 :], "folder/x")
        except UserError as error:
            assert str(error).startswith("folder/x: the ") and "; copy or export" in str(error)
            told += 1
    assert told >= 5  # of 10: JPEG has no checksum
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("settings", [{"quality": 30}, {"subsampling": 0}, {"progressive": True}])
@pytest.mark.parametrize("channels", [1, 3])
def test_jpegs_are_read_as_by_pillow(settings: dict[str, Any], channels: int) -> None:
    image = IMAGE if channels == 1 else np.stack([IMAGE, IMAGE.T, IMAGE[::-1]], axis=-1)
    data = pillow(image[:61, :83], "JPEG", **settings)
    wanted = np.asarray(Image.open(io.BytesIO(data))).reshape(61, 83, channels)
    np.testing.assert_array_equal(decode_image(data, "x"), wanted)


def test_lzw_whose_end_is_written_too_short() -> None:
    """As in DIC-C2DH-HeLa: after 766 codes of single bytes an end code has 11 bits, not 10."""
    pixels = np.arange(766, dtype=np.uint8)[None]
    codes = [(256, 9), *((int(p), 9 if n < 254 else 10) for n, p in enumerate(pixels[0]))]
    bits = "".join(f"{code:0{width}b}" for code, width in [*codes, (257, 10)])
    bits += "0" * (-len(bits) % 8)
    strip = int(bits, 2).to_bytes(len(bits) // 8)
    assert len(imagecodecs.lzw_decode(strip)) == 768

    data = bytearray(tiff(pixels, compression="lzw", metadata=None))
    with tifffile.TiffFile(io.BytesIO(data)) as file:
        tags = file.pages[0].tags  # type: ignore[union-attr]
        for name, value in (("StripOffsets", len(data)), ("StripByteCounts", len(strip))):
            tag = tags[name]
            data[tag.valueoffset : tag.valueoffset + 4] = value.to_bytes(4, "little")
    assert np.array_equal(decode_image(bytes(data + strip), "x")[..., 0], pixels)
