"""Measurements of objects, and counts of images, as rows of two tables."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from segmentation.errors import UserError
from segmentation.objects import to_gray
from segmentation.shapes import convex_areas, eccentricities, perimeters

if TYPE_CHECKING:
    import pandas

OBJECT_COLUMNS = (
    "image", "plane", "object", "area", "centroid_y", "centroid_x", "top", "left", "bottom",
    "right", "intensity_mean", "intensity_min", "intensity_max", "eccentricity", "solidity",
    "perimeter", "border", "area_um2", "perimeter_um",
)  # fmt: skip
IMAGE_COLUMNS = (
    "image", "plane", "objects", "foreground_pixels", "foreground_share", "mean_area",
    "median_area", "mean_area_um2", "pixel_height_um", "pixel_width_um",
)  # fmt: skip


def object_columns(names: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of objects, with their class where classes have ``names``."""
    return (*OBJECT_COLUMNS[:3], "class", *OBJECT_COLUMNS[3:]) if names else OBJECT_COLUMNS


def columns_of_images(names: Sequence[str] = ()) -> tuple[str, ...]:
    """The columns of images, with the number of objects of each class."""
    return (*IMAGE_COLUMNS, *(f"objects/{name}" for name in names))


_MOST_SPECKS, _SPECK = 1_000_000, 4  # objects, pixels
_SIDES = ("top", "left", "bottom", "right")
_WHOLE = {"object", "area", *_SIDES, "intensity_min", "intensity_max"}


def channel_labels(count: int, names: Sequence[str] = ()) -> tuple[str, ...]:
    """What channels are called in tables: by their names or numbers; gray and RGB are not told.

    >>> channel_labels(2), channel_labels(3), channel_labels(3, ("DAPI", "GFP", "Cy5"))
    (('0', '1'), (), ('DAPI', 'GFP', 'Cy5'))
    """
    if count == 1 or (count == 3 and not names):
        return ()
    return tuple(names) or tuple(map(str, range(count)))


def intensity_column(channel: str) -> str:
    """The column of an object's mean intensity in one channel."""
    return f"intensity_mean_{channel}"


def measurement_table(
    labels: np.ndarray,
    image: np.ndarray,
    pixel_size: tuple[float, float] | None = None,
    channels: Sequence[str] = (),
) -> "pandas.DataFrame":
    """:func:`measure_objects` as a table; in µm only with a ``pixel_size``.

    ``channels`` are names of the image's channels, where there are some.

    >>> labels = np.zeros((5, 6), np.int32)
    >>> labels[1:3, 2:6] = 1
    >>> table = measurement_table(labels, np.full((5, 6, 1), 9, np.uint8))
    >>> table[["object", "area", "centroid_y", "intensity_mean", "border"]].values.tolist()
    [[1.0, 8.0, 1.5, 9.0, 1.0]]
    """
    import pandas as pd  # takes half a second, and tables of files do without

    check_objects(np.bincount(labels.reshape(-1))[1:])
    names = OBJECT_COLUMNS[2:] if pixel_size else OBJECT_COLUMNS[2:-2]
    apart = channel_labels(image.shape[2], channels)
    rows = measure_objects(labels, image, pixel_size, channels=apart)
    return pd.DataFrame(rows, columns=[*names, *map(intensity_column, apart)])


def check_objects(areas: np.ndarray) -> None:
    """Refuse noise: measuring millions of specks would take all memory and tell nothing.

    Raises:
        UserError: More than a million objects (``areas`` in pixels) of a median below 4 pixels.
    """
    areas = areas[areas > 0]
    if len(areas) > _MOST_SPECKS and (median := float(np.median(areas))) < _SPECK:
        raise UserError(
            f"{len(areas):,} objects of {median:g} pixels in the median are noise: train the "
            "network longer, or check that the image is like those that it was trained on"
        )


