"""Reading checkpoints safely, and rebuilding what they hold."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jsonargparse import ArgumentParser

from segmentation import __version__
from segmentation.data.diameters import TrainingDiameters
from segmentation.data.seen import trained_on
from segmentation.errors import UserError, first_of, printable
from segmentation.fitting import check_fit
from segmentation.io import sealed
from segmentation.io.files import read_json, sha256_of
from segmentation.networks import find_checkpoint, shipped_networks
from segmentation.predictor import Predictor
from segmentation.runtimes.net import (
    Backend,
    ExportedNet,
    converted,
    network_record,
    open_exported,
)
from segmentation.runtimes.record import FORMAT, is_exported, read_exported
from segmentation.task import SegmentationTask
from segmentation.trust import bounded, check_trusted, renamed, without_download

# Of a task's parts, those that only training looks at, and what stands in their places.
_TRAINING = {
    "loss": {"class_path": "torch.nn.Identity"},
    "optimizer": {"class_path": "torch.optim.SGD"},
    "lr_scheduler": None,
    "schedule": {"frequency": 1},
}


def load(
    *paths: str | Path,
    device: str = "auto",
    tta: bool = False,
    trust: Iterable[str] = (),
    backend: Backend | None = None,
) -> Predictor:
    """The trained network of a checkpoint, ready to predict; of several, their ensemble.

    Args:
        paths: Checkpoints that ``fit``, ``prune`` or ``export`` wrote, or exported networks; or
            the name of a network that comes with the package: ``nuclei``.
        device: "auto" takes a GPU where there is one; otherwise as PyTorch names it.
        tta: Average over an image's eight symmetries: better, eight times slower.
        trust: Packages whose classes may be built, such as your own, beside this one and PyTorch.
        backend: What runs the networks: "torch", "onnxruntime" or "openvino" (both on the CPU);
            "auto" measures those that are installed. By default PyTorch runs a checkpoint, and an
            exported network the fastest that can.

    Raises:
        UserError: A checkpoint is at fault, they do not fit together, or there is no such device.

    >>> model = load("nuclei", device="cpu")
    >>> model.preprocess.channels, type(model.target).__name__
    ('bright_on_dark', 'Flow')
    >>> labels = model.predict(image)  # doctest: +SKIP
    """
    for path in paths:
        if not isinstance(path, str | Path):
            raise UserError(f"load: {path!r} is no path; give several as load(one, another)")
    if not paths:
        raise UserError("load: give the path of a checkpoint")
    return load_ensemble(paths, tta, trust, backend).predictor.to(find_device(device))


def load_ensemble(
    paths: Sequence[str | Path],
    tta: bool = False,
    trust: Iterable[str] = (),
    backend: Backend | None = None,
) -> SegmentationTask:
    """The task of the first checkpoint, whose predictor averages over all of them."""
    first, *others = (load_task(path, trust, backend) for path in paths)
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


def read_checkpoint(
    path: str | Path, tuned: bool = True, trust: Iterable[str] = ()
) -> dict[str, Any]:
    """Load a checkpoint that :class:`SegmentationTask` wrote, as tensors and plain values only.

    Args:
        path: The file.
        tuned: Put the settings of its sidecar, where there is one, into the target of its config.
        trust: As :func:`.trust.check_trusted` takes it.

    Raises:
        UserError: It is missing, broken, of another kind, or holds anything but plain values
            (unpickling could then run code of its author); it names what nobody trusts; or the
            sidecar is of another checkpoint.
    """
    path = find_checkpoint(path)
    if not path.exists() or path.is_dir():
        names = ", ".join(shipped_networks())
        raise UserError(
            f"{path}: no such checkpoint; check the path, or name one that comes with the package: "
            f"{names}"
        )
    if is_exported(path):
        raise UserError(
            f"{path}: is an exported network, which predict, test and serve take; give the "
            "checkpoint that it was made of"
        )
    checkpoint: dict[str, Any] = sealed.read(path)
    keys = ("segmentation", "state_dict")
    parts = [checkpoint.get(key) if isinstance(checkpoint, dict) else None for key in keys]
    if not all(isinstance(part, dict) and all(isinstance(k, str) for k in part) for part in parts):
        raise UserError(
            f"{path}: a checkpoint of another kind, not one of this package; train one with "
            "segmentation fit"
        )
    if (about := checkpoint["segmentation"]).get("config") is None:
        return checkpoint
    try:
        config = about["config"] = renamed(about["config"])
        json.dumps(config)  # plain values alone
        if not isinstance(config["init_args"], dict):
            raise ValueError("init_args")
        if tuned and sidecar(path).exists():
            target = decoding_part(config["init_args"]["target"])
            target["init_args"] = {**(target.get("init_args") or {}), **_tuned(path)}
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise UserError(
            f"{path}: its config is none of this package's ({error}); do not use this file"
        ) from None
    check_trusted(config, path, trust)
    return checkpoint


def decoding_part(target: dict[str, Any]) -> dict[str, Any]:
    """Whose arguments the decoding follows: a target's config, or that of a target's objects."""
    inner = (target.get("init_args") or {}).get("objects")
    return decoding_part(inner) if isinstance(inner, dict) else target


def _tuned(path: Path) -> dict[str, Any]:
    file = sidecar(path)
    try:
        content = read_json(file)
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


def load_task(
    path: str | Path, trust: Iterable[str] = (), backend: Backend | None = None
) -> SegmentationTask:
    """The trained task in a checkpoint, in evaluation mode; or that of an exported network.

    Never touches the network. ``backend`` is as :func:`load` takes it.
    """
    path = find_checkpoint(path)
    if path.is_file() and is_exported(path):
        return _exported_task(path, trust, backend)
    task = _trained_task(path, trust)
    if backend not in (None, "torch"):
        net = converted(task.net, record_of(task, path), backend, path)
        if net is not task.net:
            _run_by(task, net)
    return task.eval()


def record_of(task: SegmentationTask, path: str | Path) -> dict[str, Any]:
    """What an export of this task, loaded from that checkpoint, tells beside the network."""
    assert task.config is not None
    preprocess, target, known = task.preprocess, task.target, task.predictor.training_diameters
    return {
        "format": FORMAT,
        "version": __version__,
        "preprocess": preprocess.plain(),
        "target": task.config["init_args"]["target"],
        "loss": task.config["init_args"]["loss"],
        "tta": task.predictor.tta,
        "diameter": task.predictor.diameter,
        "training_diameters": known and known.plain(),
        "network": network_record(task.net, preprocess.in_channels, target.classes),
        "precision": "fp32",
        "checkpoint_sha256": sha256_of(Path(path)),
        "trained_on": task.trained_on,
        "chosen_on": task.chosen_on,
    }


def model_config(path: str | Path, tuned: bool, trust: Iterable[str]) -> dict[str, Any] | None:
    """The config of the task in a checkpoint or an exported network, whose ``net`` is none then.

    Arguments are as :func:`read_checkpoint` takes them.
    """
    path = find_checkpoint(path)
    if not (tuned and is_exported(path)):  # tune takes checkpoints alone
        about: dict[str, Any] = read_checkpoint(path, tuned, trust)["segmentation"]
        return about.get("config")
    record = read_exported(path)[0]
    if record.get("loss") is None:
        raise UserError(f"{path}: does not tell its loss, which test computes; export it again")
    return _exported_config(path, record, trust, {"loss": record["loss"]})


def _exported_config(
    path: Path, record: dict[str, Any], trust: Iterable[str], more: dict[str, Any]
) -> dict[str, Any]:
    nothing = {"class_path": "torch.nn.Identity"}
    parts = {"net": nothing, "target": record["target"], "preprocess": record["preprocess"]}
    parts |= {"tta": bool(record.get("tta"))} | _TRAINING | more
    config = renamed({"class_path": "segmentation.task.SegmentationTask", "init_args": parts})
    check_trusted(config, path, trust)
    return dict(config)


def run_exported(task: SegmentationTask, net: ExportedNet) -> None:
    """Let an exported network answer in place of a task's, and tell what its record knows."""
    check_fit(net, task.target, task.preprocess)
    _run_by(task, net)
    task.trained_on = trained_on(net.record)
    task.chosen_on = trained_on(net.record, "chosen_on")
    _know(task.predictor, net.record)


