"""How well two processes share a training: images a second of DDP against two lone trainings.

Each arm is `segmentation fit` on synthetic images, and its figure is what the run itself logs,
loading included, the first steps left out. On a CPU each process has one thread. Two processes on
one machine share its memory's bandwidth whether they talk or not; so DDP is set against two lone
trainings that run at the same time, which is what communication costs, and against twice one lone
training, which is what a user gains.
"""

import csv
import os
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from common import HERE, Report, alternate, arguments, device, ratio

from segmentation.datasets.synthetic import write_dsb2018

CONFIG = HERE.parent / "configs" / "quickstart.yaml"
COLUMN = "train/images_per_second"


def main() -> None:
    parser = arguments("ddp", __doc__)
    parser.add_argument("--width", type=int, default=16, help="of the U-Net")
    parser.add_argument("--batch-size", type=int, default=4, help="of each process")
    parser.add_argument("--steps", type=int, default=60)
    args = parser.parse_args()
    if args.steps < 20:
        parser.error("--steps: at least 20; every fifth is logged, and the first are left out")
    report = Report(
        "ddp",
        "two processes do 95 % of what two lone trainings do at the same time",
        {"unet_width": args.width, "batch_size": args.batch_size, "crop": 256,
         "steps": args.steps, "threads_a_process": 1, "device": device().type},
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        root = write_dsb2018(Path(scratch, "data"), images=24, size=(256, 256))
        common = [
            *(f"--config={CONFIG}", f"--data.root={root}", "--run.wandb=off"),
            *("--data.split.val=2", "--data.split.test=2", "--data.crop=256"),
            *(f"--data.batch_size={args.batch_size}", "--data.num_workers=0"),
            *(f"--model.net.width={args.width}", "--trainer.max_epochs=1"),
            *("--trainer.log_every_n_steps=5", "--trainer.enable_progress_bar=false"),
        ]

        def arm(trainings: int, processes: int) -> float:
            """Images a second of all trainings together."""
            images = args.steps * args.batch_size * processes
            ddp = ["--trainer.strategy=ddp", f"--trainer.devices={processes}"]
            with tempfile.TemporaryDirectory(dir=scratch) as runs:
                words = [
                    *common,
                    f"--data.sampling.length={images}",
                    *(ddp if processes > 1 else []),
                ]
                children = [
                    start([*words, f"--run.root={runs}", f"--run.name={i}"])
                    for i in range(trainings)
                ]
                for child in children:
                    _, errors = child.communicate()
                    if child.returncode:
                        sys.exit(f"A training failed: {errors[-2000:]}")
                return sum(speed(file) for file in Path(runs).glob("*/*/metrics.csv"))

        arms = {
            "one training": lambda: arm(1, 1),
            "two trainings at once": lambda: arm(2, 1),
            "DDP, two processes": lambda: arm(1, 2),
        }
        taken = alternate(arms, args.repeats, warm_up=False)
    for name, values in taken.items():
        report.add(name, "images/s", values)
    one, two, ddp = taken.values()
    report.add("DDP of two trainings at once", "×", ratio(ddp, two))
    report.add("DDP of one training", "×", ratio(ddp, one))
    report.add("two trainings at once of one", "×", ratio(two, one))
    report.finish(args.output)


def start(words: list[str]) -> "subprocess.Popen[str]":
    """One training with one thread a process."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    environment["PYTHONPATH"] = str(HERE.parent)
    command = [sys.executable, "-W", "ignore", "-m", "segmentation", "fit", *words]
    quiet, kept = subprocess.DEVNULL, subprocess.PIPE
    return subprocess.Popen(command, env=environment, stdout=quiet, stderr=kept, text=True)


def speed(file: Path) -> float:
    """The median of what a run logged, without its first windows."""
    with file.open() as opened:
        logged = [float(row[COLUMN]) for row in csv.DictReader(opened) if row.get(COLUMN)]
    return statistics.median(logged[2:])


if __name__ == "__main__":
    main()
