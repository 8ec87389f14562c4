"""A Gaussian process over a fixed set of points, several outputs at once, kept up to date point by point.

The outputs (one config at several token counts) share the kernel and with it one Cholesky factor; each
has its own scale. Between fits of the kernel a new point costs one row: O(points seen x points known of).
Kernel: Matern 5/2 with a length an aspect, plus a nugget, which stands for what the columns do not explain:
two configs that look alike to the model still differ, and repeatably so.
"""

from collections.abc import Sequence
from math import erfc, exp, log, pi, sqrt

import numpy as np
from numpy.typing import NDArray

from autotune.search.features import Features, Matrix

_LENGTHS = (0.5, 1.0)  # of an aspect's log length: mean, deviation; a column spans [0, 1]
_NUGGET_PRIOR = (log(1e-2), 1.5)
_LENGTH_BOUNDS = (-2.5, 3.0)
_NUGGET_BOUNDS = (log(1e-5), log(0.3))
_BLOCK = 32  # rows solved for at a time
_CACHED = 32_768  # numbers that a step works on at once: what comes and goes by the CPU's caches
_FITTED = 160  # results that the kernel is fitted to at most


class GaussianProcess:
    """Posterior of every point, given some.

    Args:
        features: of all points; each aspect has its own length.
        lengths: mean and deviation that an aspect's log length is expected to have.
    """

    def __init__(self, features: Features, lengths: tuple[float, float] = _LENGTHS) -> None:
        self.points = features.points
        self._aspects = features.aspects
        self._lengths = lengths
        self._log_lengths = np.full(int(self._aspects.max(initial=-1)) + 1, lengths[0])
        self._log_nugget = _NUGGET_PRIOR[0]
        self.rows: list[int] = []
        self._factor = np.zeros((0, 0))
        self._whitened = np.zeros((0, len(self.points)))
        self._explained = np.zeros(len(self.points))

    def add(self, row: int) -> None:
        """Takes a point into account; its values may come later."""
        known = len(self.rows)
        covariance = self.kernel(self.points[row : row + 1], self.points)[0]
        self.rows.append(row)
        if known == self._factor.shape[0]:
            self._grow()
        mixed = self._whitened[:known, row]
        pivot = sqrt(max(1.0 + exp(self._log_nugget) - float(mixed @ mixed), 1e-10))
        self._factor[known, :known] = mixed
        self._factor[known, known] = pivot
        self._whitened[known] = (covariance - mixed @ self._whitened[:known]) / pivot
        self._explained += self._whitened[known] ** 2

    def extend(self, points: Matrix) -> None:
        """More points to know of."""
        known = len(self.rows)
        covariance = self.kernel(self.points[self.rows], points)
        whitened = np.zeros((self._whitened.shape[0], len(points)))
        whitened[:known] = _forward(self._factor[:known, :known], covariance, np.ones(known, bool))
        self.points = np.vstack([self.points, points])
        self._whitened = np.hstack([self._whitened, whitened])
        self._explained = np.append(self._explained, (whitened**2).sum(axis=0))

    def narrow(self, kept: Sequence[int]) -> None:
        """Knows of these points alone, those added among them. `fit` comes next."""
        place = {row: index for index, row in enumerate(kept)}
        self.points = self.points[kept]
        self.rows = [place[row] for row in self.rows]

    def fit(self, values: Matrix, steps: int) -> None:
        """Fits lengths and nugget to what is known, by gradient steps on the posterior density.

        Args:
            values: [points, outputs], standardised, for all rows added; NaN where not known yet.
        """
        known = np.flatnonzero(~np.isnan(values).any(axis=1))
        if len(known) > _FITTED:
            # The best half and an even sample of the rest: what the good region looks like matters most.
            ranked = known[np.argsort(values[known].mean(axis=1))]
            rest = ranked[_FITTED // 2 :]
            spread = rest[np.linspace(0, len(rest) - 1, _FITTED - _FITTED // 2).astype(np.intp)]
            known = np.concatenate([ranked[: _FITTED // 2], spread])
        apart = _apart(self.points[np.array(self.rows)[known]], self._aspects)
        start = self._log_lengths, self._log_nugget
        lengths, nugget = _fitted(apart, values[known], *start, self._lengths, steps)
        self._log_lengths, self._log_nugget = lengths, nugget
        self._factor_anew()

    def posterior(self, values: Matrix) -> tuple[Matrix, Matrix]:
        """Mean and deviation of every point and output.

        The deviation is that of a time to come, nugget included: the next config's own peculiarity counts.

        Args:
            values: as for `fit`; a row that is not known yet is believed to come out as predicted.
        """
        known, whitened = self.solved(values)
        mean = self._whitened[: len(values)].T @ whitened
        scale = np.maximum((whitened[known] ** 2).mean(axis=0), 1e-6)
        left = np.maximum(1.0 - self._explained, 0.0) + exp(self._log_nugget)
        return mean, np.sqrt(left[:, None] * scale[None, :])

    def mean(self, values: Matrix, rows: Sequence[int]) -> Matrix:
        """Posterior mean [rows, outputs] of some points alone.

        Args:
            values: as for `posterior`.
        """
        _, whitened = self.solved(values)
        mean: Matrix = self._whitened[: len(values), rows].T @ whitened
        return mean

    def solved(self, values: Matrix) -> tuple[NDArray[np.bool_], Matrix]:
        """Which rows are known, and the factor's solution of them: 0 where they are not."""
        count = len(values)
        known = np.asarray(~np.isnan(values).any(axis=1), bool)
        return known, _forward(self._factor[:count, :count], values, known)

    def pull(self, values: Matrix) -> Matrix:
        """What each point's value adds to others' means: times `kernel`, it is the mean of any points.

        Args:
            values: as for `posterior`, all known.
        """
        _, whitened = self.solved(values)
        count = len(values)
        return np.asarray(np.linalg.solve(self._factor[:count, :count].T, whitened), np.float64)

    def _factor_anew(self) -> None:
        """What adding all rows one by one comes to."""
        covariance = self.kernel(self.points[self.rows], self.points)
        noisy = covariance[:, self.rows] + exp(self._log_nugget) * np.eye(len(self.rows))
        self._factor = np.asarray(np.linalg.cholesky(noisy))
        self._whitened = _forward(self._factor, covariance, np.ones(len(self.rows), bool))
        self._explained = (self._whitened**2).sum(axis=0)

    def _grow(self) -> None:
        """Room for more rows: twice as much, so that adding stays cheap."""
        old = self._factor.shape[0]
        new = max(32, 2 * old)
        factor, whitened = np.zeros((new, new)), np.zeros((new, len(self.points)))
        factor[:old, :old], whitened[:old] = self._factor, self._whitened[:old]
        self._factor, self._whitened = factor, whitened

    def kernel(self, some: Matrix, others: Matrix) -> Matrix:
        """Covariance of some points with others, [some, others]."""
        weights = np.exp(-self._log_lengths)[self._aspects]
        a, b = some * weights, others * weights
        sizes, other_sizes = (a**2).sum(axis=1)[:, None], (b**2).sum(axis=1)[None, :]
        covariance = np.empty((len(a), len(b)))
        step = max(1, _CACHED // max(1, len(b)))
        for rows in (slice(start, start + step) for start in range(0, len(a), step)):
            squares = sizes[rows] + other_sizes - 2 * a[rows] @ b.T
            covariance[rows] = matern(np.maximum(squares, 0.0))
        return covariance


def _forward(factor: Matrix, values: Matrix, known: NDArray[np.bool_]) -> Matrix:
    """Solves factor · x = values for a lower triangle, by blocks; rows that are not known have x = 0."""
    solved = np.zeros(values.shape)
    for start in range(0, len(values), _BLOCK):
        block = slice(start, start + _BLOCK)
        rows = np.flatnonzero(known[block]) + start
        rest = values[rows] - factor[rows, :start] @ solved[:start]
        solved[rows] = np.linalg.solve(factor[np.ix_(rows, rows)], rest)
    return solved


def matern(squares: Matrix) -> Matrix:
    """Matern 5/2 of squared scaled distances."""
    r = np.sqrt(5 * squares)
    covariance: Matrix = (1 + r + r * r / 3) * np.exp(-r)
    return covariance


def improvement(z: NDArray[np.float64]) -> NDArray[np.float64]:
    """Expected improvement z Φ(z) + φ(z) of a standard normal, z deviations ahead of the best.

    Φ(z) = erfc(-z / √2) / 2 by the C library's erfc, since numpy has none and scipy is no dependency: it
    keeps its relative precision in the tail, where an erf would round to one. What the sum cancels there
    costs a factor z² only, so that 12 digits are left at z = -8. Below z = -38 it is 0.
    """
    tail = np.fromiter(map(erfc, (z * -sqrt(0.5)).tolist()), np.float64, len(z)) / 2
    gain: NDArray[np.float64] = np.maximum(z * tail + np.exp(-z * z / 2) / sqrt(2 * pi), 0.0)
    return gain


def _apart(points: Matrix, aspects: NDArray[np.intp]) -> NDArray[np.float64]:
    """Squared distances by aspect: [points, points, aspects]."""
    distances = np.zeros((len(points), len(points), int(aspects.max(initial=-1)) + 1))
    for column, aspect in enumerate(aspects):
        distances[:, :, aspect] += (points[:, None, column] - points[None, :, column]) ** 2
    return distances


def _fitted(
    differences: NDArray[np.float64],
    values: Matrix,
    log_lengths: NDArray[np.float64],
    log_nugget: float,
    expected: tuple[float, float],
    steps: int,
) -> tuple[NDArray[np.float64], float]:
    """The best lengths and nugget met on a walk down the negative log posterior (Adam)."""
    at = np.append(log_lengths, log_nugget)
    means = np.append(np.full(len(log_lengths), expected[0]), _NUGGET_PRIOR[0])
    deviations = np.append(np.full(len(log_lengths), expected[1]), _NUGGET_PRIOR[1])
    low = np.append(np.full(len(log_lengths), _LENGTH_BOUNDS[0]), _NUGGET_BOUNDS[0])
    high = np.append(np.full(len(log_lengths), _LENGTH_BOUNDS[1]), _NUGGET_BOUNDS[1])
    momentum, energy = np.zeros_like(at), np.zeros_like(at)
    best, least = at.copy(), np.inf
    for step in range(1, steps + 1):
        cost, slope = _cost(differences, values, at)
        cost += float((((at - means) / deviations) ** 2).sum()) / 2
        slope = slope + (at - means) / deviations**2
        if cost < least:
            best, least = at.copy(), cost
        momentum = 0.9 * momentum + 0.1 * slope
        energy = 0.99 * energy + 0.01 * slope**2
        moved = momentum / (1 - 0.9**step) / (np.sqrt(energy / (1 - 0.99**step)) + 1e-8)
        at = np.clip(at - 0.15 * moved, low, high)
    return best[:-1], float(best[-1])


def _cost(differences: Matrix, values: Matrix, at: NDArray[np.float64]) -> tuple[float, NDArray[np.float64]]:
    """Negative log likelihood, each output's scale at its optimum, and its gradient.

    With C = K + nugget, S = yᵀ C⁻¹ y / n an output's scale, the gradient to a parameter p is
    1/2 tr((m C⁻¹ - Σ C⁻¹ y yᵀ C⁻¹ / S) dC/dp) over m outputs.
    """
    count, outputs = values.shape
    squared_weights, nugget = np.exp(-2 * at[:-1]), exp(float(at[-1]))
    r = np.sqrt(5 * (differences @ squared_weights))
    fall = np.exp(-r)
    covariance = (1 + r + r * r / 3) * fall + (nugget + 1e-8) * np.eye(count)
    factor = np.linalg.cholesky(covariance)
    inverse = np.linalg.inv(covariance)
    solved = inverse @ values
    scales = np.maximum((values * solved).sum(axis=0) / count, 1e-6)
    cost = outputs * float(np.log(np.diag(factor)).sum()) + count / 2 * float(np.log(scales).sum())
    weight = outputs * inverse - (solved / scales) @ solved.T
    # d matern / d squares = -5/6 (1 + r) e^-r;  d squares / d log length = -2 difference / length².
    along = weight * (5 / 6 * (1 + r) * fall)
    lengths = np.einsum("ij,ijk->k", along, differences) * squared_weights
    return cost, np.append(lengths, np.trace(weight) * nugget / 2)
