"""What keeps a score on another microscope: trainings that leave sources of DSB2018 out.

    python benchmarks/sources.py --root DATA/dsb2018 --work FOLDER --minutes 12

Three folds of whole sources. Each row of ``sources.yaml`` is trained once a fold for the same
processor time, one thread, and tuned on its validation images. It is scored on the sources that
were left out, and on images of the sources that it was trained on (every seventh of them), beside
Otsu's threshold and the classical baseline. What is done is taken from ``--work`` when the command
is started again; two of them with other ``--rows`` may run side by side.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import pandas as pd
import yaml
from common import Report, add_root, arguments

from segmentation.config_files import merged
from segmentation.data.cache import decoded
from segmentation.data.sources import SourceSplit, with_sources
from segmentation.data.splits import RandomSplit
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.experiments.plan.timing import measure

HERE = Path(__file__).resolve().parent
ROWS: dict[str, Any] = yaml.safe_load((HERE / "sources.yaml").read_text())
FOLDS, HOME, VAL = 3, 1 / 7, 40
SCORES = {"iou": "IoU", "ap50": "AP50", "ap": "AP .5-.95"}  # each the mean over images
PLACES = ("elsewhere", "at home")
AROUND = 30.0  # seconds: to start, to tune and to write pages


@cache
def folds(root: Path) -> list[tuple[dict[str, list[str]], dict[str, str]]]:
    """Ids of train, val and test in each fold; and the source of each test image, "" at home."""
    dataset = DSB2018(root)
    entries = with_sources(decoded(dataset).entries, dataset)
    made = []
    for fold in range(FOLDS):
        out = set(SourceSplit().fold(entries, fold, FOLDS).test)
        rest = [entry for entry in entries if entry.id not in out]
        inner = RandomSplit(val=VAL, test=round(HOME * len(rest)), seed=fold)(rest)
        of = {e.id: e.group if e.id in out else "" for e in entries}
        parts = {"train": [*inner.train], "val": [*inner.val], "test": [*inner.test, *out]}
        made.append((parts, {one: of[one] for one in parts["test"]}))
    return made


def configured(row: str, fold: int, seed: int, options: argparse.Namespace) -> dict[str, Any]:
    """The config of a training, whose epochs fill the processor time."""
    name = f"{row}-{fold}-{seed}"
    parts, _ = folds(options.root)[fold]
    own = options.work / f"{name}.yaml"
    split = listed(parts, options.work, f"fold{fold}-")
    common = {
        "seed_everything": seed,
        "run": {"name": name, "root": str(options.work / "runs"), "wandb": "off"},
        "data": {
            "init_args": {
                "root": str(options.root),
                "num_workers": 0,
                "batch_size": 4,
                "split": split,
            }
        },
    }
    base = own.with_suffix(".base.yaml")
    base.write_text(yaml.safe_dump({"compose": ["dsb2018/encoder_unet"], **common}))
    own.write_text(yaml.safe_dump({"compose": [base.name], **ROWS[row]["config"]}))
    config = merged(own)
    fill(
        config,
        options.minutes * 60,
        {part: len(ids) for part, ids in parts.items()},
        options.weights,
    )
    own.write_text(yaml.safe_dump(config, sort_keys=False))
    return config


def listed(parts: Mapping[str, Sequence[str]], folder: Path, start: str = "") -> dict[str, Any]:
    """The split of these parts, as a config has it; their ids become files in ``folder``."""
    files = {}
    for part, ids in parts.items():
        (file := folder / f"{start}{part}.txt").write_text("\n".join(sorted(ids)) + "\n")
        files[part] = str(file)
    return {"class_path": "segmentation.data.splits.ListSplit", "init_args": files}


def fill(config: dict[str, Any], seconds: float, parts: dict[str, int], weights: str) -> None:
    """Set the weights of the encoder, and as many epochs as fit the processor time.

    Args:
        config: As ``fit`` takes it.
        seconds: Of the training and the test at its end.
        parts: How many images train, validate and test.
        weights: A file, or a name that timm knows.
    """
    net = config["model"]["init_args"]["net"]["init_args"]
    net["encoder_weights"] = None  # a step takes as long without
    speed = measure(config, clock=time.process_time)
    net["encoder_weights"] = weights
    assert speed is not None
    usable = seconds - AROUND - speed.fill - parts["test"] * speed.image
    steps = parts["train"] // config["data"]["init_args"]["batch_size"]
    epoch = steps * speed.step + parts["val"] * speed.image
    config["trainer"]["max_epochs"] = max(1, round(usable / epoch))


def trained(row: str, fold: int, seed: int, options: argparse.Namespace) -> Path:
    """The folder of a training's run, made where it is missing."""
    name = f"{row}-{fold}-{seed}"
    kept = options.work / f"{name}.json"
    if not kept.exists():
        epochs = configured(row, fold, seed, options)["trainer"]["max_epochs"]
        begun = os.times()
        with (options.work / f"{name}.log").open("w") as log:
            words = ["fit", f"--config={options.work / f'{name}.yaml'}"]
            subprocess.run(
                [sys.executable, "-m", "segmentation", *words],
                stdout=log,
                stderr=subprocess.STDOUT,
                check=True,
            )
        ended = os.times()
        (found,) = (p.parent for p in (options.work / "runs" / name).glob("*/per_image.csv"))
        spent = ended.children_user + ended.children_system
        spent -= begun.children_user + begun.children_system
        about = {"run": str(found.relative_to(options.work)), "epochs": epochs, "seconds": spent}
        kept.write_text(json.dumps(about))
        print(f"{name}: {epochs} epochs, {spent:.0f} s", flush=True)
    return Path(options.work, json.loads(kept.read_text())["run"])


