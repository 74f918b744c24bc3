"""A slide of 20,000×20,000 pixels from disk to disk: time, peak memory, and whether it is right.

    python benchmarks/large.py --ckpt_path quickstart/runs/quickstart/*/checkpoints/best.ckpt

``segmentation predict`` with every output, in a process of its own. The slide repeats one field of
synthetic nuclei. A corner of it that fits in memory is predicted in another process, the usual
way: both have the same histogram, so that probabilities, masks and objects must be the same, but
for the corner's last field, which has other neighbours.
"""

import csv
import os
import subprocess
import sys
import tempfile
import time
from itertools import repeat
from pathlib import Path

import numpy as np
import tifffile
from common import HERE, Report, arguments

from segmentation.datasets.synthetic_nuclei import make_nuclei
from segmentation.io.metadata import Calibration
from segmentation.io.stacks import Planes
from segmentation.io.write import write_tiff

FIELD = 1000
STEP = 2000  # a multiple of 16, as strides are: padding would shift what the network pools
OUTPUTS = ("--labels", "tiff", "--probabilities", "--overlays", "--geojson", "--rois", "--rle")
KINDS = ("probabilities", "masks", "labels")  # that are compared


def main() -> None:
    parser = arguments("large", __doc__)
    parser.add_argument("--ckpt_path", type=Path, required=True, help="of any trained network")
    parser.add_argument("--side", type=int, default=20_000, help=f"a multiple of {STEP}")
    parser.add_argument("--corner", type=int, default=4_000, help=f"a multiple of {STEP}")
    args = parser.parse_args()
    if args.side % STEP or args.corner % STEP or not 0 < args.corner < args.side:
        parser.error(f"--side, --corner: multiples of {STEP}, corner less than side")
    report = Report(
        "large",
        "less than 2 GiB; the corner's probabilities to a step of 16 bits (1.5e-5), masks, objects",
        {"side": args.side, "corner": args.corner, "outputs": list(OUTPUTS)},
    )
    pixels, _ = make_nuclei(np.random.default_rng(0), FIELD, FIELD, "fluorescence")
    field = np.ascontiguousarray(pixels[..., 0])
    with tempfile.TemporaryDirectory() as scratch:
        folders = {}
        for side in (args.corner, args.side):
            folders[side] = folder = Path(scratch, str(side))
            write_slide(folder / "images" / "slide.tif", field, side)
            seconds, gigabytes = predict(args.ckpt_path, folder)
            report.add(f"{side}²: time", "s", [seconds])
            report.add(f"{side}²: peak memory", "GiB", [gigabytes])
            report.add(f"{side}²: objects", "", [objects(folder)])
        # The last field of the corner has the image's end where the slide goes on.
        inside = args.corner - FIELD
        corner, whole = ([read(f, kind, inside) for kind in KINDS] for f in folders.values())
        worst = np.abs(corner[0].astype(np.int64) - whole[0]).max() / np.iinfo(np.uint16).max
        report.add("largest difference of a probability", "", [float(worst)])
        report.add("pixels whose mask differs", "", [int((corner[1] != whole[1]).sum())])
        pairs = np.unique(np.stack([corner[2], whole[2]]).reshape(2, -1), axis=1)
        once = all(len(np.unique(ids)) == pairs.shape[1] for ids in pairs)
        report.add("the same objects (1: yes)", "", [int(once)])
        report.add("objects compared", "", [pairs.shape[1] - 1])
    report.finish(args.output)


def write_slide(path: Path, field: np.ndarray, side: int) -> None:
    """The field repeated to a slide of half a micrometre a pixel."""
    count = side // FIELD
    scale = Calibration("ome", (0.5, 0.5), {"PhysicalSizeX": 0.5, "PhysicalSizeY": 0.5})
    planes = Planes(path, size=(side, side), calibration=scale)
    write_tiff(path, (side, side), field.dtype, repeat(np.tile(field, (1, count)), count), planes)


def predict(
    checkpoint: Path, folder: Path, outputs: tuple[str, ...] = OUTPUTS
) -> tuple[float, float]:
    """Seconds and the peak memory in GiB of ``segmentation predict``."""
    command = [
        *(sys.executable, "-m", "segmentation", "predict", "--ckpt_path", str(checkpoint)),
        *("--data.images", str(folder / "images"), "--output", str(folder), *outputs),
    ]
    start = time.perf_counter()
    environment = {**os.environ, "PYTHONPATH": str(HERE.parent)}
    child = subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(child.pid, 0)
    if status:
        sys.exit("predict failed: see its error above.")
    unit = 1 if sys.platform == "darwin" else 1024
    return time.perf_counter() - start, used.ru_maxrss * unit / 2**30


def objects(folder: Path) -> int:
    """Rows of ``objects.csv``."""
    with (folder / "objects.csv").open() as opened:
        return sum(1 for _ in csv.DictReader(opened))


def read(folder: Path, kind: str, side: int) -> np.ndarray:
    """The first pixels of what was written."""
    pixels: np.ndarray = tifffile.imread(folder / kind / "slide.tif")[:side, :side]
    return pixels


if __name__ == "__main__":
    main()