def measure_objects(
    labels: np.ndarray,
    image: np.ndarray,
    pixel_size: tuple[float, float] | None,
    origin: tuple[int, int] = (0, 0),
    size: tuple[int, ...] | None = None,
    channels: Sequence[str] = (),
) -> list[dict[str, Any]]:
    """One row for each object, with :data:`OBJECT_COLUMNS` but image and plane.

    What scikit-image's ``regionprops_table`` gives, of all objects at once. Pixels count from 0,
    ``bottom`` and ``right`` are the first beyond the object; ``border`` is 1 for an object that
    touches the image's border, and so may be cut off; the perimeter is Benkrid and Crookes'
    estimate (2000). In µm there is no perimeter where pixels are not square, and nothing without a
    ``pixel_size``.

    Args:
        labels: (H, W) instance ids, 0 = background.
        image: (H, W, C) as read; of colours the luminance is measured, of others their mean.
        pixel_size: (height, width) in µm.
        origin, size: Row and column where both lie in a larger image, and its (H, W).
        channels: What the image's channels are called, to measure each: see :func:`channel_labels`.
    """
    gray = image.mean(axis=2).round().astype(image.dtype) if channels else to_gray(image)
    table = _measured(labels, gray)
    flat, objects = labels.reshape(-1), table["object"]
    means = np.zeros((len(objects), len(channels)))
    for i in range(len(channels)):
        sums = np.bincount(flat, image[..., i].reshape(-1))
        means[:, i] = sums[objects] / table["area"]
    for axis, start in zip("yx", origin, strict=True):
        table[f"centroid_{axis}"] = table[f"centroid_{axis}"] + start
    for side, start in zip(_SIDES, 2 * origin, strict=True):
        table[side] = table[side] + start
    rows: list[dict[str, Any]] = []
    measured = zip(*(table[name].tolist() for name in OBJECT_COLUMNS[2:16]), strict=True)
    for values, of_channels in zip(measured, means.tolist(), strict=True):
        pairs = zip(OBJECT_COLUMNS[2:16], values, strict=True)
        row: dict[str, Any] = {k: int(v) if k in _WHOLE else round(v, 4) for k, v in pairs}
        for name, mean in zip(channels, of_channels, strict=True):
            row[intensity_column(name)] = round(mean, 4)
        rows.append(row | derived_measures(row, pixel_size, size or labels.shape))
    return rows


def _measured(labels: np.ndarray, gray: np.ndarray) -> dict[str, np.ndarray]:
    """The columns ``OBJECT_COLUMNS[2:16]`` of the objects in (H, W) labels, by their ids."""
    places = np.flatnonzero(labels > 0)
    rows, columns = np.divmod(places, labels.shape[1])
    found, values = labels.reshape(-1)[places], gray.reshape(-1)[places]
    objects = np.flatnonzero(np.bincount(found))
    numbers = np.zeros(int(labels.max(initial=0)) + 1, np.intp)
    numbers[objects] = np.arange(len(objects))
    ids = numbers[found]
    area = np.bincount(ids, minlength=len(objects))
    least = {"top": rows, "left": columns, "intensity_min": values}
    most = {"bottom": rows + 1, "right": columns + 1, "intensity_max": values}
    table: dict[str, np.ndarray] = {"object": objects, "area": area}
    for names, function in ((least, np.minimum), (most, np.maximum)):
        for name, some in names.items():
            table[name] = np.zeros(len(objects), some.dtype)
            table[name][ids] = some  # one of each object's, to start with
            function.at(table[name], ids, some)
    table |= {
        "centroid_y": np.bincount(ids, rows) / area,
        "centroid_x": np.bincount(ids, columns) / area,
        "intensity_mean": np.bincount(ids, values) / area,
        "eccentricity": eccentricities(ids, rows, columns),
        "solidity": area / convex_areas(labels)[objects],
        "perimeter": perimeters(labels)[objects],
    }
    return table


def derived_measures(
    row: Mapping[str, Any], pixel_size: tuple[float, float] | None, size: tuple[int, ...]
) -> dict[str, Any]:
    """What follows from an object's box, area and perimeter, where it has one: border and µm."""
    cut = row["top"] == 0 or row["left"] == 0 or row["bottom"] == size[0]
    more: dict[str, Any] = {"border": int(cut or row["right"] == size[1])}
    if pixel_size is not None:
        more["area_um2"] = _six_digits(row["area"] * math.prod(pixel_size))
        if "perimeter" in row and math.isclose(*pixel_size, rel_tol=1e-3):
            more["perimeter_um"] = _six_digits(row["perimeter"] * pixel_size[0])
    return more


def image_measures(
    areas: np.ndarray,
    foreground_pixels: int,
    pixels: int,
    pixel_size: tuple[float, float] | None,
) -> dict[str, Any]:
    """The row of one plane of so many pixels, with :data:`IMAGE_COLUMNS` but image and plane.

    ``areas`` are (objects,) pixels; the foreground may hold what is too small to be an object.
    """
    row: dict[str, Any] = {
        "objects": len(areas),
        "foreground_pixels": foreground_pixels,
        "foreground_share": round(foreground_pixels / pixels, 6),
    }
    if len(areas):
        row["mean_area"] = round(float(areas.mean()), 2)
        row["median_area"] = float(np.median(areas))
    if pixel_size is not None:
        row["pixel_height_um"], row["pixel_width_um"] = map(_six_digits, pixel_size)
        if len(areas):
            row["mean_area_um2"] = _six_digits(float(areas.mean()) * math.prod(pixel_size))
    return row


def _six_digits(value: float) -> float:
    return float(f"{value:.6g}")
