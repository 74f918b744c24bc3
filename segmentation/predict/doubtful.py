"""Which predicted images to look at, from the rows of ``images.csv``."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from segmentation.io.listing import some_of
from segmentation.magnification import UNSIZED

DOUBTS = ("image", "sized")  # columns, the second of no table


def doubtful(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """A line that names the images whose objects were not sized, where there are some.

    >>> list(doubtful([{"image": "a.png", "sized": False}, {"image": "b.png"}]))
    ['kept at its own magnification: its objects cannot be sized  1 of 2: a.png']
    """
    sized = dict[str, bool]()
    for row in rows:
        sized[row["image"]] = sized.get(row["image"], True) and row.get("sized", True)
    if unsized := [name for name, known in sized.items() if not known]:
        yield f"{UNSIZED}  {len(unsized)} of {len(sized)}: {some_of(unsized)}"
