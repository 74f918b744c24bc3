"""The truth of an image as its files hold it: masks, label maps, class maps."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import numpy as np

from segmentation.errors import UserError
from segmentation.io.images import read_mask
from segmentation.io.stacks import open_stack
from segmentation.objects import check_size, label_components, merge_objects, renumber

Masks = Literal["binary", "labels", "objects", "classes"]
_MOST_CLASSES = 255  # they are kept as uint8


class Truth(NamedTuple):
    """What is known of one image.

    Attributes:
        labels: (H, W) int32 instance ids 1…n, 0 = background, -1 = not annotated.
        classes: (n + 1,) uint8, the class 1…K of each id, 0 first; ``None`` without classes.
        values: (H, W) integers as the file holds them, 0 where not annotated; ``None`` where they
            can mean one thing only.
    """

    labels: np.ndarray
    classes: np.ndarray | None = None
    values: np.ndarray | None = None


@dataclass(frozen=True)
class TruthReader:
    """Reads the truth of an image, for training and for scores alike.

    Attributes:
        mask_type: What the values of a mask are: 0 and one other (``binary``), ids of objects
            (``labels``), the same in one file an object (``objects``), or ``classes``: numbers of
            ``class_names`` from 1, whose 8-connected components are the objects.
        class_names: Names of the classes 1…K.
    """

    mask_type: Masks = "binary"
    class_names: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        names = self.class_names
        if self.mask_type == "classes" and not names:
            raise UserError(
                "data.mask_type: classes needs the names of the values 1, 2, …: set data.classes, "
                "such as [tumour, stroma]"
            )
        if twice := next((name for name in names if names.count(name) > 1), None):
            raise UserError(f"data.classes: {twice!r} is named twice; name each class once")
        if len(names) > _MOST_CLASSES:
            raise UserError(f"data.classes: {len(names)} are more than {_MOST_CLASSES}")

    def read(
        self, files: Sequence[str | Path], shape: tuple[int, int], plane: int | None = None
    ) -> Truth:
        """The truth of an image of ``shape``, or of one ``plane`` of a stack.

        Where a file is at fault it is a :class:`UserError`.
        """
        if self.mask_type == "objects":
            values = merge_objects(((str(m), read_mask(m)) for m in files), shape)
        else:
            stack = None if plane is None else open_stack(Path(files[0]))
            values = read_mask(files[0]) if stack is None else stack.mask(plane or 0)
            check_size(str(files[0]), values.shape, shape)
        if self.mask_type == "classes":
            return Truth(*self._objects_of_classes(values, files[0]))
        if self.mask_type == "binary":
            return Truth(label_components(values > 0), values=values)
        return Truth(renumber(values.astype(np.int32)), values=values)

    def _objects_of_classes(
        self, values: np.ndarray, file: str | Path
    ) -> tuple[np.ndarray, np.ndarray]:
        """The components of each class of an (H, W) map, and their classes."""
        names = self.class_names
        present = np.flatnonzero(np.bincount(values.reshape(-1)))  # values fit into an int32
        if len(odd := present[present > len(names)]):
            named = ", ".join(f"{number} {name}" for number, name in enumerate(names, start=1))
            raise UserError(
                f"{file}: holds the value(s) {', '.join(map(str, odd[:4]))}, but data.classes "
                f"names {named}; name all classes, in the order of their values"
            )
        labels, classes = np.zeros(values.shape, np.int32), [0]
        for number in present[present > 0].tolist():
            parts = label_components(values == number)
            np.add(parts, len(classes) - 1, out=labels, where=parts > 0)
            classes += [number] * int(parts.max())
        return labels, np.array(classes, np.uint8)
