"""Operations on label maps: number, merge, split by watershed, clean, distances."""

from collections.abc import Iterable

import cv2
import numpy as np
from skimage.segmentation import watershed

from segmentation.errors import UserError


def label_objects(mask: np.ndarray, seed_distance: int = 0) -> np.ndarray:
    """The 8-connected components of an (H, W) bool mask, cut where they have waists: int32 ids.

    Each maximum of the distance to the background that is highest within ``seed_distance`` pixels
    becomes an object of its own, by watershed (Vincent & Soille 1991); 0 leaves the components
    whole. About a third of an object's diameter is a good start.

    >>> label_objects(np.array([[True, True, False, True]])).tolist()
    [[1, 1, 0, 2]]
    """
    if seed_distance == 0 or not mask.any():
        return label_components(mask)
    # Jagged outlines have maxima of their own.
    distance = cv2.GaussianBlur(distance_transform(mask), (0, 0), 1.0)
    return watershed_from_seeds(local_maxima(distance, seed_distance, mask), -distance, mask)


def local_maxima(height: np.ndarray, distance: int, mask: np.ndarray) -> np.ndarray:
    """Number (int32) the pixels of a mask that are highest within ``distance`` ≥ 1 pixels.

    A plateau counts once. ``height`` is (H, W) float32.

    >>> local_maxima(np.float32([[1, 3, 1, 2, 2]]), 1, np.ones((1, 5), bool)).tolist()
    [[0, 1, 0, 2, 2]]
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * distance + 1, 2 * distance + 1))
    return label_components((height >= cv2.dilate(height, disc)) & mask)


def watershed_from_seeds(seeds: np.ndarray, landscape: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Give each pixel of the mask to the seed whose basin of the landscape it lies in: ids 1…n.

    Components of the mask without a seed become objects of their own, so that all of the mask
    belongs to objects. Seeds, (H, W) int32 ids, lie within the mask, where the landscape is low.

    >>> seeds, landscape = np.int32([[1, 0, 0, 2]]), np.float32([[0, 1, 2, 0]])
    >>> watershed_from_seeds(seeds, landscape, np.ones((1, 4), bool)).tolist()
    [[1, 1, 2, 2]]
    """
    whole = label_components(mask)
    seeded = np.zeros(int(whole.max(initial=0)) + 1, bool)
    seeded[whole[seeds > 0]] = True
    bare = mask & ~seeded[whole]
    seeds = np.where(bare, whole + seeds.max(initial=0), seeds)
    return renumber(watershed(landscape, seeds, mask=mask, connectivity=2))


def clean_objects(labels: np.ndarray, min_size: int, fill_holes: bool) -> np.ndarray:
    """Fill holes if asked to, then drop objects of fewer than ``min_size`` pixels: ids 1…n.

    >>> clean_objects(np.int32([[3, 3, 0, 7]]), min_size=2, fill_holes=False).tolist()
    [[1, 1, 0, 0]]
    """
    if fill_holes:
        labels = fill_object_holes(labels)
    if min_size > 1:
        known = np.maximum(labels, 0)
        small = np.bincount(known.reshape(-1), minlength=1) < min_size
        small[0] = False
        labels = labels * ~small[known] if small.any() else labels
    return renumber(labels)


def fill_object_holes(labels: np.ndarray) -> np.ndarray:
    """Fill the holes within single objects; a gap among several objects is none of theirs.

    >>> fill_object_holes(np.int32([[2, 2, 2], [2, 0, 2], [2, 2, 2]])).tolist()
    [[2, 2, 2], [2, 2, 2], [2, 2, 2]]
    """
    # Objects are 8-connected, so their holes are 4-connected. A border keeps the outside in one.
    around = np.pad(labels == 0, 1, constant_values=True).astype(np.uint8)
    holes = cv2.connectedComponents(around, connectivity=4)[1]
    outside, holes = int(holes[0, 0]), holes[1:-1, 1:-1]
    inner = (holes > 0) & (holes != outside)
    if not inner.any():
        return labels
    cross = cv2.getStructuringElement(cv2.MORPH_CROSS, (3, 3))
    ids = labels.astype(np.float32)  # OpenCV's filters do not know 32-bit integers
    highest = cv2.dilate(ids, cross)
    lowest = cv2.erode(np.where(labels > 0, ids, np.inf), cross)
    # The first and the last id around each hole: an owner where they are the same.
    hole = holes[inner]
    first = np.full(int(holes.max()) + 1, np.inf, np.float32)
    last = np.zeros_like(first)
    np.minimum.at(first, hole, lowest[inner])
    np.maximum.at(last, hole, highest[inner])
    owner = np.where(first == last, last, 0).astype(np.int32)
    filled = labels.copy()
    filled[inner] = owner[hole]
    return filled


def label_components(mask: np.ndarray) -> np.ndarray:
    """Number the 8-connected components of an (H, W) bool mask: int32, 0 = background.

    >>> label_components(np.array([[True, False, True]])).tolist()
    [[1, 0, 2]]
    """
    labels: np.ndarray = cv2.connectedComponents(mask.astype(np.uint8), connectivity=8)[1]
    return labels.astype(np.int32, copy=False)


