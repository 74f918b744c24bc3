"""What is lost where only little is annotated: two windows an image, or scribbles of 2 % of it.

The same network is trained for the same number of steps on the same training images, annotated as
a whole, in two random windows of 64² each, or by strokes of two pixels' width that stay within an
object or the background. The test images are annotated as a whole. Fluorescence images alone.
"""

import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import torch
from common import Report, add_root, arguments, dsb2018
from lightning import Trainer, seed_everything

from segmentation.data.cache import decoded
from segmentation.data.datamodule import DataFiles, SegmentationDataModule
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Item, Record, Sample, SegmentationDataset, Split
from segmentation.data.samplers import Sampling
from segmentation.data.splits import Splitter
from segmentation.losses import BCEDice, BCEDiceDistance, WeightedCrossEntropy
from segmentation.models import UNet
from segmentation.targets import Contour, Distance, Foreground, Target
from segmentation.task import SegmentationTask

TARGETS: dict[str, Any] = {
    "Foreground": (Foreground, BCEDice),
    "Distance": (Distance, BCEDiceDistance),
    "Contour": (Contour, WeightedCrossEntropy),
}


class Partly(SegmentationDataset):
    """A data set of which the training images are annotated in part."""

    def __init__(self, source: SegmentationDataset, split: Split, how: str) -> None:
        self.source, self.split, self.how, self.name = source, split, how, f"{source.name}-{how}"

    def index(self) -> list[Record]:
        every = {name for part in ("train", "val", "test") for name in getattr(self.split, part)}
        return [record for record in self.source.index() if record.id in every]

    def read(self, record: Record) -> Sample:
        sample = self.source.read(record)
        if self.how == "all" or record.id not in self.split.train:
            return sample
        rng = np.random.default_rng([*record.id.encode()])
        assert sample.labels is not None
        known = {"windows": windows, "scribbles": scribbles}[self.how](sample.labels, rng)
        sample.labels[~known] = -1
        return sample


def windows(labels: np.ndarray, rng: np.random.Generator, side: int = 64) -> np.ndarray:
    """Two windows, which may overlap."""
    known = np.zeros(labels.shape, bool)
    for _ in range(2):
        top, left = (int(rng.integers(max(1, whole - side + 1))) for whole in labels.shape)
        known[top : top + side, left : left + side] = True
    return known


def scribbles(labels: np.ndarray, rng: np.random.Generator, share: float = 0.02) -> np.ndarray:
    """Strokes, in turn on objects and on the background, until a share of the pixels is covered."""
    known, turn = np.zeros(labels.shape, bool), 0
    while known.mean() < share:
        own = labels > 0 if turn % 2 and labels.any() else labels == 0
        row, column = rng.choice(np.argwhere(own))
        angle, length = rng.uniform(0, 2 * np.pi), rng.integers(8, 24)
        end = int(column + length * np.cos(angle)), int(row + length * np.sin(angle))
        stroke = np.zeros(labels.shape, np.uint8)
        cv2.line(stroke, (int(column), int(row)), end, 1, 2)
        known |= (stroke > 0) & own & (labels == labels[row, column])
        turn += 1
    return known


class Given(Splitter):
    """A split that was made before."""

    def __init__(self, split: Split) -> None:
        self.split = split

    def __call__(self, items: Sequence[Item]) -> Split:
        return self.split


def score(source: SegmentationDataset, split: Split, how: str, name: str, args: Any) -> Any:
    """Train, and the scores on the test images; the first is the annotated share in percent."""
    seed_everything(0, verbose=False)
    target: Target = TARGETS[name][0]()
    data = SegmentationDataModule(
        Partly(source, split, how),
        Given(split),
        crop=args.crop,
        sampling=Sampling(length=args.draws, seed=0),
        num_workers=0,
        files=DataFiles(cache=args.cache),
        preprocess=Preprocess("gray"),
        target=target,
    )
    net = UNet(in_channels=1, classes=target.classes, width=args.width)
    optimizer = partial(torch.optim.AdamW, lr=3e-3)
    schedule = partial(torch.optim.lr_scheduler.CosineAnnealingLR, T_max=args.epochs)
    loss = TARGETS[name][1]()
    task = SegmentationTask(net, loss, target, data.preprocess, optimizer, schedule)
    quiet: dict[str, Any] = {
        "logger": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    trainer = Trainer(
        max_epochs=args.epochs, enable_checkpointing=False, limit_val_batches=0, **quiet
    )
    trainer.fit(task, datamodule=data)
    entries = data.parts["train"].entries
    known = 1 - sum(e.unannotated for e in entries) / sum(np.prod(e.image[1][:2]) for e in entries)
    scores = trainer.test(task, datamodule=data, verbose=False)[0]
    return 100 * known, {k: scores[f"test/{k}"] for k in ("image_iou", "ap50")}


def main() -> None:
    parser = arguments("annotation", __doc__)
    add_root(parser)
    for option, value in (("images", 60), ("epochs", 20), ("draws", 64), ("crop", 128)):
        parser.add_argument(f"--{option}", type=int, default=value)
    parser.add_argument("--width", type=int, default=8)
    parser.add_argument("--targets", nargs="+", default=["Foreground", "Distance"])
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        source, about, place = dsb2018(args.root, Path(scratch), args.images)
        args.cache = place
        store = decoded(source, None if place is None else Path(place))
        some = [e.id for e in store.entries if e.kind == "fluorescence" and e.objects]
        some = some[:: max(1, len(some) // args.images)][: args.images]
        third = len(some) // 3
        split = Split(tuple(some[third:]), tuple(some[:2]), tuple(some[2:third]))
        expected = "windows lose a few points of IoU, scribbles more; Distance needs whole objects"
        settings = {"data": about, "train": len(split.train), "test": len(split.test)}
        keys = ("epochs", "draws", "crop", "width")
        report = Report(
            "annotation", expected, settings | {key: getattr(args, key) for key in keys}
        )
        for name in args.targets:
            for how in ("all", "windows", "scribbles"):
                if how == "scribbles" and name == "Distance":
                    continue  # no object is whole: there is nothing to learn
                known, found = score(source, split, how, name, args)
                for key, value in found.items():
                    what = f"{name}, {how} ({known:.1f} % annotated): {key}"
                    report.add(what, "%", [100 * value])
    report.finish(args.output)


if __name__ == "__main__":
    main()
