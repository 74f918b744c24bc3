"""Distributions, against numbers counted by hand."""

import numpy as np
import pytest

from segmentation.evaluation.audit.distributions import distributions, quantiles, summary
from segmentation.evaluation.audit.samples import Facts, examine
from tests.evaluation.audit.listed import block, noise, sample


def facts() -> list[Facts]:
    two = block(1, 1, 4, 5) + 2 * block(20, 20, 10, 10)
    listed = (
        sample("a", noise(0), two, "x"),
        sample("b", noise(1), np.zeros((48, 64)), "y"),
        sample("c", noise(2, (20, 30, 3)), block(0, 0, 2, 3, (20, 30)), "y"),
        sample("d", noise(3), None),
    )
    return [examine(one, 10) for one in listed]


def test_summary() -> None:
    assert summary(facts()) == {
        "samples": 4,
        "with truth": 3,
        "with objects": 2,
        "objects": 3,
        "median area": 20.0,
        "foreground": pytest.approx(126 / (2 * 48 * 64 + 600), abs=1e-5),
    }
    assert summary(facts()[3:])["foreground"] is summary(facts()[3:])["median area"] is None


def test_distributions() -> None:
    found = distributions(facts())
    assert found["sizes"] == {"48×64": 3, "20×30": 1}
    assert found["pixels"] == {"1 × uint8": 3, "3 × uint8": 1}
    assert list(found["by_group"]) == ["", "x", "y"]
    assert found["by_group"]["y"] == summary(facts()[1:3])
    assert found["by_kind"] == found["by_subset"] == {}  # the dataset knows none
    areas = found["quantiles"]["pixels of an object"]
    assert (areas["min"], areas["median"], areas["max"]) == (6, 20, 100)
    assert found["quantiles"]["objects in an image"]["max"] == 2
    assert "objects in an image" not in distributions(facts()[3:])["quantiles"]


def test_quantiles() -> None:
    found = quantiles(list(range(101)))
    assert list(found.values()) == [0, 5, 25, 50, 75, 95, 100]
