"""A run's own page, ``report.html``, from the files of its folder and nothing else."""

import json
import math
import re
import time
from datetime import datetime
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.trainer.states import TrainerFn
from lightning.pytorch.utilities import rank_zero_warn
from markupsafe import Markup

from segmentation.data.resize import resize_image
from segmentation.errors import Unwritten, UserError
from segmentation.evaluation import plots
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.overlays import class_legend, data_url
from segmentation.evaluation.pages import duration, render
from segmentation.evaluation.pictures import Colours, legend
from segmentation.io.files import write_bytes, write_json
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.training.console import seconds_left
from segmentation.training.messages import one_line

PAGE, SUMMARY = "report.html", "summary.json"
_WIDEST, _EPOCHS = 964, 5  # pixels of a picture; pictures of one validation image


class RunReport(Callback):
    """Writes ``report.html`` and ``summary.json`` after each epoch, after a test, and before dying.

    It takes some 40 ms of processor time, and 10 for each picture that is new on it. What fails,
    but for a full disk, is said and stops nothing: the page can be made again from the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._start = 0.0, 0  # when the training began here, and at which step

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        self._start = time.monotonic(), trainer.global_step
        self.on_train_epoch_start(trainer, pl_module)  # a training that goes on has no other

    def on_train_epoch_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        # Rather than at the end of an epoch, when its training loss is not logged yet.
        self._write(trainer, None, self._running(trainer))

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str | None) -> None:
        self._write(trainer, stage)

    def _running(self, trainer: Trainer, state: str = "Training") -> dict[str, Any]:
        """How far the training is: ``share`` from 0 to 1, and ``about`` in words."""
        total = trainer.estimated_stepping_batches
        share = trainer.global_step / total if math.isfinite(total) and total else 0.0
        epochs = f" of {trainer.max_epochs}" if (trainer.max_epochs or 0) > 0 else ""
        about = f"{state}: epoch {trainer.current_epoch + 1}{epochs}"
        left = seconds_left(trainer, *self._start)
        if left is not None and state == "Training":
            about += f", about {duration(left)} left"
        about += f" ({datetime.now():%Y-%m-%d %H:%M:%S})"
        return {"share": share, "about": about, "stopped": state != "Training"}

    def _write(
        self, trainer: Trainer, stage: str | None, running: dict[str, Any] | None = None
    ) -> None:
        if not trainer.is_global_zero or not (self.folder / "config.yaml").exists():
            return
        try:
            for logger in trainer.loggers:
                logger.save()  # what the CSV log still holds back
            write_report(self.folder, running)
        except Exception as error:
            if isinstance(error, Unwritten) and stage:
                raise
            rank_zero_warn(f"{self.folder / PAGE}: not written ({one_line(str(error))})")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        training = trainer.state.fn == TrainerFn.FITTING and self._start[0] > 0  # it has begun
        self._write(trainer, None, self._running(trainer, "Interrupted") if training else None)


def write_report(folder: Path, running: dict[str, Any] | None = None) -> None:
    """Make the page of a run, finished or not; files that are missing are left out.

    ``running`` says of a training at work how far it is: ``share`` and ``about``.
    """

    def text(name: str) -> str:
        path = folder / name
        return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""

    def content(name: str) -> dict[str, Any]:
        try:
            found: dict[str, Any] = json.loads(text(name) or "{}")
        except ValueError:
            raise UserError(f"{folder / name}: not valid JSON; remove it") from None
        return found

    def chart(title: str, axis: str, names: list[str], log_scale: bool = False) -> Markup:
        """A name that ends in ``-`` or ``/`` stands for all that begin so."""
        shown = [c for n in names for c in metrics if c == n or (n[-1] in "-/" and c.startswith(n))]
        lines: Any = {c: _points(log, axis, c) for c in shown}
        return plots.chart(title, axis, lines, log_scale)

    log, scores = read_metrics(folder / "metrics.csv"), content("scores.json")
    metrics, counts = extremes(log), content("test_curves.json")
    found = {"finished": bool(scores), "metrics": metrics}
    write_json(folder / SUMMARY, found)
    images = _worst_first(folder / "per_image.csv")
    context = {
        "running": running,
        "title": f"{folder.parent.name}/{folder.name}",
        "scores": scores,
        "metrics": metrics,
        "counts": np.array([counts["foreground"], counts["background"]]) if counts else None,
        "tested": _tested(folder / "overlays", images),
        "validated": _validated(folder / "validation"),
        "images": images,
        **{"text": text, "content": content, "embedded": _embedded, "better": better},
        "class_legend": class_legend,
        "legend": legend(_colours(text("config.yaml"))),
        **{"chart": chart, "curve": plots.curve, "pr_curve": pr_curve, "roc_curve": roc_curve},
    }
    write_bytes(folder / PAGE, render("run.html", **context).encode())


def read_metrics(path: Path) -> pd.DataFrame:
    """``metrics.csv``; what is no finite number is NaN; empty where there is no file."""
    if not path.exists() or not path.stat().st_size:
        return pd.DataFrame()
    table = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace")
    for name in table.select_dtypes(exclude="number"):  # a row that was cut off
        table[name] = pd.to_numeric(table[name], errors="coerce")
    values = table.to_numpy(float)
    return pd.DataFrame(np.where(np.isfinite(values), values, np.nan), columns=table.columns)


def _points(log: pd.DataFrame, *names: str) -> list[list[float]]:
    """The rows of some columns that have all of them."""
    values = np.stack([log[name].to_numpy() for name in names], axis=1)
    found: list[list[float]] = values[np.isfinite(values).all(axis=1)].tolist()
    return found


def extremes(log: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Last and, where one can say so, best value of each metric, and the best's epoch."""
    result: dict[str, dict[str, float | None]] = {}
    for name in sorted(set(log.columns) - {"step", "epoch"}):
        if not (points := _points(log, name)):
            continue
        result[name] = {"last": points[-1][0]}
        stage, _, score = name.partition("/")
        loss = score.startswith("loss")
        kind = "lower" if loss else better(score)
        if loss or (stage == "val" and kind != "near 0"):
            values = log[name].to_numpy()
            place = int(np.nanargmin(values) if kind == "lower" else np.nanargmax(values))
            epoch = float(log["epoch"][place])
            known = epoch if math.isfinite(epoch) else None
            result[name] |= {"best": float(values[place]), "epoch": known}
    return result


