"""What is known of a trained network: by its checkpoint, and by the folder of its run."""

import contextlib
import platform
import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path, PureWindowsPath
from typing import Any

import torch
import yaml

from segmentation import __version__
from segmentation.checkpoints import sidecar
from segmentation.data.diameters import TrainingDiameters
from segmentation.data.seen import trained_on
from segmentation.errors import UserError
from segmentation.io.files import read_json, sha256_of

# Whose versions decide what a network is.
_PACKAGES = (
    "lightning",
    "numpy",
    "albumentations",
    "opencv-python-headless",
    "segmentation-models-pytorch",
)
# Of a run's settings, those that made the network.
_SETTINGS = ("seed_everything", "data", "trainer")
# Of a checkpoint, beside its record.
_STORED = ("config", "preprocess", "diameter", "exported")
# Of scores.json, what a card shows, and what it calls that.
TITLES = {
    "image_iou": "IoU, mean over images",
    "image_f1": "F1 (Dice), mean over images",
    "image_ap": "AP over IoU .5 to .95, mean over images",
    "iou": "IoU, all pixels",
    "ap50": "AP at IoU .5, all objects",
    "pq": "Panoptic quality, all objects",
    "auroc": "AUROC, all pixels",
}


def versions() -> dict[str, str]:
    """Of this package, Python, and the packages that training rests on."""
    found = {"segmentation": __version__, "torch": str(torch.__version__)}
    found["python"] = platform.python_version()
    for name in _PACKAGES:
        with contextlib.suppress(PackageNotFoundError):
            found[name] = version(name)
    return found


def check_license(license: str | None) -> None:
    """Refuse what is no identifier of a licence, in a ``UserError``."""
    if license is not None and not re.fullmatch(r"[a-z0-9][a-z0-9.+-]*", license):
        raise UserError(
            f"--license {license}: must be an identifier such as cc-by-4.0 or mit; see "
            "https://huggingface.co/docs/hub/repositories-licenses"
        )


