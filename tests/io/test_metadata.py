"""Channels, their names and the size of pixels, of files as microscopes and programs write them."""

import json
import struct
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile

from segmentation.io.images import read_image
from segmentation.io.metadata import clean_names
from segmentation.io.stacks import open_planes
from tests.errors import refuses

RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 60000, (2, 3, 4, 21, 34)).astype(np.uint16)  # T, Z, C, Y, X
NAMES = ["DAPI", "GFP", "TRITC", "Cy5"]


def save(path: Path, image: np.ndarray, **settings: Any) -> Path:
    tifffile.imwrite(path, image, **{"photometric": "minisblack", **settings})
    return path


@pytest.mark.parametrize("axes", ["TZCYX", "TCZYX", "CTZYX", "ZCYX", "CZYX", "CYX", "CYXS"])
@pytest.mark.parametrize("kind", ["ome", "ome tiles", "imagej"])
def test_channels_come_together_wherever_they_lie(axes: str, kind: str, tmp_path: Path) -> None:
    if kind == "imagej" and axes not in ("TZCYX", "ZCYX", "CYX"):
        pytest.skip("ImageJ's order is TZCYX")
    settings: dict[str, Any] = {}
    if axes == "CYXS":  # each with samples of its own
        image = RNG.integers(0, 255, (2, 21, 34, 3)).astype(np.uint8)
        wanted = np.concatenate(list(image), axis=2)[None]
        settings = {"photometric": "rgb"}
    else:
        stack = IMAGE[tuple(slice(None) if axis in axes else 0 for axis in "TZC")]
        image = np.einsum(f"{''.join(a for a in 'TZCYX' if a in axes)}->{axes}", stack)
        wanted = np.moveaxis(stack.reshape(-1, 4, 21, 34), 1, 3)
    about: dict[str, Any] = {"axes": axes}
    if kind == "imagej":
        settings |= {"imagej": True}
        about["Labels"] = NAMES * (image.size // (4 * 21 * 34))
    else:
        settings |= {"ome": True, "tile": (16, 16) if "tiles" in kind else None}
        about["Channel"] = {"Name": NAMES[: image.shape[axes.index("C")]]}
    path = save(tmp_path / "x.tif", image, metadata=about, **settings)
    planes = open_planes(path)
    assert set(planes.axes) == set(axes) - set("CYXS") and planes.size == (21, 34)
    assert planes.channels == (() if axes == "CYXS" else tuple(NAMES))
    np.testing.assert_array_equal(np.stack(list(planes)), wanted)
    for number in range(len(planes)):
        np.testing.assert_array_equal(planes.plane(number), wanted[number])
        with planes.windows(number, 16) as windows:
            assert windows.shape == wanted.shape[1:]
            found = windows.read(slice(3, 20), slice(5, 30))
            np.testing.assert_array_equal(found, wanted[number, 3:20, 5:30])
    if not planes.axes:
        np.testing.assert_array_equal(read_image(path), wanted[0])


def test_names(tmp_path: Path) -> None:
    path, image = tmp_path / "x.tif", IMAGE[0, 0]

    def named(found: Any, image: np.ndarray = image, **settings: Any) -> tuple[str, ...]:
        about = {"axes": "CYX", **found}
        return open_planes(save(path, image, metadata=about, **settings)).channels

    assert named({"Channel": {"Name": NAMES}}, ome=True) == tuple(NAMES)
    assert named({}, ome=True) == () == named({}, imagej=True)
    same = {"Channel": {"Name": ["a", "TL", "TL", "b"]}}
    assert named(same, ome=True) == ("a", "1", "2", "b")  # by number, rather than the last one
    fiji = [f"c:{i + 1}/4 - cells.tif" for i in range(4)]
    assert named({"Labels": fiji}, imagej=True) == ()
    assert named({"Labels": NAMES}, imagej=True) == tuple(NAMES)
    assert named({"Labels": ["Red", "Green", "Blue"]}, image[:3], imagej=True) == ()
    colours = {"Channel": {"Name": ["R", "G", "B"]}}
    assert named(colours, image[:3], ome=True) == ()
    one = {"axes": "YX", "Channel": {"Name": ["DAPI"]}}
    assert open_planes(save(path, image[0], metadata=one, ome=True)).channels == ("DAPI",)
    assert clean_names(["a", "b"], 3) == () == clean_names(["", None], 2)


def test_floats_are_scaled_alike_in_colours_and_apart_in_channels(tmp_path: Path) -> None:
    image = np.linspace(0, 1, 3 * 21 * 34, dtype=np.float32).reshape(3, 21, 34)
    image[0] /= 1000
    for names, dim in (([], True), (NAMES[:3], False)):
        about = {"axes": "CYX", **({"Channel": {"Name": names}} if names else {})}
        path = save(tmp_path / "x.tif", image, ome=True, metadata=about)
        (found,) = open_planes(path)
        assert (found[..., 0].max() < 100) == dim
        np.testing.assert_array_equal(read_image(path), found)
    image[1, 3, 4] = np.nan
    save(path, image, ome=True, metadata={"axes": "CYX"})
    refuses(r"x.tif: float32 pixels from nan .* finite numbers, or", list, open_planes(path))


def test_a_file_of_several_holds_a_block_of_the_stack(tmp_path: Path) -> None:
    """Bio-Formats' way: one time point a file, all planes in every file's OME-XML."""
    ids = [f"urn:uuid:00000000-0000-0000-0000-00000000000{i}" for i in range(2)]
    data = "".join(
        f'<TiffData FirstT="{t}" FirstZ="{z}" FirstC="{c}" IFD="{c * 3 + z}" PlaneCount="1">'
        f'<UUID FileName="film_t{t}.ome.tif">{ids[t]}</UUID></TiffData>'
        for t in range(2)
        for c in range(4)
        for z in range(3)
    )
    channels = "".join(f'<Channel ID="Channel:0:{i}" Name="{n}"/>' for i, n in enumerate(NAMES))
    for t in range(2):
        xml = (
            f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06" UUID="{ids[t]}">'
            '<Image ID="Image:0"><Pixels ID="Pixels:0" DimensionOrder="XYZCT" Type="uint16" '
            'SizeX="34" SizeY="21" SizeC="4" SizeZ="3" SizeT="2" PhysicalSizeX="0.2" '
            f'PhysicalSizeY="0.2">{channels}{data}</Pixels></Image></OME>'
        )
        stored = IMAGE[t].swapaxes(0, 1).reshape(12, 21, 34)  # C, Z
        save(tmp_path / f"film_t{t}.ome.tif", stored, description=xml, metadata=None)
    for t in range(2):
        planes = open_planes(tmp_path / f"film_t{t}.ome.tif")
        assert (planes.axes, planes.lengths, planes.channels) == ("Z", (3,), tuple(NAMES))
        assert planes.calibration.pixel_size == (0.2, 0.2)
        np.testing.assert_array_equal(np.stack(list(planes)), np.moveaxis(IMAGE[t], 1, 3))


def micromanager(path: Path, planes: np.ndarray, first: int, frames: int) -> Path:
    """A file of Micro-Manager's stack format, by its specification: (T, C, Y, X) from ``first``.

    A header of 40 bytes, the summary, pages of one strip with its data behind them, an index map.
    """
    summary = {
        "MicroManagerVersion": "2.0", "Prefix": "run", "ChNames": NAMES[: planes.shape[1]],
        "Channels": planes.shape[1], "Slices": 1, "Frames": frames, "Positions": 1,
        "SlicesFirst": False, "TimeFirst": False, "PixelSize_um": 0.65,
    }  # fmt: skip
    text = json.dumps(summary).encode()
    data = bytearray(40) + text
    data[:4] = b"II*\0"
    data[32:40] = struct.pack("<2I", 2355492, len(text))
    data += b"\0" * (len(data) % 2)
    struct.pack_into("<I", data, 4, len(data))
    index, (count, channels, height, width) = [], planes.shape
    for number in range(count * channels):
        t, c = divmod(number, channels)
        pixels, offset = planes[t, c].astype("<u2").tobytes(), len(data)
        index.append((c, 0, first + t, 0, offset))
        about = json.dumps({"Channel": NAMES[c]}).encode()
        about += b"\0" * (len(about) % 2 + 2)
        resolution = offset + 162 + len(pixels)
        tags = [
            (256, 4, 1, width), (257, 4, 1, height), (258, 3, 1, 16), (259, 3, 1, 1),
            (262, 3, 1, 1), (273, 4, 1, offset + 162), (277, 3, 1, 1), (278, 3, 1, height),
            (279, 4, 1, len(pixels)), (282, 5, 1, resolution), (283, 5, 1, resolution + 8),
            (296, 3, 1, 3), (51123, 2, len(about), resolution + 16),
        ]  # fmt: skip
        data += struct.pack("<H", 13) + b"".join(struct.pack("<2H2I", *tag) for tag in tags)
        end = resolution + 16 + len(about)
        data += struct.pack("<I", end if number < count * channels - 1 else 0)
        assert len(data) == offset + 162
        data += pixels + struct.pack("<4I", 1, 1, 1, 1) + about
    struct.pack_into("<2I", data, 8, 54773648, len(data))
    data += struct.pack("<2I", 3453623, len(index))
    data += b"".join(struct.pack("<5I", *one) for one in index)
    path.write_bytes(data)
    return path


def test_micro_manager_in_several_files(tmp_path: Path) -> None:
    frames = IMAGE.reshape(6, 4, 21, 34)[:5, :2]
    parts = ((0, 3, "run_MMStack_Pos0.ome.tif"), (3, 5, "run_MMStack_Pos0_1.ome.tif"))
    for first, stop, name in parts:
        micromanager(tmp_path / name, frames[first:stop], first, 5)
    for first, stop, name in parts:
        planes = open_planes(tmp_path / name)
        assert (planes.axes, planes.lengths, planes.channels) == (
            "T",
            (stop - first,),
            ("DAPI", "GFP"),
        )
        assert planes.calibration.pixel_size == (0.65, 0.65)
        wanted = np.moveaxis(frames[first:stop], 1, 3)
        np.testing.assert_array_equal(np.stack(list(planes)), wanted)
