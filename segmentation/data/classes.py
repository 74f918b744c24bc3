"""Classes of objects in the parts of a split, and whether a target can learn them."""

from collections.abc import Mapping, Sequence

import numpy as np

from segmentation.data.cache import SampleStore
from segmentation.errors import UserError
from segmentation.io.listing import some_of
from segmentation.targets import Target


def class_counts(classes: np.ndarray, count: int) -> np.ndarray:
    """(n + 1,) class of each id ► (count + 1,) int64: how many objects each class has.

    >>> class_counts(np.uint8([0, 2, 1, 2]), 3).tolist()
    [0, 1, 2, 0]
    """
    return np.bincount(classes[1:], minlength=count + 1).astype(np.int64)


def check_classes(
    store: SampleStore,
    parts: Mapping[str, Sequence[int]],
    target: Target,
    named: Sequence[str] = (),
) -> list[str]:
    """What is doubtful about the classes in the parts of a split, one line each.

    Args:
        store: All samples.
        parts: Name of the part ► places of its samples in the store.
        target: Which may tell classes apart.
        named: Names of the classes in the truth, where it names them.

    Raises:
        UserError: The truth has no classes, one that the target does not name, or other names.
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
            total += class_counts(sample.classes, len(names))
        if part == "train" and total.any():
            without = [name for name, n in zip(names, total[1:], strict=True) if not n]
            found += [
                f"no train image holds an object of class {name}: it cannot be learned; choose "
                "another data.split, or leave its name out"
                for name in without
            ]
    return found
