"""The keys of ``fit``, ``validate`` and ``test``: checked and explained from the source.

Nothing is imported: a mistyped key is told in a moment, and so is what a key means. Keys of classes
from other packages than those below are left to the parser.
"""

import ast
import re
from collections.abc import Iterable, Iterator, Sequence
from difflib import SequenceMatcher
from typing import Any

from segmentation.config_files import find_config, read_parts
from segmentation.errors import UserError
from segmentation.source import Argument, SourceClass, find_class, imported_names, module_tree

# Commands that take these keys, and the one whose keys they are.
COMMANDS = {
    **{name: name for name in ("fit", "validate", "test")},
    **{"crossvalidate": "fit", "tune": "validate", "prune": "validate"},
}
_TOP = {
    "config": "A config file, or the name of a shipped one; may be repeated, later files win.",
    "ckpt_path": "The checkpoint to resume from, or to score.",
    "seed_everything": "Seed of every random number; true draws one.",
    "print_config": "Show the whole config and stop.",
    "trust": "Your own packages whose classes a checkpoint may name: their code runs.",
    "help_all": "Show all keys and stop.",
    "explain": "Show what a key means, and the classes that may stand there, and stop.",
}
_UNSAID = ("c", "help", "h", "weights_only", "verbose", "_wandb")
# The classes behind the groups of keys; another class_path of a config stands instead.
_GROUPS = {
    "run": "segmentation.training.settings.Run",
    "checkpoint": "lightning.pytorch.callbacks.model_checkpoint.ModelCheckpoint",
    "trainer": "lightning.pytorch.trainer.trainer.Trainer",
    "data": "segmentation.data.datamodule.SegmentationDataModule",
    "model": "segmentation.task.SegmentationTask",
}
# Where the classes are that may stand at a key, and which of them are none.
_MODULES = {
    "data": ("bbbc039", "dic_hela", "dsb2018", "dsb2018_stardist", "folder", "ultrasound_nerve"),
    "data.split": ("segmentation.data.splits",),
    "data.weight": ("segmentation.targets.border_weights",),
    "model.net": ("segmentation.models",),
    "model.loss": ("segmentation.losses",),
    "model.loss.objects": ("segmentation.losses",),
    "model.target": ("segmentation.targets",),
    "model.target.objects": ("segmentation.targets",),
    "model.optimizer": ("torch.optim",),
    "model.lr_scheduler": ("segmentation.schedules", "torch.optim.lr_scheduler"),
    "trainer.callbacks": ("segmentation.training.averaging", "lightning.pytorch.callbacks"),
    "trainer.logger": ("lightning.pytorch.loggers",),
    "trainer.profiler": ("lightning.pytorch.profilers",),
}
_MODULES["data"] = tuple(f"segmentation.datasets.{name}" for name in _MODULES["data"])
_BESIDE = {
    "model.net": "any of segmentation_models_pytorch (Unet, FPN, …), or your own module",
    "model.loss": "segmentation_models_pytorch.losses (DiceLoss, FocalLoss, …), torch.nn's, yours",
}
_NONE = re.compile(
    r"^_|^(Splitter|WeightMap|Target|PerStep|Optimizer|LRScheduler|Logger|Profiler)$"
)
_BEHIND = ("data.preprocess", "data.target")  # the task hands its own to the data module
_FACTORIES = ("model.optimizer", "model.lr_scheduler")  # the first argument is not the config's
_PLAIN = {"int", "float", "bool", "str", "None", "Literal", "tuple", "Optional", "Union"}


def _classes(key: str) -> list[tuple[str, SourceClass]]:
    """The classes that may stand at a key: path as it is typed, class."""
    listed = []
    for module in _MODULES.get(key, ()):
        tree = module_tree(module)
        assert tree is not None
        own = [n.name for n in tree[0].body if isinstance(n, ast.ClassDef)]
        names = own or [known for known, _, _ in imported_names(module)]
        for name in dict.fromkeys(n for n in names if not _NONE.search(n)):
            found = find_class(f"{module}.{name}")
            ends = "DataModule" if key == "data" else ""
            if found is not None and name.endswith(ends):
                listed.append((f"{module}.{name}", found))
    return listed


def _class_at(value: Any, key: str) -> str | None:
    """The class that a config chooses at a key."""
    if isinstance(value, dict):
        return value.get("class_path")
    if not isinstance(value, str) or key in ("trainer", "run", "checkpoint"):
        return None
    return (
        value
        if "." in value
        else next((p for p, c in _classes(key) if c.node.name == value), value)
    )


