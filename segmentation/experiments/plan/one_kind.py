"""Whether images are shown to the network as one kind of picture: bright objects on dark."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from segmentation.data.preprocess import Preprocess
from segmentation.data.stains import AS_IT_IS, ESTIMATED, FIXED

LEAST, RIGHT = 0.05, 0.9  # shares of images: of either kind in a mixture; with objects bright


class Shown(NamedTuple):
    """One image as bright objects on dark.

    Attributes:
        says: What was done to it; see :class:`.stains.View`.
        mean, var: Of the pixels, 0…1.
        right: Whether its objects are brighter than the rest; ``None`` without objects.
    """

    says: str
    mean: float
    var: float
    right: bool | None


class OneKind(NamedTuple):
    """What that does to the images that were looked at.

    Attributes:
        dark, bright, stained: Images with objects that are kept, inverted, shown as hematoxylin.
        right: Share of images whose objects are brighter than the rest then: of the dark ones or
            of the others, whichever is less.
        mean, std: Of the pixels, 0…1.
    """

    dark: int
    bright: int
    stained: int
    right: float
    mean: float
    std: float

    @property
    def mixed(self) -> bool:
        """Whether dark and bright backgrounds occur, and objects are bright on dark in both."""
        light = self.bright + self.stained
        return min(self.dark, light) >= LEAST * (self.dark + light) and self.right >= RIGHT


def as_one_kind(image: np.ndarray, labels: np.ndarray) -> Shown:
    """An (H, W, 1 or 3) image with (H, W) ids of its objects."""
    how = Preprocess("bright_on_dark")
    view = how.view_of(image)
    assert view is not None
    gray = how.prepare(image, view=view)[..., 0].astype(np.float32) / 255
    inside, outside = gray[labels > 0], gray[labels == 0]
    right = bool(inside.mean() > outside.mean()) if inside.size and outside.size else None
    return Shown(view.says, float(gray.mean()), float(gray.var()), right)


def one_kind(found: Sequence[Shown]) -> OneKind:
    """Of the images that were looked at, at least one."""
    known = [one for one in found if one.right is not None]  # noise alone is shown in any way
    dark = [one for one in known if one.says == AS_IT_IS]
    light = [one for one in known if one.says != AS_IT_IS]
    stained = sum(one.says in (FIXED, ESTIMATED) for one in light)
    return OneKind(
        len(dark),
        len(light) - stained,
        stained,
        min((_share(part) for part in (dark, light) if part), default=0.0),
        round(float(np.mean([one.mean for one in found])), 2),
        round(float(np.sqrt(np.mean([one.var for one in found]))), 2),
    )


def _share(part: Sequence[Shown]) -> float:
    return sum(bool(one.right) for one in part) / len(part)
