"""BBBC039: nuclei of U2OS cells stained with Hoechst, 200 fields of a chemical screen.

Ljosa, Sokolnicki and Carpenter, "Annotated high-throughput microscopy image sets for validation",
Nature Methods 2012; its official lists are those of Caicedo et al., Cytometry A 2019. Part of these
fields are also in DSB2018: mixing both in one experiment leaks.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import OfficialSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.tree import Tree, check_root, find_tree
from segmentation.objects import check_size, components_of_values

REMEDY = "put images.zip, masks.zip and metadata.zip (or their unpacked folders) there"
LISTS = {"training": "train", "validation": "val", "test": "test"}

_WELL = re.compile(r"^IXMtest_([A-P]\d\d)_s\d")


class BBBC039(SegmentationDataset):
    """Reads the three archives as downloaded, or unpacked.

    ``images/*.tif`` are uint16 of which 12 bits are used; they are left so. ``masks/*.png`` carry
    instance ids in their red channel, and an id serves several nuclei: each 8-connected component
    of a value is one. Three fields are empty, and kept. The lists ``metadata/{training, validation,
    test}.txt`` name every field. Groups are wells, of which the official lists share some.

    >>> import tempfile
    >>> from segmentation.datasets.synthetic import write_bbbc039
    >>> data = BBBC039(write_bbbc039(Path(tempfile.mkdtemp()), 4, size=(64, 80)))
    >>> len(data), data[0].image.dtype, data[0].group, data[0].subset
    (4, dtype('uint16'), 'A01', 'train')
    """

    name = "bbbc039"

    def index(self) -> Sequence[Record]:
        """All fields."""
        root = check_root(self.root, REMEDY)
        self._images, images = _files(root, "images", (".tif", ".tiff"))
        self._masks, masks = _files(root, "masks", (".png",))
        table, lists = _files(root, "metadata", (".txt",))
        listed: dict[str, str] = {}  # the list that names a field
        for part in LISTS:
            if part not in lists:
                raise UserError(f"{table.path}: holds no {part}.txt; download metadata.zip again")
            file = table.name(lists[part])
            try:
                lines = table.read(lists[part]).decode("utf-8-sig").split()
            except UnicodeDecodeError:
                what = "not a text file in UTF-8; download metadata.zip again"
                raise UserError(f"{file}: {what}") from None
            for name in (PurePosixPath(line).stem for line in lines):
                if name in listed:
                    what = f"{name} is listed here and in {table.name(listed[name])}; keep one"
                    raise UserError(f"{file}: {what}")
                listed[name] = lists[part]
        check = self._images.check_partners
        check(images, masks, "no mask masks/{}.png; add it or remove the image")
        check(images, listed, "none of the lists in metadata names it; add it or remove the image")
        check = self._masks.check_partners
        check(masks, images, "a mask with no image; add images/{}.tif or remove it")
        table.check_partners(listed, images, "no image images/{}.tif; add it or remove the line")
        records = []
        for name, path in sorted(images.items()):
            stamp = f"{self._images.stamp(path)}|{self._masks.stamp(masks[name])}"
            group, part = "".join(_WELL.findall(name)), LISTS[PurePosixPath(listed[name]).stem]
            records.append(Record(name, path, (masks[name],), stamp, group, part))
        return records

    def read(self, record: Record) -> Sample:
        """One field with its nuclei."""
        image, mask = self._images.image(record.image), self._masks.image(record.masks[0])
        check_size(self._masks.name(record.masks[0]), mask.shape, image.shape)
        labels, _ = components_of_values(mask[..., 0])
        return Sample(record.id, image, labels, record.group, subset=record.subset)

    @staticmethod
    def source_of(_: str) -> str:
        """All fields are of one plate: a test on other wells is one for more of the same."""
        return "plate"


class BBBC039DataModule(SegmentationDataModule):
    """Nuclei of BBBC039.

    Args:
        root: Folder with ``images``, ``masks`` and ``metadata``, each a folder or a ``.zip``.
        split: ``null`` is ``OfficialSplit()``: the three official lists.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(BBBC039(root), split or OfficialSplit(), **kwargs)


def _files(root: Path, name: str, suffixes: tuple[str, ...]) -> tuple[Tree, dict[str, str]]:
    """The tree of that name, and its files by their stem."""
    found: dict[str, str] = {}
    if (tree := find_tree(root, name)) is None:
        raise UserError(f"{root}: holds neither {name}/ nor {name}.zip; {REMEDY}")
    for path in map(PurePosixPath, tree.files):
        if path.suffix.lower() in suffixes:
            tree.add(found, path.stem, str(path))
    if not found:
        raise UserError(f"{tree.path}: holds no {suffixes[0]} files; {REMEDY}")
    return tree, found
