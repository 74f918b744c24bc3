"""Train the network of nuclei that comes with the package, and put it where it belongs.

    python benchmarks/nuclei.py --root DATA --work FOLDER --minutes 60

It learns from the training images of DSB2018 (random split, seed 0) and of BBBC039 (official list),
both CC0, as ``configs/dsb2018/generalist.yaml`` says. Fields of one may be in the other: what is a
duplicate, or nearly one, of a validation or test image of either is left out of training. The last
test looks at the test images of both, by themselves. Written are ``segmentation/networks/
nuclei.ckpt`` in half precision, and the scores as JSON. The licence is that of the weights that the
encoder starts from.
"""

import json
import os
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import yaml
from common import HERE, Report, arguments
from sources import SCORES, fill, listed

from segmentation.config_files import merged
from segmentation.data.cache import decoded
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import PARTS, Record, Sample, SegmentationDataset, Split
from segmentation.data.splits import OfficialSplit, RandomSplit, Splitter
from segmentation.datasets.bbbc039 import BBBC039
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.evaluation.audit.duplicates import find_duplicates
from segmentation.networks import FOLDER

NEAR = 0.4  # as ``segmentation audit`` has it


class Nuclei(SegmentationDataset):
    """DSB2018 and BBBC039, as one data set.

    Args:
        root: Folder with ``dsb2018`` and ``bbbc039``.
    """

    name = "nuclei"

    def __init__(self, root: str | Path) -> None:
        self.parts = DSB2018(Path(root, "dsb2018")), BBBC039(Path(root, "bbbc039"))
        self._of: dict[str, SegmentationDataset] = {}

    def index(self) -> Sequence[Record]:
        """All images of both."""
        # Without the groups of one of the two: intervals are of single images.
        found = [(replace(r, group=""), part) for part in self.parts for r in part.index()]
        self._of = {record.id: part for record, part in found}
        return [record for record, _ in found]

    def read(self, record: Record) -> Sample:
        """One image with its nuclei; its kind is BBBC039, where it is of that."""
        part = self._of[record.id]
        sample = part.read(record)
        return replace(sample, kind=sample.kind or part.name)

    @staticmethod
    def source_of(name: str) -> str:
        """One of DSB2018's, or the plate of BBBC039."""
        return DSB2018.source_of(name) or BBBC039.source_of(name)


class NucleiDataModule(SegmentationDataModule):
    """Both data sets.

    Args:
        root: Folder with ``dsb2018`` and ``bbbc039``.
        split: Lists, which this script makes.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter, **kwargs: Any) -> None:
        super().__init__(Nuclei(root), split, **kwargs)


def divided(root: Path) -> tuple[Split, list[str], dict[str, str]]:
    """The split of both, what is left out of training, and the data set of each image."""
    every, of = {part: list[str]() for part in PARTS}, dict[str, str]()
    for dataset, splitter in (
        (DSB2018(root / "dsb2018"), RandomSplit(val=50, test=100, seed=0)),
        (BBBC039(root / "bbbc039"), OfficialSplit()),
    ):
        entries = decoded(dataset).entries
        split = splitter(entries)
        for part in PARTS:
            every[part] += getattr(split, part)
        of |= {entry.id: entry.kind or dataset.name for entry in entries}
    held = {*every["val"], *every["test"]}
    pairs = find_duplicates(decoded(Nuclei(root)), NEAR).pairs
    near = {a for p in pairs for a, b in ((p.first, p.second), (p.second, p.first)) if b in held}
    left_out = sorted(near - held)
    train = tuple(name for name in every["train"] if name not in near)
    return Split(train, tuple(every["val"]), tuple(every["test"])), left_out, of


def main() -> None:
    parser = arguments("nuclei", __doc__)
    parser.add_argument("--root", type=Path, required=True, help="with dsb2018 and bbbc039")
    parser.add_argument("--work", type=Path, required=True, help="folder of the training")
    parser.add_argument("--minutes", type=float, default=60, help="processor time")
    parser.add_argument("--weights", default="imagenet", help="of the encoder: imagenet, or a file")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    split, left_out, of = divided(options.root)
    print(f"{len(left_out)} training images left out: near a validation or test image")
    if not [*(options.work / "nuclei").glob("*/per_image.csv")]:
        train(split, options)
    (run,) = (path.parent for path in (options.work / "nuclei").glob("*/per_image.csv"))
    shipped = FOLDER / "nuclei.ckpt"
    shipped.unlink(missing_ok=True)
    best = run / "checkpoints" / "best.ckpt"
    words = [
        "export",
        f"--ckpt_path={best}",
        f"--output={shipped}",
        "--half",
        "--license=apache-2.0",
    ]
    subprocess.run([sys.executable, "-m", "segmentation", *words], check=True)
    report = Report("nuclei", "above classical on each kind", {"minutes": options.minutes})
    report.note(f"{len(left_out)} training images left out: near a validation or test image.")
    report.note(f"{len(split.train)} images trained, {len(split.val)} chose epoch and decoding.")
    images = pd.read_csv(run / "per_image.csv")
    images["of"] = images.id.map(of)
    for (kind, method), part in images.groupby(["of", "method"], sort=False):
        report.add(f"{kind}, {method}: images", "", [len(part)])
        for score, title in SCORES.items():
            report.add(f"{kind}, {method}: {title}", "", [float(part[score].mean())])
    spent = json.loads((run / "resources.json").read_text())["cpu_seconds"]
    report.add("processor time", "s", [spent])
    report.finish(options.output)


def train(split: Split, options: Any) -> None:
    """One training, and its test."""
    parts = {part: getattr(split, part) for part in PARTS}
    config = merged("dsb2018/generalist")
    config["run"] = {"name": "nuclei", "root": str(options.work), "wandb": "off"}
    data = config["data"]
    data["class_path"] = "nuclei.NucleiDataModule"
    lists = listed(parts, options.work)
    data["init_args"] |= {"root": str(options.root), "num_workers": 0, "split": lists}
    counts = {part: len(ids) for part, ids in parts.items()}
    fill(config, options.minutes * 60, counts, options.weights)
    (file := options.work / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    paths = os.pathsep.join([str(HERE), os.environ.get("PYTHONPATH", "")])
    words = [sys.executable, "-m", "segmentation", "fit", f"--config={file}"]
    subprocess.run(words, check=True, env=os.environ | {"PYTHONPATH": paths})


if __name__ == "__main__":
    main()
