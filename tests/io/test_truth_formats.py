"""Truth in the formats of annotation programs: round trips, and files by independent libraries."""

import json
import zipfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import geojson
import numpy as np
import pytest
import shapely
from pycocotools import mask as coco
from roifile import ROI_OPTIONS, ROI_TYPE, ImagejRoi, roiwrite
from shapely.geometry import mapping
from skimage.draw import polygon2mask
from torch import nn

from segmentation.data.preprocess import Preprocess
from segmentation.datasets.folder import FolderDataset
from segmentation.errors import UserError
from segmentation.io.files import write_table
from segmentation.io.images import write_image
from segmentation.io.raster import fill_ellipse, fill_rings
from segmentation.io.run_lengths import RLE_COLUMNS
from segmentation.io.stacks import open_planes
from segmentation.io.truth import TruthReader
from segmentation.objects import label_components, renumber
from segmentation.predict.outputs import FileWriter, Outputs
from segmentation.predictor import Prediction, Predictor
from segmentation.targets import Classes, Foreground
from tests.errors import refuses
from tests.predict.test_formats import MAPS

SIZE = (40, 60)
NAMES = ("red", "blue")
RNG = np.random.default_rng(1)


def dataset(root: Path, file: str, shape: tuple[int, ...] = SIZE, **settings: Any) -> FolderDataset:
    """One image, a.png, whose truth is that file."""
    write_image(root / "images/a.png", np.zeros(shape[:2], np.uint8))
    return FolderDataset(root, masks=file, **settings)


def labels_of(data: FolderDataset) -> np.ndarray:
    (sample,) = data
    assert sample.labels is not None and sample.labels.dtype == np.int32
    return sample.labels


def write_outputs(root: Path, labels: np.ndarray, classes: np.ndarray | None = None) -> None:
    """All that ``predict`` writes of an image with these objects, below root/png and root/tiff."""
    pixels = np.zeros((*labels.shape, 1), np.uint8)
    write_image(root / "images/a.png", pixels[..., 0])
    target = Foreground() if classes is None else Classes(NAMES)
    predictor = Predictor(nn.Identity(), Preprocess("gray"), target)
    found = pixels, Prediction(labels, labels > 0, (labels > 0).astype(np.float32), classes)
    for kind in ("png", "tiff"):
        outputs = Outputs(root / kind, kind, geojson=True, rle=True, rois=True)
        writer = FileWriter(open_planes(root / "images/a.png"), outputs, "a.png", "a", found)
        rows = defaultdict[str, list[Any]](list)
        writer.write(predictor, lambda table, some, rows=rows: rows[table].extend(some))  # type: ignore[misc]
        write_table(root / kind / "rle.csv", RLE_COLUMNS, rows["rle"])
        write_table(root / kind / "objects.csv", list(rows["objects"][0]), rows["objects"])


