"""From pixels to objects: seeds, watershed, and what is cleaned up afterwards."""

import cv2
import numpy as np
from skimage.segmentation import watershed

from segmentation.data.images import consecutive, distance_transform, label_components


def components(mask: np.ndarray, seed_distance: int = 0) -> np.ndarray:
    """The objects of a mask: its 8-connected components, cut where they have waists.

    Args:
        mask: (H, W) bool.
        seed_distance: Each peak of the distance to the background that is highest within so many
            pixels becomes an object of its own, by watershed (Vincent & Soille 1991); 0 leaves the
            components whole. About a third of an object's diameter is a good start.

    Returns:
        (H, W) int32 ids, 0 = background.
    """
    if seed_distance == 0 or not mask.any():
        return label_components(mask)
    # Jagged outlines have peaks of their own.
    distance = cv2.GaussianBlur(distance_transform(mask), (0, 0), 1.0)
    return grown(peaks(distance, seed_distance, mask), -distance, mask)


def peaks(height: np.ndarray, distance: int, mask: np.ndarray) -> np.ndarray:
    """Number the pixels that nothing within ``distance`` rises above; plateaus count once.

    Args:
        height: (H, W) float32.
        distance: In pixels, ≥ 1.
        mask: (H, W) bool: where peaks are looked for.

    Returns:
        (H, W) int32 seeds, 0 = none.
    """
    disc = cv2.getStructuringElement(cv2.MORPH_ELLIPSE, (2 * distance + 1, 2 * distance + 1))
    return label_components((height >= cv2.dilate(height, disc)) & mask)


def grown(seeds: np.ndarray, landscape: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """Flood a landscape from seeds: each pixel of the mask gets the id of its basin.

    Components of the mask without a seed become objects of their own, so that all of the mask
    belongs to objects.

    Args:
        seeds: (H, W) int32 ids, 0 = none; within the mask.
        landscape: (H, W) float32, lowest at the seeds.
        mask: (H, W) bool.

    Returns:
        (H, W) int32 ids 1…n.
    """
    whole = label_components(mask)
    seeded = np.zeros(int(whole.max(initial=0)) + 1, bool)
    seeded[whole[seeds > 0]] = True
    bare = mask & ~seeded[whole]
    seeds = np.where(bare, whole + seeds.max(initial=0), seeds)
    return consecutive(watershed(landscape, seeds, mask=mask, connectivity=2))


def cleaned(labels: np.ndarray, min_size: int, fill_holes: bool) -> np.ndarray:
    """Fill the holes within single objects, then drop objects of fewer than ``min_size`` pixels.

    Args:
        labels: (H, W) int32 ids.
        min_size: In pixels.
        fill_holes: A gap among several objects is none of theirs and stays.

    Returns:
        (H, W) int32 ids 1…n.
    """
    if fill_holes:
        labels = _filled(labels)
    if min_size > 1:
        small = np.bincount(labels.reshape(-1)) < min_size
        labels = np.where(small[labels], 0, labels)
    return consecutive(labels)


def _filled(labels: np.ndarray) -> np.ndarray:
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
