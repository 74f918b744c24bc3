"""Two folders of masks, label maps or probability maps: paired, and told from one another."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segmentation.errors import UserError
from segmentation.io.images import read_values
from segmentation.io.listing import some_of

Kind = Literal["auto", "instances", "mask"]

_PARTS = 3.0  # regions of one value, on average, from which on values are no instance ids
_SLOPE = 0.5  # share of neighbouring pixels that differ, from which on a map is no label map


class Facts(NamedTuple):
    """What one file shows about what its folder holds: numbers that add up over files."""

    values: int  # different values above 0
    regions: int  # 8-connected regions of one value above 0
    pairs: int  # neighbouring pixels above 0 that are not both the file's maximum
    unlike: int  # of these, such as differ: few of a label map, most of a probability map


def pair(
    truth: dict[str, Path], other: dict[str, Path], option: str, allow_missing: bool
) -> list[str]:
    """The names that both sides have; ``option`` is what the other side was given as."""
    common = sorted(truth.keys() & other.keys())
    if not common:
        raise UserError(
            f"{option}: none of its {len(other)} files has the name of one of --truth (such as "
            f"{next(iter(other))} and {next(iter(truth))}); files are paired by their path without "
            "suffix, an ending such as _mask or nnU-Net's _0000 aside"
        )
    sides = (("--truth", truth, other, option), (option, other, truth, "--truth"))
    for side, here, there, missing in () if allow_missing else sides:
        if alone := sorted(here.keys() - there.keys()):
            raise UserError(
                f"{side}: {len(alone)} files have no partner in {missing}: {some_of(alone)}; "
                "add them, or score the others with --allow_missing"
            )
    return common


def read_probability(path: Path) -> np.ndarray:
    """A probability map, (H, W) float32 in 0…1: 8 or 16 bit integers scaled, or floats as they are.

    >>> import tempfile
    >>> path = Path(tempfile.mkdtemp(), "a.npy")
    >>> np.save(path, np.uint8([[0, 51, 255]]))
    >>> read_probability(path).tolist()
    [[0.0, 0.20000000298023224, 1.0]]
    """
    pixels = read_values(path)
    if pixels.dtype in (np.uint8, np.uint16):
        return np.asarray(pixels.astype(np.float32) / np.iinfo(pixels.dtype).max)
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
    """
    many: dict[Path, Facts] = {}
    for path in paths:
        pixels = read_values(path)
        if pixels.dtype.kind == "f" or 2 * int(pixels.max()) >= np.iinfo(pixels.dtype).max:
            return
        many[path] = facts_of(pixels)
    most, path = max((facts.values, path) for path, facts in many.items())
    values, regions, pairs, unlike = map(sum, zip(*many.values(), strict=True))
    if most > 1 and unlike <= _SLOPE * pairs and regions <= _PARTS * values:
        raise UserError(
            f"{path}: a label map? Its {most} values are small and change only from object to "
            "object; as --probabilities give maps that reach from 0 to 255 or 65535, or float "
            "TIFFs from 0 to 1"
        )


def facts_of(ids: np.ndarray) -> Facts:
    """Count what tells a label map from a mask and from a probability map; (H, W) integers."""
    from skimage.measure import label

    top = int(ids.max(initial=0))
    pairs = unlike = 0
    for one, other in ((ids[1:], ids[:-1]), (ids[:, 1:], ids[:, :-1])):
        inside = (one > 0) & (other > 0) & ((one != top) | (other != top))
        pairs += int(np.count_nonzero(inside))
        unlike += int(np.count_nonzero(inside & (one != other)))
    values = len(np.unique(ids[ids > 0]))
    regions = int(label(ids, background=0, connectivity=2).max()) if values > 1 else values
    return Facts(values, regions, pairs, unlike)


def holds_instances(facts: dict[Path, Facts], kind: Kind, option: str) -> bool:
    """Whether a side's values are instance ids; otherwise its files are binary masks.

    ``auto`` says masks if no file holds more than one value beside 0, and refuses values that mean
    something else (probabilities, classes, ids that are used again).
    """
    many = {path: f for path, f in facts.items() if f.values > 1}
    if kind == "instances" or not many:
        return kind == "instances"
    path = max(many, key=lambda p: many[p].values)
    if kind == "mask":
        raise UserError(
            f"{path}: a binary mask holds 0 and one other value, this one holds "
            f"{many[path].values} others; leave --labels out, or save the mask without smoothing"
        )
    values, regions, pairs, unlike = map(sum, zip(*many.values(), strict=True))
    if unlike > _SLOPE * pairs:
        raise UserError(
            f"{path}: {many[path].values} values that change from pixel to pixel: a probability "
            f"map, or a smoothed mask? Give {option} masks or label maps (and probabilities as "
            "--probabilities), or say --labels instances"
        )
    if regions > _PARTS * values:
        path = max(many, key=lambda p: many[p].regions / many[p].values)
        raise UserError(
            f"{path}: its {many[path].values} values lie in {many[path].regions} separate "
            "regions, so they are no instance ids (classes, colours or probabilities?); save a "
            "mask of 0 and 255 or one value an object, or say --labels instances"
        )
    return True
