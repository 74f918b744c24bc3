"""How the samples of a dataset are distributed: sizes, intensities, objects, classes."""

from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from segmentation.evaluation.audit.samples import Facts

QUANTILES = {"min": 0, "5 %": 5, "25 %": 25, "median": 50, "75 %": 75, "95 %": 95, "max": 100}


def distributions(facts: Sequence[Facts]) -> dict[str, Any]:
    """Counts and quantiles over the samples; those of objects over the samples with truth.

    Keys: ``sizes`` and ``pixels`` (how many samples of each), ``quantiles`` (by quantity), and
    ``by_kind``, ``by_group``, ``by_subset`` (see :func:`summary`).
    """
    with_truth = [one for one in facts if one.objects is not None]
    quantities: dict[str, Sequence[float | None]] = {
        "mean of the image": [one.mean for one in facts],
        "0.5th percentile of the image": [one.low for one in facts],
        "99.5th percentile of the image": [one.high for one in facts],
        "saturated share of the image": [one.saturated for one in facts],
        "objects in an image": [one.objects for one in with_truth],
        "pixels of an object": [area for one in facts for area in one.areas],
        "foreground share of an image": [one.foreground for one in with_truth],
    }
    return {
        "sizes": _counted(f"{one.height}×{one.width}" for one in facts),
        "pixels": _counted(f"{one.channels} × {one.dtype}" for one in facts),
        "quantiles": {name: quantiles(values) for name, values in quantities.items() if values},
        **{f"by_{what}": _by(what, facts) for what in ("kind", "group", "subset")},
    }


def summary(facts: Sequence[Facts]) -> dict[str, Any]:
    """Samples, those with truth and with objects, objects, their median area, and the foreground.

    The foreground is the share of all pixels with truth: the balance of the two classes.
    """
    with_truth = [one for one in facts if one.objects is not None]
    pixels = sum(one.height * one.width for one in with_truth)
    areas = [area for one in facts for area in one.areas]
    return {
        "samples": len(facts),
        "with truth": len(with_truth),
        "with objects": sum(bool(one.objects) for one in facts),
        "objects": len(areas),
        "median area": float(np.median(areas)) if areas else None,
        "foreground": round(sum(areas) / pixels, 5) if pixels else None,
    }


def quantiles(values: Sequence[float | None]) -> dict[str, float]:
    """The ``QUANTILES`` of some numbers, at least one."""
    found = np.percentile(np.array(values, float), list(QUANTILES.values()))
    return {name: float(f"{value:.5g}") for name, value in zip(QUANTILES, found, strict=True)}


def _by(what: str, facts: Sequence[Facts]) -> dict[str, Any]:
    """A summary of each kind (group, subset), where the dataset knows any."""
    members: dict[str, list[Facts]] = defaultdict(list)
    for one in facts:
        members[getattr(one, what)].append(one)
    if set(members) <= {""}:
        return {}
    return {name: summary(members[name]) for name in sorted(members)}


def _counted(values: Iterable[str]) -> dict[str, int]:
    return dict(Counter(values).most_common())
