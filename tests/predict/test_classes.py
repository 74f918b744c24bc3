"""What predict writes where objects have classes, of images in memory and from disk to disk."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tifffile
import torch
from roifile import roiread
from torch import Tensor, nn

from segmentation.__main__ import main
from segmentation.app.server import result
from segmentation.checkpoints import build_task, load_task
from segmentation.evaluation.overlays import class_colour
from segmentation.io.files import sha256_of
from segmentation.io.images import read_image, read_mask
from segmentation.predict import large, outputs
from segmentation.targets import Target
from tests.predict.predicting import argv, rows

NAMES = ["red", "green", "blue"]
CONFIG: dict[str, Any] = {
    "class_path": "segmentation.task.SegmentationTask",
    "init_args": {
        "net": {"class_path": "tests.predict.test_classes.Colours"},
        "loss": {
            "class_path": "segmentation.losses.ObjectsAndClasses",
            "init_args": {"objects": {"class_path": "segmentation.losses.BCEDice"}, "classes": 3},
        },
        "target": {
            "class_path": "segmentation.targets.WithClasses",
            "init_args": {
                "objects": {
                    "class_path": "segmentation.targets.Foreground",
                    "init_args": {"min_size": 4},
                },
                "names": NAMES,
            },
        },
        "preprocess": {"channels": "rgb", "mean": [0, 0, 0], "std": [1, 1, 1]},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}


class Colours(nn.Module):
    """Bright is foreground, the brightest colour is the class."""

    stride, in_channels, classes = 1, 3, 5

    def __init__(self) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.tensor(20.0))

    def forward(self, image: Tensor) -> Tensor:
        bright = image.amax(1, keepdim=True)
        return self.gain * torch.cat([bright - 0.5, torch.zeros_like(bright), image], 1)


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    task = build_task(CONFIG)
    about = {"config": CONFIG, "preprocess": task.preprocess.plain(), "trained_on": {}}
    path = tmp_path / "classes.ckpt"
    torch.save({"state_dict": task.state_dict(), "segmentation": about}, path)
    return path


def blocks(height: int = 60, width: int = 80) -> tuple[np.ndarray, np.ndarray]:
    """Rectangles, each mostly of one colour with some of another, and their classes as pixels."""
    image, kinds = np.zeros((height, width, 3), np.uint8), np.zeros((height, width), np.uint8)
    rng = np.random.default_rng(0)
    for y in range(3, height - 12, 16):
        for x in range(3, width - 12, 14):
            tall = int(rng.integers(6, 12))
            number, other = 1 + rng.integers(0, 3), int(rng.integers(0, 3))
            image[y : y + tall, x : x + 9, number - 1] = 250
            image[y : y + 2, x : x + 9] = 0
            image[y : y + 2, x : x + 9, other] = 250
            kinds[y : y + tall, x : x + 9] = number
    return image, kinds


def test_every_output_carries_the_class(checkpoint: Path, tmp_path: Path) -> None:
    image, kinds = blocks()
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", image, photometric="rgb")
    out = tmp_path / "out"
    more = ("--overlays", "--geojson", "--rois", "--labels=tiff")
    assert main(argv(checkpoint, tmp_path / "images", out, *more)) == 0
    np.testing.assert_array_equal(read_mask(out / "masks/a.tif"), kinds)
    labels = read_mask(out / "labels/a.tif")
    of_id = {int(i): int(kinds[labels == i][0]) for i in np.unique(labels) if i}
    objects = rows(out / "objects.csv")
    assert list(objects[0])[:4] == ["image", "plane", "object", "class"]
    assert {int(r["object"]): NAMES.index(r["class"]) + 1 for r in objects} == of_id
    (about,) = rows(out / "images.csv")
    counts = np.bincount([*of_id.values()], minlength=4)[1:]
    assert [int(about[f"objects/{name}"]) for name in NAMES] == counts.tolist()
    for feature in json.loads((out / "geojson/a.geojson").read_text())["features"]:
        number = of_id[int(feature["properties"]["name"])]
        expected = {"name": NAMES[number - 1], "color": list(class_colour(number))}
        assert feature["properties"]["classification"] == expected
    regions: Any = roiread(out / "rois/a.zip")
    assert {int(roi.name): roi.group for roi in regions} == of_id
    tinted = read_image(out / "overlays/a.png").astype(int)
    shown = image.astype(float)
    for number in (1, 2, 3):
        where = kinds == number
        expected = (shown[where] + class_colour(number)) / 2
        assert np.abs(tinted[where] - expected).max() <= 4
    np.testing.assert_array_equal(tinted[kinds == 0], image[kinds == 0])
    manifest = json.loads((out / "manifest.json").read_text())
    assert manifest["settings"]["target"]["objects"]["min_size"] == 4


def test_votes_of_pieces_are_summed(
    checkpoint: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image, kinds = blocks(300, 80)
    image[100:260, 60:70], kinds[100:260, 60:70] = 0, 0
    image[100:170, 60:70, 0] = image[170:260, 60:70, 1] = 250  # two colours over many blocks
    image[96:100, 55:75], image[260:264, 55:75] = 0, 0
    (tmp_path / "images").mkdir()
    tifffile.imwrite(tmp_path / "images/a.tif", image, photometric="rgb", tile=(64, 64))
    whole, streamed = tmp_path / "whole", tmp_path / "streamed"
    more = ("--overlays", "--geojson", "--rois", "--labels=tiff")
    assert main(argv(checkpoint, tmp_path / "images", whole, *more)) == 0
    monkeypatch.setattr(outputs, "STREAMED", 100)
    monkeypatch.setattr(large, "_BLOCK", 40 * 80)
    monkeypatch.delattr(outputs, "plane_in_memory")  # which is not used then
    assert main(argv(checkpoint, tmp_path / "images", streamed, *more)) == 0
    for kind in ("masks/a.tif", "overlays/a.png"):
        first, second = (tifffile.imread(out / kind) if kind.endswith("tif") else
                         read_image(out / kind) for out in (whole, streamed))  # fmt: skip
        np.testing.assert_array_equal(first, second)
    assert (tifffile.imread(streamed / "masks/a.tif")[110:250, 62:68] == 2).all()
    both = [rows(out / "objects.csv") for out in (whole, streamed)]
    places = [{(r["top"], r["left"], r["class"]) for r in some} for some in both]
    assert places[0] == places[1] and len(both[0]) > 20


def test_python_and_the_page(checkpoint: Path, tmp_path: Path) -> None:
    image, kinds = blocks()
    predictor = load_task(checkpoint).predictor
    found: Any = predictor.predict(image, measurements=True)
    np.testing.assert_array_equal(found.classes[found.labels], kinds)
    assert found.measurements.columns[:3].tolist() == ["object", "class", "area"]
    assert set(found.measurements["class"]) <= {*NAMES}
    path = tmp_path / "a.tif"
    tifffile.imwrite(path, image, photometric="rgb")
    text = result(predictor, "a.tif", path.read_bytes(), str(tmp_path))
    assert "red: orange, green: light blue, blue: green" in text and "objects/blue" in text


def test_tuned_settings_are_those_of_the_objects(checkpoint: Path) -> None:
    tuned = {"threshold": 0.3, "min_size": 30, "fill_holes": False, "seed_distance": 0}
    content = {"checkpoint_sha256": sha256_of(checkpoint), "target": tuned}
    checkpoint.with_suffix(".tuned.json").write_text(json.dumps(content))
    target: Target = load_task(checkpoint).target
    assert (target.threshold, target.min_size) == (0.3, 30)
