"""Outlines against an independent rasteriser, closed forms and the formats' own readers."""

import io
import json
import zipfile
from contextlib import closing
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from roifile import ImagejRoi, roiread
from skimage.draw import polygon2mask
from skimage.measure import label

from segmentation.io.run_lengths import rle_decode, rle_encode
from segmentation.predict.formats import (
    FeatureWriter,
    Ring,
    add_rois,
    outlines,
    run_lengths,
)

RNG = np.random.default_rng(0)


def touching() -> np.ndarray:
    """Objects with holes, parts that meet in a corner, one pixel, neighbours, ids with gaps."""
    labels = np.zeros((24, 31), np.int32)
    labels[1:10, 1:12] = 3
    labels[3:5, 3:5] = 0
    labels[5:7, 5:7] = 0  # two holes that meet in a corner
    labels[2, 9] = 5  # an object in another's hole
    labels[1:10, 12:20] = 7
    labels[12:15, 2:5] = 70000
    labels[15:18, 5:8] = 70000  # joined by a corner
    labels[20, 20] = 1
    labels[23, 25:] = 9
    labels[12:20, 22:30] = 11
    labels[13:19, 23:29] = 0
    labels[12, 22] = labels[19, 29] = 0
    labels[13, 23] = labels[18, 28] = 11  # a ring that meets itself in corners only
    return labels


def noise(share: float) -> np.ndarray:
    """Every local configuration of pixels of three ids."""
    pixels = RNG.random((40, 37)) < share
    return (pixels * RNG.integers(1, 4, pixels.shape)).astype(np.int32)


MAPS = [touching(), noise(0.5), noise(0.9), label(RNG.random((64, 64)) < 0.6), np.ones((3, 4), int)]


def fill(ring: Ring, shape: tuple[int, int]) -> np.ndarray:
    """By scikit-image: pixel centres lie half a pixel from the corners."""
    mask: np.ndarray = polygon2mask(shape, np.array(ring)[:, ::-1] - 0.5)
    return mask


def rasterised(polygons: list[list[Ring]], shape: tuple[int, int]) -> np.ndarray:
    """An outer ring without its holes, for each polygon."""
    mask = np.zeros(shape, bool)
    for outer, *holes in polygons:
        inside = fill(outer, shape)
        for hole in holes:
            assert inside[fill(hole, shape)].all()
            inside &= ~fill(hole, shape)
        mask |= inside
    return mask


def area(ring: Ring) -> float:
    x, y = np.array(ring).T
    return float(x @ np.roll(y, -1) - y @ np.roll(x, -1)) / 2


@pytest.mark.parametrize("labels", MAPS)
def test_outlines_give_the_label_map_again(labels: np.ndarray) -> None:
    found = outlines(labels)
    assert [o.label for o in found] == list(np.unique(labels[labels > 0]))
    again = np.zeros_like(labels)
    for outline in found:
        again[rasterised(outline.polygons, labels.shape)] = outline.label
        rings = [ring for polygon in outline.polygons for ring in polygon]
        assert sum(map(area, rings)) == (labels == outline.label).sum()
        for outer, *holes in outline.polygons:
            assert area(outer) > 0 and all(area(hole) < 0 for hole in holes)
        for ring in rings:
            assert len(set(ring)) == len(ring)  # touches itself nowhere
            steps = np.diff(np.array([*ring, ring[0], ring[1]]), axis=0)
            assert ((steps == 0).sum(1) == 1).all()  # along the pixels' edges
            assert ((steps[1:] == 0) != (steps[:-1] == 0)).all()  # corners alone
    np.testing.assert_array_equal(again, labels)


def test_geojson() -> None:
    labels = touching()
    collection = features(labels, {})
    assert collection["type"] == "FeatureCollection"
    again = np.zeros_like(labels)
    for feature in collection["features"]:
        assert feature["type"] == "Feature" and feature["properties"]["objectType"] == "detection"
        geometry = feature["geometry"]
        assert "plane" not in geometry
        several = geometry["type"] == "MultiPolygon"
        polygons = geometry["coordinates"] if several else [geometry["coordinates"]]
        assert several == (len(polygons) > 1)
        for ring in (ring for polygon in polygons for ring in polygon):
            assert ring[0] == ring[-1] and len(ring) >= 5
        again[rasterised(polygons, labels.shape)] = int(feature["properties"]["name"])
    np.testing.assert_array_equal(again, labels)
    (one,) = features(np.ones((2, 2), int), {"T": 3, "Z": 2})["features"]
    assert one["geometry"]["plane"] == {"c": -1, "z": 2, "t": 3}
    assert features(np.zeros((2, 2), int), {})["features"] == []


