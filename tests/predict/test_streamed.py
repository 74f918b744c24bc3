"""Large images: through the network in tiles, and from disk to disk."""

import errno
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
from roifile import roiread

import segmentation
from segmentation.__main__ import main
from segmentation.io.files import unwritten
from segmentation.io.images import read_image
from segmentation.io.stacks import open_planes
from segmentation.io.windows import BandStore
from segmentation.predict import large, outputs
from segmentation.predictor import Predictor
from tests.predict.predicting import ALL, argv, rows


def image(height: int = 150, width: int = 210, seed: int = 0) -> np.ndarray:
    """Discs, some of which touch; rings; a line from top to bottom, and one that leaves it."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    bright = np.zeros((height, width), bool)
    for row, column in rng.integers(0, (height, width), (25, 2)):
        distance = (y - row) ** 2 + (x - column) ** 2
        bright |= (distance < 60) & (distance > 10 * rng.integers(0, 2))
    bright[:, 120:123] = bright[100, 123:160] = True
    noisy = 40 + 150 * bright + rng.integers(0, 30, (height, width))
    return noisy.astype(np.uint8)


def test_tiles_say_what_one_piece_says(checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    model, pixels = segmentation.load(checkpoint, device="cpu"), image()[..., None]
    whole, original = model.maps(pixels), Predictor.tiling
    monkeypatch.setattr("segmentation.predictor.WHOLE", 1000)
    calls = []

    def tiling(one: Predictor, size: tuple[int, int]) -> Any:
        calls.append(size)
        return original(one, size, tile=64)

    monkeypatch.setattr(Predictor, "tiling", tiling)
    np.testing.assert_allclose(model.maps(pixels), whole, atol=1e-5)
    assert calls


Write = Callable[[Path], None]


def write_plain(path: Path) -> None:
    tifffile.imwrite(path, image(), resolution=(20000, 20000), resolutionunit="centimeter")


def write_colours(path: Path) -> None:
    tifffile.imwrite(path, np.stack([image()] * 3, 2), photometric="rgb", tile=(64, 64))


def write_ome(path: Path) -> None:
    scale = {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.25}  # µm
    tifffile.imwrite(
        path, image().astype(np.uint16) * 99, ome=True, metadata={"axes": "YX"} | scale
    )


def write_imagej(path: Path) -> None:
    stack = np.stack([image(seed=seed) for seed in range(3)])
    stack[1] = 0  # without objects
    about = {"axes": "ZYX", "unit": "micron"}
    tifffile.imwrite(path, stack, imagej=True, metadata=about, resolution=(2, 2))


def write_pages(path: Path) -> None:
    with tifffile.TiffWriter(path) as tiff:
        for seed in range(2):
            tiff.write(np.stack([image(seed=seed)] * 3, 2), photometric="rgb", metadata=None)


WRITERS: dict[str, Write] = {
    "plain": write_plain,
    "colours": write_colours,
    "ome": write_ome,
    "imagej": write_imagej,
    "pages": write_pages,
}


@pytest.fixture(params=WRITERS)
def images(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    (tmp_path / "images/sub").mkdir(parents=True)
    WRITERS[request.param](tmp_path / "images/sub/a.tif")
    return tmp_path / "images"


Box = tuple[int, ...]


def by_id(out: Path) -> dict[tuple[int, int], Box]:
    """Plane and id ► plane, box and area, by which the objects of two predictions are matched."""
    names = ("plane", "top", "left", "bottom", "right", "area")
    return {
        (int(row["plane"]), int(row["object"])): tuple(int(row[n]) for n in names)
        for row in rows(out / "objects.csv")
    }


def of_objects(out: Path, size: tuple[int, int]) -> dict[Box, list[Any]]:
    """What each file says of an object, by its box."""
    boxes = by_id(out)
    assert len(set(boxes.values())) == len(boxes)
    found: dict[Box, list[Any]] = {box: [] for box in boxes.values()}
    for row in rows(out / "objects.csv"):
        found[boxes[int(row["plane"]), int(row.pop("object"))]].append(row)
    for feature in json.loads((out / "geojson/sub/a.geojson").read_text())["features"]:
        plane = feature["geometry"].get("plane", {"z": 0, "t": 0})
        box = boxes[plane["z"] + plane["t"], int(feature["properties"].pop("name"))]
        found[box].append(feature)
    regions = roiread(out / "rois/sub/a.zip")
    for roi in regions if isinstance(regions, list) else [regions]:
        prefix, _, name = roi.name.rpartition("-")
        rings = [ring.tolist() for ring in roi.coordinates(multi=True)]
        found[boxes[int(prefix or 0), int(name)]].append([rings, roi.position])
    labels = tifffile.imread(out / "labels/sub/a.tif").reshape(-1, *size)
    for (plane, number), box in boxes.items():
        found[box].append(np.flatnonzero(labels[plane] == number).tolist())
    for row in rows(out / "rle.csv"):
        if row["EncodedPixels"]:
            first = int(row["EncodedPixels"].split()[0]) - 1
            page = int(row["ImageId"].partition("#")[2] or 0)
            number = int(labels[page, first % size[0], first // size[0]])
            found[boxes[page, number]].append(row)
    return found


def stream(monkeypatch: pytest.MonkeyPatch, block: int = 12) -> None:
    """Stream everything, in blocks of so many rows of 210 pixels."""
    monkeypatch.setattr(outputs, "STREAMED", 1000)
    monkeypatch.setattr(large, "_BLOCK", 210 * block)
    small = partial(large.plane_on_disk, tile=64, halo=8)
    monkeypatch.setattr(outputs, "plane_on_disk", small)


def test_a_streamed_image_has_the_same_files(
    images: Path, checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In blocks of 12 rows, most objects reach into the next one, and some into a third."""
    outs = tmp_path / "whole", tmp_path / "streamed"
    assert main(argv(checkpoint, images, outs[0], *ALL)) == 0
    stream(monkeypatch)
    opened: list[bool] = []  # whether a store has a file of its own

    def store(folder: Path, beside: BandStore | None = None) -> BandStore:
        opened.append(beside is None)
        return BandStore(folder, beside)

    monkeypatch.setattr(outputs, "BandStore", store)
    assert main(argv(checkpoint, images, outs[1], *ALL)) == 0
    assert sum(opened) == 1  # of a stack, too: files are limited
    planes = open_planes(images / "sub/a.tif")
    one, other = (json.loads((o / "manifest.json").read_text())["files"][0] for o in outs)
    assert sorted(one["outputs"]) == sorted(other["outputs"]) and len(one["outputs"]) == 6
    one, other = (rows(out / "images.csv") for out in outs)
    assert one == other and len(one) == len(planes)
    if planes.calibration.pixel_size is not None:
        assert float(other[0]["mean_area_um2"]) > 0
    one, other = (of_objects(out, (150, 210)) for out in outs)
    assert one.keys() == other.keys() and len(one) > 15
    for box, (row, *rest) in one.items():
        again, *more = other[box]
        assert rest == more and len(rest) == 4
        for name, value in row.items():  # rounding to four digits may differ in the last
            near = name.startswith("centroid") and abs(float(value) - float(again[name])) < 2e-4
            assert near or value == again[name], name
    for kind, tolerance in (("masks", 0), ("probabilities", 1), ("labels", None)):
        paths = [out / kind / "sub/a.tif" for out in outs]
        one, other = (tifffile.imread(path) for path in paths)
        assert one.dtype == other.dtype and one.shape == other.shape
        assert tolerance is None or np.abs(one.astype(int) - other).max() <= tolerance
        for path in paths:
            again = open_planes(path)
            assert again.calibration.pixel_size == planes.calibration.pixel_size
            assert (again.axes, again.lengths) == (planes.axes, planes.lengths)
    name = "overlays/sub/a.tif" if planes.axes else "overlays/sub/a.png"
    read = tifffile.imread if planes.axes else read_image
    one, other = (read(out / name) for out in outs)
    np.testing.assert_array_equal(one, other)


