"""Measurements against closed forms."""

import math

import numpy as np
import pytest

from segmentation.errors import UserError
from segmentation.measurements import (
    IMAGE_COLUMNS,
    OBJECT_COLUMNS,
    check_objects,
    image_measures,
    measure_objects,
    measurement_table,
)


def test_a_rectangle_and_a_disc() -> None:
    labels = np.zeros((80, 100), np.int32)
    labels[0:10, 5:25] = 1
    y, x = np.ogrid[:80, :100]
    labels[(y - 45) ** 2 + (x - 60) ** 2 <= 20**2] = 2
    image = np.full((80, 100, 1), 7, np.uint16)
    image[0, 5], image[9, 24] = 1007, 2
    rectangle, disc = measure_objects(labels, image, (0.5, 0.5))
    assert rectangle["object"] == 1 and rectangle["area"] == 200
    assert (rectangle["centroid_y"], rectangle["centroid_x"]) == (4.5, 14.5)
    box = [rectangle[side] for side in ("top", "left", "bottom", "right")]
    assert box == [0, 5, 10, 25] and rectangle["border"] == 1
    assert (rectangle["intensity_min"], rectangle["intensity_max"]) == (2, 1007)
    assert rectangle["intensity_mean"] == pytest.approx(7 + (1000 - 5) / 200, abs=1e-4)
    assert rectangle["solidity"] == 1
    # Second moments of a row of n pixel centres: (n² - 1) / 12.
    wanted = math.sqrt(1 - (10**2 - 1) / (20**2 - 1))
    assert rectangle["eccentricity"] == pytest.approx(wanted, abs=1e-4)
    assert rectangle["perimeter"] == 2 * (9 + 19)  # through the centres of its outer pixels
    assert (rectangle["area_um2"], rectangle["perimeter_um"]) == (50, 28)
    assert disc["area"] == pytest.approx(math.pi * 20**2, rel=0.01) and disc["border"] == 0
    assert disc["perimeter"] == pytest.approx(2 * math.pi * 20, rel=0.05)
    assert disc["eccentricity"] < 0.01 and disc["solidity"] > 0.95
    assert (disc["centroid_y"], disc["centroid_x"]) == (45, 60)
    assert {"image", "plane", *rectangle} == set(OBJECT_COLUMNS)


def test_colours_are_measured_as_luminance_and_oblong_pixels_without_perimeter() -> None:
    image = np.zeros((4, 4, 3), np.uint8)
    image[..., 1] = 100
    (row,) = measure_objects(np.ones((4, 4), np.int32), image, None)
    assert row["intensity_mean"] == round(0.587 * 100)
    assert "area_um2" not in row and row["border"] == 1
    (row,) = measure_objects(np.ones((4, 4), np.int32), image, (0.5, 0.2))
    assert row["area_um2"] == 1.6 and "perimeter_um" not in row
    assert measure_objects(np.zeros((4, 4), np.int32), image, (1, 1)) == []


def test_objects_too_small_for_a_shape() -> None:
    labels = np.zeros((9, 9), np.int32)
    labels[1, 1], labels[3, 2:7] = 1, 2
    labels[5, 1] = labels[6, 2] = 3
    rows = measure_objects(labels, np.zeros((9, 9, 1), np.uint8), None)
    assert [row["area"] for row in rows] == [1, 5, 2]
    assert all(math.isfinite(value) for row in rows for value in row.values())


def test_counts() -> None:
    row = image_measures(np.array([2, 12]), 15, 100, (2, 0.5))
    assert row["objects"] == 2 and row["foreground_pixels"] == 15 and row["mean_area"] == 7
    assert row["foreground_share"] == 0.15 and row["median_area"] == 7 == row["mean_area_um2"]
    assert {"image", "plane", *row} == set(IMAGE_COLUMNS)
    row = image_measures(np.array([]), 0, 25, None)
    assert row == {"objects": 0, "foreground_pixels": 0, "foreground_share": 0}


def test_what_is_cut_out_is_measured_where_it_lies() -> None:
    labels = np.zeros((40, 50), np.int32)
    labels[0:7, 5:20], labels[12:20, 30:50], labels[25:31, 8:13] = 4, 9, 2
    image = np.random.default_rng(0).integers(0, 9999, (40, 50, 1), np.uint16)
    whole = {row["object"]: row for row in measure_objects(labels, image, (0.5, 0.5))}
    for number, rows, columns in (
        (4, slice(0, 7), slice(4, 21)),
        (9, slice(11, 20), slice(30, 50)),
        (2, slice(25, 31), slice(8, 13)),
    ):
        origin = rows.start, columns.start
        crop = labels[rows, columns], image[rows, columns]
        assert measure_objects(*crop, (0.5, 0.5), origin, (40, 50)) == [whole[number]]
    assert [whole[number]["border"] for number in (4, 9, 2)] == [1, 1, 0]


def test_millions_of_specks_are_noise() -> None:
    check_objects(np.full(1_500_000, 4))  # small, but real
    check_objects(np.ones(900_000, np.int64))
    with pytest.raises(UserError, match="1,500,000 objects of 1 pixels in the median are noise"):
        check_objects(np.ones(1_500_000, np.int64))
    with pytest.raises(UserError, match="noise"):
        labels = np.arange(1, 1_100_001, dtype=np.int32).reshape(1100, 1000)
        measurement_table(labels, np.zeros((1100, 1000, 1), np.uint8))
