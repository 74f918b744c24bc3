"""BBBC039: nuclei of U2OS cells stained with Hoechst, 200 fields of a chemical screen.

Ljosa, Sokolnicki and Carpenter, "Annotated high-throughput microscopy image sets for validation",
Nature Methods 2012; its official lists are those of Caicedo et al., Cytometry A 2019. Part of these
fields are also in DSB2018: mixing both in one experiment leaks.
"""

import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import Any

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample
from segmentation.data.splits import OfficialSplit, Splitter
from segmentation.errors import UserError
from segmentation.io.images import decode_image
from segmentation.io.tree import Tree, check_root, find_tree
from segmentation.objects import check_size, label_components

REMEDY = "put images.zip, masks.zip and metadata.zip (or their unpacked folders) there"
LISTS = {"training.txt": "train", "validation.txt": "val", "test.txt": "test"}

_WELL = re.compile(r"IXMtest_([A-P]\d\d)_s\d")


class BBBC039:
    """Reads the three archives as downloaded, or unpacked.

    ``images/*.tif`` are uint16 of which 12 bits are used; they are left so. ``masks/*.png`` carry
    instance ids in their red channel, and an id serves several nuclei: each 8-connected component
    of a value is one. Three fields are empty, and kept. The lists ``metadata/{training, validation,
    test}.txt`` name every field. Groups are wells, of which the official lists share some.

    Args:
        root: Folder that holds all three.
    """

    name = "bbbc039"
    version = 1

    def __init__(self, root: str) -> None:
        self.root = root

    def index(self) -> Sequence[Record]:
        """All fields.

        Raises:
            UserError: A part is missing, or images, masks and lists do not name the same fields.
        """
        root = check_root(self.root, REMEDY)
        self._images, images = _files(root, "images", (".tif", ".tiff"))
        self._masks, masks = _files(root, "masks", (".png",))
        subsets = _read_lists(root)
        names = {name: self._images.name(path) for name, (path, _) in images.items()}
        for what, known in (
            ("no mask masks/{}.png", masks),
            ("none of the lists in metadata names it", subsets),
        ):
            for name in sorted(names.keys() - known.keys()):
                raise UserError(f"{names[name]}: {what.format(name)}; add it or remove the image")
        for name in sorted(masks.keys() - images.keys()):
            raise UserError(
                f"{self._masks.name(masks[name][0])}: a mask with no image; add images/{name}.tif "
                "or remove it"
            )
        for name, (_, list_name) in subsets.items():
            if name not in images:
                raise UserError(
                    f"{list_name}: no image images/{name}.tif; add it or remove the line"
                )
        records = []
        for name, (path, stamp) in sorted(images.items()):
            mask, mask_stamp = masks[name]
            well = found[1] if (found := _WELL.match(name)) else ""
            stamps = f"{stamp}|{mask_stamp}"
            records.append(Record(name, path, (mask,), stamps, well, subsets[name][0]))
        return records

    def read(self, record: Record) -> Sample:
        """One field with its nuclei.

        Raises:
            UserError: A file is broken, or image and mask do not fit together.
        """
        image = decode_image(self._images.read(record.image), self._images.name(record.image))
        name = self._masks.name(record.masks[0])
        mask = decode_image(self._masks.read(record.masks[0]), name)
        check_size(name, mask.shape, image.shape)
        labels = label_values(mask[..., 0])
        return Sample(record.id, image, labels, record.group, subset=record.subset)


class BBBC039DataModule(SegmentationDataModule):
    """Nuclei of BBBC039.

    Args:
        root: Folder with ``images``, ``masks`` and ``metadata``, each a folder or a ``.zip``.
        split: ``null`` is ``OfficialSplit()``: the three official lists.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(self, root: str, split: Splitter | None = None, **kwargs: Any) -> None:
        super().__init__(BBBC039(root), split or OfficialSplit(), **kwargs)


def label_values(values: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of each value of an (H, W) map: int32, 0 = background."""
    labels = np.zeros(values.shape, np.int32)
    for value in np.unique(values[values > 0]):
        parts = label_components(values == value)
        np.add(parts, labels.max(), out=labels, where=parts > 0)
    return labels


def _files(root: Path, name: str, suffixes: tuple[str, ...]) -> tuple[Tree, dict[str, Any]]:
    """The tree of that name, and path and stamp of each of its files by their stem."""
    tree = find_tree(root, name)
    found: dict[str, tuple[str, str]] = {}
    if tree is None:
        raise UserError(f"{root}: holds neither {name}/ nor {name}.zip; {REMEDY}")
    for path, stamp in tree.files().items():
        stem, suffix = PurePosixPath(path).stem, PurePosixPath(path).suffix
        if suffix.lower() in suffixes:
            if stem in found:
                raise UserError(f"{tree.name(path)}: a second file of {stem}; keep one")
            found[stem] = path, stamp
    if not found:
        raise UserError(f"{tree.path}: holds no {suffixes[0]} files; {REMEDY}")
    return tree, found


def _read_lists(root: Path) -> dict[str, tuple[str, str]]:
    """Subset of each field, and the list that says so."""
    tree, found = _files(root, "metadata", (".txt",))
    subsets: dict[str, tuple[str, str]] = {}
    for file, subset in LISTS.items():
        path, _ = found.get(file.removesuffix(".txt"), ("", ""))
        if not path:
            raise UserError(f"{tree.path}: holds no {file}; download metadata.zip again")
        try:
            lines = tree.read(path).decode("utf-8-sig").splitlines()
        except UnicodeDecodeError:
            raise UserError(
                f"{tree.name(path)}: not a text file in UTF-8; download metadata.zip again"
            ) from None
        for name in (PurePosixPath(line.strip()).stem for line in lines if line.strip()):
            if name in subsets:
                raise UserError(
                    f"{tree.name(path)}: {name} is listed here and in {subsets[name][1]}; keep one"
                )
            subsets[name] = subset, tree.name(path)
    return subsets
