"""Which predicted images to look at, from the rows of ``images.csv``."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from segmentation.data.description import is_unlike, unlike_text
from segmentation.io.listing import some_of
from segmentation.magnification import UNSIZED

DOUBTS = ("image", "sized", "unlike", "unlike_in")  # columns, the second and last of no table


def doubtful(rows: Iterable[Mapping[str, Any]]) -> Iterator[str]:
    """Lines that name images whose objects were not sized, and images unlike the training's.

    >>> row = {"image": "a.png", "sized": True, "unlike": 2.5, "unlike_in": ["brightness"]}
    >>> list(doubtful([row, {"image": "b.png", "unlike": 0.4}]))
    ['unlike the training images (brightness): check these  1 of 2: a.png']
    """
    unsized, unlike = dict[str, None](), dict[str, None]()
    images, groups = set[str](), Counter[str]()
    for row in rows:
        images.add(row["image"])
        if not row.get("sized", True):
            unsized[row["image"]] = None
        if is_unlike(row.get("unlike")):
            unlike[row["image"]] = None
            groups.update(row["unlike_in"])
    usual = [name for name, count in groups.most_common() if 4 * count >= len(unlike)]
    for what, names in ((UNSIZED, unsized), (f"{unlike_text(usual)}: check these", unlike)):
        if names:
            yield f"{what}  {len(names)} of {len(images)}: {some_of([*names])}"