def test_an_object_too_large_to_cut_out_is_said(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "images/sub").mkdir(parents=True)
    write_plain(tmp_path / "images/sub/a.tif")
    stream(monkeypatch)
    monkeypatch.setattr("segmentation.predict.label_map.MOST", 140 * 30)
    out = tmp_path / "out"
    assert main(argv(checkpoint, tmp_path / "images", out, *ALL)) == 0
    (line,) = (w for w in capsys.readouterr().out.splitlines() if w.startswith("unmeasured"))
    labels = tifffile.imread(out / "labels/sub/a.tif")
    number = int(labels[75, 121])
    table = {int(row["object"]): row for row in rows(out / "objects.csv")}
    assert sorted(table) == list(range(1, labels.max() + 1))
    row = table[number]
    assert f"a.tif: object {number} spans 150×" in line
    assert int(row["area"]) == (labels == number).sum() and row["border"] == "1"
    assert (row["top"], row["bottom"], row["area_um2"] != "") == ("0", "150", True)
    assert row["centroid_y"] == row["perimeter"] == row["perimeter_um"] == ""
    told = json.loads((out / "geojson/sub/a.geojson").read_text())["features"]
    assert len(told) == len(table) - 1 == len(rows(out / "rle.csv"))
    assert number not in {int(f["properties"]["name"]) for f in told}


