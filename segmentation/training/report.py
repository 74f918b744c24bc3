"""A run's own page, ``report.html``, from the files of its folder and nothing else."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from lightning import Callback, LightningModule, Trainer
from lightning.pytorch.utilities import rank_zero_warn
from markupsafe import Markup

from segmentation.data.preprocess import resize_image
from segmentation.errors import UserError
from segmentation.evaluation import plots
from segmentation.evaluation.calibration import pr_curve, roc_curve
from segmentation.evaluation.overlays import data_url
from segmentation.evaluation.pages import render
from segmentation.io.files import write_bytes
from segmentation.io.images import read_image
from segmentation.metrics import better
from segmentation.training.messages import one_line

PAGE, SUMMARY = "report.html", "summary.json"
_WIDEST, _EPOCHS = 964, 5  # pixels of a picture; pictures of one validation image


class RunReport(Callback):
    """Writes ``report.html`` and ``summary.json`` after a training, after a test, and before dying.

    What fails here is said and stops nothing: the page can be made again from the same files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def teardown(self, trainer: Trainer, pl_module: LightningModule, stage: str) -> None:
        if not trainer.is_global_zero or not (self.folder / "config.yaml").exists():
            return
        try:
            for logger in trainer.loggers:
                logger.save()  # what the CSV log still holds back
            write_report(self.folder)
        except Exception as error:
            rank_zero_warn(f"{self.folder / PAGE}: not written ({one_line(str(error))})")

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, *_: Any) -> None:
        self.teardown(trainer, pl_module, "")


def write_report(folder: Path) -> None:
    """Make the page of a run, finished or not; files that are missing are left out.

    Raises:
        UserError: It cannot be written, or a file is broken.
    """
    log, scores = read_metrics(folder / "metrics.csv"), _json(folder / "scores.json")
    metrics, counts = extremes(log), _json(folder / "test_curves.json")
    found = {"finished": bool(scores), "metrics": metrics}
    write_bytes(folder / SUMMARY, json.dumps(found, indent=1).encode())

    def chart(title: str, axis: str, names: list[str], log_scale: bool = False) -> Markup:
        """A name that ends in ``-`` or ``/`` stands for all that begin so."""
        shown = [c for n in names for c in log if c == n or (n[-1] in "-/" and c.startswith(n))]
        lines = {c: log[[axis, c]].dropna().to_numpy().tolist() for c in shown}
        return plots.chart(title, axis, lines, log_scale)

    page = render(
        "run.html",
        title=f"{folder.parent.name}/{folder.name}",
        about=_json(folder / "run.json"),
        split=_json(folder / "split.json"),
        used=_json(folder / "resources.json"),
        scores=scores,
        metrics=metrics,
        counts=np.array([counts["foreground"], counts["background"]]) if counts else None,
        tested=_tested(folder / "overlays"),
        validated=_validated(folder / "validation"),
        images=_images(folder / "per_image.csv"),
        config=_text(folder / "config.yaml"),
        diff=_text(folder / "git.diff"),
        **{"better": better, "chart": chart, "curve": plots.curve, "embedded": _embedded},
        **{"pr_curve": pr_curve, "roc_curve": roc_curve},
    )
    write_bytes(folder / PAGE, page.encode())


def read_metrics(path: Path) -> pd.DataFrame:
    """``metrics.csv``; what is no finite number is NaN; empty where there is no file."""
    if not path.exists() or not path.stat().st_size:
        return pd.DataFrame()
    table = pd.read_csv(path, on_bad_lines="skip", encoding_errors="replace")
    numbers = table.apply(pd.to_numeric, errors="coerce").astype(float)
    return numbers.where(np.isfinite(numbers))


def extremes(log: pd.DataFrame) -> dict[str, dict[str, float | None]]:
    """Last and, where one can say so, best value of each metric, and the best's epoch."""
    result: dict[str, dict[str, float | None]] = {}
    for name in sorted(set(log.columns) - {"step", "epoch"}):
        values = log[name].dropna()
        if values.empty:
            continue
        result[name] = {"last": float(values.iloc[-1])}
        stage, _, score = name.partition("/")
        kind = "lower" if score.startswith("loss") else better(score)
        if kind != "near 0" and (stage == "val" or score.startswith("loss")):
            place = values.idxmin() if kind == "lower" else values.idxmax()
            epoch = float(log["epoch"][place])
            known = epoch if math.isfinite(epoch) else None
            result[name] |= {"best": float(values[place]), "epoch": known}
    return result


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
    return {
        name: [
            paths[i]
            for i in np.linspace(0, len(paths) - 1, min(_EPOCHS, len(paths))).round().astype(int)
        ]
        for name, paths in found.items()
    }


def _images(path: Path) -> list[dict[str, Any]]:
    """The network's rows of ``per_image.csv``, the worst first."""
    if not path.exists():
        return []
    table = pd.read_csv(path, dtype={"id": str})
    return table[table["method"] == "network"].sort_values("iou", kind="stable").to_dict("records")


def _embedded(path: Path) -> str:
    rgb = read_image(path)
    height, width = rgb.shape[:2]
    if width > _WIDEST:
        rgb = resize_image(rgb, (max(1, height * _WIDEST // width), _WIDEST))
    return data_url(rgb)


def _text(path: Path) -> str:
    return path.read_text(encoding="utf-8", errors="replace") if path.exists() else ""


def _json(path: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads(_text(path) or "{}")
    except ValueError:
        raise UserError(f"{path}: not valid JSON; remove it") from None
    return found