def features(labels: np.ndarray, position: dict[str, int]) -> Any:
    file = io.BytesIO()
    with closing(FeatureWriter(file)) as writer:
        for outline in outlines(labels):  # one after another
            writer.add([outline], position)
    return json.loads(file.getvalue())


def encode_rois(labels: np.ndarray, plane: int, position: dict[str, int]) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as archive:
        add_rois(archive, outlines(labels), plane, position)
    return file.getvalue()


def by_roifile(data: bytes, tmp_path: Path) -> dict[str, ImagejRoi]:
    path = tmp_path / "x.zip"
    path.write_bytes(data)
    found = roiread(path)
    return {roi.name: roi for roi in (found if isinstance(found, list) else [found])}


def test_rois_are_read_by_another_reader(tmp_path: Path) -> None:
    labels = touching()
    found = by_roifile(encode_rois(labels, 0, {}), tmp_path)
    again = np.zeros_like(labels)
    for name, roi in found.items():
        filled = np.zeros(labels.shape, int)
        for ring in roi.coordinates(multi=True):
            filled += fill(ring, labels.shape)  # type: ignore[arg-type]
        again[filled % 2 == 1] = int(name)  # even and odd, as ImageJ fills shapes
        y, x = np.nonzero(labels == int(name))
        assert (roi.top, roi.left) == (y.min(), x.min())
        assert roi.position == 0
    np.testing.assert_array_equal(again, labels)
    with zipfile.ZipFile(io.BytesIO(encode_rois(np.zeros((2, 2), int), 0, {}))) as empty:
        assert empty.namelist() == []


def test_rois_know_their_plane(tmp_path: Path) -> None:
    labels = np.ones((2, 2), int)
    (roi,) = by_roifile(encode_rois(labels, 4, {"Z": 4}), tmp_path).values()
    assert roi.name == "0004-00001" and roi.position == 5
    (roi,) = by_roifile(encode_rois(labels, 4, {"T": 1, "Z": 0}), tmp_path).values()
    assert (roi.c_position, roi.z_position, roi.t_position) == (1, 1, 2)


def test_rois_far_from_the_corner(tmp_path: Path) -> None:
    """Beyond 16 bits of coordinates."""
    labels = np.zeros((3, 70000), np.uint8)
    labels[1, 69990:69995] = 1
    (roi,) = by_roifile(encode_rois(labels, 0, {}), tmp_path).values()
    corners = {tuple(corner) for corner in np.array(roi.coordinates()).tolist()}
    assert corners == {(69990, 1), (69995, 1), (69995, 2), (69990, 2)}


@pytest.mark.parametrize("labels", MAPS)
def test_run_lengths(labels: np.ndarray) -> None:
    assert run_lengths(0 * labels) == [] and outlines(0 * labels) == []
    found = run_lengths(labels)
    ids = np.unique(labels[labels > 0])
    assert found == [rle_encode(labels == i) for i in ids]
    for code, i in zip(found, ids, strict=True):
        np.testing.assert_array_equal(rle_decode(code, labels.shape, "x"), labels == i)


def test_what_is_cut_out_lies_where_it_was() -> None:
    """A whole column of the image is in one run with the next one."""
    labels = touching()
    rows, columns = slice(11, 20), slice(1, 31)
    crop = np.where(np.isin(labels, (11, 70000)), labels, 0)[rows, columns]
    whole = {o.label: o for o in outlines(labels)}
    found = outlines(crop, (rows.start, columns.start))
    assert found == [whole[11], whole[70000]]
    codes = dict(zip(np.unique(labels[labels > 0]).tolist(), run_lengths(labels), strict=True))
    found_codes = run_lengths(crop, (rows.start, columns.start), len(labels))
    assert found_codes == [codes[11], codes[70000]]
    columns_of_one = np.ones((5, 2), int)
    assert run_lengths(columns_of_one, (0, 3), 5) == ["16 10"]
    assert run_lengths(columns_of_one, (0, 3), 6) == ["19 5 25 5"]
