"""The Gaussian process against its textbook formulas."""

from decimal import Decimal, localcontext

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from autotune.search import gaussian
from autotune.search.features import Features
from autotune.search.gaussian import _NUGGET_PRIOR, GaussianProcess, _cost, improvement, matern

SEEDS = st.integers(0, 10**6)


def features(rng: np.random.Generator, count: int, columns: int = 3) -> Features:
    return Features(rng.random((count, columns)), np.arange(columns))


def direct(process: GaussianProcess, points: np.ndarray, known: list[int], values: np.ndarray) -> np.ndarray:
    """Posterior mean by one inverse."""
    weights = np.exp(-process._log_lengths)
    scaled = points * weights
    covariance = matern(((scaled[:, None] - scaled[None]) ** 2).sum(axis=2))
    noisy = covariance[np.ix_(known, known)] + np.exp(process._log_nugget) * np.eye(len(known))
    made: np.ndarray = covariance[:, known] @ np.linalg.solve(noisy, values)
    return made


@settings(max_examples=20, deadline=None)
@given(SEEDS, st.integers(2, 40))
def test_points_added_one_by_one_give_the_posterior_of_all_at_once(seed: int, known: int) -> None:
    rng = np.random.default_rng(seed)
    made = features(rng, 60)
    process = GaussianProcess(made)
    rows = [int(row) for row in rng.permutation(60)[:known]]
    for row in rows:
        process.add(row)
    values = rng.standard_normal((known, 2))
    mean, _ = process.posterior(values)
    assert mean == pytest.approx(direct(process, made.points, rows, values), abs=1e-6)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_points_that_come_later_are_as_if_they_had_been_there(seed: int) -> None:
    rng = np.random.default_rng(seed)
    whole = features(rng, 20)
    early, late = GaussianProcess(Features(whole.points[:12], whole.aspects)), GaussianProcess(whole)
    for row in (0, 3, 7):
        early.add(row)
        late.add(row)
    early.extend(whole.points[12:])
    early.add(15)
    late.add(15)
    values = rng.standard_normal((4, 1))
    for one, other in zip(early.posterior(values), late.posterior(values), strict=True):
        assert one == pytest.approx(other, abs=1e-9)


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_a_point_whose_value_is_to_come_changes_no_mean_but_is_less_uncertain(seed: int) -> None:
    rng = np.random.default_rng(seed)
    process = GaussianProcess(features(rng, 20))
    process.add(2)
    before, wide = process.posterior(np.array([[1.0]]))
    process.add(5)
    after, narrow = process.posterior(np.array([[1.0], [np.nan]]))
    assert after == pytest.approx(before)
    assert narrow[5, 0] < wide[5, 0]


@settings(max_examples=10, deadline=None)
@given(SEEDS)
def test_the_gradient_is_that_of_the_cost(seed: int) -> None:
    rng = np.random.default_rng(seed)
    points, values = rng.random((12, 3)), rng.standard_normal((12, 2))
    differences = (points[:, None] - points[None]) ** 2
    at = np.append(rng.normal(0, 0.5, 3), -3.0)
    _, slope = _cost(differences, values, at)
    for index in range(len(at)):
        step = np.zeros_like(at)
        step[index] = 1e-5
        up, down = _cost(differences, values, at + step)[0], _cost(differences, values, at - step)[0]
        assert slope[index] == pytest.approx((up - down) / 2e-5, rel=1e-3, abs=1e-3)


def test_a_column_that_matters_gets_the_shorter_length() -> None:
    rng = np.random.default_rng(0)
    made = features(rng, 60, columns=2)
    process = GaussianProcess(made)
    for row in range(60):
        process.add(row)
    process.fit(np.sin(6 * made.points[:, :1]), steps=60)
    assert process._log_lengths[0] < process._log_lengths[1]
    assert process._log_nugget < _NUGGET_PRIOR[0]


def test_a_fit_keeps_what_was_added() -> None:
    rng = np.random.default_rng(1)
    process = GaussianProcess(features(rng, 40))
    for row in range(35):
        process.add(row)
    values = rng.standard_normal((35, 1))
    values[30] = np.nan
    process.fit(values, steps=5)
    assert process.rows == list(range(35))
    assert np.isfinite(process.posterior(values)[0]).all()


def test_blocks_of_a_kernel_are_the_kernel(monkeypatch: pytest.MonkeyPatch) -> None:
    made = features(np.random.default_rng(2), 23)
    process = GaussianProcess(made)
    whole = process.kernel(made.points, made.points[:5])
    monkeypatch.setattr(gaussian, "_CACHED", 17)
    assert process.kernel(made.points, made.points[:5]) == pytest.approx(whole, abs=1e-12)


PI = Decimal("3.14159265358979323846264338327950288419716939937510582097494")


def exact_improvement(z: Decimal) -> Decimal:
    """z Φ(z) + φ(z) in 60 digits, with Φ(z) = 1/2 + φ(z) (z + z³/3 + z⁵/(3·5) + …)."""
    with localcontext() as context:
        context.prec = 60
        density = (-z * z / 2).exp() / (2 * PI).sqrt()
        term = total = z
        for odd in range(3, 801, 2):
            term *= z * z / odd
            total += term
        return z * (Decimal("0.5") + density * total) + density


def test_expected_improvement_is_exact_far_from_the_best_too() -> None:
    z = np.arange(-32, 33) / 4  # -8 to 8
    exact = [float(exact_improvement(Decimal(str(each)))) for each in z]
    assert exact[8 * 2] == pytest.approx(7.145e-6, rel=1e-3)  # at -4, by any table
    assert improvement(z) == pytest.approx(exact, rel=1e-12, abs=0)


def test_where_nothing_is_to_be_gained_the_expected_improvement_is_not_negative() -> None:
    z = np.linspace(-60, -8, 2000)
    assert (improvement(z) >= 0).all()
    assert (np.diff(improvement(z[z > -37])) > 0).all()
