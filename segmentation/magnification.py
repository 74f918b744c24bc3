"""Finding the magnification at which a network knows the objects of an image."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentation.data.diameters import TrainingDiameters
from segmentation.errors import UserError
from segmentation.io.listing import some_of
from segmentation.metrics.counts import matched_pairs, overlaps
from segmentation.objects import median_diameter

if TYPE_CHECKING:
    from segmentation.predictor import Predictor

UNSIZED = "kept at its own magnification: its objects cannot be sized"
FACTORS = tuple(2.0 ** (k / 2) for k in range(-2, 3))  # ½, 0.7, 1, 1.4, 2
WINDOW = 512  # pixels of the image's own that are looked at
_LEAST = 0.1  # below this score, an image's objects are not sized


def find_magnification(
    find: Callable[[float], np.ndarray], usual: float, training: TrainingDiameters
) -> float | None:
    """By which an image is magnified so that its objects look like those of the training.

    Of five magnifications around the ``usual`` one, that at which the objects agree best with those
    found at the neighbouring ones (F1 of objects whose IoU is at least .5), times how usual their
    median diameter was in training. The size alone does not find it: objects that break into
    pieces, or merge, soon have any size.

    ``find`` gives the (H, W) integer ids found at a magnification, at the image's own size. The
    result is ``None`` where objects are found at none, or nowhere such as those of the training.
    """
    scales = [usual * factor for factor in FACTORS]
    maps = [find(scale) for scale in scales]
    pairs = [agreement(one, other) for one, other in pairwise(maps)]
    scores = []
    for i, (labels, scale) in enumerate(zip(maps, scales, strict=True)):
        diameter = median_diameter(np.bincount(labels.reshape(-1))[1:])
        like = 0.0 if diameter is None else training.likeness(diameter * scale)
        scores.append(float(np.mean(pairs[max(i - 1, 0) : i + 1])) * like)
    best = int(np.argmax(scores))
    return scales[best] if scores[best] >= _LEAST else None


def diameter_of(predictor: "Predictor", image: np.ndarray, channels: Sequence[str]) -> float | None:
    """Median diameter in pixels of the objects of an (H, W, C) image; ``None``: cannot be told.

    Of a large image the part of at most 512² pixels that varies most stands for all of it.
    """
    how, seen, training = predictor.preprocess, predictor.seen, predictor.training_diameters
    assert seen is not None and training is not None
    window = image if how.crop else _busiest(image)
    usual = 1.0 if how.pixel_size is not None else how.scale(None, predictor.diameter)

    def find(scale: float) -> np.ndarray:
        maps = predictor.maps(window, channels, None, seen / scale)
        return predictor.decode(maps, scale).labels

    scale = find_magnification(find, usual, training)
    return None if scale is None else seen / scale


def unsized(rows: Iterable[Mapping[str, Any]]) -> str:
    """A line that names the images whose objects were not sized, of rows of ``images.csv``.

    >>> unsized([{"image": "a.png", "sized": False}, {"image": "b.png"}])
    'kept at its own magnification: its objects cannot be sized  1 of 2: a.png'
    """
    sized = dict[str, bool]()
    for row in rows:
        sized[row["image"]] = sized.get(row["image"], True) and row.get("sized", True)
    found = [name for name, known in sized.items() if not known]
    return f"{UNSIZED}  {len(found)} of {len(sized)}: {some_of(found)}" if found else ""


def check_diameter(told: "float | str", members: Sequence["Predictor"]) -> None:
    """Refuse with a ``UserError`` a --diameter that no network can use."""
    first, auto = members[0], told == "auto"
    if any(one.preprocess.resize for one in members):
        what = "the network sees all images at one size (preprocess.resize)"
    elif auto and (first.training_diameters is None or first.seen is None):
        what = "the checkpoint does not tell the diameters of its training images"
    elif all(one.seen is None for one in members):
        what = (
            "the network was trained without preprocess.diameter, and its checkpoint does not tell "
            "the diameters of its training images"
        )
    else:
        return
    raise UserError(f"--diameter {told}: {what}; leave it out")


def agreement(one: np.ndarray, other: np.ndarray) -> float:
    """F1 of two maps' objects, (H, W) integer ids: pairs of an IoU of at least .5; 0 without any.

    >>> agreement(np.array([[1, 1, 0, 2]]), np.array([[5, 5, 0, 0]]))
    0.6666666666666666
    """
    table = overlaps(one, other)
    objects = len(table.truth) + len(table.prediction)
    return 2 * len(matched_pairs(table)) / max(objects, 1)


def _busiest(image: np.ndarray) -> np.ndarray:
    rows, columns = (range(0, max(1, side - WINDOW // 2), WINDOW) for side in image.shape[:2])
    parts = (image[top : top + WINDOW, left : left + WINDOW] for top in rows for left in columns)
    return max(parts, key=lambda part: float(part.std()))