def kept(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """The ``record`` of an export: what its own file would not tell any more."""
    known = known_of(path, checkpoint)
    told = (*_STORED, "diameters", "seen", "parameters", "epoch", "global_step")
    return {key: value for key, value in known.items() if key not in told}


def began(about: dict[str, Any], config: str, content: str | None) -> dict[str, Any]:
    """What checkpoints say of their training: plain values.

    They are given away, so neither the command nor folders are among it.

    Args:
        about: What ``run.json`` holds.
        config: The run's config, as YAML.
        content: The key of the data's content.
    """
    known: dict[str, Any] = {key: about.get(key) for key in ("started", "versions", "split_sha256")}
    git, whole = about.get("git"), yaml.safe_load(config) or {}
    known["git"] = git and {k: git.get(k) for k in ("commit", "branch", "changed")}
    settings = {key: whole[key] for key in _SETTINGS if key in whole}
    if (weights := (whole.get("run") or {}).get("weights")) is not None:
        settings["weights"] = weights
    return {**known, "content": content, "settings": without_folders(settings)}


def without_folders(config: Any, unset: bool = False) -> Any:
    """A config without the folders in which its files lie; what is not set goes, unless ``unset``.

    >>> without_folders({"root": str(Path.home() / "mine"), "fold": None, "files": [{"a": None}]})
    {'root': 'mine', 'files': [{}]}
    >>> without_folders({"root": str(Path.home() / "mine"), "fold": None}, unset=True)
    {'root': 'mine', 'fold': None}
    """
    if isinstance(config, dict):
        known = {k: v for k, v in config.items() if unset or v is not None}
        return {k: without_folders(v, unset) for k, v in known.items()}
    if isinstance(config, list | tuple):
        return [without_folders(value, unset) for value in config]
    if isinstance(config, str):  # written on whatever system
        windows = PureWindowsPath(config)
        return windows.name if windows.is_absolute() or config.startswith("/") else config
    return config


def scored_as(path: Path) -> dict[str, Any]:
    """What a checkpoint and its tuned settings, where it has some, are known by."""
    beside = sidecar(path)
    known = {"checkpoint_sha256": sha256_of(path)}
    return {**known, "tuned_sha256": sha256_of(beside) if beside.exists() else None}


def known_of(path: Path, checkpoint: dict[str, Any]) -> dict[str, Any]:
    """All that is known of a checkpoint, as plain values; what is not known is not there.

    A checkpoint in its run's folder is completed by the files there: the whole cost of the
    training, and the scores, if they are of this very checkpoint and of the decoding that it has
    now.

    Args:
        path: Where the checkpoint is.
        checkpoint: What :func:`.checkpoints.read_checkpoint` read there.

    Raises:
        UserError: Its record is broken, or a file in its run's folder is.
    """
    folder = path.resolve().parent.parent
    try:
        known = _stored(checkpoint)
        if path.resolve().parent.name == "checkpoints" and (folder / "config.yaml").exists():
            _complete(known, path, folder)
    except (AttributeError, LookupError, TypeError, ValueError, yaml.YAMLError) as error:
        gist = " ".join(str(error).split())
        raise UserError(
            f"{path}: its record, or the one in its run's folder, is broken ({gist}); copy it again"
        ) from None
    return known


def _stored(checkpoint: dict[str, Any]) -> dict[str, Any]:
    """What the checkpoint itself tells."""
    about = checkpoint["segmentation"]
    known: dict[str, Any] = dict(about.get("record") or {})
    known |= {key: about[key] for key in _STORED if about.get(key)}
    known.setdefault("versions", {"segmentation": about.get("version", "")})
    sizes = TrainingDiameters.stored_in(about)
    known["diameters"] = [sizes.quantile(q) for q in (0.05, 0.95)] if sizes and sizes.median else []
    seen = trained_on(about)
    names = {key.partition("/")[0] for key in seen if "/" in key}  # of older versions
    if "name" not in known and len(names) == 1:
        known["name"] = names.pop()
    known["seen"] = {"images": len(seen), "by_name": sum("/" in key for key in seen)}
    net = {k: v for k, v in checkpoint["state_dict"].items() if k.startswith("net.")}
    buffers = ("running_mean", "running_var", "num_batches_tracked")
    known["parameters"] = sum(v.numel() for k, v in net.items() if not k.endswith(buffers))
    known |= {key: checkpoint[key] for key in ("epoch", "global_step") if key in checkpoint}
    spent = checkpoint.get("callbacks", {}).get("Tracking", {}).get("spent")
    known["spent"] = known.get("spent") or spent or {}  # until it was written
    return known


def _complete(known: dict[str, Any], path: Path, folder: Path) -> None:
    """Add what the run's folder knows; what is broken there is said."""

    def content(name: str) -> dict[str, Any]:
        file = folder / name
        try:
            found = read_json(file) if file.exists() else {}
            if not isinstance(found, dict):
                raise ValueError("no object")
        except (OSError, ValueError) as error:
            do = "copy the run's folder again, or the checkpoint elsewhere"
            raise UserError(f"{file}: cannot be read ({error}); {do}") from None
        return found

    run, split, used = content("run.json"), content("split.json"), content("resources.json")
    if "settings" not in known:  # of an older version
        config = (folder / "config.yaml").read_text(encoding="utf-8")
        known |= {k: v for k, v in began(run, config, split.get("data")).items() if v}
        known.setdefault("name", str(split.get("data", "")).rpartition("-")[0])
    if "parts" not in known and "counts" in split:
        known["parts"] = {part: {"images": count} for part, count in split["counts"].items()}
    if used:
        known["spent"] = used | {"whole": True}
    scored = run.get("tested", {"checkpoint_sha256": None})
    is_best = path.name == "best.ckpt" and "tested" not in run  # an older run's
    if is_best or scored == scored_as(path):
        known["scores"] = shown(content("scores.json"))


def shown(scores: dict[str, Any]) -> dict[str, Any]:
    """The part of ``scores.json`` that a card shows; ``{}`` where nothing was tested."""
    methods = [name for name in scores.get("intervals", {}) if name in scores]

    def some(values: dict[str, Any]) -> dict[str, Any]:
        return {name: values[name] for name in (*TITLES, "images") if name in values}

    if not methods:
        return {}
    return {
        **{key: scores[key] for key in ("images", "resampled")},
        "methods": {name: some(scores[name]) for name in methods},
        **{key: scores.get(key, "") for key in ("sources", "classical_by")},
        "intervals": some(scores["intervals"][methods[0]]),
        "by_kind": {
            name: {kind: some(values) for kind, values in scores["by_kind"][name].items()}
            for name in methods
            if len(scores["by_kind"][name]) > 1
        },
    }
