"""Two folders of masks, label maps or probability maps: paired, and told from one another."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Literal

import numpy as np

from segmentation.data.masks import MaskFacts, cautions, facts_of, judge, no_objects, why_not_binary
from segmentation.errors import UserError
from segmentation.io.images import read_values
from segmentation.io.listing import some_of

Kind = Literal["auto", "instances", "mask", "classes"]

_OF_IDS = ("smooth", "reused_ids", "classes")


def pair(
    truth: Mapping[str, object], other: Mapping[str, object], option: str, allow_missing: bool
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
        remedy = "save them as 8 or 16 bit integers, or as float32 from 0 to 1"
        raise UserError(f"{path}: probabilities of {pixels.dtype}; {remedy}")
    low, high = float(pixels.min()), float(pixels.max())  # both are NaN if any value is
    if not (low >= 0 and high <= 1):
        remedy = "they must lie in 0 … 1 (logits need a sigmoid first)"
        raise UserError(f"{path}: probabilities from {low:g} to {high:g}; {remedy}")
    return pixels.astype(np.float32)


def check_no_labels(paths: Sequence[Path]) -> None:
    """Refuse a folder of label maps, which as probabilities would be tiny ones.

    Integers of 8 or 16 bits that never reach half of their range and hold one value an object.
    """
    many: dict[str, MaskFacts] = {}
    for path in paths:
        pixels = read_values(path)
        if pixels.dtype.kind == "f" or 2 * int(pixels.max()) >= np.iinfo(pixels.dtype).max:
            return
        many[str(path)] = facts_of(pixels, ids=True)
    most, name = max((facts.values, name) for name, facts in many.items())
    if most > 1 and not any(one.refused for one in judge(many) if one.doubt in _OF_IDS):
        raise UserError(
            f"{name}: a label map? Its {most} values are small and change only from object to "
            "object; as --probabilities give maps that reach from 0 to 255 or 65535, or float "
            "TIFFs from 0 to 1"
        )


def holds_instances(
    facts: Mapping[Path, MaskFacts], kind: Kind, option: str, allow: Collection[str] = ()
) -> tuple[bool, list[str]]:
    """Whether a side's values are instance ids, not binary masks; and what is unlikely about them.

    ``auto`` says masks if no file holds more than one value beside 0. What values cannot mean
    (smoothed masks, classes, ids that are used again) is a :class:`UserError` unless in ``allow``.
    """
    many = [path for path, one in facts.items() if one.values > 1]
    if many and kind == "mask":
        raise UserError(f"{many[0]}: {why_not_binary(facts[many[0]], 'leave --labels out')}")
    ids = kind == "instances" or bool(many)
    found = judge({str(p): one._replace(ids=ids) for p, one in facts.items()}, "--labels mask")
    if option == "--prediction":  # it may be as wrong as it likes
        found = [one for one in found if one.doubt in _OF_IDS]
    elif not any(one.values for one in facts.values()):
        found.append(replace(no_objects(len(facts)), refused=False))
    more = "; probabilities are given as --probabilities"
    found = [replace(f, text=f.text + more) if f.doubt == "smooth" else f for f in found]
    return ids, cautions(found, allow, "say --allow {}")
