"""``segmentation export`` of many networks, proved: differences, objects, scores, size, time.

    python benchmarks/exports.py --root FOLDER

``FOLDER`` holds ``images`` and ``masks`` (label maps); without it images are synthetic. Each one
learns for ``--crops`` crops of 128² (one with ``--checkpoints NAME=PATH`` is taken as it is), is
exported as ONNX, OpenVINO and TorchScript, and runs beside its checkpoint on validation images of
its run, on one thread. ``Classes`` learns synthetic cells of three kinds.
"""

import json
import tempfile
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from common import Report, arguments

from segmentation.__main__ import main as segmentation
from segmentation.card.record import known_of
from segmentation.checkpoints import read_checkpoint
from segmentation.datasets.synthetic import write_classes, write_folder
from segmentation.export import proof

EXPECTED = "probabilities within .001 of the checkpoint's, objects the same in all images"
COLUMNS = {  # of export.json ► head of the table, and unit
    "megabytes": ("MB", "MB"),
    "ms": ("ms an image", "ms"),
    "largest_difference": ("largest difference", "probability"),
    "same_objects": ("same objects, % of images", "%"),
    "image_iou": ("IoU", "mean over images"),
    "image_ap": ("AP", "mean over images"),
}
UNET = ["--model.net.width=16"]
RESNET = ["--model.net.encoder_name=resnet18", "--model.net.encoder_weights=null"]


def _of(kind: str, loss: str, classes: int) -> list[str]:
    parts = [f"--model.target=segmentation.targets.{kind}", f"--model.net.classes={classes}"]
    return [*parts, f"--model.loss=segmentation.losses.{loss}"]


NETS = {
    "UNet, Foreground": UNET,
    "UNet, Contour": [*UNET, *_of("Contour", "CrossEntropyDice", 3)],
    "UNet, StarConvex": [*UNET, *_of("StarConvex", "StarConvexLoss", 34)],
    "UNet, Flow": [*UNET, *_of("Flow", "FlowLoss", 3)],
    "UNet, Classes": ["--model.net.width=8"],
    "EncoderUNet, Flow": [
        *["--model.net=segmentation.models.EncoderUNet", "--model.net.encoder_weights=null"],
        *["--model.net.encoder_name=tu-tf_efficientnet_lite2", *_of("Flow", "FlowLoss", 3)],
    ],
    "UNetPlusPlus, Foreground": [
        *["--model.net=segmentation.models.UNetPlusPlus", "--model.net.width=16"],
        "--model.net.deep_supervision=false",
    ],
    "smp.FPN, Foreground": ["--model.net=segmentation_models_pytorch.FPN", *RESNET],
    "smp.DeepLabV3Plus, Foreground": [
        *["--model.net=segmentation_models_pytorch.DeepLabV3Plus", *RESNET]
    ],
}


def trained(name: str, root: Path, classes: Path, work: Path, crops: int) -> Path:
    """The checkpoint of a network that has learned a little."""
    words = ["fit", "--config=folder", f"--data.root={root}", "--data.mask_type=labels"]
    if name.endswith("Classes"):
        words = ["fit", "--config=classes", f"--data.root={classes}"]
    words += [*NETS[name], "--model.preprocess.channels=gray", "--model.net.in_channels=1"]
    words += ["--data.crop=128", "--data.batch_size=4", "--data.num_workers=0"]
    words += [f"--data.sampling.length={crops}", "--trainer.max_epochs=1", "--run.tune=false"]
    words += ["--trainer.limit_val_batches=4", "--trainer.limit_test_batches=0"]
    words += ["--trainer.accelerator=cpu", "--run.wandb=off"]
    runs = work / name.replace(", ", "_")
    assert segmentation([*words, f"--run.root={runs}", "--run.name=x"]) == 0
    (path,) = runs.glob("x/*/checkpoints/best.ckpt")
    return path


def proved(path: Path, output: Path, images: int) -> dict[str, Any]:
    """What ``export.json`` says; without memory, which takes a process for each runtime."""
    words = ["export", f"--ckpt_path={path}", f"--output={output}", f"--most={images}"]
    with patch.object(proof, "peak_megabytes", lambda *_: None):
        segmentation([*words, "--format", "onnx", "openvino", "torchscript"])
    found: dict[str, Any] = json.loads((output / "export.json").read_text())
    return found


def shown(result: dict[str, Any]) -> str:
    """The table of the page, in Markdown, of what was written."""
    heads = ["network", "trained", "", *(head for head, _ in COLUMNS.values())]
    lines = [heads, ["---"] * len(heads)]
    rows: dict[tuple[str, ...], dict[str, float]] = {}
    for figure in result["figures"]:
        name, runtime, key = figure["what"].split(" · ")
        rows.setdefault((name, runtime), {})[key] = figure["median"]
    before = ""
    for (name, runtime), values in rows.items():
        spent = f"{result['settings']['trained_cpu_seconds'][name]} s"
        cells = ["", ""] if name == before else [name, spent]
        numbers = (values.get(key) for key in COLUMNS)
        cells += [
            runtime,
            *("" if v is None else f"{v:{',.0f' if v >= 100 else '.3g'}}" for v in numbers),
        ]
        lines.append(cells)
        before = name
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def main() -> None:
    """Train, export, print, write."""
    parser = arguments("exports", __doc__)
    parser.add_argument("--root", type=Path, help="folder with images and masks")
    parser.add_argument("--nets", nargs="+", default=list(NETS), choices=list(NETS))
    parser.add_argument("--checkpoints", nargs="*", default=[], help="NAME=PATH")
    parser.add_argument("--crops", type=int, default=400)
    parser.add_argument("--images", type=int, default=8, help="that exports are proved on")
    parser.add_argument("--work", type=Path, help="folder for the runs; by default removed")
    options = parser.parse_args()
    torch.set_num_threads(1)
    given = {k: Path(v) for k, v in (one.split("=", 1) for one in options.checkpoints)}
    report = Report("exports", EXPECTED, {"threads": 1, "images": options.images})
    with tempfile.TemporaryDirectory() as scratch:
        work = options.work or Path(scratch)
        root = options.root or write_folder(work / "data", 24, 0, "labels", size=(192, 192))
        classes = work / "classes"
        if any(name.endswith("Classes") for name in options.nets) and not classes.exists():
            write_classes(classes)
        # All trainings first: OpenVINO in the process before a training was seen to crash it.
        paths = {
            name: given.get(name) or trained(name, root, classes, work, options.crops)
            for name in options.nets
        }
        for name, path in paths.items():
            spent = known_of(path, read_checkpoint(path))["spent"].get("cpu_seconds", 0)
            found = proved(path, Path(scratch, name), options.images)
            report.settings.setdefault("trained_cpu_seconds", {})[name] = round(spent)
            for row in found["rows"]:
                values = row | row["scores"] | {"same_objects": 100 * row.get("same_objects", 1)}
                for key, (_, unit) in COLUMNS.items():
                    if key in values:
                        about = " · ".join((name, row["runtime"], key))
                        report.add(about, unit, [values[key]])
    report.finish(options.output)
    print(shown(json.loads(options.output.read_text())))


if __name__ == "__main__":
    main()
