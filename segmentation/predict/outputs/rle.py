"""Run lengths of all objects of a label map, as Kaggle's 2018 Data Science Bowl asks for them."""

from collections.abc import Sequence

import numpy as np

COLUMNS = ("ImageId", "EncodedPixels")


def runs(values: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray]:
    """Longest stretches of one value along the rows of an (H, W) integer array, without those of 0.

    Returns:
        Row, first column, column after the last, and value of each, in reading order.
    """
    wide = np.pad(values, ((0, 0), (1, 1)))
    row, column = np.nonzero(wide[:, 1:] != wide[:, :-1])
    value = wide[row, column + 1]
    inside = np.flatnonzero(value)  # each ends at the next change, at the latest in the padding
    return row[inside], column[inside], column[inside + 1], value[inside]


def run_lengths(
    labels: np.ndarray, origin: tuple[int, int] = (0, 0), height: int | None = None
) -> list[str]:
    """Kaggle's run lengths of each object of an (H, W) label map, in the order of their ids.

    Pixels count from 1 down the columns, then right: "1 3 10 5" are the pixels 1–3 and 10–14.

    Args:
        labels: The label map.
        origin: Row and column where it lies, if it is cut from a larger one.
        height: Of that one.
    """
    column, start, stop, label = runs(labels.T)
    if not len(label):
        return []
    above = (column + origin[1]) * (height or len(labels)) + origin[0]
    order = np.argsort(label, kind="stable")
    start, stop, label = (start + above)[order], (stop + above)[order], label[order]
    # What reaches the image's lower border may go on at the top of the next column.
    new = (start[1:] != stop[:-1]) | (label[1:] != label[:-1])
    first, last = np.append(True, new), np.append(new, True)
    start, stop, label = start[first], stop[last], label[first]
    pairs = np.stack([start + 1, stop - start], axis=1)
    ends = np.flatnonzero(np.diff(label)) + 1
    return [" ".join(map(str, o.reshape(-1).tolist())) for o in np.split(pairs, ends)]


def rows(stem: str, plane: int | None, codes: Sequence[str]) -> list[dict[str, str]]:
    """Rows of ``rle.csv``; ``plane`` is the number in a stack."""
    image_id = stem if plane is None else f"{stem}#{plane}"
    return [dict(zip(COLUMNS, (image_id, code), strict=True)) for code in codes]