def _colours(config: str) -> Colours:
    """What the colours of the pictures tell, of a run with this config."""
    found = re.search(r"^  overlays: (\w+)$", config, re.MULTILINE)
    return "pixels" if found and found[1] == "pixels" else "objects"


def _tested(folder: Path, images: list[Any]) -> list[tuple[Path, str]]:
    """Pictures with what they are of."""
    names = {image["id"].replace("/", "_")[:40]: image["id"] for image in images}
    paths = sorted(folder.glob("*.png"), key=lambda p: ("wmb".find(p.name[0]), p.name))
    # The worst of few images are the best of them, too.
    once = {path.stem.partition("_")[2]: path for path in reversed(paths)}
    found = []
    for path in reversed(once.values()):
        title, _, rest = path.stem.partition("_iou")
        iou, _, name = rest.partition("_")
        found.append((path, f"{title.replace('-', ' ')} · IoU {iou} · {names.get(name, name)}"))
    return found


def _validated(folder: Path) -> dict[str, list[Path]]:
    """Files by image, some of many epochs."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_epoch*.png")):
        found.setdefault(path.stem.rpartition("_epoch")[0], []).append(path)
    for name, paths in found.items():
        places = np.linspace(0, len(paths) - 1, min(_EPOCHS, len(paths))).round().astype(int)
        found[name] = [paths[place] for place in places]
    return found


def _worst_first(path: Path) -> list[Any]:
    """The network's rows of ``per_image.csv``, the worst first."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype={"id": str}).query("method == 'network'")
    return table.sort_values("iou", kind="stable").to_dict("records")


def _embedded(path: Path) -> Markup:
    return _encoded(path, path.stat().st_mtime_ns)


@lru_cache(64)  # the pictures of a page that is written again and again
def _encoded(path: Path, _time: int) -> Markup:
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    size = (max(1, height * _WIDEST // width), _WIDEST)
    return Markup(data_url(resize_image(rgb, size) if width > _WIDEST else rgb))
