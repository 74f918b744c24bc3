"""Classes of objects in the parts of a split, and whether a target can learn them."""

from collections.abc import Iterable, Mapping, Sequence

import numpy as np

from segmentation.data.cache import SampleStore
from segmentation.data.sample import Sample
from segmentation.errors import UserError
from segmentation.io.listing import some_of
from segmentation.targets import Target


def classes_of(labels: np.ndarray, classes: np.ndarray) -> np.ndarray:
    """(H, W) ids, -1 = not annotated, and the class of each id ► (H, W) int32 classes, -1 kept."""
    return np.asarray(np.where(labels < 0, -1, classes.astype(np.int32)[np.maximum(labels, 0)]))


def filled(classes: np.ndarray, count: int) -> np.ndarray:
    """The classes of the ids 0 … count - 1, 0 where none is known.

    >>> filled(np.array([0, 2], np.uint8), 4).tolist()
    [0, 2, 0, 0]
    """
    return np.pad(classes[:count], (0, max(0, count - len(classes))))


def objects_of_classes(classes: np.ndarray, count: int) -> np.ndarray:
    """(n + 1,) class of each id ► (count + 1,) int64: how many objects each class has.

    >>> objects_of_classes(np.uint8([0, 2, 1, 2]), 3).tolist()
    [0, 1, 2, 0]
    """
    return np.bincount(classes[1:], minlength=count + 1).astype(np.int64)


def class_totals(store: SampleStore, names: Sequence[str] = ()) -> dict[str, int]:
    """How many objects of each class a store holds; without ``names`` by number, if it has any."""
    every = [sample.classes for sample in store if sample.classes is not None]
    if not every:
        return {}
    count = max(len(names), max(int(classes.max(initial=0)) for classes in every))
    total = sum(objects_of_classes(classes, count) for classes in every)
    keys = [*names, *(str(i) for i in range(len(names) + 1, count + 1))]
    return dict(zip(keys, np.asarray(total)[1:].tolist(), strict=True))


def class_levels(grays: Iterable[np.ndarray], truth: Iterable[Sample], count: int) -> np.ndarray:
    """The mean gray value of the pixels of each class 1…``count``; NaN for one without any.

    Args:
        grays: Images, (H, W) each.
        truth: Their samples, with labels and classes.
        count: Of classes.
    """
    sums = np.zeros((2, count + 1))
    for gray, sample in zip(grays, truth, strict=True):
        assert sample.labels is not None and sample.classes is not None
        known = sample.labels > 0
        kinds = sample.classes[sample.labels[known]]
        sums += [np.bincount(kinds, some, count + 1) for some in (gray[known], None)]
    with np.errstate(invalid="ignore"):
        return np.asarray(sums[0, 1:] / sums[1, 1:])


def nearest_level(gray: np.ndarray, labels: np.ndarray, levels: np.ndarray) -> np.ndarray:
    """(n + 1,) uint8: of each object the class whose level is nearest to its mean gray value.

    >>> nearest_level(np.uint8([[9, 7, 0, 2]]), np.int32([[1, 1, 0, 2]]), np.array([1.0, 8.0]))
    array([0, 2, 1], dtype=uint8)
    """
    ids = labels.reshape(-1)
    sums, sizes = np.bincount(ids, gray.reshape(-1)), np.bincount(ids)
    far = np.abs((sums / np.maximum(sizes, 1))[:, None] - np.nan_to_num(levels, nan=np.inf))
    kinds: np.ndarray = (far.argmin(axis=1) + 1).astype(np.uint8)
    kinds[0] = 0
    return kinds


def check_classes(
    store: SampleStore,
    parts: Mapping[str, Sequence[int]],
    target: Target,
    named: Sequence[str] = (),
) -> list[str]:
    """What is doubtful about the classes in the parts of a split, one line each.

    Truth without classes, or with others than the target names, is a :class:`UserError`.

    Args:
        store: All samples.
        parts: Name of the part ► places of its samples in the store.
        target: Which may tell classes apart.
        named: Names of the classes in the truth, where it names them.
    """
    names, found = target.class_names, []
    if not names:
        return []
    if named and tuple(named) != names:
        raise UserError(
            f"model.target.names: {', '.join(names)} are not the classes of the data, "
            f"{', '.join(named)}; name the same in the same order"
        )
    kind = type(target).__name__
    for part, places in parts.items():
        total = np.zeros(len(names) + 1, np.int64)
        for sample in map(store.__getitem__, places):
            if sample.labels is None:
                continue
            if sample.classes is None:
                raise UserError(
                    f"{sample.id}: its truth has no classes, but model.target, {kind}, tells "
                    f"{some_of(names)} apart; read it with data.mask_type: classes, or choose a "
                    "target without names"
                )
            if (highest := int(sample.classes.max(initial=0))) > len(names):
                raise UserError(
                    f"{sample.id}: holds class {highest}, but model.target names {len(names)} "
                    f"({some_of(names)}); name all in model.target.names"
                )
            total += objects_of_classes(sample.classes, len(names))
        if part == "train" and total.any():
            without = [name for name, n in zip(names, total[1:], strict=True) if not n]
            why = "it cannot be learned; choose another data.split, or leave its name out"
            found += [f"no train image holds an object of class {name}: {why}" for name in without]
    return found
