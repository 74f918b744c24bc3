"""The truth of an image as its files hold it: masks, label maps, class maps, outlines."""

import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import reduce
from io import BytesIO
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from segmentation import objects
from segmentation.errors import UserError
from segmentation.io.annotation_files import OBJECTS, matched, open_annotations, read_objects
from segmentation.io.files import check_inflation
from segmentation.io.images import decode_mask, read_mask
from segmentation.io.listing import some_of
from segmentation.io.outlines import is_outlines, read_outlines, size_of_outlines
from segmentation.io.pairs import find_maps, find_objects
from segmentation.io.regions import Region, Truth, class_of_ids, number_of, numbered, paint
from segmentation.io.stacks import open_stack
from segmentation.io.tiff import MOST_PIXELS, decoding, read_bytes

Masks = Literal["binary", "labels", "objects", "classes"]
Files = Sequence[str | Path]  # of one image
Found = dict[str, tuple[Path, ...]]  # an image's name ► its files
Size = tuple[int, int] | None  # (H, W) of the image; ``None`` takes it from the files
Plane = int | None  # its number in stacks
_Read = tuple[Truth, np.ndarray]  # and (H, W) bool: where its files say that nothing is annotated
_MOST_CLASSES = 255  # they are kept as uint8
_NOWHERE = np.zeros((1, 1), bool)  # broadcasts to any image
_KEYS = ("masks", "labels")  # of the label map among several arrays of an NPZ file


