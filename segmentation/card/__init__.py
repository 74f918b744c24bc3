"""The model card of a network: what it is, what it was made of, and what it is good for.

Markdown with a head in YAML, as Hugging Face reads it
(https://huggingface.co/docs/hub/model-cards). What is not known is said to be so.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import yaml
from jinja2 import UndefinedError

from segmentation.card.record import TITLES, check_license, known_of, without_folders
from segmentation.checkpoints import read_checkpoint
from segmentation.errors import UserError, printable
from segmentation.evaluation.pages import duration, number, render
from segmentation.networks import FOLDER

_METHODS = {"network": "network", "otsu": "Otsu's threshold"}
_SHOWN = (
    *("name", "versions", "diameter", "parts", "content"),
    *("split_sha256", "epoch", "started", "git", "exported"),
)
_BROKEN = (AttributeError, LookupError, TypeError, ValueError, UndefinedError, yaml.YAMLError)
_TAGS = ("image-segmentation", "instance-segmentation", "biomedical", "pytorch")


def card(ckpt_path: Path, license: str | None = None, trust: list[str] | None = None) -> None:
    """Print the model card of a checkpoint: what it was made of, its scores, what it is for.

    Args:
        ckpt_path: Written by fit, prune or export, by any version; or nuclei, which comes with the
            package.
        license: Of the weights, as Hugging Face calls it, such as cc-by-4.0; by default the one
            that export was told.
        trust: Your own packages whose classes the checkpoint names.
    """
    print(model_card(ckpt_path, license, trust or ()), end="")


def model_card(
    checkpoint: str | Path,
    license: str | None = None,
    trust: Iterable[str] = (),
    exported: str = "",
) -> str:
    """The model card of a checkpoint, as Hugging Face reads it: Markdown with a head in YAML.

    Args:
        checkpoint: Path of any checkpoint of this package. In the folder of its run, that
            completes it: see :func:`.card.record.known_of`.
        license: Identifier of the licence of the weights; by default the one that ``export`` was
            told.
        trust: Packages whose classes the checkpoint may name.
        exported: Name of the file that it was exported to, where the card is of that.

    Raises:
        UserError: It is no checkpoint, or its record is broken.

    >>> print(model_card("best.ckpt", "cc-by-4.0"))  # doctest: +SKIP
    """
    path = Path(checkpoint)
    check_license(license)
    known = known_of(path, read_checkpoint(path, trust=trust))
    license = license or known.get("license")
    try:
        known["exported"] = bool(exported or known.get("exported"))
        name = path.stem if path.parent == FOLDER else path.name  # a shipped one is called so
        return _page(exported or name, known, license)
    except _BROKEN as error:
        raise UserError(f"{path}: its record is broken ({error}); copy the file again") from None


def _page(file: str, known: dict[str, Any], license: str | None) -> str:
    parts = (known.get("config") or {}).get("init_args") or {}
    target = parts.get("target") or {}
    data = known.get("name") or ""
    title = f"{_class(parts.get('net')) or 'A network'}{f' on {data}' if data else ''}"
    head: dict[str, Any] = {
        "license": license or "unknown",
        "library_name": "biomedical-segmentation",
        "pipeline_tag": "image-segmentation",
        "tags": [*_TAGS],
    }
    if data:
        head["datasets"] = [data]
    scores = known.get("scores") or {}
    if scores:
        head["metrics"] = ["iou", "average_precision"]
        head["model-index"] = [{"name": title, "results": [_result(data, scores)]}]
    names = (target.get("init_args") or {}).get("names") or ()
    page = render(
        "card.md",
        title=title,
        file=file,
        license=license,
        known=dict.fromkeys(_SHOWN) | known,
        spent=_spent(known.get("spent") or {}),
        what=", ".join(map(str, names)) or "objects",
        net=_described(parts.get("net")),
        target=_described(target),
        preprocess=_settings(known.get("preprocess") or {}),
        split=_split(known),
        scores=scores,
        score_table=_score_table(scores) if scores else "",
        kind_table=_kind_table(scores) if scores.get("by_kind") else "",
        unknown=_unknown(known, license),
        settings=_yaml(
            without_folders({"model": known.get("config"), **known.get("settings", {})})
        ),
    )
    return f"---\n{_yaml(head)}---\n\n{page}"


def _result(data: str, scores: dict[str, Any]) -> dict[str, Any]:
    """The scores as Hugging Face's ``model-index`` takes them."""
    ours, ends = next(iter(scores["methods"].values())), scores["intervals"]
    metrics = []
    for name, title in TITLES.items():
        if (value := ours.get(name)) is not None:
            low, high = ends.get(name) or (None, None)
            about = "" if low is None else f" (95 % interval {low:.3f} to {high:.3f})"
            metrics.append({"type": name, "value": round(value, 4), "name": title + about})
    return {
        "task": {"type": "image-segmentation"},
        "dataset": {
            "type": data or "unknown",
            "name": f"{data or 'unknown'}, {scores['images']} test images",
        },
        "metrics": metrics,
    }


