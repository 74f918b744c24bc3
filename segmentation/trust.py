"""What the config in a checkpoint may ask for: classes are imported and called, sizes allocated."""

import contextlib
import os
import pkgutil
import re
import sys
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from itertools import count
from pathlib import Path
from typing import Any

import yaml
from torch import nn
from torch.nn.modules import module as registry
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LRScheduler

from segmentation.data.preprocess import Preprocess
from segmentation.errors import UserError
from segmentation.targets import Target
from segmentation.task import Schedule, SegmentationTask

# Packages, modules and classes whose code may run for what a checkpoint says.
TRUSTED = (
    "segmentation",
    "segmentation_models_pytorch",
    "torch.nn",
    "torch.optim",
    "torchvision",
    "lightning.pytorch.cli.ReduceLROnPlateau",
)
# What each part of a task must be. Anything below them must be one of these, too.
_PARTS: dict[str, type] = {
    "model": SegmentationTask,
    "model.net": nn.Module,
    "model.loss": nn.Module,
    "model.target": Target,
    "model.preprocess": Preprocess,
    "model.optimizer": Optimizer,
    "model.lr_scheduler": LRScheduler,
    "model.schedule": Schedule,
}
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
# Arguments that make networks read or fetch weights, which the checkpoint's are to replace.
_FETCHED = ("encoder_weights", "checkpoint_path", "pretrained_cfg", "pretrained_cfg_overlay")
_ENCODERS = r"segmentation_models_pytorch\.(?!losses\.)"
LARGEST = 100_000  # values of a config: a few kilobytes may refer to each other and become millions
_DOTTED = re.compile(r"\w+(\.\w+)+")
_CLASSIFIER = 2**27  # parameters: more than torchvision's encoders make and throw away
_MODULES = 20_000


def check_trusted(config: Any, path: object, trust: Iterable[str] = ()) -> None:
    """Refuse to build a checkpoint's config that names anything but a class of the right kind.

    Args:
        config: ``{class_path, init_args}`` of a :class:`SegmentationTask`, plain values.
        path: The checkpoint, for messages.
        trust: Packages, or full names of classes, beside :data:`TRUSTED` and those that the
            variable SEGMENTATION_TRUST lists, by commas.

    A :class:`UserError`: it names a function, a class of another kind or of a package that nobody
    trusts, or it would fetch a network from elsewhere.
    """
    more = {*os.environ.get("SEGMENTATION_TRUST", "").split(","), *trust} - {""}

    def refused(place: str, what: str, why: str) -> UserError:
        return UserError(f"{path}: {place} names {what}, {why}")

    def of_kind(place: str) -> str:
        kind = _PARTS[place].__name__ if place in _PARTS else "network, loss, target or optimizer"
        return f"which is no {kind} class; a checkpoint may name nothing else"

    def known(name: str, packages: Iterable[str]) -> bool:
        return any(name == one or name.startswith(f"{one}.") for one in packages)

    def check_class(name: str, place: str) -> None:
        package = name.partition(".")[0]
        if not known(name, (*TRUSTED, *more)):
            trusts = f"add --trust {package}, or set SEGMENTATION_TRUST={package}"
            never = package in sys.stdlib_module_names or known(f"{package}.", ("torch", *TRUSTED))
            why = of_kind(place) if never else f"whose code would run; if you trust it, {trusts}"
            raise refused(place, name, why)
        try:
            found = pkgutil.resolve_name(name)
        except Exception:  # of importing it; it is told by whoever builds it
            return
        home = f"{getattr(found, '__module__', '')}."
        mine = known(home, more) or name in more
        kinds = _PARTS.get(place, object if mine else tuple(_PARTS.values()))
        trusted = mine or known(home, TRUSTED) or known(name, TRUSTED[-1:])
        if not (trusted and isinstance(found, type) and issubclass(found, kinds)):
            raise refused(place, name, of_kind(place))

    def look(value: Any, place: str) -> None:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key == "class_path":
                    if not (isinstance(inner, str) and _DOTTED.fullmatch(inner)):
                        raise refused(place, repr(inner), "which is the name of no class")
                    check_class(inner, place)
                else:
                    look(inner, place if key == "init_args" else f"{place}.{key}")
        elif isinstance(value, list):
            for inner in value:
                look(inner, place)
        elif isinstance(value, str):
            text = _as_parsed(value) if len(value) < 10_000 else None
            if not isinstance(text, str) or (place.endswith(".encoder_name") and ":" in text):
                why = "a config or a network from elsewhere; a checkpoint may not do so"
                raise refused(place, repr(value[:60]), why)
            # A parameter that takes a class takes its path as plain text, too.
            if _DOTTED.fullmatch(text) and _exists(text.partition(".")[0]):
                check_class(text, place)

    look(config, "model")


