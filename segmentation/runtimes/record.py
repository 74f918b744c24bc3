"""What travels inside an exported file beside the network, so that the file alone can predict.

It is JSON: in the ``metadata_props`` of ONNX, the ``rt_info`` of OpenVINO, an extra file of
TorchScript. Its keys:

- ``format``: of this record; ``version``: of the package that wrote it
- ``loss``, which ``test`` computes
- ``preprocess``, ``target``, ``tta``, ``diameter``, ``training_diameters``: as in a checkpoint,
  tuned values included
- ``network``: ``class``, ``in_channels``, ``classes``, ``stride``, ``least_side``, ``whole_image``
- ``precision``, ``checkpoint_sha256``; ``trained_on``, ``chosen_on``: digests of images
- ``digest``: SHA-256 of the weights as the file holds them
"""

import hashlib
import importlib
import json
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.io.files import check_regular

FORMAT = 1
KEY = "segmentation"
EXTRA = "segmentation.json"  # of TorchScript
SUFFIXES = (".onnx", ".xml")  # TorchScript's .pt may also be a checkpoint
_BROKEN = "cannot be read: a part is missing or has changed; copy it again"


def is_exported(path: str | Path) -> bool:
    """Whether a file is an exported network rather than a checkpoint."""
    path = Path(path)
    if path.suffix.lower() in SUFFIXES:
        return True
    check_regular(path)
    if not path.is_file() or not zipfile.is_zipfile(path):
        return False
    try:
        with zipfile.ZipFile(path) as archive:
            return any(name.endswith(f"/extra/{EXTRA}") for name in archive.namelist())
    except (OSError, ValueError, zipfile.BadZipFile):  # whoever loads the checkpoint says so
        return False


def needed(module: str, path: object) -> Any:
    """Import a runtime, or say which extra brings it."""
    try:
        return importlib.import_module(module)
    except ImportError:
        raise UserError(
            f"{path}: needs {module}, which is not installed; "
            "pip install 'biomedical-segmentation[fast]'"
        ) from None


def read_exported(path: Path) -> tuple[dict[str, Any], Any]:
    """The record of an exported file, and what a runtime makes a network of."""
    read: dict[str, Callable[[Path], tuple[dict[str, Any], Any]]] = {
        ".onnx": onnx_model,
        ".xml": openvino_model,
    }
    suffix = path.suffix.lower()
    return read[suffix](path) if suffix in read else (script_record(path), path)


def onnx_model(path: Path) -> tuple[dict[str, Any], bytes]:
    """The record of an ONNX file and its bytes, which are whole."""
    onnx, data = needed("onnx", path), _bytes_of(path)
    try:
        model = onnx.load_from_string(data)
    except Exception:  # protobuf's own
        raise UserError(f"{path}: {_BROKEN}") from None
    text = {one.key: one.value for one in model.metadata_props}.get(KEY)
    record = checked(path, text)
    if record["digest"] != digest_of_onnx(model):
        raise UserError(f"{path}: {_BROKEN}")
    _check_channels(path, record, model.graph.input[0].type.tensor_type.shape.dim[1].dim_value)
    return record, data


def openvino_model(path: Path) -> tuple[dict[str, Any], Any]:
    """The record of an OpenVINO file and what OpenVINO read, whose weights are whole."""
    openvino = needed("openvino", path)
    weights = path.with_suffix(".bin")
    for file in (path, weights):
        _bytes_of(file, 1)
    try:
        model = openvino.Core().read_model(path)
    except Exception:
        raise UserError(f"{path}: {_BROKEN}") from None
    text = str(model.get_rt_info(KEY).value) if model.has_rt_info(KEY) else None
    record = checked(path, text)
    if record["digest"] != digest_of_bytes(_bytes_of(weights)):
        raise UserError(f"{weights}: is not the one that belongs to {path.name}; copy both again")
    _check_channels(path, record, model.input(0).partial_shape[1].get_length())
    return record, model


def script_record(path: Path) -> dict[str, Any]:
    """The record of a TorchScript file, which is whole."""
    try:
        with zipfile.ZipFile(path) as archive:
            if archive.testzip() is not None:
                raise zipfile.BadZipFile
            (name,) = (n for n in archive.namelist() if n.endswith(f"/extra/{EXTRA}"))
            text = archive.read(name).decode()
    except (OSError, ValueError, zipfile.BadZipFile):
        raise UserError(f"{path}: {_BROKEN}") from None
    return checked(path, text)


def checked(path: Path, text: str | None) -> dict[str, Any]:
    """The record from its JSON.

    Raises:
        UserError: There is none, a newer version wrote it, or it is broken.
    """
    if text is None:
        raise UserError(
            f"{path}: does not say how images are prepared and objects decoded; write it with "
            "segmentation export"
        )
    try:
        record: dict[str, Any] = json.loads(text)
        written, version = int(record["format"]), str(record["version"])
        if written > FORMAT:
            raise UserError(
                f"{path}: was written by version {version}, this is {__version__}: update this one"
            )
        numbers = ("in_channels", "classes", "stride", "least_side")
        fits = all(isinstance(record["network"][name], int) for name in numbers)
        parts = ("preprocess", "target")
        fits &= all(isinstance(record[name], dict) for name in parts)
        if not fits or not isinstance(record["digest"], str):
            raise ValueError
    except (ValueError, LookupError, TypeError, RecursionError):
        raise UserError(f"{path}: its record is broken; copy the file again") from None
    return record


def digest_of_bytes(data: bytes) -> str:
    """SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def digest_of_onnx(model: Any) -> str:
    """Of the graph of an ONNX model with its weights, whatever its metadata is."""
    return digest_of_bytes(model.graph.SerializeToString(deterministic=True))


def _check_channels(path: Path, record: dict[str, Any], channels: int) -> None:
    if channels != (told := record["network"]["in_channels"]):
        raise UserError(
            f"{path}: takes {channels} channel(s), and its record says {told}; export it again"
        )


def _bytes_of(path: Path, most: int = -1) -> bytes:
    check_regular(path)
    try:
        with path.open("rb") as file:
            return file.read(most)
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