def _exported_task(path: Path, trust: Iterable[str], backend: Backend | None) -> SegmentationTask:
    net = open_exported(path, backend)
    record = net.record
    config = _exported_config(path, record, trust, {})
    try:
        task = build_task(config)
        run_exported(task, net)
    except Exception as error:  # whatever a class raises of arguments that are not its own
        what = " ".join(str(first_of(error)).split())
        raise UserError(
            f"{path}: its record does not fit this version ({what[:200]}); it was written by "
            f"version {record['version']}, this is {__version__}: export it again"
        ) from error
    return task.eval()


def _run_by(task: SegmentationTask, net: Any) -> None:
    """Let another module answer in place of a task's network."""
    before, last = task.predictor, net.backend == "torch"
    task.net = net
    task.predictor = Predictor(net, task.preprocess, task.target, before.tta, last)
    task.predictor.diameter = before.diameter
    task.predictor.training_diameters = before.training_diameters


def _know(predictor: Predictor, about: Mapping[str, Any]) -> None:
    """Tell a predictor what its checkpoint or its exported file knows of the training images."""
    diameter = about.get("diameter")
    predictor.diameter = None if diameter is None else float(diameter)
    predictor.training_diameters = TrainingDiameters.stored_in(about)


def _trained_task(path: str | Path, trust: Iterable[str] = ()) -> SegmentationTask:
    checkpoint = read_checkpoint(path, trust=trust)
    about = checkpoint["segmentation"]
    if (config := about.get("config")) is None:
        raise UserError(
            f"{path}: was trained without a config; load it in Python with "
            "SegmentationTask.load_from_checkpoint(path, net=…, …)"
        )
    parts = config["init_args"]
    used = parts | {name: value for name, value in _TRAINING.items() if name in parts}
    state = {k: v for k, v in checkpoint["state_dict"].items() if not k.startswith("loss.")}
    try:
        with bounded(path):
            task = build_task(without_download(config | {"init_args": used}))
        task.load_state_dict(state)
        task.config, task.trained_on = without_download(config), trained_on(about)
        task.chosen_on = trained_on(about, "chosen_on")
        _know(task.predictor, about)
    except Exception as error:  # whatever a class raises of arguments that are not its own
        what = " ".join(str(first_of(error)).split())
        if what.startswith(printable(path)):
            raise UserError(what) from error
        version = about.get("version", "0.1.0 or older")
        raise UserError(
            f"{path}: its network cannot be built again here ({what[:200]}); it was trained under "
            f"version {version}, this is {__version__}: use the version and the code that it was "
            "trained with"
        ) from error
    return task


def build_task(config: dict[str, Any]) -> SegmentationTask:
    """Instantiate ``{class_path, init_args}`` of a :class:`SegmentationTask` or a subclass."""
    parser = ArgumentParser(exit_on_error=False)
    parser.add_subclass_arguments(SegmentationTask, "model", required=True)
    values = parser.instantiate_classes(parser.parse_object({"model": config}))
    task: SegmentationTask = values.model
    task.config = config
    return task
