"""Maps of pixels in files that can hold them."""

from pathlib import Path

import numpy as np
import tifffile

from segmentation.io.images import read_mask
from segmentation.io.stacks import Planes
from segmentation.predict.outputs.rasters import mask_suffix, smallest_ids, write_pixels


def test_more_objects_than_16_bits_hold(tmp_path: Path) -> None:
    for count, dtype in ((65535, np.uint16), (65536, np.uint32)):
        labels = np.arange(300 * 300, dtype=np.int32).reshape(300, 300)
        labels[labels > count] = 0
        ids = smallest_ids([labels])
        assert ids.dtype == dtype
        write_pixels(tmp_path / "x.tif", ids, Planes(tmp_path / "x.png"))
        read = tifffile.imread(tmp_path / "x.tif")
        assert read.dtype == dtype
        np.testing.assert_array_equal(read, labels)


def test_one_plane_with_many_objects_makes_the_stack_wide() -> None:
    many = np.full((2, 2), 70000, np.int32)
    assert smallest_ids([np.zeros((2, 2), np.int32), many]).dtype == np.uint32


def test_formats(tmp_path: Path) -> None:
    mask = np.zeros((1, 5, 6), np.uint8)
    mask[0, 1:3, 2:4] = 255
    for suffix in (".png", ".bmp", ".tif", ".TIF", ".tiff"):
        planes = Planes(tmp_path / f"image{suffix}")
        assert mask_suffix(planes) == suffix
        write_pixels(tmp_path / f"mask{suffix}", mask, planes)
        np.testing.assert_array_equal(read_mask(tmp_path / f"mask{suffix}"), mask[0])
    assert mask_suffix(Planes(Path("image.jpg"))) == ".png"
    assert mask_suffix(Planes(Path("stack.png"), "Z", (3,))) == ".tif"
