"""A run's own page, ``report.html``, from the files of its folder and nothing else."""

import json
import math
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

import numpy as np
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn

from segmentation.data.preprocess import resize_image
from segmentation.errors import UserError
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.html import caution, data_url, document, facts, figure, table
from segmentation.evaluation.page import curve
from segmentation.evaluation.scores import better
from segmentation.evaluation.tables import FILE, read_images
from segmentation.io.files import write_bytes
from segmentation.io.images import read_image
from segmentation.training.messages import one_line
from segmentation.training.run_log import Points, Series, chart, extremes, read_metrics
from segmentation.training.test_report import METHODS
from segmentation.training.tracking import CURVES, VALIDATION

PAGE, SUMMARY = "report.html", "summary.json"
_WIDEST = 964  # pixels of a picture
_EPOCHS = 5  # pictures of a validation image, from the first to the last
_TEXT = 200_000  # characters of config or diff that are shown
_PIXELS = ("iou", "image_iou", "f1", "precision", "recall", "auroc")
_OBJECTS = ("ap50", "ap", "image_ap", "pq", "image_seg", "aji")
_SCORED = ("image_iou", "image_f1", "iou", "f1", "precision", "recall", "mean_iou", "auroc",
           "average_precision", "image_ap", "image_ap50", "ap50", "pq", "aji", "image_seg",
           "image_boundary_f", "image_hd95", "image_count_error")  # fmt: skip
_COLUMNS = ("iou", "f1", "precision", "recall", "ap", "ap50", "pq", "seg", "boundary_f", "hd95",
            "count_error")  # fmt: skip


