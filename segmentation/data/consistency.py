"""Whether the images of a data set agree with each other, with their split and the settings."""

from collections.abc import Iterable, Sequence

import numpy as np

from segmentation.data.cache import StoredSample
from segmentation.data.preprocess import Preprocess
from segmentation.data.sample import Split, straddling
from segmentation.errors import UserError


def check_channels(entries: Sequence[StoredSample], preprocess: Preprocess) -> None:
    """Raise :class:`UserError` where channels are chosen by number, and files name them otherwise.

    Chosen by name they may lie anywhere in each file.
    """
    if not isinstance(preprocess.channels, tuple):
        return
    first: dict[int, StoredSample] = {}
    for place in (c for c in preprocess.channels if isinstance(c, int)):
        for entry in (entry for entry in entries if place < len(entry.channels)):
            other = first.setdefault(place, entry)
            ours, theirs = entry.channels[place], other.channels[place]
            if ours != theirs:
                raise UserError(
                    f"{entry.id}: its channel {place} is called {ours}, but {theirs} in "
                    f"{other.id}; choose by name in preprocess.channels, such as [{theirs}]"
                )


def leaking_stacks(entries: Sequence[StoredSample], split: Split) -> list[str]:
    """A line if planes of one stack lie in several parts of a split."""
    stacks = {entry.id: entry.id.rpartition("#")[0] or entry.id for entry in entries}
    if not (found := straddling(stacks, split)):
        return []
    return [
        f"planes of {len(found)} stack(s) (such as {found[0][0]}) lie in several parts of the "
        "split, so scores are too good; set data.split to GroupSplit"
    ]


def check_part(name: str, entries: Sequence[StoredSample], processes: int) -> None:
    """Raise :class:`UserError` where a part of the split cannot be trained on or scored."""
    if not entries:
        raise UserError(f"the split leaves no image in {name}; change data.split")
    if len(entries) < processes:
        raise UserError(
            f"{len(entries)} image(s) in {name} for {processes} processes; lower "
            "trainer.devices or enlarge the part"
        )
    for entry in entries:
        if entry.labels is None:
            remedy = "add it, or leave the image out of the split"
            raise UserError(f"{entry.id} is in {name} but has no mask; {remedy}")
        if entry.unannotated == np.prod(entry.labels[1]):
            raise UserError(
                f"{entry.id} is in {name} but none of its pixels is annotated; annotate some, or "
                "leave the image out of the split"
            )


def check_crop(crop: tuple[int, int] | None, shapes: Iterable[tuple[int, ...]], batch: int) -> None:
    """Raise :class:`UserError` where training windows of ``crop`` cannot be cut from ``shapes``."""
    sizes = list(dict.fromkeys(shapes))
    height, width = (max(side) for side in zip(*sizes, strict=True))
    if crop is None and len(sizes) > 1 and batch > 1:
        raise UserError(
            f"data.crop: null needs images of one size, these have {len(sizes)} (such as "
            f"{', '.join('×'.join(map(str, s)) for s in sizes[:2])}); set a crop, "
            "model.preprocess.resize, or batch_size 1"
        )
    if crop is not None and crop[0] > height and crop[1] > width:
        raise UserError(
            f"data.crop: {crop[0]}×{crop[1]} is larger than every image (at most "
            f"{height}×{width}, H×W); lower it"
        )
