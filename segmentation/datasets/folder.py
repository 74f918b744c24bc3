"""Anybody's own images and masks: two folders, matched by name."""

from collections.abc import Container, Sequence
from itertools import islice
from pathlib import Path, PurePosixPath
from typing import Any, get_args

from segmentation.data.datamodule import SegmentationDataModule
from segmentation.data.masks import facts_of, why_not_binary
from segmentation.data.sample import Record, Sample, SegmentationDataset
from segmentation.data.splits import Splitter
from segmentation.datasets.folder_images import join_channels, per_plane
from segmentation.errors import UserError, printable
from segmentation.io.files import stamps_of
from segmentation.io.images import IMAGE_SUFFIXES, read_mask
from segmentation.io.listing import (
    BESIDE,
    MASK_ENDINGS,
    UNREAD,
    Listing,
    key_of,
    list_files,
    partner_of,
    say_once,
)
from segmentation.io.stacks import open_stack
from segmentation.io.tree import check_root
from segmentation.io.truth import Masks, TruthReader
from segmentation.objects import count_overlap


class FolderDataset(SegmentationDataset):
    """``root/images/NAME.png`` with ``root/masks/NAME.png``: PNG, TIFF, BMP, NPY; images also JPEG.

    Subfolders of ``images`` are groups (a patient, a plate), which :class:`GroupSplit` keeps whole,
    and are repeated in ``masks``. A mask may be called ``NAME_mask``, ``NAME_cp_masks``, ….
    Each plane of a TIFF stack (T, Z) whose mask has as many planes is a sample, ``NAME#0003``; the
    planes are a group. ``NAME_0000``, ``NAME_0001``, … with a mask ``NAME`` are channels.

    Args:
        root: Folder that holds both.
        images: Name of the images' folder.
        masks: Name of the masks' folder.
        mask_type: ``"binary"`` (0 and one other value: connected components become objects),
            ``"labels"`` (each object its own value), ``"objects"`` (``masks/NAME/*``: one binary
            file per object, or an empty folder), ``"classes"`` (values 1…K are classes:
            connected components of each become objects).
        classes: Names of the classes 1…K.

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
        masks: str = "masks",
        mask_type: Masks = "binary",
        classes: Sequence[str] = (),
    ) -> None:
        if mask_type not in get_args(Masks):
            kinds = ", ".join(get_args(Masks))
            raise UserError(f"mask_type: {mask_type!r} must be one of {kinds}")
        self.root, self.images, self.masks, self.mask_type = root, images, masks, mask_type
        self.class_names = tuple(classes)
        self.reader = TruthReader(mask_type, self.class_names)
        self.name = f"folder-{Path(root).expanduser().resolve().name}-{mask_type}"

    def index(self) -> Sequence[Record]:
        """Every image, with its mask; a missing partner is a :class:`UserError`."""
        root = check_root(self.root, f"it should hold {self.images}/ and {self.masks}/")
        remedy = "check the names of the two folders"
        folder = check_root(root / self.masks, remedy)
        one = folder.resolve() == (root / self.images).resolve()
        images = find_images(check_root(root / self.images, remedy), masks_beside=one)
        if root / self.images in folder.parents:
            images = {k: path for k, path in images.items() if folder not in path.parents}
        if self.mask_type == "objects":
            masks = _find_objects(folder)
        else:
            maps = find_maps(folder, images, images.values())
            if not maps:
                raise UserError(
                    f"{folder}: holds images and masks, but no NAME_mask beside NAME; rename the "
                    "masks, or keep them in another folder and set data.masks"
                )
            masks = {name: (path,) for name, path in maps.items()}
        joined, masks = join_channels(images, masks)
        self._check_partners(root / self.images, folder, joined, masks)
        stamps = iter(stamps_of([f for name, one in joined.items() for f in (*one, *masks[name])]))
        read_as = f"|{'|'.join(self.class_names)}" if self.class_names else ""
        records = list[Record]()
        for name, (path, *more) in joined.items():
            stamp = "|".join(islice(stamps, 1 + len(more) + len(masks[name]))) + read_as
            group, truth = name.rpartition("/")[0], tuple(map(str, masks[name]))
            channels = tuple(map(str, more))
            record = Record(name, str(path), truth, stamp, group, more=channels)
            records += per_plane(record, self.mask_type == "objects")
        return records

    def _check_partners(
        self,
        images: Path,
        folder: Path,
        found: dict[str, tuple[Path, ...]],
        masks: dict[str, tuple[Path, ...]],
    ) -> None:
        """Refuse an image without its mask, and a mask without its image."""
        rule = "a mask is called as its image"
        if self.mask_type != "objects":
            rule += f", or that and an ending such as {', '.join(MASK_ENDINGS[:3])}"
        if missing := found.keys() - masks.keys():
            name = min(missing)
            there = f"one that is there: {next(iter(masks), 'none')}"
            raise UserError(
                f"{found[name][0]}: no mask {folder / name}.*; add it or remove the image ({rule}; "
                f"{there})"
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
        truth = self.reader.read(record.masks, (image.shape[0], image.shape[1]), record.plane)
        facts = None
        if truth.values is not None:
            ids = self.mask_type != "binary"
            facts = facts_of(truth.values, ids, image, None if ids else truth.labels)
            if not ids and facts.values > 1:
                raise UserError(f"{record.masks[0]}: {why_not_binary(facts)}")
        return Sample(
            record.id,
            image,
            truth.labels,
            record.group,
            facts=facts,
            classes=truth.classes,
            channels=planes.channels,
            pixel_size=planes.calibration.pixel_size,
        )

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
        mask_type: ``binary``, ``labels``, ``objects`` (one file per object) or ``classes``.
        classes: Names of the classes whose numbers, from 1, the masks hold.
        split: Use ``GroupSplit`` with one subfolder a patient, plate or sequence.
        kwargs: See :class:`SegmentationDataModule`.
    """

    def __init__(
        self,
        root: str,
        images: str = "images",
        masks: str = "masks",
        mask_type: Masks = "binary",
        classes: list[str] | None = None,
        split: Splitter | None = None,
        **kwargs: Any,
    ) -> None:
        source = FolderDataset(root, images, masks, mask_type, classes or ())
        super().__init__(source, split, **kwargs)


