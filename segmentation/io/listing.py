"""What lies in a folder of images or masks: which files are read, paired by which names."""

import os
import re
import sys
import unicodedata
from collections import defaultdict
from collections.abc import Container, Sequence
from importlib.util import find_spec
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from segmentation.errors import UserError, printable
from segmentation.io.images import IMAGE_SUFFIXES, MICROSCOPE_SUFFIXES

# What programs append to the name of an image for its mask.
MASK_ENDINGS: tuple[str, ...] = ("_mask", "_masks", "_cp_masks", "_label", "_labels", "_seg")
MASK_ENDINGS += ("_prob", "_probabilities")
MASK_ENDINGS += ("_rois", "_RoiSet")  # Cellpose's and Fiji's
# Files that are truth where there is no mask: of one image each.
TRUTH_SUFFIXES = (".geojson", ".json", ".roi", ".zip", ".npz")
NNUNET = "_0000"  # what nnU-Net appends to the first channel of an image, its only one here
# What operating systems and network disks strew about; hidden files are junk, too.
_JUNK = {"__macosx", "@eadir", "#recycle", "$recycle.bin", "system volume information"}
_JUNK |= {"lost+found", "thumbs.db", "ehthumbs.db", "desktop.ini", "icon\r"}
JUNK, OTHER, UNREAD = "hidden or system files", "other files", "unreadable folders"
OTHER_IMAGES, LOOPS = "images of kinds that are not read", "links to a folder above them"
BESIDE = "masks beside their images"
# Images of these kinds are missed; any other file beside the images is just named.
_IMAGES = re.compile(
    r"\.(avif|bif|btf|czi|dcm|dm3|dm4|dng|eps|exr|fits|flex|gif|h5|hdf5|heic|ics|"
    r"ids|ims|j2k|jfif|jp2|jpe|jxl|lif|lsm|mat|mha|mhd|mrc|mrxs|n5|nd2|ndpi|"
    r"ndpis|nii|nii\.gz|npz|nrrd|obf|oib|oif|pbm|pdf|pgm|pict|ppm|psd|qptiff|scn|"
    r"sld|stk|svg|svs|tf2|tf8|tga|vsi|webp|xcf|zvi)$"
)


class Listing(NamedTuple):
    """What lies below a folder: relative POSIX paths, sorted."""

    files: list[str]
    folders: list[str]
    passed_over: dict[str, list[str]]  # what they are ► paths

    def images(self, masks: bool = False) -> list[str]:
        """The image files, dangling links and pipes among them; the others join ``passed_over``.

        ``NAME_masks`` beside ``NAME``, and Cellpose's ``NAME_seg.npy``, count as ``masks`` only.
        """
        kinds: tuple[str, ...] = (*IMAGE_SUFFIXES, ".zarr")
        if not masks and find_spec("bioio") is not None:
            kinds += MICROSCOPE_SUFFIXES
        images = [n for n in self.files if PurePosixPath(n).suffix.lower() in kinds]
        names = {key_of(name) for name in images}
        for name in sorted({*self.files} - {*images}):
            missed = _IMAGES.search(name.lower()) and key_of(name) not in names  # not exported
            self.passed_over.setdefault(OTHER_IMAGES if missed else OTHER, []).append(name)
        if masks:
            return images
        beside = [n for n in images if without_ending(key_of(n)) in names or n.endswith("_seg.npy")]
        if beside:
            self.passed_over[BESIDE] = beside
        return [name for name in images if name not in set(beside)]

    def take(self, names: Container[str]) -> None:
        """What is read all the same is not passed over."""
        for what in (OTHER, OTHER_IMAGES):
            if left := [name for name in self.passed_over.pop(what, ()) if name not in names]:
                self.passed_over[what] = left

    @property
    def missed(self) -> bool:
        """Whether something that a person meant is passed over."""
        return bool({OTHER_IMAGES, UNREAD} & self.passed_over.keys())

    def check(self, folder: Path) -> None:
        """Say what is passed over; a folder that cannot be read is a :class:`UserError`."""
        if locked := self.passed_over.get(UNREAD):
            what = "the folder cannot be read; allow it, or move it"
            raise UserError(f"{folder / locked[0]}: {what}")
        say_once(self.tell(folder))

    def tell(self, folder: Path) -> str:
        """One line that counts and names what is passed over; empty where nothing is."""
        parts = []
        for what, names in sorted(self.passed_over.items()):
            remedy = ": save them as TIFF or PNG" if what == OTHER_IMAGES else ""
            if remedy and any(name.lower().endswith(MICROSCOPE_SUFFIXES) for name in names):
                remedy += ", or pip install 'biomedical-segmentation[bioio]'"
            parts.append(f"{what}: {len(names)} ({some_of(names)}{remedy})")
        return printable(f"{folder}: {'; '.join(parts)}") if parts else ""