@dataclass(frozen=True)
class TruthReader:
    """Finds and reads the truth of images, for training and for scores alike.

    The values of a mask are 0 and one other (``binary``), ids of objects (``labels``), the same in
    one file an object (``objects``), or ``classes``: numbers of ``class_names`` from 1, whose
    8-connected components are the objects. Otherwise the classes are folders of masks, or named by
    ``objects.csv`` or by files of outlines.
    """

    mask_type: Masks = "binary"
    class_names: tuple[str, ...] = ()
    ignore: int | None = None  # the value of pixels that are not annotated
    annotated: Path | None = None  # folder of masks of what is annotated
    option: str = "data."  # comes before the name of a setting in messages
    _opened: dict[Path, Any] = field(default_factory=dict, repr=False, compare=False)
    _names: dict[tuple[Path, str], str] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        names = self.class_names
        if self.mask_type not in get_args(Masks):
            kinds = ", ".join(get_args(Masks))
            raise UserError(f"mask_type: {self.mask_type!r} must be one of {kinds}")
        option = f"{self.option}classes"
        if self.mask_type == "classes" and not names:
            raise UserError(
                f"{self._type('classes')} needs the names of the values 1, 2, …: set {option}, "
                "such as tumour and stroma"
            )
        if self.mask_type == "objects" and names:
            raise UserError(
                f"{option}: one file an object has none; make a folder of masks for each class, "
                f"or set {self._type('classes')}"
            )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"{option}: {twice!r} is named twice; name each class once")
        if len(names) > _MOST_CLASSES:
            raise UserError(f"{option}: {len(names)} are more than {_MOST_CLASSES}")
        if self.ignore is not None and (self.ignore < 0 or self.ignore + len(names) == 0):
            raise UserError(
                f"{self.option}ignore: {self.ignore} must be the value of pixels that are not "
                "annotated, such as 255; 0 is the background, but for class maps"
            )

    @property
    def settings(self) -> str:
        """Of what a sample depends on beside its files; empty for the usual ones."""
        about = (*self.class_names, *([] if self.ignore is None else [f"ignore {self.ignore}"]))
        return "|".join(("", *about)) + ("|annotated" if self.annotated else "")

    def find(self, place: Path, images: Mapping[str, Path]) -> Found:
        """The files of each image's truth in a folder, or one file for all images, by its name.

        The truth of other images is among them. ``images`` may be empty.
        """
        if place.is_file():
            self._opened[place] = opened = open_annotations(place)
            names = matched(place, opened.names, images)
            self._names.update({(place, name): own for name, own in names.items()})
            found: Found = {name: (place,) for name in names}
        elif self.mask_type == "objects":
            found = find_objects(place)
        elif folders := self._class_folders(place):
            found = _per_class(folders, images)
        else:
            maps = find_maps(place, images, images.values())
            found = {name: (path,) for name, path in maps.items()}
            table = self._table_of_classes(place, maps)
            found = {name: (*files, *table) for name, files in found.items()}
        if self.annotated is None:
            return found
        regions = find_maps(self.annotated, images)
        if missing := sorted(found.keys() - regions.keys()):
            raise UserError(
                f"{self.annotated / missing[0]}.*: no mask of what is annotated (of "
                f"{len(missing)} such); add it, all 255 if the whole image is"
            )
        return {name: (*files, regions[name]) for name, files in found.items()}

    def read(self, name: str, files: Files, shape: Size = None, plane: Plane = None) -> Truth:
        """The truth of an image, a :class:`UserError` where a file is at fault.

        Args:
            name: Of the image.
            files: As :meth:`find` gave them for it.
            shape: (H, W) of the image; ``None`` takes it from the files, if they tell.
            plane: Which one of a stack it is.
        """
        paths = [Path(file) for file in files]
        region = paths.pop() if self.annotated else None
        truth, unknown = self._read(name, paths, shape, plane)
        if region is not None:
            known = _pixels(region, plane) > 0
            objects.check_size(str(region), known.shape, truth.labels.shape)
            unknown = unknown | ~known
        if not unknown.any():
            return truth
        labels, values = np.where(unknown, -1, truth.labels), truth.values
        if (labels < 0).all():
            raise UserError(
                f"{paths[0] if paths else name}: no pixel is annotated; remove the image, or "
                f"correct {self.option}ignore and {self.option}annotated"
            )
        classes = None if truth.classes is None else class_of_ids(labels, truth.classes)
        values = None if values is None else np.where(unknown, 0, values)
        return Truth(objects.renumber(labels), classes, values, truth.overlaps)

    def _type(self, kind: Masks) -> str:
        """How a type of masks is chosen, in messages."""
        if self.option == "--":
            return f"--labels {'instances' if kind == 'labels' else kind}"
        return f"{self.option}mask_type: {kind}"

    def needs_size(self, files: Sequence[Path]) -> bool:
        """Whether an image's files may not tell its size by themselves: outlines and the like."""
        return not files or files[0] in self._opened or is_outlines(files[0])

    def overlaps(self, name: str, files: Files, shape: Size, plane: Plane = None) -> int:
        """Pixels of an image that several of its objects claim, which the label map cannot tell."""
        if self.mask_type == "objects":
            return objects.count_overlap((str(path), read_mask(path)) for path in files)
        paths = [Path(file) for file in files]
        if not self.needs_size(paths) and len(paths) == 1:
            return 0
        return self.read(name, files, shape, plane).overlaps

    def _read(self, name: str, paths: list[Path], shape: Size, plane: Plane) -> _Read:
        if paths and (paths[0] in self._opened or is_outlines(paths[0])):
            return self._painted(name, paths[0], shape), _NOWHERE
        if self.mask_type == "objects":
            maps = [(str(path), *self._values(path, plane)) for path in paths]
            if shape is None and not maps:
                raise UserError(f"{name}: a folder without masks tells no size; give the image")
            shape = shape or maps[0][1].shape
            values = objects.merge_objects(((path, some) for path, some, _ in maps), shape)
            unknown = reduce(np.logical_or, (some for *_, some in maps), _NOWHERE)
            return Truth(values, values=values), unknown
        first, *more = paths
        values, unknown = self._values(first, plane)
        objects.check_size(str(first), values.shape, shape or values.shape)
        if self.mask_type == "classes":
            return self._of_classes(values, first), unknown
        if more and more[0].name != OBJECTS:
            return self._of_folders(paths, values.shape, plane)
        if self.mask_type == "binary":
            return Truth(objects.label_components(values > 0), values=values), unknown
        classes = self._classes_of(name, values, first, more[0]) if more else None
        return Truth(objects.renumber(values.astype(np.int32)), classes, values), unknown

    def _values(self, path: Path, plane: Plane) -> tuple[np.ndarray, np.ndarray]:
        """The values of a mask, 0 where they say that a pixel is not annotated; and where."""
        values = _pixels(path, plane)
        if self.ignore is None:
            return values, _NOWHERE
        unknown = values == self.ignore
        return np.where(unknown, 0, values).astype(values.dtype), unknown

    def _painted(self, name: str, path: Path, shape: Size) -> Truth:
        """The truth of a file of outlines or of annotations."""
        opened = self._opened.get(path)
        own = self._names.get((path, name), name)
        stated = size_of_outlines(path) if opened is None else opened.size(own)
        if (shape := shape or stated) is None:
            raise UserError(f"{path}: does not tell the size of its image; give the images, too")
        if min(shape) < 1 or shape[0] * shape[1] > MOST_PIXELS:
            size = f"{shape[0]}×{shape[1]} (H×W)"
            raise UserError(f"{path}: tells an image of {size}; export it again")
        regions = opened.regions(own, shape) if opened else read_outlines(path, shape)
        return paint(regions, shape, self.class_names)

    def _of_classes(self, values: np.ndarray, path: Path) -> Truth:
        """The components of each class of an (H, W) map."""
        present = np.flatnonzero(np.bincount(values.reshape(-1)))  # values fit into an int32
        if len(odd := present[present > len(self.class_names)]):
            raise UserError(
                f"{path}: holds the value(s) {', '.join(map(str, odd[:4]))}, but "
                f"{self.option}classes names {numbered(self.class_names)}; name all classes, in "
                f"the order of their values, and what is not annotated by {self.option}ignore"
            )
        labels, classes = objects.components_of_values(values)
        return Truth(labels, classes.astype(np.uint8))

    def _of_folders(self, paths: list[Path], shape: tuple[int, ...], plane: Plane) -> _Read:
        """The objects in one mask for each class."""
        regions, unknown = [], np.zeros(shape, bool)
        for number, path in enumerate(paths, start=1):
            values, odd = self._values(path, plane)
            objects.check_size(str(path), values.shape, shape)
            unknown |= odd
            if self.mask_type == "binary":
                values = objects.label_components(objects.binary_mask(values, str(path)))
            flat = objects.renumber(values.astype(np.int32)).reshape(-1)
            order = np.argsort(flat, kind="stable")
            places = np.split(order, np.cumsum(np.bincount(flat))[:-1])[1:]
            regions += [Region(str(path), pixels, number) for pixels in places]
        return paint(regions, shape, self.class_names), unknown

    def _classes_of(self, name: str, values: np.ndarray, path: Path, table: Path) -> np.ndarray:
        """The class of each id of a label map, as a table says."""
        kinds = self._opened[table].get(name, {})
        present = np.unique(values[values > 0]).tolist()
        if lacking := [number for number in present if number not in kinds]:
            what = f"object {lacking[0]} of {path} (image {name!r})"
            raise UserError(f"{table}: has no row for {what}; add it")
        if absent := sorted(kinds.keys() - set(present)):
            raise UserError(f"{path}: holds no object {absent[0]}, of which {table} has a row")
        numbers = []
        for number in present:
            kind, what = kinds[number], f"{table}: object {number} of {name}"
            own = int(kind) if kind.isdecimal() else kind
            numbers.append(number_of(own, self.class_names, what))
        return np.array([0, *numbers], np.uint8)

    def _class_folders(self, place: Path) -> list[Path]:
        """The folder of masks of each class, if there is one."""
        folders = [place / name for name in self.class_names if self.mask_type != "classes"]
        there = [folder for folder in folders if folder.is_dir()]
        if there and len(there) < len(folders):
            lacking = next(folder for folder in folders if folder not in there)
            raise UserError(f"{lacking}: the folder of this class is missing; add it")
        if there:
            others = sorted(p.name for p in place.iterdir() if p.is_dir() and p not in there)
            if others := [name for name in others if not name.startswith(".")]:
                raise UserError(
                    f"{place / others[0]}: a class that {self.option}classes does not name "
                    f"({some_of(self.class_names)}); name all classes, or remove it"
                )
        return there

    def _table_of_classes(self, place: Path, maps: Mapping[str, Path]) -> tuple[Path, ...]:
        """The table of the classes of label maps, where they need one."""
        told = self.mask_type == "classes" or all(map(is_outlines, maps.values()))
        if told or not self.class_names:
            return ()
        tables = [place / OBJECTS, place.parent / OBJECTS]
        if table := next((path for path in tables if path.is_file()), None):
            if self.mask_type == "labels":
                rows = read_objects(table)
                names = matched(table, rows, maps)
                self._opened[table] = {name: rows[own] for name, own in names.items()}
                return (table,)
            raise UserError(f"{table}: tells the classes of ids; set {self._type('labels')}")
        raise UserError(
            f"{place}: nothing tells the classes of its masks; make a folder for each, such as "
            f"{place / self.class_names[0]}, add {OBJECTS} with image, object and class, or set "
            f"{self._type('classes')}"
        )


