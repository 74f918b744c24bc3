"""Intervals and tests over images, from tables with one row an image.

Every score is a function of the *sum* of some columns over the images. A resample of the images is
a row of integer weights, many of them are one matrix, and all resampled sums of all scores one
product. That is why this is not ``scipy.stats.bootstrap``, which calls a function with the images
of each resample, score by score, and cannot draw groups; its draws differ, too, and with them every
published interval.

**Images of one subject are not independent**: frames of a film resemble each other, and an interval
that resamples them one by one is too narrow. Where groups are given, whole groups are drawn (the
cluster bootstrap; Field and Welsh 2007), and the rank test compares the groups' means.

The intervals are percentile intervals (Efron 1979). They speak of other images of the same kind,
not of another training. With fewer than ten images or groups they are too narrow: a hint.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from segmentation.metrics.scores import Score

RESAMPLES = 10_000
LEVEL = 0.95
_EXACT = 50  # images up to which the rank test is exact, as in SciPy without ties
_CELLS = 1 << 22  # weights that are made at a time: 32 MiB


def resampled_sums(
    rows: np.ndarray, groups: Sequence[str] | None = None, resamples: int = RESAMPLES, seed: int = 0
) -> np.ndarray:
    """Sums of the columns over images that are drawn with replacement.

    Columns of one table are resampled together, which makes a comparison of two methods on the same
    images a paired one.

    Args:
        rows: (images, columns) finite numbers.
        groups: Of each image. Whole groups are drawn, as many as there are; without, images.
        resamples: How many draws.
        seed: The same draws for the same seed and number of images (groups).

    Returns:
        (resamples, columns) float64. Integers below 2^53 are summed exactly.
    """
    rows = np.asarray(rows, np.float64)
    if rows.ndim != 2 or len(rows) == 0 or not np.isfinite(rows).all():
        raise ValueError(f"rows must be finite, (images, columns) with an image, got {rows.shape}")
    if groups is not None:
        rows = _group_sums(rows, groups)
    count, rng = len(rows), np.random.default_rng(seed)
    at_once = max(1, _CELLS // count)
    sums = np.empty((resamples, rows.shape[1]))
    for start in range(0, resamples, at_once):
        part = min(at_once, resamples - start)
        weights = rng.multinomial(count, np.full(count, 1 / count), part)
        sums[start : start + part] = weights.astype(np.float64) @ rows
    return sums


def resample(scores: Mapping[Any, Score], groups: Sequence[str] | None) -> dict[Any, np.ndarray]:
    """Scores of the same images, each (resamples,) on the same resamples of them."""
    # Scores that are pooled share their rows, which need summing only once.
    blocks = list({id(score.rows): score.rows for score in scores.values()}.values())
    ends = np.cumsum([block.shape[1] for block in blocks])[:-1]
    parts = np.split(resampled_sums(np.hstack(blocks), groups), ends, axis=1)
    sums = {id(block): part for block, part in zip(blocks, parts, strict=True)}
    return {key: score.of_sums(sums[id(score.rows)]) for key, score in scores.items()}


def _group_sums(rows: np.ndarray, groups: Sequence[str] | np.ndarray) -> np.ndarray:
    # pandas sums with Kahan's correction: another last digit than the published intervals.
    names, places = np.unique(np.asarray(groups, str), return_inverse=True)
    sums = np.zeros((len(names), rows.shape[1]))
    np.add.at(sums, places.reshape(-1), rows)
    return sums


def percentile_interval(values: np.ndarray, level: float = LEVEL) -> tuple[float, float]:
    """The middle ``level`` of resampled values (resamples,), NaN left out: low and high end."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return float("nan"), float("nan")
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def rank_test(differences: np.ndarray, groups: Sequence[str] | None = None) -> float:
    """Two-sided p of Wilcoxon's signed-rank test that paired differences are centred on 0.

    Differences of 0 are ranked, then dropped (Pratt 1959): agreement on other images counts. If all
    are 0, p is 1; without any it is NaN. NaN, where one of two has no score, is left out. With
    groups each group is one observation, the mean of its differences.
    """
    from scipy.stats import rankdata, wilcoxon

    kept = ~np.isnan(differences)
    # Scores come from files with six digits; what differs beyond them is no rank but noise.
    values = differences[kept].round(9)
    if groups is not None:
        names = np.asarray(groups, str)[kept]
        sums = _group_sums(np.stack([values, np.ones_like(values)], axis=1), names)
        values = (sums[:, 0] / sums[:, 1]).round(9)
    if not values.any():
        return 1.0 if len(values) else float("nan")
    if len(values) > _EXACT:
        return float(wilcoxon(values, zero_method="pratt").pvalue)
    # With ties SciPy is either not exact or tries all signs: seconds for a dozen images. Here the
    # sums of ranks (doubled: ties have halves) are counted, one rank after another.
    doubled = (2 * rankdata(np.abs(values))).astype(int)[values != 0]
    counts = np.ones(1)
    for rank in doubled:
        counts = np.append(counts, np.zeros(rank)) + np.append(np.zeros(rank), counts)
    share = counts / counts.sum()
    place = int(doubled[values[values != 0] > 0].sum())
    return float(min(1.0, 2 * min(share[: place + 1].sum(), share[place:].sum())))
