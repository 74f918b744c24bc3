"""Configs that ``segmentation init --budget`` makes against the shipped ones, at the same budget.

    python benchmarks/plan.py --data DATA --work FOLDER --seconds 240

For each data set one training with the planned config as it is, and one with the shipped config,
whose epochs fill the same processor time; nothing else is set by hand. One thread, no loading
processes, one training at a time. Both are tuned on the validation images, and scored there unless
``--part test`` is given. What is done is taken from ``--work`` when the command is started again.
"""

import argparse
import json
import os
import subprocess
import sys
import time
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

os.environ["OMP_NUM_THREADS"] = "1"

import torch
import yaml
from common import Report, arguments

import segmentation
from segmentation.config_files import merged
from segmentation.data.cache import decoded
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.datasets.synthetic import write_folder
from segmentation.errors import UserError
from segmentation.experiments.plan.budget import EPOCH, MARGIN, START
from segmentation.experiments.plan.facts import machine_facts
from segmentation.experiments.plan.made import make_plan
from segmentation.experiments.plan.timing import data_module, measure
from segmentation.experiments.plan.written import as_yaml
from segmentation.metrics import ScoreTable

SCORES = ("image_iou", "iou", "ap50", "image_ap")


@dataclass(frozen=True)
class Case:
    """A data set.

    Attributes:
        kind: As ``segmentation init`` calls it.
        shipped: The config made by hand.
        root: Below ``--data``; none: synthetic.
        options: How the data are read, for both.
    """

    kind: str
    shipped: str
    root: str = ""
    options: tuple[str, ...] = ()


def of_kinds(kinds: str, shares: tuple[int, int]) -> tuple[str, ...]:
    """The images of DSB2018 whose kind begins like this; how many validate and test."""
    val, test = shares
    return (
        f"--data.files.corrections={kinds}",
        f"--data.split.val={val}",
        f"--data.split.test={test}",
    )


CASES = {
    "DSB2018 fluorescence": Case(
        "dsb2018", "dsb2018/unet_small", "dsb2018", of_kinds("fluorescence", (41, 82))
    ),
    "DIC-HeLa, film 02": Case("dic_hela", "dic_hela/unet_border", "dic_hela"),
    "BBBC039": Case("bbbc039", "bbbc039/unet", "bbbc039"),
    "synthetic": Case("folder", "folder", "", ("--data.mask_type=labels",)),
    "DSB2018 histology": Case(
        "dsb2018", "dsb2018/unet_small", "dsb2018", of_kinds("histology", (16, 22))
    ),
}


def prepared(case: Case, work: Path, data: Path | None) -> tuple[Path, list[str]]:
    """Where the data are, and the options; what is missing is made."""
    if not case.root:
        root = work / "synthetic"
        if not root.exists():
            write_folder(root, 60, masks="labels")
        return root, [*case.options]
    if data is None:
        raise SystemExit("--data: the folder of the data sets")
    options = []
    for option in case.options:
        name, _, value = option.partition("=")
        if name == "--data.files.corrections":
            file = work / f"{value}.yaml"
            if not file.exists():
                entries = decoded(DSB2018(data / case.root)).entries
                file.write_text(
                    yaml.safe_dump(
                        {"drop": [e.id for e in entries if not e.kind.startswith(value)]}
                    )
                )
            option = f"{name}={file}"
        options.append(option)
    return data / case.root, options


def planned(case: Case, root: Path, options: list[str], seconds: float) -> tuple[str, Any]:
    """The planned config as text, and what is expected of it."""
    one = replace(machine_facts(), cores=1)
    seen = [option for option in options if "mask_type" not in option]  # it finds out by itself
    made = make_plan(case.kind, seen, seconds, root, None, time.process_time, one)
    about = {"size": made.size._asdict(), **asdict(made.schedule), "speed": asdict(made.speed)}
    return as_yaml(made, "planned"), about


def by_hand(case: Case, root: Path, options: list[str], seconds: float) -> tuple[str, Any]:
    """The shipped config, with as many whole epochs as fit."""
    config = merged(case.shipped)
    data, values = data_module(
        {"data": config["data"]}, [f"--data.root={root}", "--data.num_workers=0", *options]
    )
    typed = {option.removeprefix("--data.").partition("=")[0].split(".")[0] for option in options}
    own = config["data"]["init_args"]
    own |= {name: values[name] for name in (*typed, "root", "num_workers")}
    speed = measure(config, clock=time.process_time)
    assert speed is not None
    split = data.divided(data.raw.entries)
    around = 2 * START + speed.fill + (2 * len(split.test) + 2) * speed.image
    epoch = len(split.train) // values["batch_size"] * speed.step
    epoch += len(split.val) * speed.image + EPOCH
    epochs = max(1, round((seconds * (1 - MARGIN) - around) / epoch))
    config["trainer"]["max_epochs"] = epochs
    return yaml.safe_dump(config, sort_keys=False), {"epochs": epochs, "speed": asdict(speed)}


