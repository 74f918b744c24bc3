"""Two folders of masks, label maps or probability maps: paired by name, read and checked."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tifffile

from segmentation.datasets.folder import MASK_ENDINGS, find_images
from segmentation.errors import UserError
from segmentation.io.images import IMAGE_SUFFIXES, read_mask
from segmentation.io.tree import check_root
from segmentation.objects import label_components, renumber

Kind = Literal["auto", "instances", "mask"]
SUFFIXES = (*IMAGE_SUFFIXES, ".npy")
ENDINGS = (*(end for end in MASK_ENDINGS if end), "_cp_masks", "_prob", "_probabilities")

_LARGEST_ID = np.iinfo(np.int32).max
_PARTS = 3.0  # regions of one value, on average, from which on values are no instance ids
_SLOPE = 0.5  # share of neighbouring pixels that differ, from which on a map is no label map


@dataclass(frozen=True)
class Facts:
    """What one file of a side shows about what the side holds.

    Attributes:
        shape: (H, W).
        values: Different values above 0.
        regions: 8-connected regions of one value above 0.
        pairs, unlike: Neighbouring pixels above 0 that are not both the file's maximum, and how
            many of them differ. Of a label map few do; of a probability map most, but where it is
            saturated.
    """

    shape: tuple[int, int]
    values: int
    regions: int
    pairs: int
    unlike: int


def find_maps(folder: Path, option: str) -> dict[str, Path]:
    """Every PNG, TIFF, BMP or NPY below a folder by its path without suffix and ending, sorted.

    The endings are what tools append to the image's name: ``_mask``, ``_labels``, ``_cp_masks`` ….

    Raises:
        UserError: The folder is missing or empty, or two files have one name.
    """
    found: dict[str, Path] = {}
    for name, path in find_images(check_root(folder, f"check {option}"), SUFFIXES).items():
        end = next((end for end in sorted(ENDINGS, key=len)[::-1] if name.endswith(end)), "")
        name = name.removesuffix(end)
        if name in found:
            raise UserError(f"{path}: belongs to {name} as {found[name].name} does; keep one")
        found[name] = path
    return dict(sorted(found.items()))


def pair(
    truth: dict[str, Path], other: dict[str, Path], option: str, allow_missing: bool
) -> list[str]:
    """The names that both sides have; ``option`` is what the other side was given as.

    Raises:
        UserError: They share no name, or one has a file that the other lacks and that is not
            allowed.
    """
    common = sorted(truth.keys() & other.keys())
    if not common:
        raise UserError(
            f"{option}: none of its {len(other)} files has the name of one of --truth (such as "
            f"{next(iter(other))} and {next(iter(truth))}); files are paired by their path without "
            "suffix"
        )
    if not allow_missing:
        for side, here, there in (("--truth", truth, other), (option, other, truth)):
            if alone := sorted(here.keys() - there.keys()):
                missing = option if side == "--truth" else "--truth"
                raise UserError(
                    f"{side}: {len(alone)} files have no partner in {missing}: {_some(alone)}; add "
                    "them, or score the others with --allow-missing"
                )
    return common


def read_ids(path: Path) -> np.ndarray:
    """The values of a mask or a label map as they are, (H, W), an unsigned type or int32.

    PNG, TIFF and BMP of 8 or 16 bits, and TIFF and NPY of integers of any width.

    Raises:
        UserError: The file is broken, a JPEG, has colours, holds floats, or an id is negative or
            beyond 2^31 - 1.
    """
    if path.suffix.lower() in (".jpg", ".jpeg"):
        raise UserError(f"{path}: JPEG changes the values of a mask; save it as PNG or TIFF")
    wide = _wide(path)
    if wide is None:
        return read_mask(path)
    if wide.dtype.kind == "f":
        if wide.min() >= 0 and wide.max() <= 1 and (wide % 1).any():
            raise UserError(
                f"{path}: holds {wide.dtype} probabilities, not labels; give such a folder as "
                "--probabilities, and a mask or label map of the same name here"
            )
        raise UserError(
            f"{path}: a label map of {wide.dtype}; save its ids as 16 or 32 bit integers"
        )
    low, high = int(wide.min()), int(wide.max())
    if low < 0 or high > _LARGEST_ID:
        odd = low if low < 0 else high
        raise UserError(
            f"{path}: id {odd} is not within 0 … {_LARGEST_ID}; renumber the objects from 1, "
            "background 0"
        )
    return wide.astype(np.int32)


def read_probability(path: Path) -> np.ndarray:
    """A probability map, (H, W) float32 in 0…1: 8 or 16 bit integers scaled, or floats as they are.

    Raises:
        UserError: The file is broken, has colours, or holds values outside 0…1.
    """
    pixels = _pixels(path)
    if pixels.dtype in (np.uint8, np.uint16):
        probs: np.ndarray = pixels.astype(np.float32) / np.iinfo(pixels.dtype).max
        return probs
    if pixels.dtype.kind != "f":
        raise UserError(
            f"{path}: probabilities of {pixels.dtype}; save them as 8 or 16 bit integers, or as "
            "float32 from 0 to 1"
        )
    low, high = float(pixels.min()), float(pixels.max())  # both are NaN if any value is
    if not (low >= 0 and high <= 1):
        raise UserError(
            f"{path}: probabilities from {low:g} to {high:g}; they must lie in 0 … 1 (logits need "
            "a sigmoid first)"
        )
    return pixels.astype(np.float32)


def check_probabilities(paths: Sequence[Path]) -> None:
    """Refuse a folder of label maps, which as probabilities would be tiny ones.

    Integers of 8 or 16 bits that never reach half of their range and hold one value an object.

    Raises:
        UserError: That is what the files hold.
    """
    many: dict[Path, Facts] = {}
    for path in paths:
        pixels = _pixels(path)
        if pixels.dtype.kind == "f" or 2 * int(pixels.max()) >= np.iinfo(pixels.dtype).max:
            return
        many[path] = facts_of(pixels)
    most, path = max((facts.values, path) for path, facts in many.items())
    unlike, pairs, values, regions = _sums(many, "unlike", "pairs", "values", "regions")
    if most > 1 and unlike <= _SLOPE * pairs and regions <= _PARTS * values:
        raise UserError(
            f"{path}: a label map? Its {most} values are small and change only from object to "
            "object; as --probabilities give maps that reach from 0 to 255 or 65535, or float "
            "TIFFs from 0 to 1"
        )


def facts_of(ids: np.ndarray) -> Facts:
    """Count what tells a label map from a mask and from a probability map; (H, W) integers."""
    top = int(ids.max(initial=0))
    pairs = unlike = 0
    for one, other in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        inside = (one > 0) & (other > 0)
        inside &= (one != top) | (other != top)
        pairs += int(np.count_nonzero(inside))
        unlike += int(np.count_nonzero(inside & (one != other)))
    values = len(np.unique(ids[ids > 0])) if top else 0
    regions = values if values < 2 else int(_regions(ids))
    return Facts((ids.shape[0], ids.shape[1]), values, regions, pairs, unlike)


def holds_instances(facts: dict[Path, Facts], kind: Kind, option: str) -> bool:
    """Whether a side's values are instance ids; otherwise its files are binary masks.

    ``auto`` says masks if no file holds more than one value beside 0.

    Raises:
        UserError: ``mask`` was said and is wrong, or ``auto`` finds values that mean something
            else (probabilities, classes, ids that are used again).
    """
    if kind == "instances":
        return True
    most, path = max((f.values, path) for path, f in facts.items())
    if kind == "mask":
        if most > 1:
            raise UserError(
                f"{path}: a binary mask holds 0 and one other value, this one holds {most} others; "
                "leave --labels out, or save the mask without smoothing"
            )
        return False
    if most < 2:
        return False
    many = {path: f for path, f in facts.items() if f.values > 1}
    unlike, pairs = _sums(many, "unlike", "pairs")
    if unlike > _SLOPE * pairs:
        path = max(many, key=lambda p: many[p].values)
        raise UserError(
            f"{path}: {many[path].values} values that change from pixel to pixel: a probability "
            f"map, or a smoothed mask? Give {option} masks or label maps (and probabilities as "
            "--probabilities), or say --labels instances"
        )
    values, regions = _sums(many, "values", "regions")
    if regions > _PARTS * values:
        path = max(many, key=lambda p: many[p].regions / many[p].values)
        f = many[path]
        raise UserError(
            f"{path}: its {f.values} values lie in {f.regions} separate regions, so they are no "
            "instance ids (classes, colours or probabilities?); save a mask of 0 and 255 or one "
            "value an object, or say --labels instances"
        )
    return True


def to_labels(ids: np.ndarray, instances: bool) -> np.ndarray:
    """(H, W) int32 ids 1…n: those of a label map, or the components of a binary mask."""
    return renumber(ids.astype(np.int32)) if instances else label_components(ids > 0)


def check_same_size(path: Path, found: tuple[int, ...], truth: Path, size: tuple[int, int]) -> None:
    """Raise :class:`UserError` when a map has not the height and width of its truth."""
    if found != size:
        raise UserError(
            f"{path}: is {found[0]}×{found[1]} (H×W) but its truth {truth} is {size[0]}×{size[1]}; "
            "export both at one size"
        )


def _pixels(path: Path) -> np.ndarray:
    """The values of a map as they are, of any type."""
    wide = _wide(path)
    return read_mask(path) if wide is None else wide


def _sums(facts: dict[Path, Facts], *names: str) -> list[int]:
    return [sum(getattr(one, name) for one in facts.values()) for name in names]


def _wide(path: Path) -> np.ndarray | None:
    """The pixels of an NPY or of a TIFF of signed, wide or floating numbers; ``None`` otherwise."""
    if path.suffix.lower() == ".npy":
        return _array(path)
    if path.suffix.lower() not in (".tif", ".tiff"):
        return None
    try:
        with tifffile.TiffFile(path) as tiff:
            page = tiff.pages.first
            dtype = page.dtype
            if dtype is None or dtype in (np.uint8, np.uint16, np.bool_):
                return None
            pixels = page.asarray() if len(tiff.pages) == 1 else None
    except OSError as error:
        raise UserError(f"{path}: cannot be read ({error.strerror}); check the path") from None
    except Exception as error:  # tifffile raises many kinds on a broken file
        why = " ".join(str(error).split())
        raise UserError(f"{path}: the TIFF cannot be read ({why}); export it again") from None
    if pixels is None or pixels.ndim != 2:
        raise UserError(f"{path}: not one plane of one channel; save each plane as its own file")
    return pixels.astype(pixels.dtype.newbyteorder("="), copy=False)


def _array(path: Path) -> np.ndarray:
    try:
        pixels: np.ndarray = np.load(path, allow_pickle=False)
    except (OSError, ValueError, EOFError) as error:
        why = " ".join(str(error).split())
        raise UserError(
            f"{path}: cannot be read ({why}); save one (H, W) array of numbers with numpy.save"
        ) from None
    if pixels.ndim != 2 or not pixels.size or pixels.dtype.kind not in "buif":
        raise UserError(
            f"{path}: an array of shape {pixels.shape} and type {pixels.dtype}; save one (H, W) "
            "array of numbers"
        )
    return pixels.astype(np.uint8) if pixels.dtype.kind == "b" else pixels


def _regions(ids: np.ndarray) -> int:
    """Number of 8-connected regions of equal values above 0."""
    from skimage.measure import label

    return int(label(ids, background=0, connectivity=2, return_num=True)[1])


def _some(names: list[str]) -> str:
    return ", ".join(names[:3]) + (f" and {len(names) - 3} more" if len(names) > 3 else "")