@pytest.mark.parametrize("labels", MAPS)
def test_what_predict_writes_is_read_back(
    labels: np.ndarray, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    labels = renumber(labels.astype(np.int32))
    write_outputs(tmp_path, labels)
    for place in ("png/labels", "tiff/labels", "png/geojson", "png/rois", "png/rle.csv"):
        read = labels_of(FolderDataset(tmp_path, masks=place, mask_type="labels"))
        np.testing.assert_array_equal(read, labels, err_msg=place)
    read = labels_of(FolderDataset(tmp_path, masks="png/masks"))
    np.testing.assert_array_equal(read, label_components(labels > 0))
    assert "passed over" not in capsys.readouterr().err


def test_classes_that_predict_writes_are_read_back(tmp_path: Path) -> None:
    labels = renumber(MAPS[0].astype(np.int32))
    classes = np.uint8([0, *np.arange(labels.max()) % 2 + 1])
    write_outputs(tmp_path, labels, classes)
    for place in ("png/labels", "tiff/labels", "png/geojson", "png/rois"):
        (sample,) = FolderDataset(tmp_path, masks=place, mask_type="labels", classes=NAMES)
        np.testing.assert_array_equal(sample.labels, labels, err_msg=place)  # type: ignore[arg-type]
        np.testing.assert_array_equal(sample.classes, classes, err_msg=place)  # type: ignore[arg-type]
    (sample,) = FolderDataset(tmp_path, masks="png/masks", mask_type="classes", classes=NAMES)
    assert sample.labels is not None and sample.classes is not None
    np.testing.assert_array_equal(sample.classes[sample.labels], classes[labels])


def test_the_pixels_of_random_shapes() -> None:
    for _ in range(50):
        ring = RNG.uniform(-5, 65, (RNG.integers(3, 12), 2))
        wanted = polygon2mask(SIZE, ring[:, ::-1] - 0.5)
        found = np.zeros(SIZE, bool)
        found.reshape(-1)[fill_rings([ring], SIZE)] = True
        np.testing.assert_array_equal(found, wanted)  # no centre lies on an outline
        left, top = RNG.uniform(-5, 30, 2)
        width, height = RNG.uniform(1, 40, 2)
        y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
        across, down = (x - left) / width * 2 - 1, (y - top) / height * 2 - 1
        box = fill_ellipse((left, top, left + width, top + height), SIZE)
        np.testing.assert_array_equal(np.sort(box), np.flatnonzero(across**2 + down**2 < 1))


def test_polygons_with_a_common_outline_share_no_pixel() -> None:
    corner = np.array([31.5, 17.5])  # a pixel's centre
    around = np.array([[0, 0], [31.5, 0], [60, 0], [60, 40], [7, 40], [0, 40], [0, 3]], float)
    parts = [
        fill_rings([np.array([corner, a, b])], SIZE)
        for a, b in zip(around, np.roll(around, -1, 0), strict=True)
    ]
    assert sorted(np.concatenate(parts).tolist()) == list(range(SIZE[0] * SIZE[1]))


def test_geojson_by_shapely(tmp_path: Path) -> None:
    disc = shapely.Point(20, 15).buffer(9) - shapely.Point(20, 15).buffer(4)
    two = shapely.MultiPolygon([shapely.box(40, 2, 50, 9), shapely.box(52, 12, 58.7, 30)])
    kinds = [("cell", disc), ("debris", two)]
    features = [
        geojson.Feature(geometry=mapping(shape), properties={"classification": {"name": name}})
        for name, shape in kinds
    ]
    (tmp_path / "outlines").mkdir()
    file = tmp_path / "outlines/a.geojson"
    file.write_text(geojson.dumps(geojson.FeatureCollection(features)))
    (sample,) = dataset(tmp_path, "outlines", classes=["debris", "cell"])
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    wanted = np.zeros(SIZE, int)
    for number, (_, shape) in enumerate(kinds, start=1):
        wanted[shapely.contains_xy(shape, x, y)] = number
    np.testing.assert_array_equal(sample.labels, wanted)  # type: ignore[arg-type]
    assert sample.classes is not None and sample.classes.tolist() == [0, 2, 1]
    features[0]["properties"]["classification"]["name"] = "Ignore*"  # QuPath's
    file.write_text(geojson.dumps(features))  # QuPath writes a bare list, too
    (sample,) = dataset(tmp_path, "outlines", classes=["debris"])
    np.testing.assert_array_equal(sample.labels, np.array([0, -1, 1])[wanted])  # type: ignore[arg-type]
    assert labels_of(dataset(tmp_path, "outlines")).min() == -1


@pytest.mark.filterwarnings("ignore:__array__ implementation")  # pycocotools and numpy 2
def test_coco_by_pycocotools(tmp_path: Path) -> None:
    masks = [RNG.random(SIZE) < 0.3 for _ in range(3)]
    masks[1] &= ~masks[0]
    masks[2] &= ~(masks[0] | masks[1])
    codes = [coco.encode(np.asfortranarray(mask.astype(np.uint8))) for mask in masks]
    compressed = {"size": codes[0]["size"], "counts": codes[0]["counts"].decode()}
    flat = np.pad(masks[1].ravel(order="F").astype(np.int8), 1)
    edges = np.flatnonzero(np.diff(flat))
    counts = np.diff([0, *edges, masks[1].size]).tolist()
    plain = {"size": list(SIZE), "counts": counts}
    box = [[35, 20, 55, 20, 55, 30, 35, 30], [2, 33, 9, 33, 9, 38, 2, 38]]
    crowd = {"size": codes[2]["size"], "counts": codes[2]["counts"].decode()}
    drawn = [(compressed, 7, 0), (plain, 3, 0), (crowd, 3, 1)]
    annotations = [
        {"id": i, "image_id": 5, "category_id": kind, "segmentation": segment, "iscrowd": many}
        for i, (segment, kind, many) in enumerate(drawn)
    ]
    content: dict[str, Any] = {
        "images": [{"id": 5, "file_name": "a.png", "height": SIZE[0], "width": SIZE[1]}],
        "categories": [{"id": 3, "name": "cat"}, {"id": 7, "name": "dog"}],
        "annotations": annotations,
    }
    (tmp_path / "coco.json").write_text(json.dumps(content))
    (sample,) = dataset(tmp_path, "coco.json", classes=["dog", "cat"])
    wanted = masks[0] + 2 * masks[1] - masks[2].astype(int)
    np.testing.assert_array_equal(sample.labels, wanted)  # type: ignore[arg-type]
    assert sample.classes is not None and sample.classes.tolist() == [0, 1, 2]
    content["annotations"] = [{**annotations[0], "segmentation": box}]
    (tmp_path / "coco.json").write_text(json.dumps(content))
    joined = coco.decode(coco.merge(coco.frPyObjects(box, *SIZE)))
    np.testing.assert_array_equal(labels_of(dataset(tmp_path, "coco.json")), joined)


def test_rois_by_roifile(tmp_path: Path) -> None:
    ring = np.array([[3, 3], [15, 5], [12, 18]])
    free = ImagejRoi.frompoints(ring + 0.27)  # below a pixel
    free.roitype = ROI_TYPE.FREEHAND
    rectangle = ImagejRoi(roitype=ROI_TYPE.RECT, left=20, top=2, right=28, bottom=9, name="box")
    oval = ImagejRoi(roitype=ROI_TYPE.OVAL, left=30, top=20, right=50, bottom=34, name="oval")
    (tmp_path / "rois").mkdir()
    roiwrite(tmp_path / "rois/a_rois.zip", [free, rectangle, oval], name=["free", "box", "oval"])
    wanted = polygon2mask(SIZE, ring[:, ::-1] - 0.23).astype(int)
    wanted[2:9, 20:28] = 2
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    wanted[((x - 40) / 10) ** 2 + ((y - 27) / 7) ** 2 < 1] = 3
    np.testing.assert_array_equal(labels_of(dataset(tmp_path, "rois")), wanted)
    (tmp_path / "rois/a_rois.zip").unlink()
    rectangle.tofile(tmp_path / "rois/a.roi")
    read = labels_of(dataset(tmp_path, "rois"))
    np.testing.assert_array_equal(read, (wanted == 2).astype(int))


def labelme(shapes: list[dict[str, Any]], size: tuple[int, int] = SIZE) -> str:
    """A file as labelme 5 writes it."""
    drawn = [{"group_id": None, "flags": {}, "description": "", **shape} for shape in shapes]
    about = {"version": "5.4.1", "flags": {}, "imagePath": "a.png", "imageData": None}
    return json.dumps(about | {"shapes": drawn, "imageHeight": size[0], "imageWidth": size[1]})


def test_labelme_by_its_specification(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    shapes = [
        {"label": "a", "shape_type": "polygon", "points": [[2, 2], [9, 2], [9, 9], [2, 9]]},
        {"label": "b", "shape_type": "rectangle", "points": [[30, 8], [20, 2]]},
        {"label": "a", "shape_type": "circle", "points": [[40, 20], [40, 28]]},
        {"label": "b", "shape_type": "rectangle", "points": [[1, 30], [5, 35]], "group_id": 1},
        {"label": "b", "shape_type": "rectangle", "points": [[9, 30], [12, 35]], "group_id": 1},
    ]
    (tmp_path / "images/a.json").write_text(labelme(shapes))  # beside its image, as labelme does
    (sample,) = dataset(tmp_path, "images", classes=["a", "b"])
    wanted = np.zeros(SIZE, int)
    wanted[2:9, 2:9], wanted[2:8, 20:30], wanted[30:35, 1:5] = 1, 2, 4
    wanted[30:35, 9:12] = 4
    y, x = np.mgrid[: SIZE[0], : SIZE[1]] + 0.5
    wanted[(x - 40) ** 2 + (y - 20) ** 2 < 64] = 3
    np.testing.assert_array_equal(sample.labels, wanted)  # type: ignore[arg-type]
    assert sample.classes is not None and sample.classes.tolist() == [0, 1, 2, 1, 2]


def test_arrays_of_label_maps(tmp_path: Path) -> None:
    ids = np.zeros(SIZE, np.int64)
    ids[3:9, 4:12], ids[20:30, 30:50] = 7, 200
    (tmp_path / "masks").mkdir()
    for arrays in ({"masks": ids, "flows": np.zeros(9)}, {"labels": ids}, {"arr_0": ids}):
        np.savez_compressed(tmp_path / "masks/a.npz", **arrays)  # type: ignore[arg-type]
        read = labels_of(dataset(tmp_path, "masks", mask_type="labels"))
        np.testing.assert_array_equal(read, renumber(ids))


def test_overlaps_are_counted_and_the_later_one_wins(tmp_path: Path) -> None:
    shapes = [
        {"label": "a", "shape_type": "rectangle", "points": [[0, 0], [10, 10]]},
        {"label": "a", "shape_type": "rectangle", "points": [[5, 5], [15, 15]]},
    ]
    (tmp_path / "masks").mkdir()
    (tmp_path / "masks/a.json").write_text(labelme(shapes))
    data = dataset(tmp_path, "masks")
    assert labels_of(data)[7, 7] == 2 and data.overlaps(data.records[0]) == 25


def test_changed_annotations_are_another_cache(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    stamps = []
    for right in (10, 11):
        box = {"label": "a", "shape_type": "rectangle", "points": [[0, 0], [right, 10]]}
        (tmp_path / "masks/a.json").write_text(labelme([box]))
        stamps.append(dataset(tmp_path, "masks").records[0].stamp)
    stamps.append(dataset(tmp_path, "masks", ignore=255).records[0].stamp)
    stamps.append(dataset(tmp_path, "masks", classes=["a"]).records[0].stamp)
    assert len(set(stamps)) == 4


POINT = ImagejRoi.frompoints(np.array([[3, 3]]))
POINT.roitype = ROI_TYPE.POINT
SPLINE = ImagejRoi.frompoints(np.array([[3, 3], [9, 3], [9, 9]]))
SPLINE.options |= ROI_OPTIONS.SPLINE_FIT
LINE = {"type": "Feature", "geometry": {"type": "LineString", "coordinates": [[0, 0], [1, 1]]}}
AWAY = {"type": "Polygon", "coordinates": [[[90, 0], [99, 0], [99, 9]]]}
BARE = {"label": "x", "shape_type": "polygon", "points": [[0, 0], [1, 1]]}
COCO: dict[str, Any] = {
    "images": [{"id": 1, "file_name": "a.png"}],
    "annotations": [{"id": 4, "image_id": 1, "bbox": [0, 0, 2, 2]}],
}


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.roi", POINT.tobytes(), r"a\.roi: the region is of type point; only areas have pixels"),
        ("a.roi", SPLINE.tobytes(), "has rounded lines; in ImageJ choose"),
        ("a.roi", b"Iout" + 60 * b"\0", r"an outline of fewer than 3 corners"),
        ("a.roi", b"Iout", r"the file of ROIs is damaged \(ImageJ ROI data too short"),
        ("a.zip", b"PK\3\4", r"a\.zip: the file of ROIs is damaged"),
        ("a.geojson", json.dumps([LINE]), "feature 1 is of type LineString; only areas"),
        ("a.geojson", json.dumps(AWAY), r"feature 1 spans x 90 … 99 and y 0 … 9 and lies outside"),
        ("a.geojson", '{"type": "FeatureCollection"}', "lacks 'features'.; export it again"),
        ("a.geojson", "[[1]]", "not GeoJSON or labelme's JSON as it should be"),
        (
            "a.geojson",
            json.dumps(AWAY).replace("90", "NaN"),
            "feature 1 has coordinates that are n",
        ),
        ("a.roi", POINT.tobytes()[:-4], r"the file of ROIs is damaged \(.*exceeds data size"),
        ("a.geojson", "{", r"as it should be \(Expecting property name"),
        ("a.json", labelme([BARE]), r"shape 1 \(x\) has an outline of fewer than 3 corners"),
        ("a.json", labelme([], (9, 9)), r"a\.json: belongs to an image of 9×9 .* is 40×60; export"),
        ("a.json", json.dumps(COCO), "COCO keeps many images in one file; give that as the masks"),
        ("a.npz", b"PK\3\4", r"a\.npz: the NPZ is damaged"),
    ],
)
def test_files_at_fault(name: str, content: str | bytes, says: str, tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    data = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "masks" / name).write_bytes(data)
    refuses(says, lambda: dataset(tmp_path, "masks")[0])


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.json", json.dumps(COCO), "annotation 4 is a box without an outline; draw its outline"),
        ("a.json", "{}", r"a\.json: not COCO's JSON as it should be \(lacks 'images'\); export it"),
        (
            "a.csv",
            "ImageId,EncodedPixels\na,1 9999\n",
            "row 2: run 1 9999 leaves an image of",
        ),
        ("a.csv", "Image\n", "lacks the column EncodedPixels"),
        ("a.csv", "ImageId,EncodedPixels\nb,\n", r"images/a\.png: .*a\.csv does not name it; add"),
        ("a.txt", "", r"a\.txt: one file for all images is COCO's \.json or a \.csv of run"),
    ],
)
def test_single_files_at_fault(name: str, content: str, says: str, tmp_path: Path) -> None:
    (tmp_path / name).write_text(content)
    refuses(says, lambda: dataset(tmp_path, name)[0])


def test_regions_of_several_planes_are_refused(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    rois = [ImagejRoi.frompoints(np.array([[3, 3], [9, 3], [9, 9]])) for _ in range(2)]
    for number, roi in enumerate(rois, start=1):
        roi.z_position = number
    roiwrite(tmp_path / "masks/a.zip", rois, name=["a", "b"])
    with pytest.raises(UserError, match=r"a\.zip: regions of several planes \(z position 1 and 2"):
        dataset(tmp_path, "masks")[0]


def test_an_archive_that_would_fill_the_memory(tmp_path: Path) -> None:
    (tmp_path / "masks").mkdir()
    with zipfile.ZipFile(tmp_path / "masks/a.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("a.roi", bytes(2**28 + 1))
    with pytest.raises(UserError, match=r"a\.zip: \d+ bytes that would take 0\.3 GiB in memory"):
        dataset(tmp_path, "masks")[0]


def test_the_image_tells_the_size_where_the_file_does_not(tmp_path: Path) -> None:
    AWAY_FILE = tmp_path / "a.geojson"
    AWAY_FILE.write_text(json.dumps([]))
    with pytest.raises(UserError, match=r"a\.geojson: does not tell the size of its image; give"):
        TruthReader().read("a", [AWAY_FILE])
