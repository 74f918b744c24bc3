"""2018 Data Science Bowl, stage 1 (BBBC038v1): nuclei under many microscopes and stains.

Caicedo et al., "Nucleus segmentation across imaging experiments", Nature Methods 2019.
"""

import csv
import io
from collections import defaultdict
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample
from segmentation.data.splits import RandomSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.images import decode_image, decode_mask
from segmentation.io.tree import Tree, check_root, find_tree
from segmentation.objects import (
    binary_mask,
    check_size,
    count_overlap,
    label_components,
    merge_objects,
)

Solution = dict[str, list[dict[str, str]]]  # rows of stage1_solution.csv by image
REMEDY = "put stage1_train.zip (or its unpacked folder stage1_train/) there"


class DSB2018:
    """Reads the archives as downloaded, or unpacked.

    Layout of each subset: ``<id>/images/<id>.png``, and either one file per nucleus in
    ``<id>/masks/`` or one merged mask ``<id>/mask.png``, whose connected components are then the
    nuclei. ``stage1_test`` is read if present; its truth comes from ``stage1_solution.csv``.

    Args:
        root: Folder that holds ``stage1_train`` or ``stage1_train.zip``.
    """

    name = "dsb2018"
    version = 1

    def __init__(self, root: str) -> None:
        self.root = root
        self._trees: dict[str, Tree] = {}
        self._solution: Solution = {}

    def index(self) -> Sequence[Record]:
        """All images of stage1_train and stage1_test.

        Raises:
            UserError: There are none, or an image of stage1_train and its masks lack one another.
        """
        root = check_root(self.root, REMEDY)
        self._solution = _read_solution(root / "stage1_solution.csv")
        records = []
        for subset in ("train", "test"):
            tree = find_tree(root, f"stage1_{subset}")
            if tree is None and subset == "train" and any(root.glob("*/images")):
                tree = Tree(root)  # the root is the unpacked folder itself
            if tree is not None:
                self._trees[subset] = tree
                records += self._subset(tree, subset)
        if not records:
            raise UserError(f"{root}: holds no DSB2018 images; {REMEDY}")
        return sorted(records, key=lambda record: record.id)

    def read(self, record: Record) -> Sample:
        """One image with all its masks as a label map; without labels where no truth is known.

        Raises:
            UserError: A file is broken, or image and masks do not fit together.
        """
        tree = self._trees[record.subset]
        image = decode_image(tree.read(record.image), tree.name(record.image))
        labels = self._labels(tree, record, (image.shape[0], image.shape[1]))
        return Sample(record.id, image, labels, record.group, kind(image), record.subset)

    def overlaps(self, record: Record) -> int:
        """Pixels of a sample that several of its masks claim; the label map cannot tell.

        Raises:
            UserError: A mask is broken.
        """
        tree = self._trees[record.subset]
        if record.masks or record.subset != "test":
            return count_overlap(
                (tree.name(p), decode_mask(tree.read(p), tree.name(p))) for p in record.masks
            )
        image = decode_image(tree.read(record.image), tree.name(record.image))
        shape = (image.shape[0], image.shape[1])
        return count_overlap(_solved(self._solution.get(record.id, []), shape))

    def _subset(self, tree: Tree, subset: str) -> list[Record]:
        images: dict[str, str] = {}
        masks: dict[str, list[str]] = defaultdict(list)
        stamps: dict[str, list[str]] = defaultdict(list)
        for path, stamp in tree.files().items():
            parts = path.split("/")
            if parts[0] == tree.path.stem and len(parts) > 1:  # zipped with its folder
                parts = parts[1:]
            if len(parts) == 3 and parts[1] == "images":
                if parts[0] in images:
                    raise UserError(f"{tree.name(path)}: a second image of {parts[0]}; keep one")
                images[parts[0]] = path
            elif (len(parts) == 3 and parts[1] == "masks") or parts[1:] == ["mask.png"]:
                masks[parts[0]].append(path)
            else:
                continue
            stamps[parts[0]].append(stamp)
        for name in masks.keys() - images.keys():
            raise UserError(
                f"{tree.name(masks[name][0])}: masks without an image; add {name}/images/*.png or "
                f"remove {name}"
            )
        for name in self._solution.keys() - images.keys() if subset == "test" else ():
            raise UserError(
                f"stage1_solution.csv: {name} has no image in {tree.path.name}; add it or remove "
                "its rows"
            )
        for name in images:
            if subset == "train" and name not in masks:
                raise UserError(
                    f"{tree.name(images[name])}: no masks; add {name}/masks/*.png or remove {name}"
                )
            if subset == "test":
                stamps[name].append(str(self._solution.get(name, "")))
        return [
            Record(name, path, tuple(masks.get(name, ())), "|".join(stamps[name]), subset=subset)
            for name, path in images.items()
        ]

    def _labels(self, tree: Tree, record: Record, shape: tuple[int, int]) -> np.ndarray | None:
        if len(record.masks) == 1 and record.masks[0].endswith(f"{record.id}/mask.png"):
            path = record.masks[0]
            mask = decode_mask(tree.read(path), tree.name(path))
            check_size(tree.name(path), mask.shape, shape)
            return label_components(binary_mask(mask, tree.name(path)))
        if record.masks:
            named = ((tree.name(p), decode_mask(tree.read(p), tree.name(p))) for p in record.masks)
            return merge_objects(named, shape)
        rows = self._solution.get(record.id) if record.subset == "test" else None
        return None if rows is None else _decode_solution(rows, shape)


