"""What it is worth to know how large objects are: DSB2018 at half, at its own and at double size.

    python benchmarks/size.py --root DATA/dsb2018 --work FOLDER

Three networks are trained alike, but one sees all images magnified so that their nuclei have one
median diameter (``preprocess.diameter``), and one a wider range of random magnification. Each then
predicts the validation images at three sizes, resampled as a microscope of another magnification
would show them; the first two also find the magnification (``diameter="auto"``). What is trained
already is taken from ``--work`` when the command is started again.
"""

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch
from common import Report, add_root, arguments
from tqdm import tqdm

import segmentation
from segmentation.data.resize import resize_image, resize_labels, scaled_size
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.experiments.process import run_fit
from segmentation.metrics import ScoreTable
from segmentation.objects import median_diameter, renumber

DIAMETER = 24.0
SIZES = (0.5, 1.0, 2.0)
NETWORKS = {
    "at its own size": (),
    "zoom 0.4 to 2.5": ("--data.zoom", "[0.4, 2.5]"),
    "one diameter": ("--model.preprocess.diameter", str(DIAMETER)),
}


def trained(name: str, more: tuple[str, ...], options: Any) -> Path:
    """The run's folder."""
    title = name.replace(" ", "_")
    home: Path = options.work / title
    if done := sorted(home.glob("*/scores.json")):
        return done[-1].parent
    common = ["--config", "dsb2018/unet_small", "--data.root", str(options.root)]
    common += ["--model.net.width", str(options.width), "--run.root", str(options.work)]
    common += ["--trainer.max_epochs", str(options.epochs), "--run.name", title]
    bar = tqdm(total=1.0, disable=None)
    found = run_fit([*common, *more], home, options.work / f"{title}.log", name, bar)
    if found is None:
        raise SystemExit(1)
    return found[0]


def scores(run: Path, images: list[tuple[np.ndarray, np.ndarray]], told: str) -> dict[str, float]:
    """IoU per image and AP50 of one network, pooled; ``told`` is what it knows of the size."""
    model = segmentation.load(run / "checkpoints" / "best.ckpt", device="cpu")
    diameters = [median_diameter(np.bincount(labels.reshape(-1))[1:]) for _, labels in images]
    usual = float(np.median([d for d in diameters if d is not None]))
    table = ScoreTable(model.target.threshold)
    for number, ((image, labels), own) in enumerate(zip(images, diameters, strict=True)):
        if told == "one number for all":
            model.diameter = usual
        elif told == "each image's own":
            model.diameter = own or usual
        given: Any = "auto" if told == "nothing, finding it" else None
        found: Any = model.predict(image, probabilities=True, diameter=given)
        pair = torch.from_numpy(labels)[None], torch.from_numpy(found.labels)[None]
        table.update(*pair, torch.from_numpy(found.probabilities)[None], ids=[str(number)])
    values = table.compute()
    return {name: float(values[name]) for name in ("image_iou", "iou", "ap50", "image_ap")}


def main() -> None:
    """Train, predict at three sizes, report."""
    parser = arguments("size", __doc__)
    add_root(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--width", type=int, default=8, help="of the network")
    options = parser.parse_args()
    if options.root is None:
        parser.error("--root: the folder of DSB2018")
    runs = {name: trained(name, more, options) for name, more in NETWORKS.items()}
    split = json.loads((next(iter(runs.values())) / "split.json").read_text())
    data = DSB2018(str(options.root))
    samples = [data.read(record) for record in data.records if record.id in set(split["val"])]
    expected = "a network that is told the diameter loses little at half and double size"
    settings = {"epochs": options.epochs, "width": options.width, "diameter": DIAMETER}
    report = Report("size", expected, {**settings, "images": len(samples), "part": "val"})
    for size in SIZES:
        images = []
        for sample in samples:
            assert sample.labels is not None
            new = scaled_size(sample.labels.shape, size)
            labels = renumber(resize_labels(sample.labels, new)).astype(np.int32)
            images.append((resize_image(sample.image, new), labels))
        for name, run in runs.items():
            ways: tuple[str, ...] = ("nothing", "nothing, finding it")
            if name == "one diameter":
                ways = ("the training images' alone", "one number for all", "each image's own")
            for told in ways:
                for score, value in scores(run, images, told).items():
                    report.add(f"size {size:g}, {name}, told {told}: {score}", score, [value])
    report.finish(options.output)


if __name__ == "__main__":
    main()
