"""``segmentation predict`` of a folder by each runtime, against PyTorch: processor time, objects.

    python benchmarks/predict.py --ckpt_path CKPT --images DIR

One thread, each command in a process of its own. The time of an image is that of the whole folder
less that of one image, so that imports and the loading of networks do not count. int8 is
calibrated on the images themselves. Label maps are compared with those of PyTorch.
"""

import os
import resource
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

os.environ["OMP_NUM_THREADS"] = "1"

from common import Report, arguments

from segmentation.io.images import read_mask

ARMS = {  # file and backend
    "PyTorch": ("ckpt", "torch"),
    "ONNX Runtime fp32": ("fp32/model.onnx", "onnxruntime"),
    "OpenVINO fp32": ("fp32/model.onnx", "openvino"),
    "ONNX Runtime int8": ("int8/model.onnx", "onnxruntime"),
    "OpenVINO int8": ("int8/model.xml", "openvino"),
}


def run(verb: str, *words: str) -> float:
    """A command of the package: its processor time in seconds."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    command = [sys.executable, "-m", "segmentation", verb, *words]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def main() -> None:
    parser = arguments("predict", __doc__)
    parser.add_argument("--ckpt_path", type=str, required=True)
    parser.add_argument("--images", type=Path, required=True)
    parser.add_argument("--most", type=int, default=30, help="images")
    parser.set_defaults(repeats=3)
    options = parser.parse_args()
    files = sorted(p for p in options.images.rglob("*") if p.is_file())
    files = files[:: max(1, len(files) // options.most)][: options.most]
    with tempfile.TemporaryDirectory() as scratch:
        many, one = Path(scratch, "many"), Path(scratch, "one")
        for folder, some in ((many, files), (one, files[:1])):
            folder.mkdir()
            for number, file in enumerate(some):
                shutil.copy(file, folder / f"{number:03}{file.suffix}")
        for precision in ("fp32", "int8"):
            words = ["--precision", precision, "--tolerance=1", "--most=8"]
            where = [f"--ckpt_path={options.ckpt_path}", f"--output={Path(scratch, precision)}"]
            images = f"--data.images={many}"
            run("export", *where, images, "--format", "onnx", "openvino", *words)
        taken: dict[str, list[float]] = {name: [] for name in ARMS}
        for turn in range(options.repeats):
            for name, (path, backend) in ARMS.items():
                spent = []
                for folder in (many, one):
                    out = Path(scratch, f"{name}-{folder.name}-{turn}")
                    words = [f"--data.images={folder}", f"--output={out}", "--labels", "tiff"]
                    file = options.ckpt_path if path == "ckpt" else Path(scratch, path)
                    about = [f"--ckpt_path={file}", f"--backend={backend}", "--device=cpu"]
                    spent.append(run("predict", *about, *words))
                taken[name].append((spent[0] - spent[1]) / (len(files) - 1))
        settings = {"images": len(files), "threads": 1, "clock": "processor time"}
        report = Report("predict", "fp32 at least 1.5, int8 at least 2.5 times as fast", settings)
        for name, times in taken.items():
            report.add(f"{name}: an image", "ms", [1e3 * t for t in times])
        for name in [*ARMS][1:]:
            ratio = [a / b for a, b in zip(taken["PyTorch"], taken[name], strict=True)]
            report.add(f"{name}", "× PyTorch", ratio)
            same = [
                (
                    read_mask(path) == read_mask(Path(scratch, f"{name}-many-0/labels", path.name))
                ).all()
                for path in Path(scratch, "PyTorch-many-0/labels").iterdir()
            ]
            report.add(f"{name}: images with the same objects", "share", [sum(same) / len(same)])
        report.finish(options.output)


if __name__ == "__main__":
    main()