def keys(config: dict[str, Any]) -> tuple[dict[str, Argument], set[str]]:
    """All keys, given the classes that a config chooses, and those below which anything may be."""
    found: dict[str, Argument] = {}
    free: set[str] = set()

    def add(prefix: str, owner: SourceClass, values: Any) -> None:
        parameters, whole = owner.parameters()
        if not whole:
            free.add(prefix)
        if prefix in _FACTORIES:
            parameters = dict([*parameters.items()][1:])
        for name, key in parameters.items():
            full = f"{prefix}.{name}"
            if full in _BEHIND:
                continue
            found[full] = key
            value = values.get(name) if isinstance(values, dict) else None
            chosen = _class_at(value, full) if full in _MODULES or isinstance(value, dict) else None
            below = find_class(chosen) if chosen else key.owner.named_by(key.kind)
            if below is not None:
                inner = value.get("init_args", value) if isinstance(value, dict) else {}
                add(full, below, inner)
            elif chosen or full in _MODULES or not _is_plain(key.kind):
                free.add(full)

    for group, default in _GROUPS.items():
        value = config.get(group)
        chosen = _class_at(value, group) if group in ("data", "model") else None
        owner = find_class(chosen or default)
        if owner is None:
            free.add(group)
        else:
            add(group, owner, value.get("init_args", value) if isinstance(value, dict) else {})
    return found, free


def _is_plain(kind: str) -> bool:
    """Whether nothing can stand below a key of this type."""
    return {
        *re.findall(r"[A-Za-z_]\w*", re.sub(r"(['\"]).*?\1", "", kind))
    } <= _PLAIN and kind != ""


def answer(command: str, words: Sequence[str]) -> str | None:
    """What ``--help-all`` and ``--explain KEY`` show; ``None``: neither was typed, and all is well.

    Raises:
        UserError: A key that was typed or stands in a config is none.
    """
    typed = list(_typed_keys(words))
    names = [name for name, _ in typed]
    config: dict[str, Any] = {}
    for file in (value for name, value in typed if name in ("config", "c") and value):
        for part in read_parts(find_config(file)):
            for group in (group for group in _GROUPS if group in part):
                one = part[group]  # of data and model it may be the class alone
                if not isinstance(
                    one, dict if group in ("run", "checkpoint", "trainer") else dict | str
                ):
                    raise UserError(f"{file}: {group}: {one} must be a mapping of its keys")
            _put_over(config, part)
            _check(file, dotted(part), *keys(config), command)
    for place, (name, value) in enumerate(typed):
        _put_over(config, _nested(name, value))
        if name in _MODULES and value:  # another class: what was typed for the one before goes
            names[:place] = [n if not n.startswith(f"{name}.") else name for n in names[:place]]
    known, free = keys(config)
    if "help_all" in names:
        return _all_keys(command)
    if "explain" in names:
        return explain(str(dict(typed)["explain"]), known, command)
    if command != "fit":  # the checkpoint says what classes the model is made of
        free |= {key for key in _MODULES if key.startswith("model.")}
    _check("", names, known, free, command)
    for name in (name for name, value in typed if name in known and not value):
        raise UserError(f"--{name}: needs a value; see segmentation {command} --explain {name}")
    return None


def _typed_keys(words: Sequence[str]) -> Iterator[tuple[str, str | None]]:
    """Keys as they are typed, each with its value; ``init_args`` may be left out."""
    for place, word in enumerate(words):
        if word.startswith("-") and not re.match(r"-[\d.]", word) and word.strip("-"):
            name, equals, value = word.lstrip("-").partition("=")
            after = words[place + 1] if place + 1 < len(words) else "--"
            name = name.rstrip("+").replace(".init_args", "")
            name = name.replace("-", "_") if "." not in name else name
            yield name, value if equals else (None if after.startswith("--") else after)


def _nested(name: str, value: Any) -> dict[str, Any]:
    for part in reversed(name.split(".")):
        value = {part: value}
    return value if isinstance(value, dict) else {}


def _put_over(into: dict[str, Any], part: Any) -> None:
    """Put a part over a config; another class brings its own arguments."""
    for key, value in part.items():
        old = into.get(key)
        if isinstance(value, dict) and "class_path" in value:
            value = {"class_path": value["class_path"], **(value.get("init_args") or {})}
        elif isinstance(value, dict) and isinstance(value.get("init_args"), dict):
            value = value["init_args"]
        if isinstance(old, dict) and isinstance(value, str):
            value = {"class_path": value}
        if not isinstance(value, dict):
            into[key] = value
            continue
        mine = old.get("class_path") if isinstance(old, dict) else old
        if not isinstance(old, dict) or value.get("class_path", mine) != mine:
            into[key] = {} if mine is None or "class_path" in value else {"class_path": mine}
        _put_over(into[key], value)


