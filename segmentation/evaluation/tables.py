"""The table ``per_image.csv``: one row an image and method, the same from `test` and `evaluate`.

Its columns are ``method``, ``id``, ``kind``, perhaps ``group``, the counts of pixels ``tp``,
``fp``, ``fn``, ``tn``, then any scores of single images (one that an image has not is left empty),
and perhaps the counts of objects, from which their scores are pooled over images.
"""

import csv
import io
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.errors import UserError
from segmentation.io.files import write_table

FILE = "per_image.csv"
ABOUT = ("method", "id", "kind", "group")
COUNTS = ("tp", "fp", "fn", "tn")
# Those of `metrics.matching.object_counts`; what is called …_iou is in units of 2^-40.
OBJECT_COUNTS = (
    *(f"tp_{percent}" for percent in range(50, 100, 5)),
    *("true_objects", "predicted_objects", "tp_50_iou", "pq_tp", "pq_tp_iou", "seg_iou"),
    *("aji_intersection", "aji_union"),
)


@dataclass(frozen=True)
class Images:
    """The images that one method was scored on.

    Attributes:
        ids: Sorted, each once.
        groups: Of each image (a subject, a film); empty where none is known.
        columns: Name ► (images,) float64; NaN where an image has no such score.
    """

    ids: tuple[str, ...]
    groups: tuple[str, ...]
    columns: Mapping[str, np.ndarray]

    @property
    def clusters(self) -> tuple[str, ...] | None:
        """The groups to resample by; ``None`` where there are not two of them."""
        return self.groups if len(set(self.groups)) > 1 else None


def write_images(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Write the table; floats get six digits, NaN is left empty.

    Raises:
        UserError: The folder cannot be written, or the disk is full.
    """
    plain = [{name: _cell(value) for name, value in row.items()} for row in rows]
    write_table(path, list(plain[0]), plain)


def read_images(path: Path) -> dict[str, Images]:
    """Read the table: method ► its images.

    Raises:
        UserError: The file is missing or no such table, a cell is no number, or an image occurs
            twice.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not text"
        raise UserError(
            f"{path}: cannot be read ({why}); give the folder of a run that was tested, or the "
            "output of evaluate"
        ) from None
    lines = csv.DictReader(io.StringIO(text))
    names = lines.fieldnames or ()
    if not {"method", "id", *COUNTS} <= set(names):
        raise UserError(f"{path}: lacks the columns method, id, tp, fp, fn, tn; test again")
    methods: dict[str, dict[str, dict[str, str]]] = {}
    for row in lines:
        images = methods.setdefault(row["method"], {})
        if row["id"] in images:
            raise UserError(f"{path}: {row['id']} occurs twice for {row['method']}; test again")
        images[row["id"]] = row
    return {method: _images(path, images, names) for method, images in methods.items()}


def _images(path: Path, rows: dict[str, dict[str, str]], names: Iterable[str]) -> Images:
    ids = tuple(sorted(rows))
    columns = {}
    for name in names:
        if name in ABOUT:
            continue
        try:
            # An image may lack a score, not a count.
            values = [float(rows[one][name] or ("x" if name in COUNTS else "nan")) for one in ids]
        except ValueError:
            raise UserError(f"{path}: column {name} lacks numbers; test again") from None
        if any(value == value for value in values):  # else: a score of other methods alone
            columns[name] = np.array(values)
    groups = tuple(rows[one].get("group") or "" for one in ids)
    return Images(ids, groups, columns)


def _cell(value: Any) -> Any:
    if isinstance(value, float):
        return "" if value != value else round(value, 6)
    return value
