"""Whether the images of a data set agree with each other: in their channels, in their split."""

from collections.abc import Sequence

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