def _pixels(path: Path, plane: Plane) -> np.ndarray:
    """A mask as :func:`read_mask` gives it, or one plane of a stack of masks."""
    if plane is not None:
        return open_stack(path).mask(plane)
    return read_npz(path) if path.suffix.lower() == ".npz" else read_mask(path)


def read_npz(path: Path) -> np.ndarray:
    """The label map of an NPZ file, as :func:`read_mask`: its only array, or ``masks``, ``labels``.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.npz")
    >>> np.savez(path, labels=np.int64([[0, 3]]), flows=np.zeros(4))
    >>> read_npz(path).tolist()
    [[0, 3]]
    """
    with decoding(path, "NPZ"):
        data = read_bytes(path)
        archive = zipfile.ZipFile(BytesIO(data))
        arrays = {one.filename.removesuffix(".npy"): one for one in archive.infolist()}
        wanted = [key for key in _KEYS if key in arrays] or list(arrays)
        if len(arrays) > 1 and len(wanted) != 1:
            what = f"holds the arrays {some_of(list(arrays))}"
            raise UserError(f"{path}: {what}; call the label map masks, or save it alone")
        if not arrays:
            raise UserError(f"{path}: holds no array; save the label map again")
        check_inflation(path, arrays[wanted[0]].file_size, len(data))
        return decode_mask(archive.read(arrays[wanted[0]]), f"{path}: {wanted[0]}")


def _per_class(folders: list[Path], images: Mapping[str, Path]) -> Found:
    """The masks of each image in the folders of all classes; one that is missing: UserError."""
    found = [find_maps(folder, images, images.values()) for folder in folders]
    for name in sorted(set().union(*found)):
        if lacking := [f for f, maps in zip(folders, found, strict=True) if name not in maps]:
            raise UserError(
                f"{lacking[0] / name}.*: no mask of class {lacking[0].name}; add it, all 0 where "
                "the class is absent"
            )
    return {name: tuple(maps[name] for maps in found) for name in sorted(found[0])}
