"""Reading checkpoints safely, and rebuilding the task that a checkpoint holds."""

import io
import json
import pickle
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser
from torch import Tensor

from segmentation import __version__
from segmentation.errors import UserError
from segmentation.io.files import sha256_of, write_bytes
from segmentation.task import SegmentationTask

# What a checkpoint needs to be tested and to predict; the rest goes on with a training.
INFERENCE = ("segmentation", "state_dict", "epoch", "global_step", "pytorch-lightning_version")


def sidecar(path: str | Path) -> Path:
    """The file beside a checkpoint with the settings that ``segmentation tune`` found for it."""
    return Path(path).with_suffix(".tuned.json")


def read_checkpoint(path: str | Path, tuned: bool = True) -> dict[str, Any]:
    """Load a checkpoint that :class:`SegmentationTask` wrote, as tensors and plain values only.

    Args:
        path: The file.
        tuned: Put the settings of its sidecar, where there is one, into the target of its config.

    Raises:
        UserError: It is missing, broken, of another kind, or holds anything but plain values
            (unpickling could then run code of its author); or the sidecar is of another checkpoint.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such checkpoint; check the path")
    try:
        checkpoint = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # on a broken file torch raises whatever its parser trips over
        if isinstance(error, pickle.UnpicklingError) and "GLOBAL" in str(error):
            raise UserError(
                f"{path}: refused, it holds more than tensors and plain values and could run code; "
                "use a checkpoint written by this package"
            ) from None
        raise UserError(f"{path}: not a checkpoint, or a broken one; copy it again") from None
    if not isinstance(checkpoint, dict) or "segmentation" not in checkpoint:
        raise UserError(
            f"{path}: a checkpoint of another kind, not one of this package; train one with "
            "segmentation fit"
        )
    config = checkpoint["segmentation"].get("config")
    if tuned and config and sidecar(path).is_file():
        target = config["init_args"]["target"]
        target["init_args"] = {**(target.get("init_args") or {}), **_tuned(path)}
    return checkpoint


def _tuned(path: Path) -> dict[str, Any]:
    file = sidecar(path)
    try:
        content = json.loads(file.read_text())
        settings: dict[str, Any] = content["target"]
        digest = content["checkpoint_sha256"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error!r}); delete it, or run segmentation tune again"
        ) from None
    if digest != sha256_of(path):
        raise UserError(
            f"{file}: was tuned for another checkpoint than {path.name} is now; delete it, or run "
            "segmentation tune again"
        )
    return settings


def load_task(path: str | Path) -> SegmentationTask:
    """The trained task in a checkpoint, in evaluation mode. Never touches the network.

    Raises:
        UserError: As :func:`read_checkpoint`, or the task was built by hand rather than from a
            config: then load it with ``SegmentationTask.load_from_checkpoint`` and its parts; or
            its config does not fit the code that is installed.
    """
    checkpoint = read_checkpoint(path)
    config = checkpoint["segmentation"].get("config")
    if config is None:
        raise UserError(
            f"{path}: was trained without a config; load it in Python with "
            "SegmentationTask.load_from_checkpoint(path, net=…, …)"
        )
    try:
        task = build_task(without_download(config))
        task.load_state_dict(checkpoint["state_dict"])
        task.trained_on = checkpoint["segmentation"].get("trained_on", {})
    except (ArgumentError, RuntimeError, KeyError, TypeError, ValueError, ImportError) as error:
        what = " ".join(str(error).split())[-200:]
        version = checkpoint["segmentation"].get("version", "0.1.0 or older")
        raise UserError(
            f"{path}: its network cannot be built again here (… {what}); it was trained under "
            f"version {version}, this is {__version__}: use the version and the code that it was "
            "trained with"
        ) from error
    return task.eval()


def save_for_inference(checkpoint: dict[str, Any], output: Path, half: bool = False) -> None:
    """Write a checkpoint that ``predict`` and ``test`` take as any other, without what trains on.

    Args:
        checkpoint: As :func:`read_checkpoint` gives it.
        output: The file.
        half: Store numbers in float16, half the size. They are computed with in float32 as before;
            a tensor that float16 cannot hold stays as it is.

    Raises:
        UserError: The output cannot be written.
    """
    kept = {name: checkpoint[name] for name in INFERENCE if name in checkpoint}
    kept["segmentation"] = {**kept["segmentation"], "exported": True}
    if half:
        kept["state_dict"] = {name: _half(value) for name, value in kept["state_dict"].items()}
    buffer = io.BytesIO()
    torch.save(kept, buffer)
    write_bytes(output, buffer.getvalue())


def _half(value: Tensor) -> Tensor:
    if not value.is_floating_point():
        return value
    small = value.half()
    return small if torch.isfinite(small).all() else value


def build_task(config: dict[str, Any]) -> SegmentationTask:
    """Instantiate ``{class_path, init_args}`` of a :class:`SegmentationTask` or a subclass."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationTask, "model", required=True)
    task: SegmentationTask = parser.instantiate_classes(
        parser.parse_object({"model": config})
    ).model
    task.config = config
    return task


def without_download(config: Any) -> Any:
    """A copy of a config whose encoders start without pretrained weights.

    Those are about to be replaced by the checkpoint's, and fetching them would need a network.
    """
    if isinstance(config, dict):
        # VGGUNet's "weights" name a file; elsewhere that word may stand for numbers.
        fetched = {k for k, v in config.items() if k == "weights" and isinstance(v, str)}
        fetched.add("encoder_weights")
        return {k: None if k in fetched else without_download(v) for k, v in config.items()}
    if isinstance(config, list):
        return [without_download(value) for value in config]
    return config
