"""The command ``export``: a checkpoint to give away, or files for other runtimes, proved equal."""

from pathlib import Path
from typing import Literal

from segmentation.card import model_card
from segmentation.checkpoints import load_task, record_of
from segmentation.errors import UserError
from segmentation.export import bioimageio, files, images, proof
from segmentation.export.int8 import quantized
from segmentation.io.files import write_bytes
from segmentation.predict.export import give_away
from segmentation.predict.scripts import write_scripts
from segmentation.runtimes.net import script_of
from segmentation.runtimes.trace import onnx_of


def export(
    ckpt_path: Path,
    output: Path,
    format: list[Literal["onnx", "openvino", "torchscript", "bioimageio"]] | None = None,
    precision: Literal["fp32", "fp16", "int8"] = "fp32",
    config: Path | None = None,
    data_images: Path | None = None,
    data_masks: Path | None = None,
    data_mask_type: Literal["binary", "labels", "objects", "classes"] | None = None,
    most: int = 32,
    tolerance: float | None = None,
    about: Path | None = None,
    intensity_range: list[float] | None = None,
    half: bool = False,
    license: str | None = None,
    trust: list[str] | None = None,
) -> None:
    """Write a checkpoint to give away, or a network for other runtimes, proved to say the same.

    Without --format: the checkpoint without what training needs, smaller; what segmentation tune
    found for it becomes part of it. With --format: files that predict, serve and load take like a
    checkpoint, beside a model card and scripts for QuPath and Fiji. They are run on the validation
    images of the checkpoint's run, or on other images, beside the checkpoint: export.html and
    export.json tell how far the answers are apart.

    Args:
        ckpt_path: Written by fit, or nuclei, which comes with the package.
        output: The new checkpoint; with --format a folder, which is made.
        format: onnx, openvino, torchscript, a package for bioimage.io; several at once.
        precision: Of the weights: fp16 halves the file and computes in float32 all the same; int8
            computes in whole numbers, several times as fast, calibrated on training images.
        config: Of the run whose images are taken; by default config.yaml of the checkpoint's run.
        data_images: Folder of images to prove it on, instead.
        data_masks: Folder of their masks, for scores; images of the same names.
        data_mask_type: What they hold; by default labels, a value an object, where any mask has
            several values, and else binary.
        most: Prove it on so many images at most, evenly spaced ones.
        tolerance: How far probabilities may be apart (fp32 .001, fp16 .02); of int8 and
            packages, by how much the foreground may differ, 1 - IoU (.05).
        about: YAML with authors, license, cite, name … of a bioimage.io package.
        intensity_range: LOW HIGH that become black and white in a bioimage.io package, for programs
            that cannot take percentiles of a whole image, such as QuPath.
        half: Of a checkpoint: in float16, half the size, the same scores to rounding.
        license: Of the weights, for the model card, such as cc-by-4.0.
        trust: Your own packages whose classes the checkpoint names.
    """
    if not format:
        if precision != "fp32" or data_images or data_masks or config or tolerance is not None:
            raise UserError("--precision, --config, --data.images, --tolerance: need a --format")
        give_away(ckpt_path, output, half, license, trust)
        return
    formats = list(dict.fromkeys(format))
    files.check(formats, precision, half)
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise UserError(f"{output}: exists already; choose another --output")
    if most < 1:
        raise UserError(f"--most {most}: must be at least 1")
    task = load_task(ckpt_path, trust or ())
    record = record_of(task, ckpt_path) | {"precision": precision}
    packaged = "bioimageio" in formats
    said = bioimageio.check(task.predictor, about, intensity_range or ()) if packaged else {}
    license = license or (str(said["license"]).lower() if packaged else None)
    about_images = most, precision == "int8", data_masks, data_mask_type
    found = images.find(task, ckpt_path, config, data_images, *about_images)
    script = script_of(task.net, record)
    model = None
    if {*formats} & {"onnx", "openvino"}:
        model = onnx_of(script, record, half=precision == "fp16")
        if precision == "int8":
            model = quantized(model, record, task.predictor, found.calibration)
    names = [files.NAMES[name] for name in formats if name in files.NAMES]
    card = model_card(ckpt_path, license, trust or (), next(iter(names), ""))
    made = files.write(formats, output, script, model, record)
    write_bytes(output / "README.md", card.encode())
    for path in [*made.values()][:1]:
        write_scripts(output, path.name)
    others = None
    if packaged:
        given = task.predictor, record, found.samples, output, said, card, intensity_range or ()
        apart = bioimageio.write(*given)
        print(f"package   {output / 'bioimageio.zip'}: off by {apart:.2g} on its test image")
        others = bioimageio.consumers(task.predictor, record, output, intensity_range or ())
    report = proof.prove(ckpt_path, task.predictor, made, found, precision, trust or (), others)
    proof.tell(report, output, tolerance)
