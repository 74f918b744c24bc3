"""Measurements of objects, and counts of images, as rows of two tables."""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from skimage.measure import regionprops_table

from segmentation.errors import UserError
from segmentation.objects import to_gray

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


# What scikit-image calls OBJECT_COLUMNS[2:16].
_MEASURED = (
    "label", "area", "centroid-0", "centroid-1", "bbox-0", "bbox-1", "bbox-2", "bbox-3",
    "intensity_mean", "intensity_min", "intensity_max", "eccentricity", "solidity", "perimeter",
)  # fmt: skip
_MOST_SPECKS, _SPECK = 1_000_000, 4  # objects, pixels
_WHOLE = {"object", "area", "top", "left", "bottom", "right", "intensity_min", "intensity_max"}


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

    By scikit-image's ``regionprops_table``. Pixels count from 0, ``bottom`` and ``right`` are the
    first beyond the object; ``border`` is 1 for an object that touches the image's border, and so
    may be cut off; the perimeter is Benkrid and Crookes' estimate (2000). In µm there is no
    perimeter where pixels are not square, and nothing without a ``pixel_size``.

    Args:
        labels: (H, W) instance ids, 0 = background.
        image: (H, W, C) as read; of colours the luminance is measured, of others their mean.
        pixel_size: (height, width) in µm.
        origin, size: Row and column where both lie in a larger image, and its (H, W).
        channels: What the image's channels are called, to measure each: see :func:`channel_labels`.
    """
    names = {key.partition("-")[0] for key in _MEASURED}
    gray = image.mean(axis=2).round().astype(image.dtype) if channels else to_gray(image)
    table = regionprops_table(labels, gray, properties=names)
    flat, objects = labels.reshape(-1), table["label"]
    means = np.zeros((len(objects), len(channels)))
    for i in range(len(channels)):
        sums = np.bincount(flat, image[..., i].reshape(-1))
        means[:, i] = sums[objects] / table["area"]
    for axis, start in enumerate(origin):
        for name in (f"centroid-{axis}", f"bbox-{axis}", f"bbox-{axis + 2}"):
            table[name] = table[name] + start
    rows: list[dict[str, Any]] = []
    measured = zip(*(table[name].tolist() for name in _MEASURED), strict=True)
    for values, of_channels in zip(measured, means.tolist(), strict=True):
        pairs = zip(OBJECT_COLUMNS[2:16], values, strict=True)
        row: dict[str, Any] = {k: int(v) if k in _WHOLE else round(v, 4) for k, v in pairs}
        for name, mean in zip(channels, of_channels, strict=True):
            row[intensity_column(name)] = round(mean, 4)
        rows.append(row | derived_measures(row, pixel_size, size or labels.shape))
    return rows


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