class RunReport(Callback):
    """Writes ``report.html`` and ``summary.json`` after a training, after a test, and before dying.

    What fails here is said and stops nothing: the page can be made again from the same files.

    Args:
        folder: The run's folder.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        self._write(trainer)

    def on_exception(
        self, trainer: Trainer, pl_module: LightningModule, exception: BaseException
    ) -> None:
        self._write(trainer)

    def _write(self, trainer: Trainer) -> None:
        if not trainer.is_global_zero or not (self.folder / "config.yaml").exists():
            return
        try:
            for logger in trainer.loggers:
                logger.save()  # what the CSV log still holds back
            write_report(self.folder)
        except Exception as error:
            rank_zero_warn(f"{self.folder / PAGE}: not written ({one_line(str(error))})")


def write_report(folder: Path) -> None:
    """Make the page of a run, finished or not; files that are missing are left out.

    Raises:
        UserError: It cannot be written, or a picture is broken.
    """
    log = read_metrics(folder / "metrics.csv")
    found = {"finished": (folder / "scores.json").exists(), "metrics": extremes(log)}
    write_bytes(folder / SUMMARY, json.dumps(found, indent=1).encode())
    write_bytes(folder / PAGE, page(folder, log).encode())


def page(folder: Path, log: Mapping[str, Series]) -> str:
    """The HTML.

    Args:
        folder: Of the run.
        log: Of :func:`read_metrics`.
    """
    about = _json(folder / "run.json")
    title = f"{folder.parent.name}/{folder.name}"
    body = [
        f"<h1>{escape(title)}</h1>",
        _about(folder, about),
        _scores(_json(folder / "scores.json")),
        _course(log),
        _curves(_json(folder / CURVES)),
        _test_pictures(folder / "overlays"),
        _over_time(folder / VALIDATION),
        _images(folder / FILE),
        _text("Config", _read(folder / "config.yaml")),
        _text("Uncommitted changes", _read(folder / "git.diff")),
    ]
    return document(title, "".join(body))


def _about(folder: Path, about: dict[str, Any]) -> str:
    split, used = _json(folder / "split.json"), _json(folder / "resources.json")
    git = about.get("git") or {}
    rows = [
        ("started", about.get("started")),
        ("command", " ".join(about.get("command", ()))),
        ("versions", ", ".join(f"{k} {v}" for k, v in about.get("versions", {}).items())),
        ("git commit", git.get("commit")),
        ("git branch", git.get("branch")),
        ("uncommitted changes", ("yes, below" if git["changed"] else "none") if git else None),
        ("untracked files", ", ".join(git.get("untracked", ()))),
        ("split", ", ".join(f"{n:,} {part}" for part, n in split.get("counts", {}).items())),
        ("split's SHA-256", split.get("sha256")),
        ("device", used.get("device")),
        ("processes", used.get("processes")),
        ("parameters", _grouped(used.get("parameters"))),
        ("steps", _grouped(used.get("steps"))),
        ("training took", _with(used.get("fit_seconds"), "s")),
        ("processor time", _with(used.get("cpu_seconds"), "s")),
        ("training throughput", _with(used.get("images_per_second"), "images/s")),
        ("peak memory", _mebibytes(used.get("peak_memory_bytes"))),
        ("peak GPU memory", _mebibytes(used.get("peak_gpu_memory_bytes"))),
    ]
    shown = [(name, escape(str(value))) for name, value in rows if value not in (None, "")]
    note = "" if used else '<p class="bad">The training has not ended.</p>'
    return note + facts(shown)


def _scores(scores: dict[str, Any]) -> str:
    if not scores:
        return "<h2>Test</h2><p>Not tested yet.</p>"
    head = ["", "network", "95 % interval", "Otsu’s threshold", "95 % interval", "nothing", ""]
    rows = []
    for name in _SCORED:
        if scores["network"].get(name) is None:
            continue
        cells = [escape(name)]
        for method in METHODS:
            cells.append(_short(scores.get(method, {}).get(name)))
            if method != "nothing":
                low, high = scores["intervals"].get(method, {}).get(name) or (None, None)
                cells.append("" if low is None else f"{_short(low)} … {_short(high)}")
        good = {"lower": "lower is better", "near 0": "0 is best", "higher": ""}[better(name)]
        rows.append((*cells, good))
    return (
        f"<h2>Test</h2><p>{scores['images']:,} images. <code>image_…</code> is a mean over images, "
        "every other score is pooled over all pixels or objects. Intervals hold the middle 95 % of "
        f"bootstrap resamples.</p>{caution(scores.get('resampled', {}))}"
        + table(head, rows, "scores.json")
    )


def _course(log: Mapping[str, Series]) -> str:
    def some(prefix: str, names: Sequence[str], axis: str) -> dict[str, Points]:
        found = {f"{prefix}{name}": log.get(f"{prefix}{name}") for name in names}
        return {name: series.by(axis) for name, series in found.items() if series is not None}

    losses = some("", ("train/loss_epoch", "val/loss"), "epochs")
    rates = [name for name in log if name.startswith("lr-")]
    memory = some("memory/", ("cpu_gib", "gpu_gib"), "steps")
    charts = (
        chart("Loss", "epoch", losses, log=True)
        + chart("Validation, pixels", "epoch", some("val/", _PIXELS, "epochs"))
        + chart("Validation, objects", "epoch", some("val/", _OBJECTS, "epochs"))
        + chart("Training loss", "step", some("train/", ("loss_step",), "steps"), log=True)
        + chart("Learning rate", "step", some("", rates, "steps"))
        + chart("Gradient norm", "step", some("train/", ("grad_norm",), "steps"), log=True)
        + chart("Throughput", "step", some("train/", ("images_per_second",), "steps"))
        + chart("Peak memory, GiB", "step", memory)
    )
    rows = [
        (escape(name), _short(v["best"]), _short(v["epoch"]), _short(v["last"]))
        for name, v in extremes(log).items()
        if "best" in v
    ]
    if not charts:
        return "<h2>Training</h2><p>Nothing was logged.</p>"
    best = table(("", "best", "in epoch", "last"), rows, SUMMARY) if rows else ""
    return f"<h2>Training</h2>{charts}<details><summary>Best values</summary>{best}</details>"


def _curves(counts: dict[str, Any]) -> str:
    if not counts:
        return ""
    hist = np.array([counts["foreground"], counts["background"]])
    return (
        "<h2>Probabilities</h2><p>All pixels of the test images.</p>"
        + curve("Precision and recall", "recall", "precision", *pr_curve(hist))
        + curve("ROC", "false positive rate", "true positive rate", *roc_curve(hist), True)
    )


def _test_pictures(folder: Path) -> str:
    paths = sorted(folder.glob("*.png"), key=lambda p: ("wmb".find(p.name[0]), p.name))
    # The worst of few images are the best of them, too.
    once = {path.stem.partition("_")[2]: path for path in reversed(paths)}
    if not once:
        return ""
    shown = "".join(figure(_embedded(p), escape(p.stem)) for p in reversed(once.values()))
    return f"<h2>Test images</h2>{_LEGEND}{shown}"


def _over_time(folder: Path) -> str:
    by_image: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_epoch*.png")):
        by_image.setdefault(path.stem.rpartition("_epoch")[0], []).append(path)
    text = ""
    for name, paths in by_image.items():
        places = np.linspace(0, len(paths) - 1, min(_EPOCHS, len(paths))).round().astype(int)
        text += f"<h3>{escape(name.partition('_')[2])}</h3>"
        for place in places:
            path = paths[place]
            about = f"epoch {int(path.stem.rpartition('_epoch')[2])}"
            text += figure(_embedded(path), about)
    return f"<h2>The same validation images over time</h2>{_LEGEND}{text}" if text else ""


def _images(path: Path) -> str:
    images = read_images(path).get("network") if path.exists() else None
    if images is None:
        return ""
    names = [name for name in _COLUMNS if name in images.columns]
    rows = [
        (escape(images.ids[i]), *(_short(float(images.columns[name][i])) for name in names))
        for i in np.argsort(images.columns["iou"], kind="stable")
    ]
    return f"<h2>Scores by image</h2>{table(('image', *names), rows, FILE)}"


def _text(title: str, text: str) -> str:
    if not text:
        return ""
    more = "\n…" if len(text) > _TEXT else ""
    return (
        f"<h2>{title}</h2><details><summary>{len(text.splitlines()):,} lines</summary>"
        f'<pre style="overflow-x:auto">{escape(text[:_TEXT])}{more}</pre></details>'
    )


_LEGEND = "<p>Foreground that is right purple, missed yellow, too much green.</p>"


def _embedded(path: Path) -> str:
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    if width > _WIDEST:
        rgb = resize_image(rgb, (max(1, height * _WIDEST // width), _WIDEST))
    return data_url(rgb)


def _read(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_read(path) or "{}")
    except ValueError:
        raise UserError(f"{path}: not valid JSON; remove it") from None
    return found


def _short(value: float | None) -> str:
    return "–" if value is None or not math.isfinite(value) else f"{value:.4g}"


def _grouped(value: int | None) -> str:
    return "" if value is None else f"{value:,}"


def _with(value: float | None, unit: str) -> str:
    return "" if value is None else f"{value:,} {unit}"


def _mebibytes(value: float | None) -> str:
    return "" if value is None else f"{value / 2**20:,.0f} MiB"
