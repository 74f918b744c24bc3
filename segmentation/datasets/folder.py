"""Anybody's own images and masks: two folders, matched by name."""

from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.masks import facts_of, why_not_binary
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import Splitter
from segmentation.datasets.folder_images import join_channels, per_plane
from segmentation.errors import UserError
from segmentation.io.annotators import Annotators
from segmentation.io.files import stamps_of
from segmentation.io.listing import MASK_ENDINGS
from segmentation.io.pairs import find_images
from segmentation.io.stacks import open_stack
from segmentation.io.tree import check_root
from segmentation.io.truth import Masks, TruthReader


class FolderDataset(SegmentationDataset):
    """``root/images/NAME.png`` with ``root/masks/NAME.png``: PNG, TIFF, BMP, NPY; images also JPEG.

    Subfolders of ``images`` are groups (a patient, a plate), which :class:`GroupSplit` keeps whole,
    and are repeated in ``masks``. A mask may be called ``NAME_mask``, ``NAME_cp_masks``, ….
    Each plane of a TIFF stack (T, Z) whose mask has as many planes is a sample, ``NAME#0003``; the
    planes are a group. ``NAME_0000``, ``NAME_0001``, … with a mask ``NAME`` are channels.
    Without masks, files of outlines are the truth: ImageJ's ROIs, QuPath's GeoJSON, labelme's JSON.

    Args:
        root: Folder that holds both.
        images: Name of the images' folder.
        masks: Name of the masks' folder, or of one file for all images: COCO's JSON, or run lengths
            as CSV. Several are annotators: the truth is what they agree on, see
            :func:`segmentation.io.annotators.agree`.
        mask_type: ``"binary"`` (0 and one other value: connected components become objects),
            ``"labels"`` (each object its own value), ``"objects"`` (``masks/NAME/*``: one binary
            file per object, or an empty folder), ``"classes"`` (values 1…K are classes:
            connected components of each become objects).
        classes: Names of the classes 1…K. Unless ``mask_type`` is ``"classes"``, each is a folder
            of masks within ``masks``, or ``objects.csv`` or the outlines tell each object's.
        ignore: Value of pixels that are not annotated.
        annotated: Name of a folder of masks of what is annotated; the rest is not.

    Attributes:
        class_names: The names of the classes, in the order of their numbers from 1.

    >>> import tempfile
    >>> from segmentation.datasets.synthetic import write_folder
    >>> data = FolderDataset(write_folder(Path(tempfile.mkdtemp()), 3, size=(64, 80)))
    >>> len(data), data[0].image.shape, data[0].labels.dtype
    (3, (64, 80, 3), dtype('int32'))
    """

    version = 3

    def __init__(
        self,
        root: str | Path,
        images: str = "images",
        masks: str | Sequence[str] = "masks",
        mask_type: Masks = "binary",
        classes: Sequence[str] = (),
        ignore: int | None = None,
        annotated: str | None = None,
    ) -> None:
        super().__init__(root)
        self.images, self.masks, self.mask_type = images, masks, mask_type
        self.class_names = tuple(classes)
        region = None if annotated is None else Path(root).expanduser() / annotated
        about = mask_type, self.class_names, ignore, region
        self.reader: TruthReader | Annotators
        if isinstance(masks, str):
            self.reader = TruthReader(*about)
        else:
            self.reader = Annotators(masks, [TruthReader(*about) for _ in masks])
        self.name = f"folder-{Path(root).expanduser().resolve().name}-{mask_type}"

    def index(self) -> Sequence[Record]:
        """Every image, with its mask; a missing partner is a :class:`UserError`."""
        names = [self.masks] if isinstance(self.masks, str) else self.masks
        root = check_root(self.root, f"it should hold {self.images}/ and {'/, '.join(names)}/")
        places, remedy = [root / name for name in names], "check the names of the two folders"
        for place in places:
            if not place.is_file():
                check_root(place, remedy)
        own = (root / self.images).resolve()
        beside = any(own in (place.resolve(), place.resolve().parent) for place in places)
        images = find_images(check_root(root / self.images, remedy), masks_beside=beside)
        for place in places:
            if root / self.images in place.parents:
                images = {k: path for k, path in images.items() if place not in path.parents}
        if isinstance(self.reader, Annotators):
            masks = self.reader.find(places, images)
        else:
            masks = self.reader.find(places[0], images)
        if not masks:
            raise UserError(
                f"{places[0]}: holds images and masks, but no NAME_mask beside NAME; rename the "
                "masks, or keep them in another folder and set data.masks"
            )
        joined, masks = join_channels(images, masks)
        self._check_partners(root / self.images, places[0], joined, masks)
        files = {file for name, one in joined.items() for file in (*one, *masks[name])}
        stamps = dict(zip(files, stamps_of(list(files)), strict=True))
        records = list[Record]()
        for name, (path, *more) in joined.items():
            stamp = "|".join(stamps[file] for file in (path, *more, *masks[name]))
            group, truth = name.rpartition("/")[0], tuple(map(str, masks[name]))
            about = truth, stamp + self.reader.settings, group
            record = Record(name, str(path), *about, more=tuple(map(str, more)))
            records += per_plane(record, self.mask_type == "objects")
        return records

    def _check_partners(
        self, images: Path, folder: Path, found: Mapping[str, Any], masks: Mapping[str, Any]
    ) -> None:
        """Refuse an image without its mask, and a mask without its image."""
        rule = "a mask is called as its image"
        if self.mask_type != "objects":
            rule += f", or that and an ending such as {', '.join(MASK_ENDINGS[:3])}"
        if missing := found.keys() - masks.keys():
            name = min(missing)
            there = f"one that is there: {next(iter(masks), 'none')}"
            named = folder.is_file()
            lacks = f"{folder} does not name it" if named else f"no mask {folder / name}.*"
            raise UserError(
                f"{found[name][0]}: {lacks}; add it or remove the image ({rule}; {there})"
            )
        if alone := masks.keys() - found.keys():
            raise UserError(
                f"{folder / min(alone)}: a mask without an image below {images} (of {len(alone)} "
                f"such); add its image or remove it ({rule}; an image that is there: "
                f"{next(iter(found), 'none')})"
            )

    def read(self, record: Record) -> Sample:
        """One image with its labels; :class:`UserError` where the two do not fit together."""
        planes = open_stack(Path(record.image), *map(Path, record.more))
        image = planes.plane(record.plane or 0)
        shape = image.shape[0], image.shape[1]
        truth = self.reader.read(record.id, record.masks, shape, record.plane)
        facts = None
        if truth.values is not None:
            ids = self.mask_type != "binary"
            facts = facts_of(truth.values, ids, image, None if ids else np.maximum(truth.labels, 0))
            if not ids and facts.values > 1:
                raise UserError(f"{record.masks[0]}: {why_not_binary(facts)}")
        about: Any = {"facts": facts, "classes": truth.classes, "channels": planes.channels}
        about |= {"pixel_size": planes.calibration.pixel_size}
        return Sample(record.id, image, truth.labels, record.group, **about)

    @property
    def annotators(self) -> tuple[str, ...]:
        """Their names, where there are several."""
        return self.reader.names if isinstance(self.reader, Annotators) else ()

    def opinions(self, name: str) -> dict[str, np.ndarray]:
        """What each of several annotators says of a sample: (H, W) int32 ids; else nothing."""
        if not isinstance(self.reader, Annotators):
            return {}
        record = self._by_id[name]
        found = self.reader.opinions(name, record.masks, self._shape(record), record.plane)
        return {who: one.labels for who, one in zip(self.reader.names, found, strict=True)}

    @cached_property
    def _by_id(self) -> dict[str, Record]:
        return {record.id: record for record in self.records}

    def overlaps(self, record: Record) -> int:
        """Pixels of a sample that several of its objects claim; the label map cannot tell."""
        drawn = self.reader.needs_size(list(map(Path, record.masks)))
        shape = self._shape(record) if drawn else None
        return self.reader.overlaps(record.id, record.masks, shape, record.plane)

    def _shape(self, record: Record) -> tuple[int, int]:
        planes = open_stack(Path(record.image))
        if planes.size is not None:
            return planes.size
        height, width, _ = planes.plane(record.plane or 0).shape
        return height, width


class FolderDataModule(SegmentationDataModule):
    """Your own images and masks.

    Args:
        root: Folder that holds both folders.
        images: Name of the images' folder.
        masks: Name of the masks' folder, or of a file for all images (COCO, run lengths). A list
            names the folders of several annotators.
        mask_type: ``binary``, ``labels``, ``objects`` (one file per object) or ``classes``.
        classes: Names of the classes 1, 2, …; folders, objects.csv or outlines may tell them, too.
        ignore: Value of pixels that are not annotated, such as 255.
        annotated: Name of a folder of masks of what is annotated.
        split: Use ``GroupSplit`` with one subfolder a patient, plate or sequence.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self,
        root: str,
        images: str = "images",
        masks: str | list[str] = "masks",
        mask_type: Masks = "binary",
        classes: list[str] | None = None,
        ignore: int | None = None,
        annotated: str | None = None,
        split: Splitter | None = None,
        **kwargs: Any,
    ) -> None:
        source = FolderDataset(root, images, masks, mask_type, classes or (), ignore, annotated)
        super().__init__(source, split, **kwargs)