def components_of_values(values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Number the 8-connected components of each value of an (H, W) map, and tell their values.

    int32 ids by value, 0 = background; and (n + 1,) the value of each id.

    >>> labels, kinds = components_of_values(np.array([[1, 0, 1, 2]], np.uint8))
    >>> labels.tolist(), kinds.tolist()
    ([[1, 0, 2, 3]], [0, 1, 1, 2])
    """
    labels, kinds = np.zeros(values.shape, np.int32), [0]
    present = np.flatnonzero(np.bincount(values.reshape(-1)))  # far faster than to sort them
    for value in present[present > 0].tolist():
        parts = label_components(values == value)
        np.add(parts, len(kinds) - 1, out=labels, where=parts > 0)
        kinds += [value] * int(parts.max())
    return labels, np.array(kinds)


def distance_transform(mask: np.ndarray) -> np.ndarray:
    """Each pixel's Euclidean distance to the nearest pixel outside the mask, (H, W) float32.

    Where nothing is outside, it is the image's diagonal everywhere.

    >>> distance_transform(np.array([[False, True, True]])).tolist()
    [[0.0, 1.0, 2.0]]
    """
    if mask.all():
        return np.full(mask.shape, np.hypot(*mask.shape), np.float32)
    distance = cv2.distanceTransform(mask.astype(np.uint8), cv2.DIST_L2, cv2.DIST_MASK_PRECISE)
    # Its last bit differs with the number of threads and with where in memory the array lies.
    # Distances are roots of whole numbers: their rounded squares are the same everywhere (exact up
    # to some 1,600 pixels).
    return np.asarray(np.sqrt(np.rint(np.square(distance))))


def binary_mask(mask: np.ndarray, name: str) -> np.ndarray:
    """Check that an (H, W) mask holds at most two values, 0 and one other, and return it as bool.

    Others (label maps, smoothed masks) are a :class:`UserError`.

    >>> binary_mask(np.uint8([[0, 255]]), "mask.png").tolist()
    [[False, True]]
    """
    foreground = mask > 0
    # Much faster than listing the values, and nearly always enough.
    if (mask[foreground] == mask.max(initial=0)).all():
        return foreground
    values = np.unique(mask)
    shown = ", ".join(str(v) for v in values[:6]) + (", …" if len(values) > 6 else "")
    raise UserError(
        f"{name}: a binary mask holds 0 and one other value, this one holds {shown}; "
        "save the mask without smoothing"
    )


def merge_objects(masks: Iterable[tuple[str, np.ndarray]], shape: tuple[int, int]) -> np.ndarray:
    """Merge one binary mask per object, each with its name, into an (H, W) int32 label map.

    Ids go by the order given. Where objects overlap the later one wins; an object that vanishes so
    keeps no id. A mask that is not of ``shape`` or not binary is a :class:`UserError`.

    >>> merge_objects([("a", np.array([[1, 1, 0]])), ("b", np.array([[0, 9, 9]]))], (1, 3)).tolist()
    [[1, 2, 2]]
    """
    labels = np.zeros(shape, np.int32)
    for number, (name, mask) in enumerate(masks, start=1):
        check_size(name, mask.shape, shape)
        labels[binary_mask(mask, name)] = number
    return renumber(labels)


def count_overlap(masks: Iterable[tuple[str, np.ndarray]]) -> int:
    """Pixels that belong to more than one of some binary masks, each (H, W) with its name.

    >>> count_overlap([("a", np.array([[1, 1, 0]])), ("b", np.array([[0, 9, 9]]))])
    1
    """
    claims = sum((binary_mask(mask, name).astype(np.int32) for name, mask in masks), np.int32(0))
    return int(np.count_nonzero(claims > 1))


def renumber(labels: np.ndarray) -> np.ndarray:
    """Renumber (H, W) ids to 1…n without gaps, keeping their order; int32. -1 stays -1.

    >>> renumber(np.int32([[0, 7, 3, -1]])).tolist()
    [[0, 2, 1, -1]]
    """
    if int(labels.max(initial=0)) > 4 * labels.size or labels.min(initial=0) < 0:
        ids = np.union1d(0, labels[labels > 0])
        return np.where(labels < 0, -1, np.searchsorted(ids, labels)).astype(np.int32)
    present = np.bincount(labels.reshape(-1), minlength=1) > 0
    present[0] = True
    if present.all():
        return labels.astype(np.int32, copy=False)
    return np.asarray((np.cumsum(present) - 1).astype(np.int32)[labels])


def median_diameter(areas: np.ndarray) -> float | None:
    """Median over objects of the diameter of a disc of the same area; ``None`` without objects.

    ``areas`` are (n,) pixels of each id, 0 where there is no such object.

    >>> round(median_diameter(np.array([0, 314, 0])))
    20
    """
    areas = areas[areas > 0]
    return float(np.median(2 * np.sqrt(areas / np.pi))) if len(areas) else None


def to_gray(image: np.ndarray) -> np.ndarray:
    """(H, W, C) uint8 or uint16 ► (H, W) of the same type: colours by their luminance.

    Of other numbers of channels than 1 and 3 it is the mean.

    >>> to_gray(np.full((2, 3, 3), 7, np.uint8)).shape
    (2, 3)
    """
    if image.shape[2] == 1:
        return image[..., 0]
    if image.shape[2] == 3:
        return cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
    return np.asarray(image.mean(axis=2).round().astype(image.dtype))


def check_size(name: str, found: tuple[int, ...], wanted: tuple[int, ...]) -> None:
    """Raise :class:`UserError` when a mask's height and width are not its image's.

    >>> check_size("mask.png", (4, 5), (4, 5, 3))
    """
    if tuple(found[:2]) != tuple(wanted[:2]):
        raise UserError(
            f"{name}: the mask is {found[0]}×{found[1]} (H×W) but its image is "
            f"{wanted[0]}×{wanted[1]}; export both at one size"
        )


def light_of(level: float) -> str:
    """What a background of this gray value, 0…1, is called: ``dark``, ``middle`` or ``bright``."""
    return "dark" if level < 0.35 else "bright" if level > 0.65 else "middle"
