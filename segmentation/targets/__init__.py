"""What a network learns and how its output becomes labels again: one class for both directions.

A label map of instance ids is the one truth. A :class:`Target` encodes it for the loss and decodes
the network's output; a new representation is one new file. Arguments that all have (``threshold``,
``min_size``, ``fill_holes``) are explained there.
"""

from segmentation.targets.base import Target, otsu
from segmentation.targets.class_head import WithClasses
from segmentation.targets.classes import Classes
from segmentation.targets.contour import Contour
from segmentation.targets.distance import Distance
from segmentation.targets.flow import Flow
from segmentation.targets.foreground import Foreground
from segmentation.targets.star_convex import StarConvex

__all__ = [
    "Classes",
    "Contour",
    "Distance",
    "Flow",
    "Foreground",
    "StarConvex",
    "Target",
    "WithClasses",
    "otsu",
]
