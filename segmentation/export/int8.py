"""Whole numbers of 8 bits in place of float32: several times as fast on a CPU."""

import tempfile
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from segmentation.data.sample import Sample
from segmentation.errors import UserError, gist_of
from segmentation.inference import padded
from segmentation.predictor import Predictor
from segmentation.runtimes.record import needed
from segmentation.runtimes.trace import with_record

# What is made of a size, and what takes one beside the values that it works on.
_OF_SIZE = ("ConstantOfShape", "Range")
_TAKE_SIZE = ("Pad", "Resize", "Reshape", "Slice", "Expand", "Tile")
_SIDE = 256  # pixels of the window that is cut from the middle of each image


def quantized(
    model: Any, record: dict[str, Any], predictor: Predictor, samples: Sequence[Sample]
) -> Any:
    """The ONNX model with weights (by channel) and activations in 8 bits.

    The range of each activation is what it takes on ``samples``: ONNX Runtime's static
    quantisation, in the form (QDQ) that OpenVINO computes in whole numbers, too.

    Raises:
        UserError: There are no images, or a part of the network cannot be quantised.
    """
    if not samples:
        raise UserError(
            "--precision int8: needs training images to calibrate, and there are none; give the "
            "--config of a run, or --data.images"
        )
    onnx = needed("onnx", "--precision int8")
    needed("onnxruntime", "--precision int8")
    from onnxruntime.quantization import (
        CalibrationDataReader,
        QuantFormat,
        QuantType,
        quantize_static,
    )
    from onnxruntime.quantization.shape_inference import quant_pre_process

    class Windows(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.windows = calibration_windows(predictor, samples)

        def get_next(self) -> dict[str, np.ndarray] | None:
            window = next(self.windows, None)
            return None if window is None else {"image": window}

    with tempfile.TemporaryDirectory() as scratch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        plain, ready, made = (str(Path(scratch, name)) for name in ("a.onnx", "b.onnx", "c.onnx"))
        onnx.save(model, plain)
        try:
            quant_pre_process(plain, ready, skip_symbolic_shape=True)
            quantize_static(
                ready,
                made,
                Windows(),
                quant_format=QuantFormat.QDQ,
                per_channel=True,
                nodes_to_exclude=size_nodes(onnx.load(ready)),
                activation_type=QuantType.QUInt8,
                weight_type=QuantType.QInt8,
            )
        except Exception as error:  # of a library: whatever it raises
            raise UserError(
                f"--precision int8: {record['network']['class']} cannot be quantised "
                f"({gist_of(error)}); use fp16"
            ) from error
        found = onnx.load(made)
    read_sizes_before(found)
    return with_record(found, record)


def read_sizes_before(model: Any) -> None:
    """Let sizes be read from values before they are quantised.

    OpenVINO 2026 computes other answers where the size of what was quantised is asked for, as
    convolutions do that are padded to the size of their input.
    """
    makers = {name: node for node in model.graph.node for name in node.output}
    for node in model.graph.node:
        back = makers.get(node.input[0]) if node.op_type == "Shape" else None
        if back is not None and back.op_type == "DequantizeLinear" and back.input[0] in makers:
            node.input[0] = makers[back.input[0]].input[0]


def size_nodes(model: Any) -> list[str]:
    """Names of the nodes that compute sizes, such as those of padding: 8 bits are too few there."""
    makers = {name: node for node in model.graph.node for name in node.output}
    waiting = [
        name
        for node in model.graph.node
        for name in (node.input if node.op_type in _OF_SIZE else node.input[1:])
        if node.op_type in (*_OF_SIZE, *_TAKE_SIZE)
    ]
    found: set[str] = set()
    while waiting:
        node = makers.get(waiting.pop())
        if node is not None and node.name not in found:
            found.add(node.name)
            waiting += [] if node.op_type == "Shape" else node.input
    return sorted(found)


def calibration_windows(predictor: Predictor, samples: Sequence[Sample]) -> Iterator[np.ndarray]:
    """(1, C, h, w) float32 as the network sees it: the middle of each image."""
    for sample in samples:
        scale = predictor.scale(sample.pixel_size)
        prepared = predictor.preprocess.prepare(sample.image, sample.channels, scale)
        top, left = (max(0, side - _SIDE) // 2 for side in prepared.shape[:2])
        window = prepared[top : top + _SIDE, left : left + _SIDE].transpose(2, 0, 1)
        image = torch.from_numpy(np.ascontiguousarray(window))[None]
        seen: list[torch.Tensor] = []

        def keep(wide: torch.Tensor, seen: list[torch.Tensor] = seen) -> torch.Tensor:
            seen.append(wide)
            return wide

        padded(keep, predictor.preprocess.normalize(image), predictor.stride, predictor.least)
        yield np.ascontiguousarray(seen[0].numpy())
