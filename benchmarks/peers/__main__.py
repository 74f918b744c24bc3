"""Train StarDist, Cellpose, nnU-Net and our own methods for the same processor time; one table.

    python benchmarks/peers --data DATA --work WORK --budget 20m
    python benchmarks/peers --data DATA --work WORK --budget 20m --dataset bbbc039

Every method gets the same images (``export.py``), one thread and the same processor seconds of
training; its thresholds are chosen on the validation images by its own means. ``evaluate`` scores
its label maps of the test images. DATA holds the folders ``dsb2018`` and ``bbbc039``; what is done
is kept in WORK, and the same command goes on where it stopped. The environments of the others are
made in WORK, unless ``--python`` names one.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
import venv
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import yaml

HERE = Path(__file__).resolve().parent
sys.path[:0] = [str(HERE), str(HERE.parent), str(HERE.parents[1])]

from export import DATASETS, export  # noqa: E402

THREADS = ("OMP_NUM", "MKL_NUM", "OPENBLAS_NUM", "NUMBA_NUM", "TF_NUM_INTRAOP", "TF_NUM_INTEROP")
PHASES = ("train", "tune", "predict")
OTSU = "Otsu's threshold"
COLUMNS = {
    "IoU": "iou[]",
    "AP50": "ap50[]",
    "AP .5–.95 per image": "image_ap[]",
    "AP .5–.9": "ap_50_90",
    "PQ": "pq",
    "SEG": "seg",
}


@dataclass(frozen=True)
class Method:
    """One row.

    Attributes:
        name: As the table calls it.
        script: In this folder.
        environment: A key of the environments; ``None`` is this one.
        options: More arguments of the script.
    """

    name: str
    script: str
    environment: str | None = None
    options: list[str] = field(default_factory=list)


def read_methods() -> tuple[dict[str, list[str]], dict[str, Method]]:
    """Packages of each environment, and all methods."""
    content = yaml.safe_load((HERE / "peers.yaml").read_text())
    methods = {key: Method(**about) for key, about in content["methods"].items()}
    return content["environments"], methods


def seconds_of(text: str) -> int:
    """90s, 20m or 1h in seconds."""
    found = re.fullmatch(r"(\d+)([smh])", text)
    if found is None:
        raise argparse.ArgumentTypeError(f"{text!r} is no duration such as 20m")
    return int(found[1]) * {"s": 1, "m": 60, "h": 3600}[found[2]]


def interpreter(name: str | None, packages: dict[str, list[str]], work: Path) -> str:
    """The Python of an environment, which is made once."""
    if name is None:
        return sys.executable
    folder = work / "environments" / name
    python = folder / ("Scripts/python.exe" if os.name == "nt" else "bin/python")
    if not (folder / "complete").exists():
        print(f"making the environment {name}: {', '.join(packages[name])}", flush=True)
        uv = shutil.which("uv")
        venv.create(folder, clear=True, with_pip=uv is None)
        pip = [str(python), "-m", "pip", "install"]
        pip = [uv, "pip", "install", "--python", str(python)] if uv else pip
        subprocess.run([*pip, *packages[name]], check=True)
        (folder / "complete").touch()
    return str(python)


def environment() -> dict[str, str]:
    """One thread, no GPU, this package."""
    single = {f"{name}_THREADS": "1" for name in THREADS}
    quiet = {"CUDA_VISIBLE_DEVICES": "", "TF_CPP_MIN_LOG_LEVEL": "2"}
    return os.environ | single | quiet | {"PYTHONPATH": str(HERE.parents[1])}


class Runner:
    """Does what a table still lacks, in ``work/DATASET/BUDGET/METHOD``."""

    def __init__(self, work: Path, data: Path, budget: int, pythons: dict[str | None, str]) -> None:
        self.work, self.data, self.budget, self.pythons = work, data, budget, pythons

    def file(self, key: str, phase: str) -> Path:
        return self.work / key / f"{phase}.json"

    def run(self, key: str, method: Method) -> None:
        """Train, tune and predict, each in a process of its own, then score the label maps."""
        for phase in PHASES:
            if self.file(key, phase).exists():
                continue
            print(f"{key}: {phase}", flush=True)
            (self.work / key).mkdir(parents=True, exist_ok=True)
            if phase == "train":  # what an interrupted one left
                for path in (self.work / key).iterdir():
                    shutil.rmtree(path) if path.is_dir() else path.unlink()
            words = [self.pythons[method.environment], str(HERE / method.script), phase]
            where = [f"--data={self.data}", f"--work={self.work / key}", f"--budget={self.budget}"]
            log = self.work / key / f"{phase}.log"
            with log.open("w") as file:
                done = subprocess.run(
                    [*words, *where, *method.options],
                    stdout=file, stderr=subprocess.STDOUT, env=environment(), check=False,
                )  # fmt: skip
            if done.returncode or not self.file(key, phase).exists():
                last = (log.read_text(errors="replace").strip().splitlines() or ["nothing"])[-1]
                print(f"{key}: {phase} failed: {last} (log: {log})", file=sys.stderr, flush=True)
                return
        if not (self.work / key / "scores" / "scores.json").exists():
            self.evaluate(self.work / key / "labels", self.work / key / "scores")
        print(f"{key}: done", flush=True)

    def evaluate(self, labels: Path, output: Path) -> None:
        words = ["-m", "segmentation", "evaluate", f"--truth={self.data / 'masks' / 'test'}"]
        more = ["--labels=instances", f"--images={self.data / 'images' / 'test'}"]
        where = [f"--prediction={labels}", f"--output={output}"]
        arguments = [sys.executable, *words, *where, *more]
        subprocess.run(arguments, check=True, env=environment(), stdout=subprocess.DEVNULL)

    def result(self, key: str) -> dict[str, Any] | None:
        """What the table shows of a method, without paths; ``None`` before it is finished."""
        scores = self.work / key / "scores" / "scores.json"
        if not scores.exists():
            return None
        found = json.loads(scores.read_text())
        phases = {phase: json.loads(self.file(key, phase).read_text()) for phase in PHASES}
        phases["train"].pop("run", None)
        wanted = {name.removesuffix("[]") for name in COLUMNS.values()}
        more = {"image_iou", "f1", "ap75", "ap90", "ap", "ap60", "ap70", "ap80", "count_error"}
        row = {
            "scores": {k: v for k, v in found["prediction"].items() if k in wanted | more},
            "intervals": {k: v for k, v in found["intervals"].items() if k in wanted},
        }
        return row | phases | {"otsu": {k: found["otsu"][k] for k in sorted(wanted)}}


def table(methods: dict[str, Method], rows: dict[str, Any]) -> str:
    """The rows there are, in Markdown."""
    heads = [*COLUMNS, "ms an image", "training, min", "MiB"]
    lines = [f"| | {' | '.join(heads)} |", f"|{'---|' * (len(heads) + 1)}"]
    if rows:
        otsu = next(iter(rows.values()))["otsu"]
        cells = [short(otsu[name.removesuffix("[]")]) for name in COLUMNS.values()]
        lines.append(f"| {OTSU} | {' | '.join(cells)} | | | |")
    for key, row in rows.items():
        cells = []
        for name in COLUMNS.values():
            cells.append(short(row["scores"][name.removesuffix("[]")]))
            if name.endswith("[]"):
                low, high = row["intervals"][name.removesuffix("[]")]
                cells[-1] += f" [{short(low)}, {short(high)}]"
        cells.append(f"{1000 * row['predict']['seconds_per_image']:.0f}")
        cells.append(f"{row['train']['cpu_seconds'] / 60:.1f}")
        cells.append(f"{row['train']['peak_mib']:,} / {row['predict']['peak_mib']:,}")
        lines.append(f"| {methods[key].name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def short(value: float) -> str:
    """.847 for 0.8472."""
    return f"{value:.3f}".replace("0.", ".", 1) if value < 1 else f"{value:.3f}"


def main() -> None:
    """Run what is missing, add the table to the results and print it."""
    packages, methods = read_methods()
    lines = (__doc__ or "").partition("\n")[0]
    parser = argparse.ArgumentParser(prog="python benchmarks/peers", description=lines)
    given = os.environ.get("SEGMENTATION_DATA")
    parser.add_argument("--data", type=Path, default=Path(given or "data"), metavar="DIR")
    parser.add_argument("--work", type=Path, default=Path("peers"), metavar="DIR")
    parser.add_argument("--budget", type=seconds_of, default=seconds_of("20m"), metavar="TIME")
    parser.add_argument("--dataset", choices=DATASETS, default="dsb2018")
    parser.add_argument("--methods", nargs="+", choices=methods, default=[*methods])
    parser.add_argument("--jobs", type=int, default=1, metavar="N", help="trainings at a time")
    about = "an environment that is there, such as stardist=PATH"
    parser.add_argument("--python", action="append", default=[], metavar="NAME=PATH", help=about)
    parser.add_argument("--output", type=Path, default=HERE.parent / "results" / "peers.json")
    options = parser.parse_args()
    work = options.work.resolve()
    folder = work / options.dataset
    split = export(options.dataset, options.data / options.dataset, folder / "data")
    at_hand = dict(text.split("=", 1) for text in options.python)
    needed = {methods[key].environment for key in options.methods}
    pythons = {
        name: at_hand.get(name or "") or interpreter(name, packages, work) for name in needed
    }
    minutes = f"{options.budget / 60:g}m"
    runner = Runner(folder / minutes, folder / "data", options.budget, pythons)
    with ThreadPoolExecutor(options.jobs) as pool:
        list(pool.map(lambda key: runner.run(key, methods[key]), options.methods))
    rows = {key: row for key in methods if (row := runner.result(key)) is not None}
    keep(options.output, f"{options.dataset} {minutes}", split, rows)
    print(table(methods, rows))


def keep(output: Path, name: str, split: dict[str, Any], rows: dict[str, Any]) -> None:
    """Put a table beside the others in the file of results."""
    from common import hardware, versions

    found = json.loads(output.read_text()) if output.exists() else {"tables": {}}
    about = {"split": split, "hardware": hardware(), "versions": versions(), "rows": rows}
    found["tables"][name] = about
    output.write_text(json.dumps(found, indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
