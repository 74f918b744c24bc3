"""Run lengths, as Kaggle's competitions have them, and the rows of their tables."""

import csv
import io
from collections.abc import Sequence

import numpy as np

from segmentation.errors import UserError

RLE_COLUMNS = ("ImageId", "EncodedPixels")


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
    mask = np.zeros(shape, bool)
    mask.reshape(-1)[rle_pixels(runs, shape, name)] = True
    return mask


def rle_pixels(runs: str, shape: tuple[int, int], name: str) -> np.ndarray:
    """The pixels of run lengths as int64 places in the rows of an (H, W) image, one after another.

    >>> rle_pixels("2 3", (2, 2), "a.csv").tolist()
    [2, 1, 3]
    """
    try:
        pairs = np.array(runs.split(), np.int64).reshape(-1, 2)
    except (ValueError, OverflowError):
        what = f"{runs[:40]!r} are not pairs of start and length"
        raise UserError(f"{name}: {what}; download it again") from None
    starts, lengths = pairs.T
    size = shape[0] * shape[1]
    outside = (starts < 1) | (lengths < 1) | (starts > size) | (lengths > size + 1 - starts)
    order = np.argsort(starts)
    after = np.flatnonzero(starts[order][1:] < (starts + lengths)[order][:-1])
    for odd, fault in (
        (np.flatnonzero(outside), f"leaves an image of {shape[0]}×{shape[1]}"),
        (np.maximum(order[after], order[after + 1]), "overlaps another"),
    ):
        if len(odd):
            start, length = pairs[odd[0]].tolist()
            raise UserError(f"{name}: run {start} {length} {fault}; download it again")
    return _across(ranges(starts - 1, lengths), shape)


def ranges(starts: np.ndarray, lengths: np.ndarray) -> np.ndarray:
    """Whole numbers from each start on, as many as its length says: int64, one after another.

    >>> ranges(np.array([7, 3]), np.array([2, 3])).tolist()
    [7, 8, 3, 4, 5]
    """
    ends = np.cumsum(lengths)
    count = int(ends[-1]) if len(ends) else 0
    return np.asarray(np.arange(count) + np.repeat(starts - ends + lengths, lengths))


def coco_pixels(counts: str | Sequence[int], shape: tuple[int, int]) -> np.ndarray:
    """The pixels of COCO's run lengths, as :func:`rle_pixels`; a ``ValueError`` if they do not fit.

    ``counts`` are lengths of background and foreground by turns, down the columns, as a list or in
    the characters of ``pycocotools`` (LEB128 of 5 bits, from the fourth on the difference to the
    last but one).

    >>> coco_pixels([1, 3], (2, 2)).tolist(), coco_pixels("13", (2, 2)).tolist()
    ([2, 1, 3], [2, 1, 3])
    """
    lengths = np.array(_decompressed(counts) if isinstance(counts, str) else counts, np.int64)
    if (lengths < 0).any() or int(lengths.sum()) != shape[0] * shape[1]:
        raise ValueError(f"run lengths of {int(lengths.sum())} pixels, not {shape[0]}×{shape[1]}")
    starts = np.cumsum(lengths) - lengths
    return _across(ranges(starts[1::2], lengths[1::2]), shape)


def _decompressed(text: str) -> list[int]:
    numbers: list[int] = []
    value = shift = 0
    for character in text:
        code = ord(character) - 48
        value |= (code & 31) << shift
        shift += 5
        if code & 32:
            continue
        if code & 16:
            value -= 1 << shift
        numbers.append(value + (numbers[-2] if len(numbers) > 2 else 0))
        value = shift = 0
    return numbers


def _across(pixels: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Places down the columns ► places along the rows."""
    return np.asarray(pixels % shape[0] * shape[1] + pixels // shape[0])


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
