"""The part of DSB2018 on which StarDist is compared: 447 fluorescence images to train, 50 to test.

Schmidt et al., "Cell detection with star-convex polygons", MICCAI 2018; the archive is that of
StarDist's release 0.1.0.
"""

from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import OfficialSplit, Splitter
from segmentation.datasets.dsb2018 import DSB2018
from segmentation.errors import UserError
from segmentation.io.listing import say_once, some_of
from segmentation.io.tree import Tree, check_root, find_tree
from segmentation.objects import renumber

REMEDY = "put dsb2018.zip (or its unpacked folder dsb2018/) there"


class DSB2018StarDist(SegmentationDataset):
    """Reads the archive as downloaded, or unpacked; the root may be its folder itself.

    Layout: ``dsb2018/{train,test}/images/NAME.tif`` with ``masks/NAME.tif``, label maps. The
    validation part is that of StarDist's example notebooks: 15 % of the training images, the last
    ones of ``np.random.RandomState(42).permutation`` of the sorted names. (Its example fills the
    holes of objects; here the truth is as in the files.)

    >>> import pathlib, tempfile
    >>> from segmentation.datasets.synthetic import write_dsb2018_stardist
    >>> root = write_dsb2018_stardist(pathlib.Path(tempfile.mkdtemp()), 8, (64, 80))
    >>> data = DSB2018StarDist(root)
    >>> sorted(sample.subset for sample in data)
    ['test', 'test', 'train', 'train', 'train', 'train', 'train', 'val']
    """

    name = "dsb2018_stardist"

    def index(self) -> Sequence[Record]:
        """All images."""
        root = check_root(self.root, REMEDY)
        tree = Tree(root) if (root / "train").is_dir() else find_tree(root, "dsb2018")
        if tree is None:
            raise UserError(f"{root}: holds neither dsb2018/ nor dsb2018.zip; {REMEDY}")
        self._tree = tree
        images: dict[tuple[str, str], str] = {}
        masks: dict[tuple[str, str], str] = {}
        seen: dict[str, str] = {}
        others = []
        for path in tree.files:
            # It may be zipped with its folder.
            match path.removeprefix(f"{tree.path.stem}/").split("/"):
                case [("train" | "test") as subset, "images", name]:
                    tree.add(images, (subset, PurePosixPath(name).stem), path)
                    tree.add(seen, PurePosixPath(name).stem, path)
                case [("train" | "test") as subset, "masks", name]:
                    tree.add(masks, (subset, PurePosixPath(name).stem), path)
                case _:
                    others.append(path)
        if others:
            say_once(f"{tree.path}: {len(others)} other ({some_of(others)})")
        tree.check_partners(images, masks, "no mask {0[0]}/masks/{0[1]}.tif; add it")
        says = "a mask with no image; add {0[0]}/images/{0[1]}.tif or remove it"
        tree.check_partners(masks, images, says)
        for subset in ("train", "test"):
            if not any(key[0] == subset for key in images):
                raise UserError(f"{tree.path}: holds no {subset}/images/*.tif; {REMEDY}")
        trained = sorted(name for subset, name in images if subset == "train")
        validated = {trained[i] for i in _validation(len(trained))}
        records = []
        for (folder, name), path in sorted(images.items(), key=lambda item: item[0][1]):
            part, mask = "val" if name in validated else folder, masks[folder, name]
            records.append(Record(name, path, (mask,), tree.stamp(path, mask), subset=part))
        return records

    def read(self, record: Record) -> Sample:
        """One image with its nuclei."""
        image = self._tree.image(record.image)
        labels = renumber(self._tree.mask(record.masks[0], image))
        return Sample(record.id, image, labels, self.source_of(record.id), subset=record.subset)

    source_of = staticmethod(DSB2018.source_of)  # the images have their ids of DSB2018


class DSB2018StarDistDataModule(SegmentationDataModule):
    """StarDist's part of DSB2018.

    Args:
        root: Folder with ``dsb2018.zip`` or ``dsb2018/``.
        split: ``null`` is ``OfficialSplit()``: its test images, and its usual validation part.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(DSB2018StarDist(root), split or OfficialSplit(), **kwargs)


def _validation(count: int) -> list[int]:
    """Which of the sorted training images validate: 67 of 447."""
    validated = max(1, round(0.15 * count))
    order: list[int] = np.random.RandomState(42).permutation(count)[-validated:].tolist()
    return order
