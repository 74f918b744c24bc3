"""The table ``per_image.csv``, one row an image and method, and what is summed up from it.

Its columns are ``method``, ``id``, ``kind``, perhaps ``group``, the counts of pixels, then any
scores of single images (one that an image has not is left empty), and perhaps the counts of
objects. `test` and `evaluate` write it, `compare` and the pages read it.
"""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd

from segmentation.errors import UserError
from segmentation.evaluation.intervals import LEVEL, RESAMPLES, percentile_interval, resample
from segmentation.io.files import write_bytes
from segmentation.metrics.classes import confusions, is_count, names_in
from segmentation.metrics.counts import PIXELS
from segmentation.metrics.scores import Score, scores_of

FILE = "per_image.csv"
ABOUT = ("method", "id", "kind", "group")


def write_images(path: Path, frame: pd.DataFrame) -> None:
    """Write the table; floats get six digits, NaN is left empty."""
    short = frame.map(lambda value: round(value, 6) if isinstance(value, float) else value)
    write_bytes(path, short.to_csv(index=False, lineterminator="\n").encode())


def read_images(path: Path) -> pd.DataFrame:
    """Read the table; ``kind`` and ``group`` are empty where it has none.

    A file that is missing or no such table, a cell that is no number, or an image that occurs twice
    is a :class:`UserError`.
    """
    try:
        text = io.StringIO(path.read_text(encoding="utf-8"))
        frame = pd.read_csv(text, dtype=str, keep_default_na=False)
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or "not a table of text"
        raise UserError(
            f"{path}: cannot be read ({why}); give the folder of a run that was tested, or the "
            "output of evaluate"
        ) from None
    if not {"method", "id", *PIXELS} <= set(frame):
        raise UserError(f"{path}: lacks the columns method, id, tp, fp, fn, tn; test again")
    for name in ("kind", "group"):
        frame[name] = frame.get(name, "")
    for name in frame.columns.difference([*ABOUT]):
        try:  # an image may lack a score, not a count
            frame[name] = [float(v or ("x" if name in PIXELS else "nan")) for v in frame[name]]
        except ValueError:
            raise UserError(f"{path}: column {name} lacks numbers; test again") from None
        if is_count(str(name)) and frame[name].notna().all():
            frame[name] = frame[name].astype(np.int64)
    if (twice := frame.duplicated(["method", "id"])).any():
        method, name = frame.loc[twice, ["method", "id"]].iloc[0]
        raise UserError(f"{path}: {name} occurs twice for {method}; test again")
    return frame


def columns(frame: pd.DataFrame) -> dict[str, np.ndarray]:
    """The numbers of one method, (images,) by column."""
    return {str(name): frame[name].to_numpy() for name in frame if name not in ABOUT}


def groups_in(frame: pd.DataFrame) -> list[str] | None:
    """The groups to resample by; ``None`` where there are not two of them."""
    groups: list[str] = frame["group"].tolist()
    return groups if len(set(groups)) > 1 else None


def all_scores(frame: pd.DataFrame) -> dict[str, Any]:
    """Scores by method, with intervals, and by kind: what ``scores.json`` holds."""
    result: dict[str, Any] = {"images": frame["id"].nunique()}
    by_kind: dict[str, Any] = {}
    ends: dict[str, Any] = {}
    for method, mine in frame.groupby("method", sort=False):
        scores = scores_of(columns(mine))
        result[str(method)] = values_of(scores)
        drawn = resample(scores, groups_in(mine))
        ends[str(method)] = {name: percentile_interval(some) for name, some in drawn.items()}
        by_kind[str(method)] = {
            kind: {"images": len(some), **values_of(scores_of(columns(some)))}
            for kind, some in mine.groupby("kind")
        }
    if names_in(map(str, frame)):
        matrices = {str(m): confusions(columns(mine)) for m, mine in frame.groupby("method")}
        result["confusion"] = matrices
    # Of any method, for all have the same images.
    return result | {"by_kind": by_kind, "intervals": ends, "resampled": resampled(mine)}


def values_of(scores: dict[str, Score]) -> dict[str, float]:
    """Each score over all images."""
    return {name: score.value for name, score in scores.items()}


def resampled(frame: pd.DataFrame) -> dict[str, Any]:
    """What the intervals of one method are drawn from, and a ``caution`` beside them, if any."""
    groups = frame["group"].unique()
    what, count = ("groups", len(groups)) if len(groups) > 1 else ("images", len(frame))
    caution = ""
    if what == "images" and count > 1 and groups[0]:
        caution = (
            f"all images are of one group ({groups[0]}) and resemble each other: the intervals are "
            "too narrow, and say nothing of other groups"
        )
    elif count < 10:
        caution = f"with fewer than ten {what} the intervals are a hint"
    about = {"what": what, "how_many": count, "times": RESAMPLES, "level": LEVEL}
    return {**about, "caution": caution}


def finite(report: Any) -> Any:
    """The same with ``None`` for NaN and infinity, which are no JSON."""
    if isinstance(report, dict):
        return {name: finite(value) for name, value in report.items()}
    if isinstance(report, list | tuple):
        return [finite(value) for value in report]
    return None if isinstance(report, float) and not math.isfinite(report) else report
