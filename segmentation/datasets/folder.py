"""Anybody's own images and masks: two folders, matched by name."""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample
from segmentation.data.splits import Splitter
from segmentation.errors import UserError
from segmentation.io.images import IMAGE_SUFFIXES, read_image, read_mask
from segmentation.io.tree import check_root, file_stamp, is_junk
from segmentation.objects import (
    binary_mask,
    check_size,
    count_overlap,
    label_components,
    merge_objects,
    renumber,
)

Masks = Literal["binary", "labels", "objects"]
_AS_LABELS = "set mask_type: labels if these are instance ids, or "
MASK_ENDINGS = ("", "_mask", "_masks", "_label", "_labels", "_seg")


class FolderDataset:
    """``root/images/NAME.png`` with ``root/masks/NAME.png``; PNG, TIFF, JPEG or BMP, 8 or 16 bit.

    Subfolders of ``images`` are groups (a patient, a plate), which :class:`GroupSplit` keeps whole,
    and are repeated in ``masks``. A mask may be called ``NAME_mask``, ``NAME_label`` and the like.

    Args:
        root: Folder that holds both.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_type: ``"binary"`` (0 and one other value: connected components become objects),
            ``"labels"`` (each object its own value), ``"objects"`` (``masks/NAME/*``: one binary
            file per object, or an empty folder).
    """

    version = 1

    def __init__(
        self, root: str, images: str = "images", masks: str = "masks", mask_type: Masks = "binary"
    ) -> None:
        self.root, self.images, self.masks, self.mask_type = root, images, masks, mask_type
        self.name = f"folder-{Path(root).expanduser().resolve().name}-{mask_type}"

    def index(self) -> Sequence[Record]:
        """Every image, with its mask.

        Raises:
            UserError: A folder is missing or empty, an image has no mask, or a mask no image.
        """
        root = check_root(self.root, f"it should hold {self.images}/ and {self.masks}/")
        folders = [
            check_root(root / name, "check the names of the two folders")
            for name in (self.images, self.masks)
        ]
        images = find_images(folders[0])
        masks = self._find_masks(folders[1])
        records = []
        alone = set(masks)
        for name, path in images.items():
            mask = next((name + end for end in MASK_ENDINGS if name + end in masks), None)
            if mask is None:
                raise UserError(
                    f"{path}: no mask {folders[1] / name}.*; add it or remove the image"
                )
            alone.discard(mask)
            found = masks[mask]
            stamp = "|".join(f"{file.name}-{file_stamp(file)}" for file in (path, *found))
            group = name.rpartition("/")[0]
            records.append(Record(name, str(path), tuple(map(str, found)), stamp, group))
        if alone:
            raise UserError(
                f"{folders[1] / min(alone)}: a mask without an image below {folders[0]} (of "
                f"{len(alone)} such); add its image or remove it"
            )
        return records

    def read(self, record: Record) -> Sample:
        """One image with its labels.

        Raises:
            UserError: A file is broken, or image and mask do not fit together.
        """
        image = read_image(record.image)
        shape = (image.shape[0], image.shape[1])
        if self.mask_type == "objects":
            labels = merge_objects(((m, read_mask(m)) for m in record.masks), shape)
        else:
            mask = read_mask(record.masks[0])
            check_size(record.masks[0], mask.shape, shape)
            if self.mask_type == "binary":
                labels = label_components(binary_mask(mask, record.masks[0], _AS_LABELS))
            else:
                labels = renumber(mask.astype(np.int32))
        return Sample(record.id, image, labels, record.group)

    def overlaps(self, record: Record) -> int:
        """Pixels of a sample that several of its masks claim; the label map cannot tell.

        Raises:
            UserError: A mask is broken.
        """
        if self.mask_type != "objects":
            return 0
        return count_overlap((path, read_mask(path)) for path in record.masks)

    def _find_masks(self, folder: Path) -> dict[str, tuple[Path, ...]]:
        if self.mask_type != "objects":
            return {name: (path,) for name, path in find_images(folder).items()}
        objects: dict[str, list[Path]] = defaultdict(list)
        for path in _visible(folder):
            if path.is_dir() and not any(path.iterdir()):
                objects[path.relative_to(folder).as_posix()] = []  # an image without objects
            elif path.suffix.lower() in IMAGE_SUFFIXES:
                objects[path.parent.relative_to(folder).as_posix()].append(path)
        return {name: tuple(paths) for name, paths in objects.items()}


class FolderDataModule(SegmentationDataModule):
    """Your own images and masks.

    Args:
        root: Folder that holds ``images`` and ``masks``.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_type: ``binary``, ``labels`` or ``objects``; see :class:`FolderDataset`.
        split: Use ``GroupSplit`` with one subfolder a patient, plate or sequence.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self,
        root: str,
        images: str = "images",
        masks: str = "masks",
        mask_type: Masks = "binary",
        split: Splitter | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(FolderDataset(root, images, masks, mask_type), split, **kwargs)


def find_images(folder: Path, suffixes: Sequence[str] = IMAGE_SUFFIXES) -> dict[str, Path]:
    """Every image below ``folder``: relative path without suffix ► path, sorted.

    Raises:
        UserError: There is none, or two differ in their suffix alone.
    """
    found: dict[str, Path] = {}
    for path in _visible(folder):
        if path.suffix.lower() in suffixes and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise UserError(
                    f"{path}: differs from {found[name].name} in its suffix alone; keep one"
                )
            found[name] = path
    if not found:
        raise UserError(f"{folder}: holds no images ({', '.join(suffixes)}); check the path")
    return dict(sorted(found.items()))


def _visible(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if not is_junk(p.relative_to(folder).as_posix())]