def _as_parsed(value: str) -> Any:
    """Text as the parser takes it: what is YAML within it counts; other than text if it is more."""
    text: Any = value
    with contextlib.suppress(yaml.YAMLError, ValueError, RecursionError):
        while isinstance(text, str) and not re.fullmatch(r"[\w./-]*", text):
            if (parsed := yaml.safe_load(text)) == text:
                break
            text = parsed
    return text if isinstance(text, dict | list) else str(text)


def _exists(package: str) -> bool:
    if package in sys.modules:
        return True
    try:
        return find_spec(package) is not None
    except (ImportError, ValueError):
        return False


@contextlib.contextmanager
def bounded(path: str | Path) -> Iterator[None]:
    """Within, a network is refused (:class:`UserError`) that is larger than a checkpoint's weights.

    It is before its memory is filled. A margin is left for parts that are made and thrown away.
    """
    parameters, modules, largest = 0, count(1), Path(path).stat().st_size + _CLASSIFIER
    why = f"{path}: its config asks for a larger network than its weights are; do not use this file"

    def on_tensor(_: nn.Module, name: str, tensor: Any) -> None:
        nonlocal parameters
        parameters += 0 if tensor is None else tensor.numel()
        if parameters > largest:
            raise UserError(why)

    def on_module(*_: Any) -> None:
        if next(modules) > _MODULES:
            raise UserError(why)

    with contextlib.ExitStack() as hooks:
        hooks.enter_context(registry.register_module_parameter_registration_hook(on_tensor))
        hooks.enter_context(registry.register_module_buffer_registration_hook(on_tensor))
        hooks.enter_context(registry.register_module_module_registration_hook(on_module))
        yield


def class_names(config: Any) -> set[str]:
    """Whatever may be the name of a class among the values of a config that a user wrote.

    >>> class_names({"net": {"class_path": "mine.Net"}, "root": "data/a.b"})
    {'mine.Net'}
    """
    values: list[Any] = []
    _mapped(config, lambda _, value: values.append(value))
    return {value for value in values if isinstance(value, str) and _DOTTED.fullmatch(value)}


def without_download(config: Any) -> Any:
    """A copy of a config whose networks start without pretrained weights.

    Those are about to be replaced by the checkpoint's, and fetching them would need a network.
    """

    def bare(key: str, value: Any) -> Any:
        # VGGUNet's "weights" name a file; elsewhere that word may stand for numbers.
        if key in _FETCHED or (key == "weights" and isinstance(value, str)):
            return None
        return value and False if key == "pretrained" else value

    def told(config: Any) -> None:
        """Networks of segmentation-models-pytorch fetch weights if nothing is said."""
        for value in config.values() if isinstance(config, dict) else config:
            if isinstance(value, dict | list):
                told(value)
        if isinstance(config, dict) and re.match(_ENCODERS, str(config.get("class_path"))):
            config["init_args"] = {"encoder_weights": None, **(config.get("init_args") or {})}

    copy = _mapped(config, bare)
    told([copy])
    return copy


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


def _mapped(
    config: Any, change: Callable[[str, Any], Any], key: str = "", seen: Iterator[int] | None = None
) -> Any:
    """A copy of a config of which each plain value, and the key it stands under, was changed.

    More than :data:`LARGEST` values are a ``ValueError``.
    """
    seen = count(1) if seen is None else seen
    if next(seen) > LARGEST:
        raise ValueError(f"more than {LARGEST:,} values")
    if isinstance(config, dict):
        return {name: _mapped(value, change, name, seen) for name, value in config.items()}
    if isinstance(config, list | tuple):
        return [_mapped(value, change, key, seen) for value in config]
    return change(key, config)
