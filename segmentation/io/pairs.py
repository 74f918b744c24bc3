"""Which files of folders belong together: an image's mask has the image's name."""

from collections.abc import Container
from pathlib import Path, PurePosixPath

from segmentation.errors import UserError, printable
from segmentation.io.images import IMAGE_SUFFIXES
from segmentation.io.listing import BESIDE, TRUTH_SUFFIXES, key_of, list_files, partner_of


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
    Where none is left it is the files with ``TRUTH_SUFFIXES``, such as outlines.
    """
    found: dict[str, Path] = {}
    for name, path in _by_key(folder, masks=True, without=without).items():
        name = partner_of(name, images)
        if name not in images and name.lower().endswith(IMAGE_SUFFIXES):  # NAME.tif.geojson
            name = key_of(name)
        if path in without:
            continue
        if name not in found:
            found[name] = path
        elif not path.name.endswith("_seg.npy"):  # Cellpose's own, beside the masks
            raise UserError(f"{path}: belongs to {name} as {found[name].name} does; keep one")
    return dict(sorted(found.items()))


def find_objects(folder: Path) -> dict[str, tuple[Path, ...]]:
    """The masks of the objects of each image, which lie in a folder of its name."""
    listing = list_files(folder)
    above = {name.rpartition("/")[0] for name in listing.folders}
    # Without any, and without folders in it, a folder is that of an image without objects.
    lowest = (name for name in listing.folders if name not in above)
    objects: dict[str, list[Path]] = {key_of(f"{name}.x"): [] for name in lowest}
    for name in listing.images(masks=True):
        objects.setdefault(key_of(f"{PurePosixPath(name).parent}.x"), []).append(folder / name)
    listing.check(folder)
    return {name: tuple(paths) for name, paths in objects.items()}


def _by_key(
    folder: Path, masks: bool, silent: bool = False, without: Container[Path] = ()
) -> dict[str, Path]:
    listing, found = list_files(folder), dict[str, Path]()
    names = listing.images(masks)
    other = [n for n in listing.files if PurePosixPath(n).suffix.lower() in TRUTH_SUFFIXES]
    if masks and other and all(folder / name in without for name in names):
        names = other
        listing.take(other)
    for name in names:
        path, key = folder / name, key_of(name)
        if key in found:
            first = found[key].name
            where = "how accents are stored" if path.suffix == found[key].suffix else "its suffix"
            raise UserError(f"{path}: differs from {first} in {where} alone; keep one")
        found[key] = path
    if silent:
        listing.passed_over.pop(BESIDE, None)
        listing.take(other)
    listing.check(folder)
    if not found:
        there = listing.tell(folder).removeprefix(f"{printable(folder)}: ")
        there = f" but {there}" if there else ""
        kinds = ", ".join(IMAGE_SUFFIXES)
        raise UserError(f"{folder}: holds no images ({kinds}){there}; check the path")
    return dict(sorted(found.items()))
