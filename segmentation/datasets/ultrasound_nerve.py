"""Ultrasound Nerve Segmentation (Kaggle, 2016): the brachial plexus in the neck, 47 subjects.

Frames of one subject are near-duplicates, and some near-duplicates have contradicting masks. In
about 59 % of the official frames no nerve was marked: an empty mask is a right answer.
"""

import re
from collections.abc import Sequence
from typing import Any

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import GroupSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.run_lengths import csv_rows, rle_decode
from segmentation.io.tree import Tree, check_root, find_tree
from segmentation.objects import binary_mask, label_components

REMEDY = "put Kaggle's train.zip (or its unpacked folder train/) there"
RUNS = "train_masks.csv"

_FILE = re.compile(r"(?:^|/)((\d+)_\d+)(_mask)?\.tif$")


class UltrasoundNerve(SegmentationDataset):
    """Reads the training archive, or that of everything, as downloaded or unpacked.

    Layout: frames ``S_I.tif`` of subject S with masks ``S_I_mask.tif``, 580×420 (W×H) uint8. Where
    there is no mask file at all, Kaggle's run lengths ``train_masks.csv`` (``subject,img,pixels``)
    are the truth. The group of a sample is its subject; its kind ``"nerve"`` or ``"empty"``.

    >>> import pathlib, tempfile
    >>> from segmentation.datasets.synthetic import write_ultrasound_nerve
    >>> root = write_ultrasound_nerve(pathlib.Path(tempfile.mkdtemp()), 6, (42, 58), subjects=2)
    >>> [(sample.id, sample.kind) for sample in UltrasoundNerve(root)][:2]
    [('1_1', 'nerve'), ('1_2', 'empty')]
    """

    name = "ultrasound_nerve"

    def index(self) -> Sequence[Record]:
        """All frames."""
        root = check_root(self.root, REMEDY)
        # The root may be the unpacked folder itself.
        self._tree = tree = find_tree(root, "train", "ultrasound-nerve-segmentation") or Tree(root)
        images: dict[str, str] = {}
        masks: dict[str, str] = {}
        for path in tree.files:
            if found := _FILE.search(path):
                tree.add(masks if found[3] else images, found[1], path)
        if not images:
            raise UserError(f"{tree.path}: holds no frames S_I.tif; {REMEDY}")
        self._runs: dict[str, str] = {}
        if not masks:
            inside = [(tree, path) for path in tree.files if path.rpartition("/")[2] == RUNS]
            beside = [(Tree(root), RUNS)] if (root / RUNS).is_file() else []
            for folder, table in [*inside, *beside][:1]:
                name = folder.name(table)
                for row in csv_rows(folder.read(table), name, ("subject", "img", "pixels")):
                    frame = f"{row['subject']}_{row['img']}"
                    if frame in self._runs:
                        raise UserError(f"{name}: a second row for {frame}; keep one")
                    self._runs[frame] = row["pixels"]
                masks = dict.fromkeys(self._runs, name)
        for frame in sorted(masks.keys() - images.keys()):
            where = f"{masks[frame]}, {frame}" if self._runs else tree.name(masks[frame])
            raise UserError(f"{where}: a mask with no image; add {frame}.tif or remove it")
        tree.check_partners(images, masks, "no mask; add {}_mask.tif or remove the image")
        records = []
        for frame, path in sorted(images.items()):
            truth = self._runs[frame] if self._runs else tree.stamp(masks[frame])
            stamp = f"{tree.stamp(path)}|{truth}"
            records.append(Record(frame, path, (masks[frame],), stamp, frame.partition("_")[0]))
        return records

    def read(self, record: Record) -> Sample:
        """One frame with its nerve, if it shows one."""
        tree, (path,) = self._tree, record.masks
        image = tree.image(record.image)
        if self._runs:
            shape = (image.shape[0], image.shape[1])
            mask = rle_decode(self._runs[record.id], shape, f"{path}, {record.id}")
        else:
            mask = binary_mask(tree.mask(path, image), tree.name(path))
        kind = "nerve" if mask.any() else "empty"
        return Sample(record.id, image, label_components(mask), record.group, kind)


class UltrasoundNerveDataModule(SegmentationDataModule):
    """Nerves in ultrasound.

    Args:
        root: Folder with ``train.zip`` or ``train/``.
        split: ``null`` tests on a fifth of the subjects and validates on a tenth.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(UltrasoundNerve(root), split or GroupSplit(val=0.1, test=0.2), **kwargs)
