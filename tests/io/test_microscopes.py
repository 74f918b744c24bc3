"""Microscopes' files, by a bioio that is played: its interface, with arrays for files."""

import importlib.machinery
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest

from segmentation.io.images import read_image
from segmentation.io.listing import list_files
from segmentation.io.stacks import open_planes
from tests.errors import refuses

STACK = np.random.default_rng(0).integers(0, 60000, (2, 3, 4, 21, 34)).astype(np.uint16)  # TCZYX


class BioImage:
    """As of bioio: five axes, or six with samples of colours."""

    stack, scenes, order = STACK, ("Image:0",), "TCZYX"
    channel_names: Any = ("DAPI", "GFP", "TRITC")
    physical_pixel_sizes = SimpleNamespace(Z=1.0, Y=0.2, X=0.2)

    def __init__(self, path: Path) -> None:
        if path.read_bytes() == b"broken":
            raise RuntimeError("bioio says no")
        named = dict(zip(self.order, self.stack.shape, strict=True))
        self.dims = SimpleNamespace(order=self.order, **named)

    def get_image_data(self, wanted: str, **places: int) -> np.ndarray:
        fixed = {axis: places.get(axis, 0) for axis in self.order if axis not in wanted}
        found = self.stack[tuple(fixed.get(axis, slice(None)) for axis in self.order)]
        kept = [axis for axis in self.order if axis in wanted]
        return found.transpose([kept.index(axis) for axis in wanted])


@pytest.fixture
def played(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    module = ModuleType("bioio")
    module.__spec__ = importlib.machinery.ModuleSpec("bioio", None)
    module.BioImage = BioImage  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "bioio", module)
    (tmp_path / "cells.czi").write_bytes(b"x")
    return tmp_path / "cells.czi"


def test_planes_channels_and_scale(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planes = open_planes(played)
    assert (planes.axes, planes.lengths) == ("TZ", (2, 4))
    assert planes.channels == ("DAPI", "GFP", "TRITC")
    assert planes.calibration.pixel_size == (0.2, 0.2)
    wanted = STACK.transpose(0, 2, 3, 4, 1).reshape(8, 21, 34, 3)
    np.testing.assert_array_equal(np.stack(list(planes)), wanted)
    refuses("a stack of 8 planes", read_image, played)
    colours = STACK[:1, :1, :1, ..., None] + np.arange(3, dtype=np.uint16)
    monkeypatch.setattr(BioImage, "stack", colours)
    monkeypatch.setattr(BioImage, "order", "TCZYXS")
    monkeypatch.setattr(BioImage, "physical_pixel_sizes", SimpleNamespace(Z=None, Y=None, X=None))
    planes = open_planes(played)
    assert (planes.axes, planes.channels, planes.calibration.pixel_size) == ("", (), None)
    np.testing.assert_array_equal(read_image(played), colours[0, 0, 0])


def test_what_is_refused(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    listing = list_files(played.parent)
    assert listing.images() == ["cells.czi"] and not listing.missed
    monkeypatch.setattr(BioImage, "scenes", ("A1", "A2"))
    refuses("holds 2 scenes", open_planes, played)
    played.write_bytes(b"broken")
    refuses(r"cells.czi: the CZI is damaged \(bioio says no\)", read_image, played)


def test_bioio_that_is_missing_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("segmentation.io.microscopes.find_spec", lambda _: None)
    monkeypatch.setattr("segmentation.io.listing.find_spec", lambda _: None)
    (tmp_path / "cells.nd2").write_bytes(b"x")
    says = "pip install 'biomedical-segmentation\\[bioio\\]'"
    refuses(says, open_planes, tmp_path / "cells.nd2")
    listing = list_files(tmp_path)
    assert listing.images() == [] and listing.missed
    assert "[bioio]" in listing.tell(tmp_path)


@pytest.mark.filterwarnings("default")  # of libraries that are not this package's
def test_files_of_a_microscopes_maker(tmp_path: Path) -> None:
    pytest.importorskip("bioio_czi")
    czi = pytest.importorskip("pylibCZIrw.czi")
    stack = STACK[0, :2].transpose(1, 0, 2, 3)  # ZCYX
    with czi.create_czi(str(tmp_path / "stack.czi")) as file:
        for z, c in np.ndindex(4, 2):
            file.write(stack[z, c][..., None].copy(), plane={"Z": z, "C": c, "T": 0})
        scale = {"scale_x": 0.325e-6, "scale_y": 0.325e-6, "scale_z": 1e-6}  # metres
        file.write_metadata("stack", channel_names={0: "DAPI", 1: "GFP"}, **scale)
    planes = open_planes(tmp_path / "stack.czi")
    assert (planes.axes, planes.channels) == ("Z", ("DAPI", "GFP"))
    assert planes.calibration.pixel_size == pytest.approx((0.325, 0.325))
    np.testing.assert_array_equal(np.stack(list(planes)), stack.transpose(0, 2, 3, 1))
    colours = (STACK[0, 0, :3] // 256).astype(np.uint8).transpose(1, 2, 0).copy()
    with czi.create_czi(str(tmp_path / "colours.czi")) as file:
        file.write(colours, plane={"Z": 0, "C": 0, "T": 0})  # red, green, blue
    np.testing.assert_array_equal(read_image(tmp_path / "colours.czi"), colours)
    whole = (tmp_path / "stack.czi").read_bytes()
    (tmp_path / "stack.czi").write_bytes(whole[: len(whole) // 2])
    refuses("stack.czi: the CZI is damaged", read_image, tmp_path / "stack.czi")
