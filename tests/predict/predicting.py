"""A network whose answer is known, images for it, and the command that predicts them."""

import csv
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from segmentation.checkpoints import build_task, read_checkpoint
from segmentation.datasets.synthetic import write_folder

ALL = ("--labels", "--probabilities", "--overlays", "--geojson", "--rle", "--rois")
CONFIG: dict[str, Any] = {
    "class_path": "segmentation.task.SegmentationTask",
    "init_args": {
        "net": {"class_path": "tests.tiny.Tiny"},
        "loss": {"class_path": "segmentation.losses.BCEDice"},
        "target": {
            "class_path": "segmentation.targets.Foreground",
            "init_args": {"threshold": 0.5},
        },
        "preprocess": {"channels": 3},
        "optimizer": {"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1}},
    },
}


def make_checkpoint(path: Path) -> Path:
    """Foreground is what is brighter than .4 of an image's range."""
    task = build_task(CONFIG)
    net: Any = task.net
    with torch.no_grad():
        for parameter in net.parameters():
            parameter.zero_()
        net.body.weight[0, :, 1, 1] = 1 / 3
        net.heads[0].weight[0, 0, 1, 1] = 20
        net.heads[0].bias[0] = -8
    about = {"config": CONFIG, "preprocess": task.preprocess.plain(), "trained_on": {}}
    torch.save({"state_dict": task.state_dict(), "segmentation": about}, path)
    return path


def altered(checkpoint: Path, path: Path, change: Callable[[dict[str, Any]], None]) -> Path:
    """A copy of a checkpoint with a changed config, and what weights still fit it."""
    content = read_checkpoint(checkpoint)
    config = content["segmentation"]["config"]
    change(config["init_args"])
    torch.manual_seed(1)
    task = build_task(config)
    mine = task.state_dict()
    fits = {
        k: v for k, v in content["state_dict"].items() if k in mine and mine[k].shape == v.shape
    }
    content["state_dict"] = mine | fits
    content["segmentation"]["preprocess"] = task.preprocess.plain()
    torch.save(content, path)
    return path


def make_images(tmp_path: Path) -> Path:
    """Images of several formats, sizes and channel counts, one in a subfolder."""
    folder = tmp_path / "images"
    kinds: list[tuple[Any, Any, Any]] = [(".png", 8, 3), (".tif", 16, 1), (".jpg", 8, 3)]
    for number, kind in enumerate(kinds):
        root = tmp_path / f"w{number}"
        write_folder(root, 1, number, "binary", *kind, size=(40 + number, 53))
        (image,) = (root / "images").iterdir()
        suffix = image.suffix
        target = folder / ("sub" if number == 1 else ".") / f"image{number}{suffix}"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(image, target)
    return folder


def argv(checkpoint: Path, images: Path, output: Path, *more: str) -> list[str]:
    paths = ["--ckpt_path", str(checkpoint), "--data.images", str(images), "--output", str(output)]
    return ["predict", *paths, "--device", "cpu", *more]


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