def _score_table(scores: dict[str, Any]) -> str:
    first, *others = scores["methods"]
    heads = ["score", _METHODS.get(first, first), "95 % interval"]
    rows = []
    for name, title in TITLES.items():
        ends = scores["intervals"].get(name)
        cells = [number(scores["methods"][m].get(name), ".3f") for m in (first, *others)]
        cells.insert(1, f"{ends[0]:.3f} to {ends[1]:.3f}" if ends and None not in ends else "–")
        rows.append([title, *cells])
    return _table([*heads, *(_METHODS.get(m, m) for m in others)], rows)


def _kind_table(scores: dict[str, Any]) -> str:
    by_kind = {name: kinds for name, kinds in scores["by_kind"].items() if name != "nothing"}
    shown = {"image_iou": "IoU", "image_ap": "AP"}
    heads = [f"{_METHODS.get(m, m)}: {title}" for m in by_kind for title in shown.values()]
    first = next(iter(by_kind.values()))
    rows = [
        [kind or "(none)", about["images"]]
        + [number(by_kind[m][kind].get(name), ".3f") for m in by_kind for name in shown]
        for kind, about in first.items()
    ]
    return _table(["kind", "images", *heads], rows)


def _table(heads: list[str], rows: list[list[Any]]) -> str:
    lines = [heads, ["---"] * len(heads), *rows]
    return "\n".join(f"| {' | '.join(printable(cell) for cell in line)} |" for line in lines)


def _class(part: Any) -> str:
    return str((part or {}).get("class_path", "")).rpartition(".")[2]


def _described(part: Any) -> str:
    """Such as ``UNet (width 8, depth 5)``: a class and its plain arguments."""
    arguments = (part or {}).get("init_args") or {}
    inner = (f"{k} {_described(v)}" for k, v in arguments.items() if isinstance(v, dict))
    return f"{_class(part)} ({', '.join([_settings(arguments), *inner]).strip(', ')})"


def _settings(values: dict[str, Any]) -> str:
    plain = (int, float, str, list, tuple)
    shown = {k: v for k, v in without_folders(values).items() if isinstance(v, plain)}
    return printable(", ".join(f"{k} {_short(v)}" for k, v in shown.items()))


def _short(value: Any) -> str:
    return " ".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _split(known: dict[str, Any]) -> str:
    data = (known.get("settings") or {}).get("data") or {}
    arguments = data.get("init_args") or {}
    fold = f", fold {arguments['fold']}" if arguments.get("fold") else ""
    return _described(arguments["split"]) + fold if arguments.get("split") else ""


def _spent(spent: dict[str, Any]) -> str:
    """Processor hours of the training."""
    if "cpu_seconds" not in spent:
        return ""
    until = "" if spent.get("whole") else ", until this epoch"
    many = spent.get("processes", 1)
    each = f" of each of {many} processes" if many > 1 else ""
    hours = f"{spent['cpu_seconds'] / 3600:.2f} processor hours{each}"
    where = f" on {spent['device']}" if spent.get("device") else ""
    return f"{hours} in {duration(spent['fit_seconds'])}{where}{until}"


def _unknown(known: dict[str, Any], license: str | None) -> list[str]:
    """What a reader would want to know and nobody has said."""
    asked = {
        "the licence of the weights": license,
        "the training data": known.get("name"),
        "digests of the data and the split": known.get("content") or known.get("split_sha256"),
        "the settings of data and training": known.get("settings"),
        "the state of the code (git commit)": known.get("git"),
        "the cost of the training": known.get("spent"),
        "scores on test images": known.get("scores"),
    }
    return [what for what, value in asked.items() if not value]


def _yaml(value: Any) -> str:
    return str(yaml.safe_dump(value, sort_keys=False, allow_unicode=True, width=100))