def images_of(rows: list[str], options: argparse.Namespace) -> pd.DataFrame:
    """A row for each image, row, fold and method, of what was trained."""
    found = []
    for fold, (_, sources) in enumerate(folds(options.root)):
        for row in rows:
            kept = options.work / f"{row}-{fold}-{options.seed}.json"
            if kept.exists():
                run = options.work / json.loads(kept.read_text())["run"]
                scores = pd.read_csv(run / "per_image.csv")
                scores["source"] = scores.id.map(sources)
                found.append(scores.assign(row=row, fold=fold))
    return pd.concat(found)


def table(figures: list[dict[str, Any]]) -> str:
    """What was measured, as Markdown."""
    value = {figure["what"]: figure["median"] for figure in figures}
    known = {"otsu": "Otsu's threshold", "classical": "the classical baseline"}
    known |= {name: row["about"] for name, row in ROWS.items()}
    names = [name for name in known if f"{name}, {PLACES[0]}: IoU" in value]
    heads = [f"{title}, {place}" for place in PLACES for title in SCORES.values()]
    lines = [["", *heads], ["---"] * (1 + len(heads))]
    for name in names:
        cells = [value[f"{name}, {place}: {t}"] for place in PLACES for t in SCORES.values()]
        lines.append([known[name], *(f"{cell:.3f}".removeprefix("0") for cell in cells)])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines) + "\n"


def main() -> None:
    parser = arguments("sources", __doc__)
    add_root(parser)
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--minutes", type=float, default=12, help="processor time of a training")
    parser.add_argument("--rows", nargs="+", choices=ROWS, default=[*ROWS])
    parser.add_argument("--folds", nargs="+", type=int, default=[*range(FOLDS)])
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--weights", default="imagenet", help="of the encoder: imagenet, or a file")
    parser.add_argument("--train-only", action="store_true", help="write no table")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    for fold in options.folds:
        for row in options.rows:
            trained(row, fold, options.seed, options)
    if options.train_only:
        return
    settings = {"minutes": options.minutes, "folds": FOLDS, "seed": options.seed}
    expected = "elsewhere .08 of IoU and .10 of AP50 above today's recipe, at home .01 lost at most"
    report = Report("sources", expected, settings)
    images = images_of([row for row in ROWS if row in options.rows], options)
    images["place"] = images.source.where(images.source == "", PLACES[0]).replace("", PLACES[1])
    network = images[images.method == "network"]
    done = network.groupby("row").fold.nunique()
    for row, count in done[done < FOLDS].items():
        report.note(f"{row}: {count} of {FOLDS} folds, so it is left out")
    network = network[network.row.map(done) == FOLDS]
    first = images[images.row == done.idxmax()]
    methods = {m: first[first.method == m] for m in ("otsu", "classical")}
    for name, part in [*methods.items(), *network.groupby("row", sort=False)]:
        for place in PLACES:
            # Sources count alike, however many images they have.
            by = part[part.place == place].groupby("source")[[*SCORES]].mean()
            for score, title in SCORES.items():
                report.add(f"{name}, {place}: {title}", "", [float(by[score].mean())])
    for (name, source), part in network[network.source != ""].groupby(["row", "source"]):
        report.add(f"{name}, {source}: IoU", "", [float(part.iou.mean())])
    print(table(report.figures))
    report.finish(options.output)


if __name__ == "__main__":
    main()
