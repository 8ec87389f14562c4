"""The model that the searches of one stage share: what one shape's times say of another's.

Neighbouring token counts agree on which configs are good, and one binary serves them all, so the searches of
a stage at several token counts feed one model: a Gaussian process with an output a token count. Each search
asks for what it is itself expected to gain most from; what is compiled for one is measured at all that share
the binary.
"""

import random
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from autotune.processes import interrupt
from autotune.search.features import Encoder, Matrix
from autotune.search.gaussian import GaussianProcess, improvement
from autotune.search.prior import BEYOND, NEAR, Prior, bent, cover, mixture, shares
from autotune.search.recorded import Recorded
from autotune.space.config import Config
from autotune.space.space import BoundSpace

POOL = 16_384  # configs that the model weighs against each other; larger spaces are sampled
_NARROWED = 4096  # so many of a larger pool stay once there are _WIDE results: it is known where not to look
_WIDE = 256
_FIRST = 10  # configs spread over the space before the model has a say
_REFIT = 1.25  # the kernel is fitted anew when there are so many times more results
_SPREAD = 300  # configs that a spread-out one is picked from
_LENGTHS = 0.1, 0.3  # of an aspect: results are few, outputs nearly copies, and fits without a hold overfit
_TURNS = 3  # of a search's proposals: a neighbour, the least expected time, the most expected improvement
_NEAREST = 0.05  # ratio's logarithm up to which token counts are as good as one
_FAR_BEHIND = -4.0  # deviations: less than 1e-5 of one is expected to be gained
_INCUMBENTS, _APART = 4, 3  # so many good configs, so many knobs apart, whose neighbours are tried


@dataclass(frozen=True)
class Expected:
    """A config's time, microseconds, and the deviation of its logarithm: 0 where it was measured."""

    us: float
    doubt: float = 0.0


@dataclass(frozen=True)
class _Basis:
    """What a model proposes from, before it is told anything."""

    pool: list[Config]
    encoder: Encoder
    prior: Prior
    means: NDArray[np.float64]