def list_files(folder: Path) -> Listing:
    """Every file below a folder; links are followed, but for those that would never end."""
    files: list[str] = []
    folders: list[str] = []
    passed: dict[str, list[str]] = defaultdict(list)
    waiting: list[tuple[str, tuple[object, ...]]] = [("", ())]
    while waiting:
        place, above = waiting.pop()
        try:
            about = os.stat(folder / place)
            known: object = (about.st_dev, about.st_ino)
            here = (*above, known if about.st_ino else os.path.realpath(folder / place))
            entries = sorted(os.scandir(folder / place), key=lambda entry: entry.name)
        except OSError:
            passed[UNREAD].append(place or str(folder))
            continue
        if here[-1] in above:
            passed[LOOPS].append(place)
            continue
        if place:
            folders.append(place)
        for entry in entries:
            name = f"{place}/{entry.name}" if place else entry.name
            try:
                is_folder = entry.is_dir()
            except OSError:  # a link to itself
                is_folder = False
            if is_junk(entry.name):
                passed[JUNK].append(name + "/" * is_folder)
            elif is_folder and not entry.name.lower().endswith(".zarr"):
                waiting.append((name, here))
            else:
                files.append(name)
    for found in (files, folders):
        found.sort(key=lambda name: name.split("/"))
    return Listing(files, folders, {what: sorted(names) for what, names in passed.items()})


def key_of(name: str) -> str:
    """What files are paired by: the relative path without suffix (``.ome.tif`` is one), in NFC.

    Samples are known by it in all tables, so it is :func:`printable`.

    >>> key_of("a/Pra\\u0308parat 1.OME.tif") == "a/Pr\\u00e4parat 1"
    True
    """
    name = str(PurePosixPath(name).with_suffix(""))
    name = name[:-4] if name.lower().endswith(".ome") else name
    return printable(unicodedata.normalize("NFC", name))


_said: set[str] = set()


def say_once(line: str) -> None:
    """Print what is passed over, once, by the first of several processes alone."""
    first = os.environ.get("RANK", os.environ.get("LOCAL_RANK", "0")) == "0"
    if line and first and line not in _said:
        _said.add(line)
        print(f"passed over  {line}", file=sys.stderr)


def some_of(names: Sequence[str]) -> str:
    """The first three names, and how many there are beside them.

    >>> some_of("abcde")
    'a, b, c and 2 more'
    """
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")


def partner_of(name: str, partners: Container[str]) -> str:
    """Which of ``partners`` a mask, prediction or image of that name belongs to.

    That is the same name, an ending such as ``_mask`` or nnU-Net's ``_0000`` aside; where none has
    it, the name without the ending of a mask.
    """
    bare = without_ending(name) or name
    for one in (name, bare):
        for other in (one, one + NNUNET, one.removesuffix(NNUNET)):
            if other in partners:
                return other
    return bare


def channel_files(names: Sequence[str]) -> dict[str, tuple[str, ...]]:
    """nnU-Net's files ``NAME_0000``, ``NAME_0001``, … of each ``NAME``, where all have as many.

    Empty where there is anything else, or more than 16 of one name: frames of a film, say.

    >>> channel_files(["a_0000.png", "a_0001.png"]), channel_files(["a_0000.png", "b.png"])
    ({'a': ('a_0000.png', 'a_0001.png')}, {})
    """
    cases: dict[str, list[str]] = defaultdict(list)
    for name in sorted(names):
        case, _, number = str(PurePosixPath(name).with_suffix("")).rpartition("_")
        if number != f"{len(cases[case]):04}":
            return {}
        cases[case].append(name)
    counts = {len(files) for files in cases.values()}
    alike = len(counts) == 1 and 2 <= max(counts) <= 16
    return {case: tuple(files) for case, files in cases.items()} if alike else {}


def without_ending(name: str) -> str:
    """The name of the image whose mask is called ``name``; empty where it has no ending of one."""
    end = max((end for end in MASK_ENDINGS if name.endswith(end)), key=len, default="")
    return name.removesuffix(end) if end else ""


def is_junk(name: str) -> bool:
    """Whether a relative path is what operating systems strew about: hidden, ``__MACOSX``, …"""
    parts = PurePosixPath(name).parts
    return any(part.startswith((".", "~$")) or part.casefold() in _JUNK for part in parts)
