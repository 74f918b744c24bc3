"""OME-Zarr by ome-zarr-py and by the letter of the specification: images, windows, labels."""

import json
import shutil
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import zarr

from segmentation.datasets.folder import FolderDataset
from segmentation.errors import UserError
from segmentation.io.files import sha256_of
from segmentation.io.images import read_image, read_mask
from segmentation.io.ome_zarr import open_labels, write_labels
from segmentation.io.stacks import Planes, open_planes
from tests.errors import refuses

with warnings.catch_warnings():  # about parts of itself
    warnings.simplefilter("ignore")
    from ome_zarr.format import FormatV04, FormatV05
    from ome_zarr.io import parse_url
    from ome_zarr.reader import Reader
    from ome_zarr.writer import write_image as write_ome
    from ome_zarr.writer import write_labels as write_ome_labels

pytestmark = pytest.mark.filterwarnings("ignore")  # of ome-zarr-py and dask, about themselves
RNG = np.random.default_rng(0)
IMAGE = RNG.integers(0, 60000, (2, 3, 4, 45, 70)).astype(np.uint16)  # t, z, c, y, x
NAMES = ["DAPI", "GFP", "TRITC", "Cy5"]
FORMATS = {"0.4": FormatV04(), "0.5": FormatV05()}


def save(path: Path, image: np.ndarray, axes: str, version: str = "0.4", um: float = 0.5) -> Path:
    number = 2 if version == "0.4" else 3
    group = zarr.open_group(path, mode="w", zarr_format=number)
    omero = {"channels": [{"label": n, "color": "FFFFFF", "window": {"start": 0, "end": 1, "min": 0,
             "max": 1}, "active": True} for n in NAMES]}  # fmt: skip
    write_ome(
        image,
        group,
        axes=axes,
        fmt=FORMATS[version],
        scale_factors=[2],
        scale={"y": um, "x": um},
        axes_units={"y": "micrometer", "x": "micrometer"},
        storage_options={"chunks": (*(1 for _ in axes[:-2]), 32, 32)},
    )
    about: Any = group.attrs.asdict()
    if version == "0.4":
        group.attrs["omero"] = omero
    else:
        group.attrs["ome"] = {**about["ome"], "omero": omero}
    return path


@pytest.mark.parametrize("version", FORMATS)
@pytest.mark.parametrize("axes", ["tczyx", "czyx", "cyx", "yx"])
def test_images_of_ome_zarr_py(axes: str, version: str, tmp_path: Path) -> None:
    stack = IMAGE[tuple(slice(None) if a in axes else 0 for a in "tzc")]
    before = "".join(a for a in "tzcyx" if a in axes)
    image = np.einsum(f"{before}->{axes}", stack)
    path = save(tmp_path / "x.ome.zarr", image, axes, version)
    planes = open_planes(path)
    assert planes.axes == "".join(a.upper() for a in axes if a in "tz")
    assert planes.size == (45, 70) and planes.calibration.pixel_size == (0.5, 0.5)
    channels = 4 if "c" in axes else 1
    assert planes.channels == (tuple(NAMES) if channels == 4 else ())
    wanted = np.moveaxis(stack.reshape(-1, channels, 45, 70), 1, 3)
    np.testing.assert_array_equal(np.stack(list(planes)), wanted)
    for number in range(len(planes)):
        with planes.windows(number, 32) as windows:
            assert windows.shape == wanted.shape[1:] and windows.dtype == np.uint16
            for rows, columns in ((slice(3, 40), slice(5, 66)), (slice(44, 45), slice(0, 70))):
                found = windows.read(rows, columns)
                np.testing.assert_array_equal(found, wanted[number, rows, columns])
    if not planes.axes:
        np.testing.assert_array_equal(read_image(path), wanted[0])
    before_change = sha256_of(path)
    file = next(p for p in sorted(path.rglob("*")) if p.is_file() and p.parent.name.isdecimal())
    file.write_bytes(file.read_bytes() + b"0")
    assert sha256_of(path) != before_change


