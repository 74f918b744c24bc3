"""Intervals and tests against closed forms and scipy."""

import math

import numpy as np
import pytest
from scipy import stats

from segmentation.evaluation import intervals
from segmentation.evaluation.intervals import percentile_interval, rank_test, resampled_sums

RNG = np.random.default_rng(3)
SCORES = RNG.normal(0.8, 0.1, (200, 1))


def test_mean_of_many_images_is_normal() -> None:
    low, high = percentile_interval(resampled_sums(SCORES)[:, 0] / len(SCORES))
    half = 1.959964 * SCORES.std() / math.sqrt(len(SCORES))
    assert low == pytest.approx(SCORES.mean() - half, abs=0.04 * half)
    assert high == pytest.approx(SCORES.mean() + half, abs=0.04 * half)


def test_share_of_few_images_is_binomial() -> None:
    """Resampling 3 hits of 8 draws their number from a binomial distribution, exactly."""
    hits = np.array([1, 1, 1, 0, 0, 0, 0, 0.0])[:, None]
    sums = resampled_sums(hits, resamples=40_000)[:, 0]
    found = np.bincount(sums.astype(int), minlength=9) / len(sums)
    wanted = stats.binom.pmf(range(9), 8, 3 / 8)
    np.testing.assert_allclose(found, wanted, atol=5 * np.sqrt(0.25 / len(sums)))
    assert percentile_interval(sums) == stats.binom.interval(0.95, 8, 3 / 8)


def test_groups_are_drawn_as_wholes() -> None:
    """Ten equal images a subject tell no more than one, whatever their number suggests."""
    one = SCORES[:20]
    many = np.repeat(one, 10, axis=0)
    groups = [f"{i // 10:02}" for i in range(200)]
    grouped = resampled_sums(many, groups) / 200
    np.testing.assert_allclose(grouped, resampled_sums(one) / 20)
    widths = [
        np.subtract(*percentile_interval(drawn[:, 0]))
        for drawn in (grouped, resampled_sums(many) / 200)
    ]
    assert widths[0] / widths[1] == pytest.approx(math.sqrt(10), rel=0.08)


def test_draws_depend_on_the_seed_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    once = resampled_sums(SCORES, resamples=50)
    monkeypatch.setattr(intervals, "_CELLS", 3 * 200)
    np.testing.assert_allclose(resampled_sums(SCORES, resamples=50), once, rtol=1e-12)
    assert (resampled_sums(SCORES, resamples=50, seed=1) != once).any()
    rows = np.array([[2.0**52 + 1, 1], [1, 0]])
    assert (resampled_sums(rows, resamples=50) % 1 == 0).all()


@pytest.mark.parametrize(
    ("rows", "groups", "why"),
    [
        (np.zeros((0, 2)), None, "an image"),
        (np.zeros(3), None, "an image"),
        (np.array([[np.nan]]), None, "finite"),
        (np.zeros((2, 1)), ["a"], "broadcastable"),
    ],
)
def test_what_cannot_be_resampled(rows: np.ndarray, groups: list[str] | None, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        resampled_sums(rows, groups)


def test_resamples_without_the_score_are_left_out() -> None:
    assert percentile_interval(np.array([np.nan, 1, 1])) == (1, 1)
    assert np.isnan(percentile_interval(np.array([np.nan]))).all()


def test_rank_test_is_exact_for_few_images() -> None:
    """n differences of one sign: 2 of the 2^n equally likely signs are as extreme."""
    values = np.array([0.1, 0.23, 0.31, 0.4, 0.52, 0.6])
    assert rank_test(values) == pytest.approx(2 / 2**6)
    assert rank_test(-values) == pytest.approx(2 / 2**6)
    signs = np.array(np.meshgrid(*[[-1, 1]] * 6)).reshape(6, -1).T
    ranks = np.arange(1, 7)
    mixed = values * [1, -1, 1, 1, -1, 1]
    seen = abs(10.5 - (ranks * (mixed > 0)).sum())
    p = np.mean(np.abs(10.5 - ((signs > 0) * ranks).sum(1)) >= seen)
    assert rank_test(mixed) == pytest.approx(p)


@pytest.mark.parametrize("zeros", [0, 3])
def test_rank_test_of_ties_as_scipy_by_all_signs(zeros: int) -> None:
    for _ in range(5):
        values = np.append(RNG.integers(-3, 6, 7) / 10, np.zeros(zeros))
        if values.any():
            theirs = stats.wilcoxon(
                values, zero_method="pratt", method=stats.PermutationMethod(n_resamples=np.inf)
            )
            assert rank_test(values) == pytest.approx(theirs.pvalue)


def test_rank_test_of_equals_and_of_nothing() -> None:
    assert rank_test(np.zeros(12)) == 1
    # Beyond the digits of the files there are no differences.
    assert rank_test(np.full(12, 0.3) - 0.1 - 0.2) == 1
    assert math.isnan(rank_test(np.array([np.nan])))
    values = RNG.normal(0.3, 1, 30)
    assert rank_test(np.append(values, np.nan)) == rank_test(values)


def test_rank_test_of_groups_is_that_of_their_means() -> None:
    values = RNG.normal(0.5, 1, 8)
    groups = [str(i) for i in range(8) for _ in range(3)]
    spread = np.repeat(values, 3) + np.tile([-0.1, 0, 0.1], 8)
    assert rank_test(spread, groups) == pytest.approx(rank_test(values))
    assert rank_test(spread) < rank_test(spread, groups)
