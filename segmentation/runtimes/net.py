"""Exported networks run as modules: batches of windows ► logits, whatever computes them."""

import time
import warnings
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from segmentation.errors import UserError, gist_of
from segmentation.inference import least_side, network_stride
from segmentation.runtimes.record import needed, read_exported
from segmentation.runtimes.trace import onnx_of, traced

Backend = Literal["auto", "torch", "onnxruntime", "openvino"]
Run = Callable[[Tensor], Tensor]
_WINDOW = 256  # pixels of the image on which backends are measured


class ExportedNet(nn.Module):
    """(B, C, H, W) float32 ► logits (B, classes, H, W), computed by a runtime.

    ONNX Runtime and OpenVINO compute on the CPU, in as many threads as PyTorch would.

    Attributes:
        record: What travels with it; see :mod:`segmentation.runtimes.record`.
        backend: What runs it.
    """

    def __init__(self, record: dict[str, Any], backend: str, run: Run) -> None:
        super().__init__()
        self.record, self.backend = record, backend
        self.run = run  # a TorchScript module becomes a part of this one, and moves with it
        about = record["network"]
        self.in_channels, self.classes = about["in_channels"], about["classes"]
        self.stride, self.least_side = about["stride"], about["least_side"]
        self.whole_image = bool(about.get("whole_image"))

    def forward(self, image: Tensor) -> Tensor:
        if self.backend == "torch":
            return self.run(image)
        try:
            return self.run(image)
        except Exception as error:  # the runtimes' own, of all kinds
            size = "×".join(map(str, image.shape))
            raise UserError(
                f"{self.backend} cannot run the network on {size} ({gist_of(error)}); choose "
                "another --backend, or the checkpoint"
            ) from error


def able(path: Path, precision: str = "fp32") -> tuple[Backend, ...]:
    """What can run an exported file.

    An ONNX file of 8 bits is ONNX Runtime's alone: of one that was written before sizes were read
    ahead of the quantisation, OpenVINO 2026 computes other answers.

    >>> able(Path("model.onnx")), able(Path("model.onnx"), "int8")
    (('openvino', 'onnxruntime'), ('onnxruntime',))
    """
    if precision == "int8" and path.suffix.lower() == ".onnx":
        return ("onnxruntime",)
    runtimes: dict[str, tuple[Backend, ...]] = {
        ".onnx": ("openvino", "onnxruntime"),
        ".xml": ("openvino",),
    }
    return runtimes.get(path.suffix.lower(), ("torch",))


def open_exported(path: Path, backend: Backend | None = None) -> ExportedNet:
    """The network of an exported file.

    Args:
        path: ``.onnx``, ``.xml`` (OpenVINO) or ``.pt`` (TorchScript).
        backend: What runs it; ``None`` and ``auto`` take the fastest that is installed.

    Raises:
        UserError: The file is broken, or nothing that is installed (or asked for) runs it.
    """
    record, source = read_exported(path)
    runtimes = able(path, record.get("precision", "fp32"))
    if backend not in (None, "auto"):
        if backend not in runtimes:
            what = f"--backend {backend} does not run it; {' and '.join(runtimes)} can"
            raise UserError(f"{path}: {what}, or export another --format")
        return ExportedNet(record, backend, RUNNERS[backend](source, path))
    there = [name for name in runtimes if name == "torch" or find_spec(name) is not None]
    if not there:
        needed("onnxruntime", path)
    nets = [ExportedNet(record, name, RUNNERS[name](source, path)) for name in there]
    return nets[0] if len(nets) == 1 else fastest(nets)