class DSB2018DataModule(SegmentationDataModule):
    """The Data Science Bowl's nuclei.

    Args:
        root: Folder with ``stage1_train.zip`` or ``stage1_train/`` (and the same for the test).
        split: ``OfficialSplit`` tests on stage1_test. ``null`` draws 50 images of stage1_train to
            validate and 100 to test on, each kind in proportion; the data names no experiment to
            group by.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(DSB2018(root), split or RandomSplit(val=50, test=100), **kwargs)


def kind(image: np.ndarray) -> str:
    """The kind of microscopy, told from an (H, W, C) uint8 image.

    Colour means a stained tissue section; a bright median means bright field; fluorescence is
    called dim when its 99.8th percentile uses less than a quarter of the range.
    """
    if image.shape[2] == 3 and not (image == image[..., :1]).all():
        return "histology"
    if np.median(image) >= 128:
        return "brightfield"
    return "fluorescence-dim" if np.percentile(image, 99.8) < 64 else "fluorescence"


def rle_decode(runs: str, shape: tuple[int, int], name: str) -> np.ndarray:
    """Kaggle's run lengths (1-based start and length, column by column) as an (H, W) bool mask.

    Args:
        runs: Such as ``"1 3 10 5"``; empty for an empty mask.
        shape: (height, width) of the mask.
        name: What to call it in messages.

    Raises:
        UserError: The runs are not pairs of numbers, overlap, or leave the image.
    """
    mask = np.zeros(shape[0] * shape[1], bool)
    try:
        numbers = [int(n) for n in runs.split()]
        starts, lengths = numbers[::2], numbers[1::2]
        pairs = list(zip(starts, lengths, strict=True))
    except ValueError:
        raise UserError(
            f"{name}: {runs[:40]!r} are not pairs of start and length; download it again"
        ) from None
    for start, length in pairs:
        if start < 1 or length < 1 or start - 1 + length > mask.size:
            raise UserError(
                f"{name}: run {start} {length} leaves an image of {shape[0]}×{shape[1]}; download "
                "it again"
            )
        if mask[start - 1 : start - 1 + length].any():
            raise UserError(f"{name}: run {start} {length} overlaps another; download it again")
        mask[start - 1 : start - 1 + length] = True
    return mask.reshape(shape, order="F")


def csv_rows(data: bytes, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header: ``columns`` alone, each a string.

    Args:
        data: The file.
        name: What to call it in messages.
        columns: Those that it must have.

    Raises:
        UserError: It is no such file.
    """
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        if missing := sorted(set(columns) - set(reader.fieldnames or ())):
            raise UserError(f"{name}: lacks the column {missing[0]}; download it again")
        rows = []
        for row in reader:
            if None in (row[column] for column in columns):
                raise UserError(f"{name}: line {reader.line_num} is cut off; download it again")
            rows.append({column: row[column] for column in columns})
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: not a CSV file ({error}); download it again") from None
    return rows


def _read_solution(path: Path) -> Solution:
    if not path.exists():
        return {}
    try:
        data = path.read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the file") from None
    rows: Solution = defaultdict(list)
    for row in csv_rows(data, str(path), ("ImageId", "EncodedPixels", "Height", "Width")):
        rows[row["ImageId"]].append(row)
    return dict(rows)


def _decode_solution(rows: list[dict[str, str]], shape: tuple[int, int]) -> np.ndarray:
    return merge_objects(_solved(rows, shape), shape)


def _solved(rows: list[dict[str, str]], shape: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
    """Name and mask of each object of an image's rows."""
    for row in rows:
        name = f"stage1_solution.csv, {row['ImageId']}"
        try:
            size = int(row["Height"]), int(row["Width"])
        except ValueError:
            what = f"{row['Height']}×{row['Width']}"
            raise UserError(f"{name}: {what!r} is no size; download it again") from None
        check_size(name, size, shape)
        yield name, rle_decode(row["EncodedPixels"], shape, name)
