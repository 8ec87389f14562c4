"""Intervals cover what they claim, and verdicts say no more than they allow."""

from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.statistics import (
    Interval,
    Verdict,
    median_interval,
    pair_ratios,
    relative_standard_error,
    verdict,
)


def test_a_95_percent_interval_covers_the_truth_about_19_times_in_20() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for trial in range(200):
        data = 1 + 0.01 * rng.standard_normal(16)
        interval = median_interval(data.tolist(), resamples=500, seed=trial)
        inside += interval.low <= 1 <= interval.high
    assert 0.9 <= inside / 200 <= 1


def test_the_same_values_give_the_same_interval() -> None:
    values = [1.0, 1.1, 0.9, 1.05]
    assert median_interval(values) == median_interval(values)


@given(st.lists(st.floats(0.5, 2), min_size=1, max_size=30))
def test_the_interval_holds_the_median(values: list[float]) -> None:
    interval = median_interval(values, resamples=50)
    assert min(values) <= interval.low <= interval.high <= max(values)
    assert interval.low <= interval.value + 1e-12
    assert interval.value <= interval.high + 1e-12


@pytest.mark.parametrize(("level", "tail"), [(0.95, 0.025), (0.8, 0.1)])
def test_the_bounds_are_the_bootstraps_own_quantiles(level: float, tail: float) -> None:
    """The median of n draws from n values is at most the k-th smallest with a binomial chance, exactly."""
    n = 201
    chances = [
        sum(comb(n, i) * (k / n) ** i * (1 - k / n) ** (n - i) for i in range((n + 1) // 2, n + 1))
        for k in range(1, n + 1)
    ]
    low, high = (next(k for k, chance in enumerate(chances) if chance >= p) for p in (tail, 1 - tail))
    interval = median_interval([float(k) for k in range(n)], level=level, resamples=20_000)
    assert (interval.low, interval.value, interval.high) == (low, 100, high)


def test_an_interval_depends_on_its_values_and_seed_alone() -> None:
    values = np.random.default_rng(0).standard_normal(15).tolist()
    first, again, other = (median_interval(values, resamples=40, seed=seed) for seed in (1, 1, 2))
    assert first == again
    assert first != other


def test_no_values_no_interval() -> None:
    with pytest.raises(ValueError, match=r"^an interval needs at least one value$"):
        median_interval([])


def test_a_pair_is_the_geometric_mean_of_its_two_ratios() -> None:
    assert pair_ratios([2, 8, 9, 9], [1, 1, 3, 3]) == [4.0, 3.0]
    with pytest.raises(ValueError, match=r"^rounds come in pairs of opposite order$"):
        pair_ratios([1, 2], [1, 2, 3, 4])


@given(st.floats(0.8, 1.25), st.floats(-0.01, 0.01))
def test_a_linear_drift_cancels_within_a_pair(ratio: float, drift: float) -> None:
    """A runs at times 0 and 3, B at 1 and 2: ABBA."""
    a = [100 * (1 + 0 * drift), 100 * (1 + 3 * drift)]
    b = [100 * ratio * (1 + 1 * drift), 100 * ratio * (1 + 2 * drift)]
    (paired,) = pair_ratios(b, a)
    assert paired == pytest.approx(ratio, rel=3e-4)


def test_rounds_without_their_opposite_are_refused() -> None:
    with pytest.raises(ValueError, match=r"^rounds come in pairs of opposite order$"):
        pair_ratios([1, 2, 3], [1, 2, 3])


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.90, 0.985, Verdict.FASTER),
        (0.90, 0.995, Verdict.AMBIGUOUS),
        (0.995, 1.005, Verdict.SAME),
        (0.98, 1.02, Verdict.AMBIGUOUS),
        (1.005, 1.03, Verdict.AMBIGUOUS),
        (1.015, 1.03, Verdict.SLOWER),
    ],
)
def test_a_verdict_needs_the_whole_interval(low: float, high: float, says: Verdict) -> None:
    assert verdict(Interval((low + high) / 2, low, high), 0.01) is says


@pytest.mark.parametrize(
    ("low", "high", "says"),
    [
        (0.5, 0.75, Verdict.AMBIGUOUS),
        (1.25, 1.5, Verdict.AMBIGUOUS),
        (0.75, 1.25, Verdict.SAME),
        (0.75, 1.0, Verdict.SAME),
        (1.0, 1.25, Verdict.SAME),
    ],
)
def test_the_least_effect_itself_is_no_effect(low: float, high: float, says: Verdict) -> None:
    assert verdict(Interval(1.0, low, high), 0.25) is says


def test_verdicts_have_the_words_that_users_read() -> None:
    assert [str(each) for each in Verdict] == ["faster", "slower", "same", "ambiguous"]


def test_the_standard_error_is_that_of_a_median_by_the_absolute_deviation() -> None:
    assert relative_standard_error([9.0, 10.0, 11.0, 10.0]) == pytest.approx(1.2533 * 1.4826 * 0.5 / 2 / 10)
    assert relative_standard_error([9.0, 11.0]) == pytest.approx(1.2533 * 1.4826 / 2**0.5 / 10)


def test_equal_configs_are_the_same_and_3_percent_slower_is_slower_20_times_of_20() -> None:
    """The arithmetic of the comparison at the noise of an H100: 0.2 % within, 0.3 % between routings."""
    rng = np.random.default_rng(1)

    def compared(true_ratio: float) -> Verdict:
        routing = np.repeat(1 + 0.003 * rng.standard_normal(16), 2)
        a = routing * (1 + 0.002 * rng.standard_normal(32))
        b = true_ratio * routing * (1 + 0.002 * rng.standard_normal(32))
        ratio = median_interval(pair_ratios(b.tolist(), a.tolist()), resamples=1000)
        return verdict(ratio, 0.01)

    assert [compared(1.0) for _ in range(20)] == [Verdict.SAME] * 20
    assert [compared(1.03) for _ in range(20)] == [Verdict.SLOWER] * 20


def test_the_standard_error_falls_with_the_square_root_and_ignores_one_outlier() -> None:
    rng = np.random.default_rng(2)
    few, many = (10 * (1 + 0.01 * rng.standard_normal(n)) for n in (100, 10_000))
    assert relative_standard_error(few.tolist()) == pytest.approx(1.25e-3, rel=0.3)
    assert relative_standard_error(many.tolist()) == pytest.approx(1.25e-4, rel=0.1)
    spoiled = [*few.tolist()[1:], 1000.0]
    assert relative_standard_error(spoiled) == pytest.approx(relative_standard_error(few.tolist()), rel=0.1)
    assert relative_standard_error([1.0]) == float("inf")
