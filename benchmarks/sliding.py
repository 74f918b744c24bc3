"""Tiled inference against MONAI's ``sliding_window_inference``: time, peak memory, and the error.

The same network with the same weights and torch, on the same image of noise, in tiles of 512² that
overlap by a quarter: MONAI blends them by its Gaussian; the package leaves out the margin that sees
too little, and blends the rest. MONAI keeps image and result in memory, the package a row of tiles;
both read a file and write one. Each run is a process of its own, on one thread.

The error is the largest difference from the network applied to the image in one piece, on an image
small enough for that.

MONAI needs an environment of its own (``uv pip install monai torch --torch-backend cpu``), whose
Python is named by ``--monai-python``; both arms run in it.
"""

import json
import subprocess
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from common import HERE, Report, alternate, arguments, ratio

MARGIN = 46  # how far the network sees, by receptive_radius
ARM = HERE / "monai_sliding.py"


def main() -> None:
    parser = arguments("sliding", __doc__)
    parser.add_argument("--monai-python", required=True, help="of the environment with MONAI")
    parser.add_argument("--side", type=int, default=4096, help="of the image that is timed")
    parser.add_argument("--small", type=int, default=1536, help="of the image in one piece")
    parser.add_argument("--tile", type=int, default=512)
    parser.set_defaults(repeats=3)
    args = parser.parse_args()
    report = Report(
        "sliding",
        "as fast as MONAI, since the network takes nearly all of the time, in memory that grows "
        "with the image's width rather than its area; the error 1e-6 where MONAI's is 1e-2",
        {
            "side": args.side, "small": args.small, "tile": args.tile, "overlap": 0.25,
            "network": "UNet(in_channels=1, classes=1, width=8, depth=4)", "margin": MARGIN,
            "threads": 1,
        },
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as scratch:
        results = {}
        for side in (args.small, args.side):
            source = Path(scratch, f"{side}.f32")
            noise = np.random.default_rng(0).standard_normal((side, side), np.float32)
            noise.tofile(source)
            run = partial(run_arm, args.monai_python, source, side, args.tile)
            if side == args.small:
                for arm in ("one piece", "package", "monai"):
                    results[arm] = np.fromfile(run(arm)[1], np.float32)
        taken = alternate(
            {arm: partial(run, arm) for arm in ("package", "monai")}, args.repeats, warm_up=False
        )
    figures = {arm: [figure for figure, _ in rounds] for arm, rounds in taken.items()}
    seconds = {arm: [f["seconds"] for f in rounds] for arm, rounds in figures.items()}
    memory = {arm: [f["bytes"] / 2**20 for f in rounds] for arm, rounds in figures.items()}
    for arm in figures:
        report.add(f"{args.side}²: {arm}", "s", seconds[arm])
        report.add(f"{args.side}²: {arm}, growth of the peak", "MiB", memory[arm])
    report.add("time, MONAI / package", "×", ratio(seconds["monai"], seconds["package"]))
    report.add("memory, MONAI / package", "×", ratio(memory["monai"], memory["package"]))
    for arm in figures:
        error = float(np.abs(results[arm] - results["one piece"]).max())
        report.add(f"{args.small}²: {arm}, largest error of a probability", "", [error])
    versions = figures["monai"][0]["versions"]
    report.note(f"MONAI {versions['monai']}, torch {versions['torch']} in both arms")
    report.finish(args.output)


def run_arm(python: str, source: Path, side: int, tile: int, arm: str) -> tuple[Any, Path]:
    """What an arm measured, and the file with its result."""
    output = source.with_name(f"{arm}.{side}.out")
    told = [arm, str(source), str(side), str(tile), str(MARGIN), str(output)]
    done = subprocess.run([python, str(ARM), *told], capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{arm}: {done.stderr.strip()}")
    return json.loads(done.stdout.splitlines()[-1]), output


if __name__ == "__main__":
    main()