def converted(net: nn.Module, record: dict[str, Any], backend: Backend, path: object) -> nn.Module:
    """A trained network run by another backend; ``auto`` measures all that are installed.

    ``record`` and ``path`` are those of its checkpoint.
    """
    names = ["onnxruntime", "openvino"] if backend == "auto" else [backend]
    if backend == "auto":
        names = [name for name in names if find_spec(name) is not None]
    if not names or find_spec("onnx") is None:
        if backend == "auto":
            return net
        needed("onnx", path)
    for name in names:
        needed(name, path)
    source = onnx_of(script_of(net, record), record).SerializeToString()
    nets = [ExportedNet(record, name, RUNNERS[name](source, path)) for name in names]
    return fastest([net, *nets]) if backend == "auto" else nets[0]


def network_record(net: nn.Module, in_channels: int, classes: int) -> dict[str, Any]:
    """What a record tells of the network itself."""
    return {
        "class": type(net).__name__,
        "in_channels": in_channels,
        "classes": classes,
        "stride": network_stride(net),
        "least_side": least_side(net),
        "whole_image": bool(getattr(net, "whole_image", False)),
    }


def script_of(net: nn.Module, record: dict[str, Any]) -> Any:
    """The network of a record, traced."""
    about = record["network"]
    return traced(net, about["in_channels"], about["stride"], about["least_side"])


def fastest(nets: Sequence[Any]) -> Any:
    """The one that answers soonest on this machine: the best of three rounds that take turns."""
    first = next(net for net in nets if isinstance(net, ExportedNet))
    side = max(-(-_WINDOW // first.stride) * first.stride, first.least_side)
    image = torch.rand(1, first.in_channels, side, side)
    image = image.contiguous(memory_format=torch.channels_last)
    taken = [float("inf")] * len(nets)
    with torch.inference_mode():
        for number in range(4):  # the first one warms up
            for place, net in enumerate(nets):
                start = time.perf_counter()
                net(image)
                if number:
                    taken[place] = min(taken[place], time.perf_counter() - start)
    return nets[int(np.argmin(taken))]


def _onnxruntime(source: bytes, path: object) -> Run:
    runtime = needed("onnxruntime", path)
    options = runtime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = torch.get_num_threads(), 1
    options.log_severity_level = 3
    try:
        session = runtime.InferenceSession(source, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # its own, of all kinds
        raise _unloaded(path, "onnxruntime", error) from error

    def run(image: Tensor) -> Tensor:
        found = session.run(["logits"], {"image": _array(image)})[0]
        return torch.from_numpy(found).to(image.device)

    return run


def _openvino(source: Any, path: object) -> Run:
    openvino = needed("openvino", path)
    core = openvino.Core()
    # By default it computes in bfloat16 where the processor can: other objects.
    how = {"INFERENCE_PRECISION_HINT": "f32", "PERFORMANCE_HINT": "LATENCY"}
    how["INFERENCE_NUM_THREADS"] = str(torch.get_num_threads())
    try:
        model = core.read_model(source) if isinstance(source, bytes) else source
        compiled = core.compile_model(model, "CPU", how)
    except Exception as error:
        raise _unloaded(path, "openvino", error) from error
    request = compiled.create_infer_request()

    def run(image: Tensor) -> Tensor:
        request.infer([_array(image)])
        # A copy: the next answer is written over this one.
        return torch.from_numpy(request.get_output_tensor(0).data.copy()).to(image.device)

    return run


def _torchscript(source: Path, path: object) -> Run:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # TorchScript is called deprecated, and will stay for long
        try:
            load: Any = torch.jit.load
            script: Run = load(source, map_location="cpu").eval()
        except Exception as error:
            raise _unloaded(path, "torch", error) from error
    return script


def _array(image: Tensor) -> np.ndarray:
    return np.ascontiguousarray(image.detach().float().cpu().numpy())


def _unloaded(path: object, name: str, error: Exception) -> UserError:
    return UserError(
        f"{path}: {name} cannot run it ({gist_of(error)}); choose another --backend, or "
        "export it again"
    )


RUNNERS: dict[str, Callable[[Any, object], Run]] = {
    "onnxruntime": _onnxruntime,
    "openvino": _openvino,
    "torch": _torchscript,
}
