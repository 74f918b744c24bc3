"""The files of an exported network, each with its record inside."""

import json
import tempfile
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from segmentation.errors import UserError
from segmentation.io.files import write_bytes, writing
from segmentation.runtimes.record import EXTRA, KEY, digest_of_bytes, needed

NAMES = {"onnx": "model.onnx", "openvino": "model.xml", "torchscript": "model.pt"}


def check(formats: Sequence[str], precision: str, half: bool) -> None:
    """Refuse what cannot be written, before any work."""
    if half:
        raise UserError("--half: is of a checkpoint alone; with --format give --precision fp16")
    for name in {"torchscript", "bioimageio"} & {*formats} if precision != "fp32" else ():
        raise UserError(
            f"--precision {precision}: {name} is written in fp32 alone; leave it out of --format, "
            "or --precision"
        )
    needs: dict[str, tuple[str, ...]] = {
        "onnx": ("onnx", "onnxruntime"),
        "openvino": ("onnx", "openvino"),
        "bioimageio": ("onnx",),
    }
    for name in formats:
        for module in needs.get(name, ()):
            needed(module, f"--format {name}")
    if precision == "int8":
        needed("onnxruntime", "--precision int8")


def write(
    formats: Sequence[str], output: Path, script: Any, model: Any, record: dict[str, Any]
) -> dict[str, Path]:
    """Write the files of these formats into a folder: format ► file.

    Args:
        formats: Of :data:`NAMES`.
        output: The folder.
        script: The traced network.
        model: Its ONNX model, where a format needs it.
        record: What is known of it.
    """
    made = {name: output / NAMES[name] for name in formats if name in NAMES}
    for name, path in made.items():
        if name == "onnx":
            write_bytes(path, model.SerializeToString())
        elif name == "openvino":
            _write_openvino(path, model, record)
        else:
            write_script(path, script, record)
    return made


def write_script(path: Path, script: Any, record: dict[str, Any] | None) -> None:
    """Write a traced network as TorchScript. The archive's own check sums are its digest."""
    extra = {} if record is None else {EXTRA: json.dumps(record | {"digest": ""})}
    with warnings.catch_warnings(), writing(path) as file:
        warnings.simplefilter("ignore")  # TorchScript is called deprecated
        torch.jit.save(script, file, _extra_files=extra)


def _write_openvino(path: Path, model: Any, record: dict[str, Any]) -> None:
    openvino = needed("openvino", path)
    read = openvino.Core().read_model(model.SerializeToString())
    half = record["precision"] == "fp16"
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch, path.name)
        openvino.save_model(read, place, compress_to_fp16=half)
        weights = place.with_suffix(".bin").read_bytes()
        read.set_rt_info(json.dumps(record | {"digest": digest_of_bytes(weights)}), KEY)
        openvino.save_model(read, place, compress_to_fp16=half)
        write_bytes(path.with_suffix(".bin"), place.with_suffix(".bin").read_bytes())
        write_bytes(path, place.read_bytes())
