"""Reading checkpoints safely, and rebuilding what they hold."""

import json
import os
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentError, ArgumentParser

from segmentation import __version__
from segmentation.data.seen import trained_on
from segmentation.errors import UserError
from segmentation.io import sealed
from segmentation.io.files import sha256_of
from segmentation.predictor import Predictor
from segmentation.task import SegmentationTask

# A class named in a checkpoint is imported and called: others' code only if the user trusts it.
TRUSTED = ("segmentation", "torch", "torchvision", "segmentation_models_pytorch")
_DOTTED = re.compile(r"\w+(\.\w+)+")
# Beginnings of class paths in older checkpoints and configs, and what they are now.
MOVED = {
    "segmentation.inference.tiles.": "segmentation.experiments.studies.",
    "segmentation.callbacks.averaging.": "segmentation.training.averaging.",
    "segmentation.data.weights.": "segmentation.targets.border_weights.",
    **{
        f"segmentation.data.{name}.": f"segmentation.datasets.{name}."
        for name in ("bbbc039", "dic_hela", "dsb2018", "folder", "ultrasound_nerve")
    },
}


def load(
    *paths: str | Path, device: str = "auto", tta: bool = False, trust: Iterable[str] = ()
) -> Predictor:
    """The trained network of a checkpoint, ready to predict; of several, their ensemble.

    Args:
        paths: Checkpoints that ``fit``, ``prune`` or ``export`` wrote.
        device: "auto" takes a GPU where there is one; otherwise as PyTorch names it.
        tta: Average over an image's eight symmetries: better, eight times slower.
        trust: Packages beside :data:`TRUSTED` whose classes may be built, such as your own.

    Raises:
        UserError: A checkpoint is at fault, they do not fit together, or there is no such device.

    >>> model = load("best.ckpt")  # doctest: +SKIP
    >>> labels = model.predict(image)  # doctest: +SKIP
    """
    return load_ensemble(paths, tta, trust).predictor.to(find_device(device))


def load_ensemble(
    paths: Sequence[str | Path], tta: bool = False, trust: Iterable[str] = ()
) -> SegmentationTask:
    """The task of the first checkpoint, whose predictor averages over all of them."""
    first, *others = (load_task(path, trust) for path in paths)
    for path, task in zip(paths, (first, *others), strict=True):
        task.predictor.tta |= tta
        if task is not first:
            first.predictor.add_member(task.predictor, str(path))
    return first


def find_device(name: str) -> torch.device:
    """The device of that name, "auto" a GPU where there is one; an error if it is not available."""
    if name == "auto":
        mps = "mps" if torch.backends.mps.is_available() else "cpu"
        name = "cuda" if torch.cuda.is_available() else mps
    try:
        return torch.empty(1, device=name).device
    except (RuntimeError, AssertionError) as error:
        why = str(error).splitlines()[0]
        raise UserError(f"--device {name}: not available here ({why}); use cpu") from None


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
    checkpoint = sealed.load(path)
    if not isinstance(checkpoint, dict) or "segmentation" not in checkpoint:
        raise UserError(
            f"{path}: a checkpoint of another kind, not one of this package; train one with "
            "segmentation fit"
        )
    if config := checkpoint["segmentation"].get("config"):
        config = checkpoint["segmentation"]["config"] = renamed(config)
        if tuned and sidecar(path).is_file():
            target = config["init_args"]["target"]
            target["init_args"] = {**(target.get("init_args") or {}), **_tuned(path)}
    return checkpoint


def _tuned(path: Path) -> dict[str, Any]:
    file = sidecar(path)
    try:
        content = json.loads(file.read_text())
        settings: dict[str, Any] = content["target"]
        digest = content["checkpoint_sha256"]
        if not all(isinstance(value, bool | int | float) for value in settings.values()):
            raise ValueError("settings that are no numbers")
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(
            f"{file}: cannot be read ({error!r}); delete it, or run segmentation tune again"
        ) from None
    if digest != sha256_of(path):
        raise UserError(
            f"{file}: was tuned for another checkpoint than {path.name} is now; delete it, or run "
            "segmentation tune again"
        )
    return settings


