"""Files that hold the truth of many images: COCO's JSON, run lengths and classes as CSV."""

from collections import defaultdict
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.errors import UserError, printable
from segmentation.io.files import read_json
from segmentation.io.listing import key_of
from segmentation.io.outlines import check_stated_size, polygon, well_formed
from segmentation.io.regions import Region
from segmentation.io.run_lengths import RLE_COLUMNS, coco_pixels, csv_rows, rle_pixels
from segmentation.io.tiff import read_bytes

OBJECTS = "objects.csv"  # what `predict` calls its table of objects


class CocoFile:
    """COCO's JSON: polygons and run lengths, plain or compressed; a crowd is not annotated.

    ``names`` are of the images, as the file has them.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self._of: dict[int, list[dict[str, Any]]] = defaultdict(list)
        with well_formed(path, "COCO's JSON"):
            content = read_json(path)
            self._images = {one["file_name"]: one for one in content["images"]}
            self._kinds = {one["id"]: one["name"] for one in content.get("categories", ())}
            known = {one["id"] for one in self._images.values()}
            if len(known) < len(content["images"]):
                raise ValueError("two images of one name or id")
            for one in content["annotations"]:
                if one["image_id"] not in known:
                    raise ValueError(f"no image has the id {one['image_id']}")
                self._of[one["image_id"]].append(one)
        self.names = list(self._images)

    def size(self, name: str) -> tuple[int, int] | None:
        """The size (H, W) of an image, where the file says."""
        height, width = (self._images[name].get(side) for side in ("height", "width"))
        return (height, width) if isinstance(height, int) and isinstance(width, int) else None

    def regions(self, name: str, shape: tuple[int, int]) -> list[Region]:
        """The objects of an image of (H, W) pixels."""
        about = self._images[name]
        stated = about.get("height"), about.get("width")
        check_stated_size(f"{self.path}: {name}", stated, shape)
        with well_formed(self.path, "COCO's JSON"):
            return [self._region(one, shape) for one in self._of[about["id"]]]

    def _region(self, one: dict[str, Any], shape: tuple[int, int]) -> Region:
        what, drawn = f"{self.path}: annotation {one.get('id')}", one.get("segmentation")
        if not drawn:
            raise UserError(f"{what} is a box without an outline; draw its outline, or remove it")
        if isinstance(drawn, dict):
            check_stated_size(what, tuple(drawn["size"]), shape)
            pixels = coco_pixels(drawn["counts"], shape)
        else:
            rings = [np.array(flat, np.float64).reshape(-1, 2) for flat in drawn]
            pixels = np.concatenate([polygon([ring], shape, what) for ring in rings])
        kind = self._kinds.get(one.get("category_id"))
        return Region(what, pixels, kind, annotated=not one.get("iscrowd"))


class RunLengthFile:
    """Kaggle's and our own CSV of run lengths, a row an object; an empty row: no object."""

    def __init__(self, path: Path) -> None:
        self.path, self._runs = path, defaultdict[str, list[tuple[int, str]]](list)
        rows = csv_rows(read_bytes(path), str(path), RLE_COLUMNS)
        for line, row in enumerate(rows, start=2):
            self._runs[row["ImageId"]].append((line, row["EncodedPixels"]))
        self.names = list(self._runs)

    def size(self, name: str) -> tuple[int, int] | None:
        return None

    def regions(self, name: str, shape: tuple[int, int]) -> list[Region]:
        rows = ((f"{self.path}: row {line}", runs) for line, runs in self._runs[name] if runs)
        return [Region(what, rle_pixels(runs, shape, what)) for what, runs in rows]


AnnotationFile = CocoFile | RunLengthFile  # one file for the objects of many images


def open_annotations(path: Path) -> AnnotationFile:
    """COCO's JSON or a CSV of run lengths; what is neither is a :class:`UserError`."""
    if path.suffix.lower() == ".json":
        return CocoFile(path)
    if path.suffix.lower() == ".csv":
        return RunLengthFile(path)
    raise UserError(
        f"{path}: one file for all images is COCO's .json or a .csv of run lengths "
        f"({', '.join(RLE_COLUMNS)}); otherwise give a folder"
    )


def read_objects(path: Path) -> dict[str, dict[int, str]]:
    """Image ► id ► class, from a CSV with these columns, as ``predict`` writes one."""
    found: dict[str, dict[int, str]] = defaultdict(dict)
    rows = csv_rows(read_bytes(path), str(path), ("image", "object", "class"))
    for line, row in enumerate(rows, start=2):
        if not row["object"].isdecimal():
            raise UserError(f"{path}: row {line}: {row['object']!r} is no id; correct it")
        found[row["image"]][int(row["object"])] = row["class"]
    return found


def matched(path: Path, names: Iterable[str], images: Container[str]) -> dict[str, str]:
    """The images' own names ► those that a file of annotations has for them.

    That is their path with or without a suffix.
    """
    found: dict[str, str] = {}
    for name in names:
        plain = printable(name)
        key = plain if plain in images else key_of(name.replace("\\", "/"))
        if key in found:
            raise UserError(f"{path}: {name} and {found[key]} are one image; keep one")
        found[key] = name
    return found