class JointModel:
    """Proposes configs of several searches over equal knobs.

    Args:
        seed: equal seeds and equal results give equal proposals.
        tables: recordings of other layers: see `autotune.search.prior`.
    """

    def __init__(self, seed: int, tables: Sequence[Recorded] = ()) -> None:
        self._tables = tables
        self._means = np.zeros((0, 0, 0))
        self._shares = np.zeros(0)
        self._rng = random.Random(seed)
        self._spaces: list[BoundSpace] = []
        self._tokens: list[int] = []
        self._proposals: list[int] = []
        self._improvements: list[float | None] = []
        self._us: dict[Config, dict[int, float | None]] = {}
        self._pool: list[Config] = []
        self._index: dict[Config, int] = {}
        self._basis: Future[_Basis] | None = None
        self._process: GaussianProcess | None = None
        self._started: list[Config] = []
        self._next_fit = _FIRST
        self._scale: dict[int, float] = {}
        self._bend: dict[int, tuple[float, float]] = {}  # mean and knee of an output's bent log times
        self._measured = np.zeros((0, 0), bool)

    def join(self, space: BoundSpace, tokens: int) -> int:
        """Adds a search; its number among the outputs. All join before the first proposal."""
        self._spaces.append(space)
        self._tokens.append(tokens)
        self._proposals.append(0)
        self._improvements.append(None)
        return len(self._spaces) - 1

    def prepare(self) -> None:
        """Begins, in the background, with what the first proposal waits for: a large space takes seconds.

        What is tried before any proposal need not wait for it.
        """
        if self._spaces:
            thread = ThreadPoolExecutor(1, thread_name_prefix="model")
            self._basis = thread.submit(self._gathered)
            thread.shutdown(wait=False)

    def start(self, config: Config) -> None:
        """`config` is tried: the model counts on a result to come."""
        if config not in self._us:
            self._us[config] = {}
            self._started.append(config)

    def tell(self, output: int, config: Config, us: float | None) -> None:
        """A result: microseconds, or None for a failure."""
        self.start(config)
        self._us[config][output] = us

    def propose(self, output: int, known: Callable[[Config], bool]) -> Config | None:
        """The config to try next for `output`; None: the pool has nothing untried.

        In turn the most promising neighbour of a good one: what one knob less or more does is what the model
        knows the least of, and what is within 1 % of the best is often one knob away. Then what is expected
        to be the fastest, since deviations are often taken for too small. Both at the output whose turn it
        is: see `_due`. Then that of the most expected improvement at `output`, and at the others on average.

        Args:
            known: whether the search has had a config already.
        """
        process = self._ready()
        values = self._values()
        finished = int((~np.isnan(values).any(axis=1)).sum())
        if len(self._started) < _FIRST or finished < 3:
            promising = self._first_free(self._leading, output, known) if self._prior else None
            return promising or self._first_free(self._spread(), output, known)
        if finished >= self._next_fit:
            if finished >= _WIDE and len(self._pool) > _NARROWED:
                self._narrow(process, values)
            residuals = values - self._trend(process, values)[process.rows]
            process.fit(residuals, steps=40 if self._next_fit == _FIRST else 15)
            self._next_fit = int(finished * _REFIT) + 1
        # Counted by search: with one count for all, the neighbours would fall to the same searches each time.
        self._proposals[output] += 1
        kind = self._proposals[output] % _TURNS
        posterior = mean, _ = self._posterior(process, values)
        if kind == 0:
            target, turn = self._due(kind)
            for whose in (turn, 1):  # those of the best where the other's are all known
                near = self._first_free(self._neighbours(mean, values, target, whose), output, known)
                if near is not None:
                    return near
        best, self._improvements[output] = self._most_gain(posterior, values, output, known)
        if kind == 1:
            target, _ = self._due(kind)
            return self._first_free(np.argsort(mean[:, target]), output, known)
        return best

    def _due(self, kind: int) -> tuple[int, int]:
        """The output that the next proposal of a kind is for, and how many it then had.

        By ratios of token counts: 7 and 8 tokens want nearly the same, so that with equal turns most
        proposals would be for what is known, and few for 1, where other configs are good.
        """
        served = self._served[kind]
        target = int(np.argmin((served + 1) / self._spacing))
        served[target] += 1
        return target, int(served[target])

    def expected_improvement(self, output: int) -> float | None:
        """What the last proposal for `output` by expected improvement promised; None: there was none yet.

        Gains shrink as results come, so an old promise is too high rather than too low.
        """
        return self._improvements[output]

    def expected(self, output: int, configs: Sequence[Config]) -> dict[Config, Expected] | None:
        """What the model expects of each; None: no say yet."""
        if self._process is None or self._next_fit == _FIRST or output not in self._bend:
            return None
        process = self._ready()
        new = [config for config in configs if config not in self._index]
        if new:
            self._extend(process, new)
        rows = [self._index[config] for config in configs]
        mean, deviation = self._posterior(process, self._values())
        centre, knee = self._bend[output]
        logs = mean[rows, output] * self._scale[output] + centre
        off = deviation[rows, output] * self._scale[output]
        straight = np.where(logs > knee, knee + (logs - knee) / BEYOND, logs)
        off = np.where(logs > knee, off / BEYOND, off)
        return {c: Expected(exp(us), float(by)) for c, us, by in zip(configs, straight, off, strict=True)}

    def expected_gain(self, output: int, known: Callable[[Config], bool]) -> float | None:
        """The most that an untried config is expected to gain, as a fraction; None: no say yet."""
        if self._process is None or self._next_fit == _FIRST:
            return None
        process, values = self._ready(), self._values()
        return self._most_gain(self._posterior(process, values), values, output, known)[1]

    def _most_gain(
        self,
        posterior: tuple[Matrix, Matrix],
        values: Matrix,
        output: int,
        known: Callable[[Config], bool],
    ) -> tuple[Config | None, float]:
        """The untried config that promises most, and the most that one promises at `output` alone.

        None and 0: nothing is untried. What is compiled is measured at every token count that the binary
        serves, so what it promises there counts as well.
        """
        gains = self._gains(*posterior, values, output)
        others = np.delete(gains, output, axis=1)
        worth = gains[:, output] + (others.mean(axis=1) if others.size else 0.0)
        best = self._first_free(np.argsort(-worth), output, known)
        most = self._first_free(np.argsort(-gains[:, output]), output, known)
        return best, 0.0 if most is None else float(gains[self._index[most], output])

    def _first_free(
        self, order: NDArray[np.intp], output: int, known: Callable[[Config], bool]
    ) -> Config | None:
        """The first of the pool's rows that the search may try."""
        for row in order:
            config: Config = self._pool[row]
            if not known(config) and self._spaces[output].is_legal(config):
                return config
        return None

    def _ready(self) -> GaussianProcess:
        """The process, with every config that was started."""
        if self._process is None:
            basis = self._gathered() if self._basis is None else interrupt.result_of(self._basis)
            self._pool, self._encoder = basis.pool, basis.encoder
            self._prior, self._means = basis.prior, basis.means
            self._index = {config: row for row, config in enumerate(self._pool)}
            self._process = GaussianProcess(self._encoder.spanned, _LENGTHS)
            self._shares = shares(self._means)
            self._leading = cover(self._means, self._shares, _FIRST)
            self._spacing = _spacing(self._tokens)
            self._served = np.zeros((_TURNS, len(self._tokens)))
        new = [config for config in self._started if config not in self._index]
        if new:
            self._extend(self._process, new)
        for config in self._started[len(self._process.rows) :]:
            self._process.add(self._index[config])
        return self._process

    def _gathered(self) -> "_Basis":
        pool = self._gather()
        encoder = Encoder(self._spaces[0], pool)
        prior = Prior(self._tables, self._spaces, encoder)
        return _Basis(pool, encoder, prior, prior.means(pool, encoder.spanned.points))

    def _extend(self, process: GaussianProcess, new: Sequence[Config]) -> None:
        points = self._encoder.encode(new).points
        process.extend(points)
        self._means = np.concatenate([self._means, self._prior.means(new, points)], axis=1)
        self._index |= {config: len(self._pool) + n for n, config in enumerate(new)}
        self._pool += new

    def _gather(self) -> list[Config]:
        """Legal configs to choose from: all of a small space, a seeded sample of a large one."""
        pool: dict[Config, None] = {}
        for number, space in enumerate(self._spaces):
            if any(space.has_configs_of(earlier) for earlier in self._spaces[:number]):
                continue
            if space.size <= POOL:
                pool.update(dict.fromkeys(space))
            elif len(pool) < POOL:
                pool.update(dict.fromkeys(space.draw(self._rng, POOL - len(pool))))
        return list(pool)

    def _narrow(self, process: GaussianProcess, values: Matrix) -> None:
        """Drops what is least likely to be best anywhere: asking costs in proportion to the pool."""
        mean, deviation = self._posterior(process, values)
        least = (mean - 2 * deviation).min(axis=1)
        least[process.rows] = np.inf  # they stay anyhow
        kept = sorted({*np.argsort(least)[:_NARROWED].tolist(), *process.rows})
        process.narrow(kept)
        self._pool = [self._pool[row] for row in kept]
        self._means = self._means[:, kept] if self._prior else self._means
        self._index = {config: row for row, config in enumerate(self._pool)}

    def _values(self) -> Matrix:
        """Standardised log times [started, outputs]; a row without any result is NaN.

        A failure counts as the slowest seen. An output that has no result yet takes that of the nearest token
        count.
        """
        raw = np.full((len(self._started), len(self._spaces)), np.nan)
        failed = np.zeros(raw.shape, bool)
        for row, config in enumerate(self._started):
            for output, us in self._us[config].items():
                if us is None:
                    failed[row, output] = True
                else:
                    raw[row, output] = log(us)
        values = np.full(raw.shape, np.nan)
        for output in range(raw.shape[1]):
            column = raw[:, output]
            seen = column[~np.isnan(column)]
            if not len(seen):
                continue
            logs = bent(column, seen.min())
            logs[failed[:, output]] = np.nanmax(logs)
            self._scale[output] = max(float(np.nanstd(logs)), 1e-6)
            centre = float(np.nanmean(logs))
            self._bend[output] = centre, float(seen.min() + log(NEAR))
            values[:, output] = (logs - centre) / self._scale[output]
        self._measured = ~np.isnan(values)
        return self._filled(values)

    def _filled(self, values: Matrix) -> Matrix:
        """Gaps filled from the nearest token count that has a result for the same config."""
        gaps = np.isnan(values) & ~np.isnan(values).all(axis=1, keepdims=True)
        for row, output in np.argwhere(gaps):
            there = [other for other in range(values.shape[1]) if self._measured[row, other]]
            own = log(self._tokens[output])
            nearest = min(there, key=lambda other: abs(log(self._tokens[other]) - own))
            values[row, output] = values[row, nearest]
        return values

    def _spread(self) -> NDArray[np.intp]:
        """Rows of a sample of the pool, the farthest from everything started first."""
        assert self._process is not None
        sample = np.array(self._rng.sample(range(len(self._pool)), min(_SPREAD, len(self._pool))))
        started = self._process.points[self._process.rows]
        if not len(started):
            return sample
        gaps = self._process.points[sample][:, None, :] - started[None, :, :]
        order: NDArray[np.intp] = sample[np.argsort(-(gaps**2).sum(axis=2).min(axis=1))]
        return order

    def _neighbours(self, mean: Matrix, values: Matrix, output: int, turn: int) -> NDArray[np.intp]:
        """Pool rows one knob away from the best at `output`, or in other turns from the best far from it.

        The fastest by the model come first.
        """
        bases = self._incumbents(values, output)
        base = bases[0 if turn % 2 else min(turn // 2 % _INCUMBENTS, len(bases) - 1)]
        rows = [self._index[near] for near in self._spaces[output].neighbours(base) if near in self._index]
        near = np.array(rows, np.intp)
        order: NDArray[np.intp] = near[np.argsort(mean[near, output])]
        return order

    def _incumbents(self, values: Matrix, output: int) -> list[Config]:
        """The best config at `output`, then the best of those that are `_APART` knobs from every better one.

        A local optimum holds all proposals otherwise: its own neighbours look good, and what is far away
        looks as good as the model has seen there.
        """
        column = np.where(self._measured[:, output], values[:, output], np.inf)
        chosen: list[Config] = []
        for row in np.argsort(column)[: 4 * _FIRST]:
            config = self._started[row]
            if all(_knobs_apart(config, other) >= _APART for other in chosen):
                chosen.append(config)
            if len(chosen) == _INCUMBENTS or not np.isfinite(column[row]):
                break
        return chosen

    def _posterior(self, process: GaussianProcess, values: Matrix) -> tuple[Matrix, Matrix]:
        """Mean and deviation of every pool row and output."""
        trend = self._trend(process, values)
        mean, deviation = process.posterior(values - trend[process.rows])
        return mean + trend, deviation

    def _trend(self, process: GaussianProcess, values: Matrix) -> Matrix:
        """What recordings let expect of every pool row and output; 0 without any."""
        if not self._prior:
            return np.zeros((len(self._pool), values.shape[1]))
        scales = np.array([self._scale.get(output, 1.0) for output in range(values.shape[1])])
        return mixture(process, values, self._means / scales, self._shares)

    def _gains(self, mean: Matrix, deviation: Matrix, values: Matrix, output: int) -> Matrix:
        """Expected improvements [pool, outputs], as fractions of the best's time.

        Elsewhere than at `output` what is far behind the best there counts as none: the function is slow.
        """
        gains: Matrix = np.zeros((len(mean), values.shape[1]))
        for at in range(values.shape[1]):
            own = values[self._measured[:, at], at]
            best = float(own.min() if len(own) else np.nanmin(values[:, at]))
            z = (best - mean[:, at]) / deviation[:, at]
            rows = np.flatnonzero(z > (-np.inf if at == output else _FAR_BEHIND))
            gains[rows, at] = deviation[rows, at] * improvement(z[rows]) * self._scale.get(at, 1.0)
        return gains


def _spacing(tokens: Sequence[int]) -> NDArray[np.float64]:
    """How far each count is from its neighbours, by the logarithm of the ratio; of one alone 1."""
    if len(tokens) < 2:
        return np.ones(len(tokens))
    logs = np.log(tokens)
    order = np.argsort(logs, kind="stable")
    gaps = np.diff(logs[order])
    apart = np.empty(len(tokens))
    apart[order] = (np.append(gaps[0], gaps) + np.append(gaps, gaps[-1])) / 2
    return np.maximum(apart, _NEAREST)


def _knobs_apart(a: Config, b: Config) -> int:
    return sum(b.get(name) != value for name, value in a.items())