def find_images(folder: Path, masks_beside: bool = False) -> dict[str, Path]:
    """Every image below ``folder``, at least one, by its :func:`key_of`, sorted.

    What else lies there is named in one line, but for masks that are expected ``masks_beside``.
    """
    return _by_key(folder, masks=False, silent=masks_beside)


def find_maps(
    folder: Path, images: Container[str] = (), without: Container[Path] = ()
) -> dict[str, Path]:
    """Every mask, label or probability map below ``folder``, NPY as well, by its image's name.

    That is one of ``images`` as :func:`partner_of` finds it. The files ``without`` are left out.
    """
    found: dict[str, Path] = {}
    for name, path in _by_key(folder, masks=True).items():
        name = partner_of(name, images)
        if path in without:
            continue
        if name not in found:
            found[name] = path
        elif not path.name.endswith("_seg.npy"):  # Cellpose's own, beside the masks
            raise UserError(f"{path}: belongs to {name} as {found[name].name} does; keep one")
    return dict(sorted(found.items()))


def _find_objects(folder: Path) -> dict[str, tuple[Path, ...]]:
    listing = list_files(folder)
    above = {name.rpartition("/")[0] for name in listing.folders}
    # Without any, and without folders in it, a folder is that of an image without objects.
    objects: dict[str, list[Path]] = {
        key_of(f"{n}.x"): [] for n in listing.folders if n not in above
    }
    for name in listing.images(masks=True):
        objects.setdefault(key_of(f"{PurePosixPath(name).parent}.x"), []).append(folder / name)
    _tell(folder, listing)
    return {name: tuple(paths) for name, paths in objects.items()}


def _by_key(folder: Path, masks: bool, silent: bool = False) -> dict[str, Path]:
    listing, found = list_files(folder), dict[str, Path]()
    for name in listing.images(masks):
        path, key = folder / name, key_of(name)
        if key in found:
            other = found[key].name
            where = "how accents are stored" if path.suffix == found[key].suffix else "its suffix"
            raise UserError(f"{path}: differs from {other} in {where} alone; keep one")
        found[key] = path
    if silent:
        listing.passed_over.pop(BESIDE, None)
    _tell(folder, listing)
    if not found:
        there = listing.tell(folder).removeprefix(f"{printable(folder)}: ")
        there = f" but {there}" if there else ""
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{folder}: holds no images ({kinds}){there}; check the path")
    return dict(sorted(found.items()))


def _tell(folder: Path, listing: Listing) -> None:
    if locked := listing.passed_over.get(UNREAD):
        raise UserError(f"{folder / locked[0]}: the folder cannot be read; allow it, or move it")
    say_once(listing.tell(folder))
