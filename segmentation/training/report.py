"""A run's own page, ``report.html``, from the files of its folder and nothing else."""

import json
import math
import re
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from markupsafe import Markup

from segmentation.data.resize import resize_image
from segmentation.errors import Unwritten, UserError
from segmentation.evaluation import plots
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.overlays import class_legend, data_url
from segmentation.evaluation.pages import render
from segmentation.evaluation.pictures import Colours, legend
from segmentation.io.files import write_bytes
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.training.messages import one_line

PAGE, SUMMARY = "report.html", "summary.json"
_WIDEST, _EPOCHS = 964, 5  # pixels of a picture; pictures of one validation image


class RunReport(Callback):
    """Writes ``report.html`` and ``summary.json`` after a training, after a test, and before dying.

    What fails here, but for a full disk, is said and stops nothing: the page can be made again from
    the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str | None) -> None:
        if not trainer.is_global_zero or not (self.folder / "config.yaml").exists():
            return
        try:
            for logger in trainer.loggers:
                logger.save()  # what the CSV log still holds back
            write_report(self.folder)
        except Exception as error:
            if isinstance(error, Unwritten) and stage:
                raise
            rank_zero_warn(f"{self.folder / PAGE}: not written ({one_line(str(error))})")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.teardown(trainer, pl_module, None)


def write_report(folder: Path) -> None:
    """Make the page of a run, finished or not; files that are missing are left out."""

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
        lines: Any = {c: log[[axis, c]].dropna().to_numpy().tolist() for c in shown}
        return plots.chart(title, axis, lines, log_scale)

    log, scores = read_metrics(folder / "metrics.csv"), content("scores.json")
    metrics, counts = extremes(log), content("test_curves.json")
    found = {"finished": bool(scores), "metrics": metrics}
    write_bytes(folder / SUMMARY, json.dumps(found, indent=1).encode())
    context = {
        "title": f"{folder.parent.name}/{folder.name}",
        "scores": scores,
        "metrics": metrics,
        "counts": np.array([counts["foreground"], counts["background"]]) if counts else None,
        "tested": _tested(folder / "overlays"),
        "validated": _validated(folder / "validation"),
        "images": _images(folder / "per_image.csv"),
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
    numbers: Any = table.apply(pd.to_numeric, errors="coerce").astype(float)
    finite: pd.DataFrame = numbers.where(np.isfinite(numbers))
    return finite


def extremes(log: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Last and, where one can say so, best value of each metric, and the best's epoch."""
    result: dict[str, dict[str, float | None]] = {}
    for name in sorted(set(log.columns) - {"step", "epoch"}):
        if (values := log[name].dropna()).empty:
            continue
        result[name] = {"last": float(values.iloc[-1])}
        stage, _, score = name.partition("/")
        loss = score.startswith("loss")
        kind = "lower" if loss else better(score)
        if loss or (stage == "val" and kind != "near 0"):
            place: Any = values.idxmin() if kind == "lower" else values.idxmax()
            epoch = float(log["epoch"][place])
            known = epoch if math.isfinite(epoch) else None
            result[name] |= {"best": float(values[place]), "epoch": known}
    return result


def _colours(config: str) -> Colours:
    """What the colours of the pictures tell, of a run with this config."""
    found = re.search(r"^  overlays: (\w+)$", config, re.MULTILINE)
    return "pixels" if found and found[1] == "pixels" else "objects"


def _tested(folder: Path) -> list[Path]:
    paths = sorted(folder.glob("*.png"), key=lambda p: ("wmb".find(p.name[0]), p.name))
    # The worst of few images are the best of them, too.
    once = {path.stem.partition("_")[2]: path for path in reversed(paths)}
    return [*reversed(once.values())]


def _validated(folder: Path) -> dict[str, list[Path]]:
    """Files by image, some of many epochs."""
    found: dict[str, list[Path]] = {}
    for path in sorted(folder.glob("*_epoch*.png")):
        found.setdefault(path.stem.rpartition("_epoch")[0], []).append(path)
    for name, paths in found.items():
        places = np.linspace(0, len(paths) - 1, min(_EPOCHS, len(paths))).round().astype(int)
        found[name] = [paths[place] for place in places]
    return found


def _images(path: Path) -> list[Any]:
    """The network's rows of ``per_image.csv``, the worst first."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype={"id": str}).query("method == 'network'")
    return table.sort_values("iou", kind="stable").to_dict("records")


def _embedded(path: Path) -> str:
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    size = (max(1, height * _WIDEST // width), _WIDEST)
    return data_url(resize_image(rgb, size) if width > _WIDEST else rgb)
