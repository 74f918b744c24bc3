"""Anybody's own images and masks: two folders, matched by name."""

from collections import defaultdict
from collections.abc import Container, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import Splitter
from segmentation.errors import UserError
from segmentation.io.files import stamps_of
from segmentation.io.images import IMAGE_SUFFIXES, is_image, read_image, read_mask
from segmentation.io.tree import check_root, is_junk
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
# What programs append to the name of an image.
MASK_ENDINGS: tuple[str, ...] = ("_mask", "_masks", "_cp_masks", "_label", "_labels", "_seg")
MASK_ENDINGS += ("_prob", "_probabilities")


class FolderDataset(SegmentationDataset):
    """``root/images/NAME.png`` with ``root/masks/NAME.png``: PNG, TIFF, BMP, NPY; images also JPEG.

    Subfolders of ``images`` are groups (a patient, a plate), which :class:`GroupSplit` keeps whole,
    and are repeated in ``masks``. A mask may be called ``NAME_mask``, ``NAME_cp_masks``, ….

    Args:
        root: Folder that holds both.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_type: ``"binary"`` (0 and one other value: connected components become objects),
            ``"labels"`` (each object its own value), ``"objects"`` (``masks/NAME/*``: one binary
            file per object, or an empty folder).

    >>> import tempfile
    >>> from segmentation.datasets.synthetic import write_folder
    >>> data = FolderDataset(write_folder(Path(tempfile.mkdtemp()), 3, size=(64, 80)))
    >>> len(data), data[0].image.shape, data[0].labels.dtype
    (3, (64, 80, 3), dtype('int32'))
    """

    version = 2

    def __init__(
        self,
        root: str | Path,
        images: str = "images",
        masks: str = "masks",
        mask_type: Masks = "binary",
    ) -> None:
        self.root, self.images, self.masks, self.mask_type = root, images, masks, mask_type
        self.name = f"folder-{Path(root).expanduser().resolve().name}-{mask_type}"

    def index(self) -> Sequence[Record]:
        """Every image, with its mask; a missing partner is a :class:`UserError`."""
        root = check_root(self.root, f"it should hold {self.images}/ and {self.masks}/")
        remedy = "check the names of the two folders"
        images = find_images(check_root(root / self.images, remedy))
        folder = check_root(root / self.masks, remedy)
        if self.mask_type == "objects":
            masks = _find_objects(folder)
        else:
            masks = {name: (path,) for name, path in find_maps(folder, images).items()}
        if missing := images.keys() - masks.keys():
            raise UserError(
                f"{images[min(missing)]}: no mask {folder / min(missing)}.*; add it or remove the "
                "image"
            )
        if alone := masks.keys() - images.keys():
            raise UserError(
                f"{folder / min(alone)}: a mask without an image below {root / self.images} (of "
                f"{len(alone)} such); add its image or remove it"
            )
        files = [file for name, path in images.items() for file in (path, *masks[name])]
        stamps = iter(stamps_of(files))
        records = []
        for name, path in images.items():
            stamp = "|".join(islice(stamps, 1 + len(masks[name])))
            group, truth = name.rpartition("/")[0], tuple(map(str, masks[name]))
            records.append(Record(name, str(path), truth, stamp, group))
        return records

    def read(self, record: Record) -> Sample:
        """One image with its labels; :class:`UserError` where the two do not fit together."""
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
        """Pixels of a sample that several of its masks claim; the label map cannot tell."""
        if self.mask_type != "objects":
            return 0
        return count_overlap((path, read_mask(path)) for path in record.masks)


class FolderDataModule(SegmentationDataModule):
    """Your own images and masks.

    Args:
        root: Folder that holds both folders.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_type: ``binary``, ``labels`` or ``objects`` (one file per object).
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


def find_images(folder: Path, masks: bool = False) -> dict[str, Path]:
    """Every image below ``folder``, at least one: relative path without suffix ► path, sorted.

    Where they are ``masks``, Cellpose's ``NAME_seg.npy`` are among them.
    """
    found: dict[str, Path] = {}
    for path in _visible(folder):
        wanted = path.suffix.lower() in IMAGE_SUFFIXES if masks else is_image(path)
        if wanted and path.is_file():
            name = path.relative_to(folder).with_suffix("").as_posix()
            if name in found:
                raise UserError(
                    f"{path}: differs from {found[name].name} in its suffix alone; keep one"
                )
            found[name] = path
    if not found:
        raise UserError(f"{folder}: holds no images ({', '.join(IMAGE_SUFFIXES)}); check the path")
    return dict(sorted(found.items()))


def find_maps(folder: Path, images: Container[str] = ()) -> dict[str, Path]:
    """Every mask, label or probability map below ``folder``, NPY as well, by its image's name.

    That is its own name without suffix and without an ending such as ``_mask`` or ``_cp_masks``,
    which stays where ``images`` holds a name that ends so.
    """
    found: dict[str, Path] = {}
    for name, path in find_images(folder, masks=True).items():
        if name not in images:
            end = max((end for end in MASK_ENDINGS if name.endswith(end)), key=len, default="")
            name = name.removesuffix(end)
        if name not in found:
            found[name] = path
        elif not path.name.endswith("_seg.npy"):  # Cellpose's own, beside the masks
            raise UserError(f"{path}: belongs to {name} as {found[name].name} does; keep one")
    return dict(sorted(found.items()))


def _find_objects(folder: Path) -> dict[str, tuple[Path, ...]]:
    objects: dict[str, list[Path]] = defaultdict(list)
    for path in _visible(folder):
        if path.is_dir() and not any(path.iterdir()):
            objects[path.relative_to(folder).as_posix()] = []  # an image without objects
        elif path.suffix.lower() in IMAGE_SUFFIXES:
            objects[path.parent.relative_to(folder).as_posix()].append(path)
    return {name: tuple(paths) for name, paths in objects.items()}


def _visible(folder: Path) -> list[Path]:
    return [p for p in sorted(folder.rglob("*")) if not is_junk(p.relative_to(folder).as_posix())]
