"""Images of a folder that are no single file: channels in several files, planes of a stack."""

import contextlib
import re
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from segmentation.data.sample import Record
from segmentation.errors import UserError
from segmentation.io.listing import NNUNET, key_of
from segmentation.io.outlines import is_outlines
from segmentation.io.stacks import open_planes
from segmentation.io.tiff import has_pages

Files = tuple[Path, ...]
_CHANNEL = re.compile(r"(.+)_(\d{4})")


def join_channels(
    images: Mapping[str, Path], masks: Mapping[str, Files]
) -> tuple[dict[str, Files], dict[str, Files]]:
    """nnU-Net's ``NAME_0000``, ``NAME_0001``, … whose mask is called ``NAME``: one image, ``NAME``.

    The files of each image, and the masks by the same names. Where one case has other channels than
    another it is a :class:`UserError`.
    """
    cases: dict[str, dict[str, str]] = {}
    for name in images:
        found = _CHANNEL.fullmatch(name)
        case = found[1] if found else ""
        truth = masks.get(case + NNUNET, ()) if found else ()
        named = any(key_of(mask.name) == case.rpartition("/")[2] for mask in truth)
        if found and named and f"{case}_0001" not in masks:
            cases.setdefault(case, {})[found[2]] = name
    files: dict[str, Files] = {name: (path,) for name, path in images.items()}
    truths = dict(masks)
    wanted = sorted({number for numbers in cases.values() for number in numbers})
    if len(wanted) < 2:
        return files, truths
    for case, numbers in cases.items():
        if lacks := next((number for number in wanted if number not in numbers), None):
            raise UserError(
                f"{images[next(iter(numbers.values()))]}: {case} has no channel {case}_{lacks}, as "
                "other images have; add its file, or remove the image and its mask"
            )
        files[case] = tuple(images[numbers[number]] for number in wanted)
        for name in numbers.values():
            del files[name]
        truths[case] = truths.pop(case + NNUNET)
    return dict(sorted(files.items())), truths


def per_plane(record: Record, objects: bool) -> Sequence[Record]:
    """The record itself, or of a stack one record a plane, all of one group.

    A mask that is no stack of as many planes is a :class:`UserError`, and so are masks of one file
    an object (``objects``).
    """
    path, more = Path(record.image), tuple(map(Path, record.more))
    with contextlib.suppress(OSError):  # it is told when it is read
        if not has_pages(path):
            return [record]
    planes = open_planes(path, *more)
    if not planes.axes:
        return [record]
    remedy = "save a mask of as many planes, in the same order"
    if planes.axes in ("I", "Q"):
        remedy += "; or, if they are channels, save the image with the axes C, Y, X"
    count = len(planes)
    if objects:
        raise UserError(f"{path}: a stack of {count} planes, but one mask an object; {remedy}")
    for truth in map(Path, record.masks):
        if is_outlines(truth) or truth.suffix.lower() in (".csv", ".npz"):
            raise UserError(f"{truth}: is not read as the truth of a stack, {path.name}; {remedy}")
        if (planes_there := len(open_planes(truth))) != count:
            has = f"{planes_there} plane(s), but the stack {path.name} has {count}"
            raise UserError(f"{truth}: {has}; {remedy}")
    digits, name = max(4, len(str(count - 1))), record.id
    whole = replace(record, group=record.group or name)
    return [replace(whole, id=f"{name}#{i:0{digits}}", plane=i) for i in range(count)]