@pytest.mark.parametrize("version", FORMATS)
def test_labels_of_ome_zarr_py_are_truth(version: str, tmp_path: Path) -> None:
    labels = np.zeros((3, 45, 70), np.uint16)
    labels[:, 3:20, 5:30], labels[1:, 30:40, 40:60] = 3, 7
    for name, image, truth, axes in (
        ("flat", IMAGE[0, 0], labels[2], "cyx"),
        ("deep", np.moveaxis(IMAGE[0], 1, 0), labels, "czyx"),
    ):
        save(tmp_path / f"images/{name}.ome.zarr", image, axes, version)
        group = zarr.open_group(
            save(tmp_path / f"masks/{name}.zarr", image, axes, version), mode="a"
        )
        write_ome_labels(truth, group, name="cells", axes=axes.replace("c", ""),
                         fmt=FORMATS[version])  # fmt: skip
    data = FolderDataset(tmp_path, mask_type="labels")
    assert [r.id for r in data.records] == [*(f"deep#000{i}" for i in range(3)), "flat"]
    for sample, truth in zip(data, [*labels, labels[2]], strict=True):
        assert sample.labels is not None and sample.channels == tuple(NAMES)
        np.testing.assert_array_equal(sample.labels > 0, truth > 0)
        assert len(np.unique(sample.labels)) == len(np.unique(truth))
    np.testing.assert_array_equal(read_mask(tmp_path / "masks/flat.zarr"), labels[2])


@pytest.mark.parametrize("leading", [(), (3,)])
def test_labels_that_are_written(
    leading: tuple[int, ...], tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setattr("segmentation.io.ome_zarr._CHUNK", 32)
    ids = RNG.integers(0, 70000, (*leading, 75, 50)).astype(np.uint32)
    rows = ids.reshape(-1, 50)
    planes = open_planes(save(tmp_path / "x.zarr", IMAGE[0, 0], "cyx", um=0.25))
    path = tmp_path / "out/x.zarr"
    about = Planes(path, "Z" * len(leading), leading, (75, 50), (), planes.calibration)
    for _ in range(2):  # it may be there already
        bands = [rows[i : i + 17] for i in range(0, len(rows), 17)]
        write_labels(path, ids.shape, ids.dtype, bands, about)
    assert [p.name for p in path.parent.iterdir()] == ["x.zarr"]
    found = open_labels(path)
    np.testing.assert_array_equal(
        np.stack([found.mask(i) for i in range(len(found))]).reshape(ids.shape), ids
    )
    assert found.calibration.pixel_size == (0.25, 0.25)
    nodes = [node for node in Reader(parse_url(path, fmt=FormatV04()))() if node.data]
    assert len(nodes) == 2  # as an image, and as its labels
    for node in nodes:
        np.testing.assert_array_equal(np.asarray(node.data[0]), ids)
    assert json.loads((path / "labels/.zattrs").read_text()) == {"labels": ["segmentation"]}
    with pytest.raises(ValueError):
        write_labels(path, ids.shape, ids.dtype, iter([np.zeros((1, 2), np.uint32)]), about)
    assert [p.name for p in path.parent.iterdir()] == ["x.zarr"]


def edited(path: Path, change: Any, file: str = ".zattrs") -> Path:
    about = json.loads((path / file).read_text())
    change(about)
    (path / file).write_text(json.dumps(about))
    return path


def test_refusals(tmp_path: Path) -> None:
    def refused(says: str, change: Any = None, file: str = ".zattrs", version: str = "0.4") -> None:
        path = save(tmp_path / "x.zarr", IMAGE[0, 0], "cyx", version)
        if change:
            edited(path, change, file)
        with pytest.raises(UserError, match=says) as error:
            list(open_planes(path))
        assert str(error.value).startswith(str(path)) and "\n" not in str(error.value)

    refused(
        "of version 0.9; 0.4 and 0.5 are read", lambda a: a["multiscales"][0].update(version="0.9")
    )
    refused(
        "of version 0.6", lambda a: a["attributes"]["ome"].update(version="0.6"), "zarr.json", "0.5"
    )
    refused(
        "of version 0.3", lambda a: a["multiscales"][0].update(version="0.3", axes=["c", "y", "x"])
    )
    refused("no multiscales", lambda a: a.pop("multiscales"))
    refused("is a plate", lambda a: a.update(plate={}))
    refused("is stored by pickle", lambda a: a.update(compressor={"id": "pickle"}), "s0/.zarray")
    refused("leads elsewhere", lambda a: a["multiscales"][0]["datasets"][0].update(path="../y"))
    refused("axes qyx", lambda a: a["multiscales"][0]["axes"][0].update(name="q"))
    path = save(tmp_path / "x.zarr", IMAGE[0, 0], "cyx")
    (path / "s0/0/0/0").write_bytes(b"nonsense")
    refuses(r"x\.zarr: the OME-Zarr is damaged", read_image, path)
    (path / ".zattrs").unlink()
    refuses("is no OME-Zarr", read_image, path)
    shutil.rmtree(path)
    save(path, np.moveaxis(IMAGE[0], 1, 0), "czyx")
    refuses("a stack of 3 planes", read_image, path)
