"""2018 Data Science Bowl, stage 1 (BBBC038v1): nuclei under many microscopes and stains.

Caicedo et al., "Nucleus segmentation across imaging experiments", Nature Methods 2019.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import yaml

from segmentation import objects
from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import RandomSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.listing import say_once, some_of
from segmentation.io.run_lengths import csv_rows, rle_decode
from segmentation.io.tree import Tree, check_root, find_tree

REMEDY = "put stage1_train.zip (or its unpacked folder stage1_train/) there"
SOLUTION = "stage1_solution.csv"
TABLE, ID = Path(__file__).with_name("dsb2018_sources.yaml"), 7  # its ids are shortened to so many


class DSB2018(SegmentationDataset):
    """Reads the archives as downloaded, or unpacked.

    Layout of each subset: ``<id>/images/<id>.png``, and either one file per nucleus in
    ``<id>/masks/`` or one merged mask ``<id>/mask.png``, whose connected components are then the
    nuclei. ``stage1_test`` is read if present; its truth comes from ``stage1_solution.csv``. The
    group of an image of ``stage1_train`` is its source, one of 17 in ``dsb2018_sources.yaml``.

    >>> import pathlib, tempfile
    >>> from segmentation.datasets.synthetic import write_dsb2018
    >>> data = DSB2018(write_dsb2018(pathlib.Path(tempfile.mkdtemp()), 2, size=(64, 80)))
    >>> len(data), data[0].image.shape, data[0].labels.shape
    (2, (64, 80, 3), (64, 80))
    """

    name = "dsb2018"

    def __init__(self, root: str | Path) -> None:
        super().__init__(root)
        self._trees: dict[str, Tree] = {}
        self._solution: dict[str, list[dict[str, str]]] = {}

    def index(self) -> Sequence[Record]:
        """All images of stage1_train and stage1_test."""
        root = check_root(self.root, REMEDY)
        self._solution = {}
        if (root / SOLUTION).exists():
            columns = ("ImageId", "EncodedPixels", "Height", "Width")
            for row in csv_rows(Tree(root).read(SOLUTION), str(root / SOLUTION), columns):
                self._solution.setdefault(row["ImageId"], []).append(row)
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
        """One image with all its masks as a label map; without labels where no truth is known."""
        tree, labels = self._trees[record.subset], None
        image = tree.image(record.image)
        shape = (image.shape[0], image.shape[1])
        if len(record.masks) == 1 and record.masks[0].endswith(f"{record.id}/mask.png"):
            mask = tree.mask(record.masks[0], image)
            labels = objects.label_components(objects.binary_mask(mask, tree.name(record.masks[0])))
        elif record.masks or record.id in self._solution:
            labels = objects.merge_objects(self._objects(record, shape), shape)
        group = self.source_of(record.id)
        return Sample(record.id, image, labels, group, kind(image), record.subset)

    @staticmethod
    def source_of(name: str) -> str:
        """What an image of stage1_train was acquired with; ``""`` of others."""
        return _sources().get(name[:ID], "")

    def overlaps(self, record: Record) -> int:
        """Pixels of a sample that several of its masks claim; the label map cannot tell."""
        image = None if record.masks else self._trees[record.subset].image(record.image)
        shape = (0, 0) if image is None else (image.shape[0], image.shape[1])
        return objects.count_overlap(self._objects(record, shape))

    def _objects(self, record: Record, shape: tuple[int, int]) -> Iterator[tuple[str, np.ndarray]]:
        """Name and mask of each object: files, or else the rows of the solution."""
        tree = self._trees[record.subset]
        for path in record.masks:
            yield tree.name(path), tree.mask(path)
        for row in () if record.masks else self._solution.get(record.id, ()):
            name, size = f"{SOLUTION}, {record.id}", (row["Height"], row["Width"])
            if not all(side.isdecimal() for side in size):
                raise UserError(f"{name}: {'×'.join(size)!r} is no size; download it again")
            objects.check_size(name, (int(size[0]), int(size[1])), shape)
            yield name, rle_decode(row["EncodedPixels"], shape, name)

    def _subset(self, tree: Tree, subset: str) -> list[Record]:
        images: dict[str, str] = {}
        masks: dict[str, tuple[str, ...]] = defaultdict(tuple)
        others = []
        for path in tree.files:
            # It may be zipped with its folder.
            match path.removeprefix(f"{tree.path.stem}/").split("/"):
                case [name, "images", _]:
                    tree.add(images, name, path)
                case [name, "masks", _] | [name, "mask.png"]:
                    masks[name] += (path,)
                case _:
                    others.append(path)
        if others:
            say_once(f"{tree.path}: {len(others)} other ({some_of(others)})")
        firsts = {name: paths[0] for name, paths in masks.items()}
        says = "masks without an image; add {0}/images/*.png or remove {0}"
        tree.check_partners(firsts, images, says)
        solution = {} if subset == "train" else self._solution
        if subset == "train":
            tree.check_partners(images, masks, "no masks; add {0}/masks/*.png or remove {0}")
        for name in solution.keys() - images.keys():
            what = f"{name} has no image in {tree.path.name}"
            raise UserError(f"{SOLUTION}: {what}; add it or remove its rows")
        records = []
        for name, path in images.items():
            stamp = f"{tree.stamp(path, *masks[name])}|{solution.get(name, '')}"
            records.append(Record(name, path, masks[name], stamp, subset=subset))
        return records


@cache
def _sources() -> dict[str, str]:
    """First characters of an id ► its source."""
    table = yaml.load(TABLE.read_text(encoding="utf-8"), yaml.BaseLoader)
    return {start: source for source, ids in table.items() for start in ids.split()}


class DSB2018DataModule(SegmentationDataModule):
    """The Data Science Bowl's nuclei.

    Args:
        root: Folder with ``stage1_train.zip`` or ``stage1_train/`` (and the same for the test).
        split: ``OfficialSplit`` tests on stage1_test, ``SourceSplit`` on sources that are not
            trained on. ``null`` draws 50 images of stage1_train to validate and 100 to test on,
            each kind in proportion: a test for more of the same.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(DSB2018(root), split or RandomSplit(val=50, test=100), **kwargs)


def kind(image: np.ndarray) -> str:
    """The kind of microscopy, judged by an (H, W, C) uint8 image.

    Colour means a stained tissue section; a bright median means bright field; fluorescence is
    called dim when its 99.8th percentile uses less than a quarter of the range.

    >>> kind(np.full((8, 8, 1), 30, np.uint8))
    'fluorescence-dim'
    """
    if image.shape[2] == 3 and not (image == image[..., :1]).all():
        return "histology"
    if np.median(image) >= 128:
        return "brightfield"
    return "fluorescence-dim" if np.percentile(image, 99.8) < 64 else "fluorescence"