def trained(name: str, config: Path, work: Path, log: Path) -> tuple[Path, float]:
    """The run's folder, and the processor time that it took."""
    home = work / "runs" / name
    fit = ["fit", f"--config={config}", f"--run.root={work / 'runs'}", f"--run.name={name}"]
    begun = os.times()
    call([*fit, "--run.wandb=off", "--run.tune=false"], log)
    ended = os.times()
    (folder,) = (path.parent for path in home.glob("*/scores.json"))
    spent = ended.children_user + ended.children_system
    return folder, spent - begun.children_user - begun.children_system


def call(words: list[str], log: Path) -> None:
    """A command of the package; the benchmark ends if it fails."""
    with log.open("a") as file:
        command = [sys.executable, "-m", "segmentation", *words]
        if subprocess.run(command, stdout=file, stderr=subprocess.STDOUT).returncode:
            raise SystemExit(f"failed: {' '.join(words)} (log: {log})")


def scored(run: Path, part: str) -> dict[str, float]:
    """Of the tuned checkpoint."""
    model = segmentation.load(run / "checkpoints" / "best.ckpt", device="cpu")
    config = yaml.safe_load((run / "config.yaml").read_text())
    data, _ = data_module({"data": _reading(config["data"])})
    names = set(json.loads((run / "split.json").read_text())[part])
    table = ScoreTable(model.target.threshold)
    for entry, sample in zip(data.raw.entries, data.raw, strict=True):
        if entry.id in names:
            assert sample.labels is not None
            found: Any = model.predict(sample.image, probabilities=True)
            truth = torch.from_numpy(sample.labels.astype("int32"))[None]
            pair = truth, torch.from_numpy(found.labels)[None]
            table.update(*pair, torch.from_numpy(found.probabilities)[None], ids=[entry.id])
    values = table.compute()
    return {score: float(values[score]) for score in SCORES}


def _reading(data: dict[str, Any]) -> dict[str, Any]:
    """A run's data without what the task gives it."""
    own = {k: v for k, v in data["init_args"].items() if k not in ("preprocess", "target")}
    return {"class_path": data["class_path"], "init_args": own}


def one(name: str, arm: str, options: argparse.Namespace) -> dict[str, Any]:
    """Plan or fill, train, tune, score one arm of a case."""
    case, title = CASES[name], f"{name}-{arm}".lower().replace(" ", "_").replace(",", "")
    root, typed = prepared(case, options.work, options.data)
    config, log = options.work / f"{title}.yaml", options.work / f"{title}.log"
    text, about = (planned if arm == "planned" else by_hand)(case, root, typed, options.seconds)
    config.write_text(text)
    run, spent = trained(title, config, options.work, log)
    best = run / "checkpoints" / "best.ckpt"
    call(["tune", f"--config={run / 'config.yaml'}", f"--ckpt_path={best}", "--run.wandb=off"], log)
    return {"spent": spent, "run": str(run.relative_to(options.work)), **about}


def main() -> None:
    parser = arguments("plan", __doc__)
    parser.add_argument("--data", type=Path, help="folder with dsb2018, bbbc039 and dic_hela")
    parser.add_argument("--work", type=Path, required=True, help="folder of the trainings")
    parser.add_argument("--seconds", type=float, default=240, help="processor time of a training")
    parser.add_argument("--cases", nargs="+", choices=CASES, default=[*CASES])
    parser.add_argument("--part", choices=("val", "test"), default="val")
    options = parser.parse_args()
    options.work.mkdir(parents=True, exist_ok=True)
    expected = "at most .01 of IoU and .02 of AP50 behind, within the budget"
    report = Report("plan", expected, {"seconds": options.seconds, "part": options.part})
    for name in options.cases:
        for arm in ("planned", "shipped"):
            kept = options.work / f"{name}-{arm}.json"
            if not kept.exists():
                try:
                    kept.write_text(json.dumps(one(name, arm, options)))
                except UserError as error:
                    raise SystemExit(f"{name}, {arm}: {error}") from None
            about = json.loads(kept.read_text())
            report.add(f"{name}, {arm}: processor time", "s", [about["spent"]])
            report.add(f"{name}, {arm}: epochs", "", [about["epochs"]])
            for score, value in scored(options.work / about["run"], options.part).items():
                report.add(f"{name}, {arm}: {score}", "", [value])
            print(name, arm, about, flush=True)
    report.finish(options.output)


if __name__ == "__main__":
    main()
