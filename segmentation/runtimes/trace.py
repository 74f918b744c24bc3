"""From a trained network to a graph that other runtimes read, for images of any size."""

import contextlib
import copy
import io
import json
import os
import re
import sys
import warnings
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn

from segmentation.errors import UserError, gist_of
from segmentation.runtimes.record import KEY, digest_of_onnx, needed

OPSET = 17  # of ONNX: what the runtimes within Fiji and QuPath read, too
_SAME = 1e-4  # of the largest logit: how far the graph may be from the network


class AdaptivePool(nn.Module):
    """Adaptive average pooling to (k, l) bins as two matrix products: ONNX has no operator for it.

    >>> pool, x = AdaptivePool((3, 2)), torch.rand(1, 2, 7, 5)
    >>> torch.allclose(pool(x), nn.AdaptiveAvgPool2d((3, 2))(x))
    True
    """

    def __init__(self, size: tuple[int, int]) -> None:
        super().__init__()
        self.size = size

    def forward(self, x: Tensor) -> Tensor:
        # Sizes stay those of the image that comes, not of the one that the graph was made with.
        height, width = x.shape[-2:]
        return _bins(height, self.size[0], x) @ x @ _bins(width, self.size[1], x).transpose(0, 1)


def _bins(length: Any, count: int, x: Tensor) -> Tensor:
    """(count, length): what each pixel counts in the mean of each bin."""
    pixel = torch.arange(length, device=x.device)[None]
    number = torch.arange(count, device=x.device)[:, None]
    start = torch.div(number * length, count, rounding_mode="floor")
    end = torch.div((number + 1) * length + count - 1, count, rounding_mode="floor")
    inside = ((pixel >= start) & (pixel < end)).to(x.dtype)
    return inside / inside.sum(1, keepdim=True)


def traced(net: nn.Module, in_channels: int, stride: int, least: int) -> Any:
    """A TorchScript module that answers as the network does, to batches and images of any size.

    Args:
        net: (B, ``in_channels``, H, W) float32 ► logits.
        in_channels: Of the image.
        stride: What height and width are multiples of.
        least: The smallest height and width.

    Raises:
        UserError: The network cannot be traced, or its answer follows the size in Python code.
    """
    name = type(net).__name__
    net = copy.deepcopy(net).cpu().eval().to(memory_format=torch.contiguous_format)
    original, net = net, _replaced(copy.deepcopy(net))
    for parameter in net.parameters():
        parameter.requires_grad_(False)
    side = max(2 * stride, least)
    random = torch.Generator().manual_seed(0)

    def image(count: int, height: int, width: int) -> Tensor:
        return torch.rand(count, in_channels, height, width, generator=random)

    with torch.no_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of sizes in Python code: they are tried below
        try:
            trace: Any = torch.jit.trace
            script = trace(net, image(2, side, side + stride), check_trace=False)
        except Exception as error:  # whatever a network raises
            raise UserError(
                f"model.net: {name} cannot be exported ({gist_of(error)}); predict with the "
                "checkpoint, or choose another network"
            ) from error
        for some in (image(1, side + 3 * stride, side), image(3, least, side + 3 * stride)):
            wanted, apart = original(some), float("inf")
            with contextlib.suppress(RuntimeError):  # of sizes that do not fit
                apart = float((script(some) - wanted).abs().max())
            if not apart <= _SAME * max(1.0, float(wanted.abs().max())):
                raise UserError(
                    f"model.net: {name} cannot be exported, as its Python code looks at the size "
                    "of the image; predict with the checkpoint, or choose another network"
                )
    return script


def onnx_of(script: Any, record: dict[str, Any], half: bool = False) -> Any:
    """The ONNX model of a traced network, with its record.

    With ``half`` weights are stored in float16 and computed with in float32.

    Raises:
        UserError: ONNX has no operator for something in it, or is not installed.
    """
    onnx = needed("onnx", "export to ONNX")
    network, axes = record["network"], {0: "batch", 2: "height", 3: "width"}
    side = max(2 * network["stride"], network["least_side"])
    image = torch.zeros(1, network["in_channels"], side, side)
    file = io.BytesIO()
    try:
        with torch.no_grad(), warnings.catch_warnings(), _silent():
            warnings.simplefilter("ignore")
            # The exporter that PyTorch prefers takes a hundred times as long, and does not know
            # all operators of segmentation-models-pytorch for images of any size.
            torch.onnx.export(
                script,
                (image,),
                file,  # type: ignore[arg-type]
                dynamo=False,
                opset_version=OPSET,
                input_names=["image"],
                output_names=["logits"],
                dynamic_axes={"image": axes, "logits": axes},
            )
    except Exception as error:
        found = re.search(r"operator '?([\w:]+)", str(error))
        what = f"has no operator {found[1]}" if found else f"cannot hold it: {gist_of(error)}"
        raise UserError(
            f"model.net: {network['class']} cannot be exported to ONNX, which {what}; use "
            "--format torchscript, or another network"
        ) from error
    model = onnx.load_from_string(file.getvalue())
    if half:
        _halve(model)
    onnx.checker.check_model(model)
    model.producer_name, model.producer_version = "biomedical-segmentation", record["version"]
    return with_record(model, record)


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """No output of C++ code: the exporter prints its graph when it fails."""
    sys.stdout.flush()
    kept = os.dup(1)
    try:
        with open(os.devnull, "wb") as nowhere:
            os.dup2(nowhere.fileno(), 1)
        yield
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def with_record(model: Any, record: dict[str, Any]) -> Any:
    """The ONNX model with this record, and the digest of its weights in it."""
    onnx = needed("onnx", "export to ONNX")
    text = json.dumps(record | {"digest": digest_of_onnx(model)})
    onnx.helper.set_model_props(model, {KEY: text})
    return model


def _halve(model: Any) -> None:
    """Store large weights in float16, each behind a Cast that runtimes do once, when they load."""
    onnx = needed("onnx", "export to ONNX")
    casts = []
    for weight in model.graph.initializer:
        if weight.data_type != onnx.TensorProto.FLOAT:
            continue
        values = torch.from_numpy(onnx.numpy_helper.to_array(weight).copy())
        small = values.half()
        if values.numel() < 64 or not torch.isfinite(small).all():
            continue
        name, stored = weight.name, f"{weight.name}_half"
        weight.CopyFrom(onnx.numpy_helper.from_array(small.numpy(), stored))
        casts.append(onnx.helper.make_node("Cast", [stored], [name], to=onnx.TensorProto.FLOAT))
    nodes = [*casts, *model.graph.node]
    del model.graph.node[:]
    model.graph.node.extend(nodes)


def _replaced(module: nn.Module) -> nn.Module:
    """The module with poolings that ONNX can hold for images of any size."""
    for name, inner in module.named_children():
        if isinstance(inner, nn.AdaptiveAvgPool2d):
            size = inner.output_size
            both: Any = (size, size) if isinstance(size, int) else size
            if None not in both and both != (1, 1):
                setattr(module, name, AdaptivePool(both))
        else:
            _replaced(inner)
    return module