def test_overlays_of_large_images_are_smaller(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "images/sub").mkdir(parents=True)
    write_imagej(tmp_path / "images/sub/a.tif")
    write_colours(tmp_path / "images/b.tif")
    whole, out = tmp_path / "whole", tmp_path / "out"
    assert main(argv(checkpoint, tmp_path / "images", whole, "--overlays")) == 0
    stream(monkeypatch)
    monkeypatch.setattr(outputs, "OVERLAY", 105)
    assert main(argv(checkpoint, tmp_path / "images", out, "--overlays")) == 0
    full, small = (read_image(folder / "overlays/b.png") for folder in (whole, out))
    mean = full.reshape(75, 2, 105, 2, 3).mean(axis=(1, 3))
    assert small.shape == (75, 105, 3) and np.abs(small - mean).max() <= 0.5
    stack = open_planes(out / "overlays/sub/a.tif")
    assert (stack.size, stack.axes, stack.calibration.pixel_size) == ((75, 105), "Z", None)


def test_a_full_disk_stops_a_streamed_prediction(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """It is no fault of the image, and the next one would meet it as well."""
    (tmp_path / "images").mkdir()
    write_plain(tmp_path / "images/a.tif")
    stream(monkeypatch)

    def full(*_: object, **__: object) -> None:
        with unwritten(tmp_path / "out"):
            raise OSError(errno.ENOSPC, "No space left")

    monkeypatch.setattr(outputs, "write_tiff", full)
    assert main(argv(checkpoint, tmp_path / "images", tmp_path / "out")) == 2
    (line,) = [w for w in capsys.readouterr().err.splitlines() if "No space left" in w]
    assert "0 of 1 images are done" in line
    assert not json.loads((tmp_path / "out/manifest.json").read_text())["complete"]


def test_streamed_images_that_are_refused(
    checkpoint: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    tifffile.imwrite(folder / "a.tif", image().astype(np.float32))
    tifffile.imwrite(folder / "b.tif", image(), tile=(64, 64), compression="zlib")
    with tifffile.TiffFile(folder / "b.tif") as tiff:
        place = tiff.pages.first.dataoffsets[-1]
    with (folder / "b.tif").open("r+b") as file:
        file.seek(place)
        file.write(b"\xff" * 20)
    stream(monkeypatch)
    assert main(argv(checkpoint, folder, tmp_path / "out", *ALL)) == 1
    lines = [w for w in capsys.readouterr().err.splitlines() if w.startswith("left out")]
    assert len(lines) == 2 and "a.tif: pixels are float32" in lines[0]
    assert "b.tif: the TIFF is damaged" in lines[1]
    left = [p.name for p in (tmp_path / "out").rglob("*") if p.is_file()]
    assert sorted(left) == ["images.csv", "manifest.json", "objects.csv", "rle.csv"]