def load_task(path: str | Path, trust: Iterable[str] = ()) -> SegmentationTask:
    """The trained task in a checkpoint, in evaluation mode. Never touches the network."""
    checkpoint = read_checkpoint(path)
    config = checkpoint["segmentation"].get("config")
    if config is None:
        raise UserError(
            f"{path}: was trained without a config; load it in Python with "
            "SegmentationTask.load_from_checkpoint(path, net=…, …)"
        )
    check_trusted(config, path, trust)
    try:
        task = build_task(without_download(config))
        task.load_state_dict(checkpoint["state_dict"])
        task.trained_on = trained_on(checkpoint["segmentation"])
    except (ArgumentError, RuntimeError, KeyError, TypeError, ValueError, ImportError) as error:
        what = " ".join(str(error).split())[-200:]
        version = checkpoint["segmentation"].get("version", "0.1.0 or older")
        raise UserError(
            f"{path}: its network cannot be built again here (… {what}); it was trained under "
            f"version {version}, this is {__version__}: use the version and the code that it was "
            "trained with"
        ) from error
    return task.eval()


def build_task(config: dict[str, Any]) -> SegmentationTask:
    """Instantiate ``{class_path, init_args}`` of a :class:`SegmentationTask` or a subclass."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationTask, "model", required=True)
    values = parser.instantiate_classes(parser.parse_object({"model": config}))
    task: SegmentationTask = values.model
    task.config = config
    return task


def check_trusted(config: Any, path: str | Path, trust: Iterable[str] = ()) -> None:
    """Refuse to build a checkpoint's config that names classes of packages that nobody trusts.

    Trusted are :data:`TRUSTED`, what the variable SEGMENTATION_TRUST lists, by commas, and
    ``trust``: packages, or full names of classes.
    """
    known = {*TRUSTED, *os.environ.get("SEGMENTATION_TRUST", "").split(","), *trust}

    def check(key: str, value: Any) -> None:
        # A parameter that takes a class takes its path as plain text, too.
        if isinstance(value, str) and _DOTTED.fullmatch(value):
            package = value.partition(".")[0]
            exists = package in sys.modules or find_spec(package) is not None
            if not {package, value} & known and (exists or key == "class_path"):
                raise UserError(
                    f"{path}: names {value}, whose code would run; if you trust it, give predict "
                    f"and serve --trust {package}, or set SEGMENTATION_TRUST={package}"
                )

    _mapped(config, check)


def class_names(config: Any) -> set[str]:
    """Whatever may be the name of a class among the values of a config that a user wrote.

    >>> class_names({"net": {"class_path": "mine.Net"}, "root": "data/a.b"})
    {'mine.Net'}
    """
    values: list[Any] = []
    _mapped(config, lambda _, value: values.append(value))
    return {value for value in values if isinstance(value, str) and _DOTTED.fullmatch(value)}


def without_download(config: Any) -> Any:
    """A copy of a config whose encoders start without pretrained weights.

    Those are about to be replaced by the checkpoint's, and fetching them would need a network.
    """

    def fetched(key: str, value: Any) -> bool:
        # VGGUNet's "weights" name a file; elsewhere that word may stand for numbers.
        return key == "encoder_weights" or (key == "weights" and isinstance(value, str))

    return _mapped(config, lambda key, value: None if fetched(key, value) else value)


def renamed(config: Any) -> Any:
    """A copy of a config, of a checkpoint or a run, whose class paths are those of today.

    >>> renamed({"class_path": "segmentation.inference.tiles.GridTiles"})
    {'class_path': 'segmentation.experiments.studies.GridTiles'}
    """

    def today(_: str, value: Any) -> Any:
        for old, new in MOVED.items() if isinstance(value, str) else ():
            if value.startswith(old):
                return new + value.removeprefix(old)
        return value

    return _mapped(config, today)


def _mapped(config: Any, change: Callable[[str, Any], Any], key: str = "") -> Any:
    """A copy of a config of which each plain value, and the key it stands under, was changed."""
    if isinstance(config, dict):
        return {name: _mapped(value, change, name) for name, value in config.items()}
    if isinstance(config, list):
        return [_mapped(value, change, key) for value in config]
    return change(key, config)