def dotted(part: dict[str, Any], above: str = "") -> Iterator[str]:
    """The keys of a nested config that hold a value, as they are typed."""
    for key, value in part.items():
        name = above if key == "init_args" else f"{above}{key}"
        inner = isinstance(value, dict) and key != "dict_kwargs"
        if inner and value:
            yield from dotted(value, name if key == "init_args" else f"{name}.")
        elif key not in ("class_path", "dict_kwargs"):
            yield name


def _check(
    file: str, names: Iterable[str], known: dict[str, Argument], free: set[str], command: str
) -> None:
    for name in (name.removesuffix(".class_path") for name in names):
        parts = name.split(".")
        above = {".".join(parts[:n]) for n in range(1, len(parts) + 1)}
        taken = name in (*known, *_GROUPS) or parts[0] in (*_TOP, *_UNSAID)
        if taken or free & above or {"dict_kwargs", "help"} & {*parts}:
            continue
        near = nearest(name, [key for key in (*known, *_TOP) if key not in above])
        hint = f"did you mean {near}? See" if near else "see"
        shown = f"{file}: {name}" if file else f"--{name}"
        raise UserError(f"{shown}: no such key; {hint} segmentation {command} --help-all")


def nearest(name: str, known: Sequence[str]) -> str | None:
    """The key whose last part, and then the whole of it, is most like a name, if one is."""

    above, _, last = name.rpartition(".")

    def likeness(key: str) -> tuple[float, float]:
        group, _, end = key.rpartition(".")
        beside = 0.2 * (group == above)  # a slip of the finger is likelier than another group
        whole = SequenceMatcher(None, name, key).ratio()
        return SequenceMatcher(None, last, end).ratio() + beside, whole

    best = max(known, key=likeness)
    return best if max(likeness(best)) >= 0.7 else None


def explain(name: str, known: dict[str, Argument], command: str = "fit") -> str:
    """What a key means: its type, default, and the classes that may stand there."""
    name = name.lstrip("-")
    if name in _TOP:
        return f"--{name}: {_TOP[name]}"
    if name not in (*known, *_GROUPS):
        _check("", [name], known, set(), command)
    lines = [f"  --{name}  ({_GROUPS.get(name)})"]
    if name in known:
        key = known[name]
        about = key.owner.about().get(name.rpartition(".")[2], "")
        lines = [_key_line(name, key, about)]
    if classes := _classes(name):
        lines += ["", "May be:"]
        lines += [
            f"  {path}" + f"\n      {found.first_line}" * bool(found.first_line)
            for path, found in classes
        ]
    if name in _BESIDE:
        lines += [f"  and {_BESIDE[name]}"]
    if inner := [key for key in known if key.startswith(f"{name}.")]:
        lines += ["", "Keys below it: " + ", ".join(inner)]
    return "\n".join(lines)


def _all_keys(command: str) -> str:
    lines = [f"usage: segmentation {command} [--KEY VALUE ...]", ""]
    lines += [f"  --{name}\n      {about}" for name, about in _TOP.items()]
    known, _ = keys({})
    for group, path in _GROUPS.items():
        lines += ["", f"{group}: {path}"]
        owners: dict[str, dict[str, str]] = {}
        for name in (name for name in known if name.startswith(f"{group}.")):
            key = known[name]
            about = owners.setdefault(key.owner.path, key.owner.about())
            lines.append(_key_line(name, key, about.get(name.rpartition(".")[2], "")))
    for place in _MODULES:
        if place.startswith("trainer") or place == "model.optimizer":
            continue
        for path, found in _classes(place):
            lines += ["", f"with --{place} {path}: {found.first_line}"]
            parameters, _ = found.parameters()
            about = found.about()
            for name, key in [*parameters.items()][place in _FACTORIES :]:
                if (full := f"{place}.{name}") not in (*known, *_BEHIND):
                    lines.append(_key_line(full, key, about.get(name, "")))
    return "\n".join(lines)


def _key_line(name: str, key: Argument, about: str) -> str:
    default = "required" if key.default is None else f"default {key.default}"
    kind = f"{key.kind}, " if key.kind else ""
    return f"  --{name}  ({kind}{default})" + (f"\n      {about}" if about else "")
