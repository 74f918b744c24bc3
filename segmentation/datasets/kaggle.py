"""What Kaggle's competitions share: tables of run lengths."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from segmentation.errors import UserError


def rle_encode(mask: np.ndarray) -> str:
    """Run lengths of the nonzero pixels of an (H, W) mask: 1-based start and length, by columns.

    >>> rle_encode(np.array([[0, 1], [1, 1]]))  # a run goes on into the next column
    '2 3'
    """
    flat = np.pad((mask != 0).ravel(order="F").astype(np.int8), 1)
    edges = np.flatnonzero(np.diff(flat)) + 1
    pairs = zip(edges[::2], edges[1::2], strict=True)
    return " ".join(f"{start} {end - start}" for start, end in pairs)


def rle_decode(runs: str, shape: tuple[int, int], name: str) -> np.ndarray:
    """The (H, W) bool mask of run lengths; runs that overlap or leave the image: ``UserError``.

    >>> rle_decode("2 3", (2, 2), "a.csv").astype(int).tolist()
    [[0, 1], [1, 1]]
    """
    mask = np.zeros(shape[0] * shape[1], bool)
    try:
        numbers = [int(number) for number in runs.split()]
        pairs = list(zip(numbers[::2], numbers[1::2], strict=True))
    except ValueError:
        raise UserError(
            f"{name}: {runs[:40]!r} are not pairs of start and length; download it again"
        ) from None
    for start, length in pairs:
        run = slice(start - 1, start - 1 + length)
        fault = ""
        if start < 1 or length < 1 or run.stop > mask.size:
            fault = f"leaves an image of {shape[0]}×{shape[1]}"
        elif mask[run].any():
            fault = "overlaps another"
        if fault:
            raise UserError(f"{name}: run {start} {length} {fault}; download it again")
        mask[run] = True
    return mask.reshape(shape, order="F")


def csv_rows(data: bytes, name: str, columns: Sequence[str]) -> list[dict[str, str]]:
    """The rows of a CSV file with a header, ``columns`` alone; ``name`` is for messages."""
    try:
        reader = csv.DictReader(io.StringIO(data.decode("utf-8-sig")))
        if missing := sorted(set(columns) - set(reader.fieldnames or ())):
            raise UserError(f"{name}: lacks the column {missing[0]}; download it again")
        rows = []
        for row in reader:
            rows.append({column: row[column] for column in columns})
            if None in rows[-1].values():
                raise UserError(f"{name}: line {reader.line_num} is cut off; download it again")
    except (UnicodeDecodeError, csv.Error) as error:
        raise UserError(f"{name}: not a CSV file ({error}); download it again") from None
    return rows
