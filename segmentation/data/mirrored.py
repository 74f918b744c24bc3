"""Objects of windows that are larger than their image: what is mirrored is an object of its own."""

from dataclasses import replace

import numpy as np
from skimage.measure import label

from segmentation.data.classes import filled
from segmentation.data.sample import Sample


def mirrored_apart(sample: Sample) -> Sample:
    """A window whose ids are of one connected piece each: the largest keeps its id.

    For windows that :func:`.random_crop` had to mirror: a copy of an object would share its number
    with the original, and targets that look for one centre of each object, such as ``Flow``, would
    find it in one of them alone. Pieces touch at corners, too. What is not annotated stays so.

    >>> labels = np.array([[2, 2, 0, 2, 0, 1]], np.int32)
    >>> mirrored_apart(Sample("a", np.zeros((1, 6, 1), np.uint8), labels)).labels.tolist()
    [[2, 2, 0, 3, 0, 1]]
    """
    labels, classes = sample.labels, sample.classes
    assert labels is not None
    pieces = label(labels, background=0, connectivity=2)
    ids = np.zeros(int(pieces.max()) + 1, np.int32)
    ids[pieces] = labels
    order = np.lexsort((-np.bincount(pieces.reshape(-1), minlength=len(ids)), ids))
    repeated = np.zeros(len(ids), bool)
    repeated[order[1:]] = ids[order[1:]] == ids[order[:-1]]
    repeated &= ids > 0
    if not repeated.any():
        return sample
    count = int(ids.max()) + 1
    numbers = ids.copy()
    numbers[repeated] = count + np.arange(int(repeated.sum()))
    if classes is not None:
        known = filled(classes, count)
        classes = np.concatenate([known, known[ids[repeated]]])
    return replace(sample, labels=numbers[pieces], classes=classes)
