"""The search of a problem's layer: pairs of both stages' configs, by the time that decides.

A stage's time is the first look. What it does not say (how the stages, the sort and the quantisation
overlap, what they leave in the caches) is learnt from layers: a Gaussian process of how far a layer's time,
over the default's, is from what the stages' times add up to. Its kernel has a part of each stage's config and
one of both, so that a config that did well beside one partner is tried beside others.
"""

import random
from collections import deque
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from math import exp, log

import numpy as np
from numpy.typing import NDArray

from autotune.problem.layer import Stage
from autotune.results import LayerConfig
from autotune.search.choose import fit, pairs
from autotune.search.features import Encoder, Matrix
from autotune.search.gaussian import improvement, matern
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.space.space import BoundSpace

_LEADERS = 4  # of each stage's best, whose pairs come first
_POOLED = 32  # of each stage's best that the model weighs
_AROUND = 2  # best layers whose stages' neighbours are weighed, whether a stage has tried them or not
_PARTNERS = 6  # configs of the best layers that every pooled config of the other stage is paired with
_BATCH = 4  # proposals between two looks of the model: its latest results are still on the GPU
_SPANNED = 200  # configs that a feature's column spans [0, 1] over
_LENGTH = exp(0.5)
_SHARES = (1.0, 0.6, 0.3)  # variance of stage 1's part, stage 2's and that of both, against each other
_SPREAD = 0.03  # of the residual's logarithm, before there are results to tell
_NOISE = 0.003  # of one measurement's
_FEWEST = 40  # results before the search may end for want of promise
_PROMISE = 0.001  # less expected improvement than this is none
_QUIET = 3  # looks in a row that promise nothing
_AHEAD = 0.15  # of the budget, which may be spent before as much of the stages' is
_MOST_FAILURES = 12  # before anything has a time


@dataclass(frozen=True)
class LayerAsk:
    """A layer to try.

    Attributes:
        origin: see `LayerTrial`.
    """

    config: LayerConfig
    origin: str


class LayerSearch:
    """Ask/tell over pairs of configs, each told by its time over the default's.

    Args:
        default: of the problem: the ratio's base, 1 without being tried.
        stages: the searches of its stages.
        budget: layers.
        seed: equal seeds and equal results give equal proposals.
        allowed: whether a pair can be tried beside the default at all.
        within: the only pairs that there are (a recording's); None: all.
        first: pairs to try before any other, e.g. earlier winners.
        one_config: both stages have the same config.
    """

    def __init__(
        self,
        default: LayerConfig,
        stages: Mapping[Stage, StageSearch],
        *,
        budget: int,
        seed: int = 0,
        allowed: Callable[[LayerConfig], bool] = lambda _: True,
        within: Collection[LayerConfig] | None = None,
        first: Iterable[LayerAsk] = (),
        one_config: bool = False,
    ) -> None:
        self.default = default
        self.budget = budget
        self._stages, self._allowed, self._within = stages, allowed, within
        self._one_config = one_config
        self._rng = random.Random(seed)
        self._first = deque(first)
        self._known: dict[LayerConfig, float | None] = {}
        self._running: set[LayerConfig] = set()
        self._refused: set[tuple[Stage, Config]] = set()
        self._planned: deque[LayerAsk] = deque()
        self._near_by: dict[tuple[Stage, Config], list[Config]] = {}
        self._opened = False
        self._quiet = 0
        self._exhausted_at = -1  # so much was told when there was no pair left to weigh
        self._kernels = {stage: _StageKernel(search.space, seed) for stage, search in stages.items()}
        self.expected_improvement: float | None = None
        """What the last proposals were expected to gain, as a fraction; None: no say yet."""

    @property
    def results(self) -> list[tuple[LayerConfig, float]]:
        """Every layer with a time, by its time over the default's, the least first."""
        ok = [(ratio, pair.key, pair) for pair, ratio in self._known.items() if ratio is not None]
        return [(pair, ratio) for ratio, _, pair in sorted(ok)]

    @property
    def best(self) -> tuple[LayerConfig, float] | None:
        """The best layer told of, with its time over the default's."""
        results = self.results
        return results[0] if results else None

    @property
    def tried(self) -> int:
        """Layers given out or told of."""
        return len(self._known) + len(self._running)

    @property
    def done(self) -> bool:
        """The budget is spent, nothing works, or no stage asks more and nothing promises anything, or no pair
        is left: what a stage is told after that opens the search again."""
        return (
            self.tried >= self.budget
            or (
                (self._quiet >= _QUIET or self._exhausted_at == self._told)
                and all(search.done for search in self._stages.values())
            )
            or (len(self._known) >= _MOST_FAILURES and not any(self._known.values()))
        )

    @property
    def ahead(self) -> bool:
        """Whether it goes through its budget before its stages have shown their best."""
        stages = self._stages.values()
        spent = sum(search.asked for search in stages) / max(1, sum(search.budget for search in stages))
        return self.tried > self.budget * (_AHEAD + spent) and not all(search.done for search in stages)

    @property
    def _told(self) -> int:
        return len(self._known) + sum(search.told for search in self._stages.values())

    def knows(self, pair: LayerConfig) -> bool:
        """Whether it was given out or told of, or is the default."""
        return pair in self._known or pair in self._running or pair == self.default

    def could(self, pair: LayerConfig) -> bool:
        """Whether a pair can be timed beside the default, tried or not."""
        legal = all(search.space.is_legal(pair.of(stage)) for stage, search in self._stages.items())
        return legal and self._open(pair)

    def offer(self, pair: LayerConfig, origin: str) -> None:
        """A pair to try soon: the best of a near shape, say."""
        self._first.append(LayerAsk(pair, origin))

    def ask(self) -> LayerAsk | None:
        """The next layer; None: nothing now, or the search is done."""
        if self.done or not self._ready():
            return None
        while self._first:
            ask = self._first.popleft()
            if self._may(ask.config):
                return self._give(ask)
        for _ in range(2):  # of the leaders all may be known from an earlier run
            if not self._planned:
                self._plan()
            while self._planned:
                ask = self._planned.popleft()
                if self._may(ask.config):
                    return self._give(ask)
        return None

    def tell(self, pair: LayerConfig, ratio: float | None) -> bool:
        """What became of a layer that `ask` gave: its time over the default's, or None.

        Returns:
            Whether it is the best now.
        """
        self._running.discard(pair)
        best = self.best
        self._known[pair] = ratio
        if ratio is None:  # whose stage has no time of its own is to blame
            self._refused |= {
                (stage, pair.of(stage)) for stage, s in self._stages.items() if s.time(pair.of(stage)) is None
            }
        return ratio is not None and (best is None or ratio < best[1])

    def observe(self, pair: LayerConfig, ratio: float | None) -> None:
        """A result of an earlier run."""
        if not self.knows(pair):
            self._known[pair] = ratio

    def refuse(self, pair: LayerConfig, stage: Stage) -> None:
        """A stage of a layer that `ask` gave cannot be compiled: nothing of it is tried again."""
        self._refused.add((stage, pair.of(stage)))
        self.tell(pair, None)

    def _ready(self) -> bool:
        """Whether both stages have a time of the default."""
        return all(search.time(self.default.of(stage)) for stage, search in self._stages.items())

    def _give(self, ask: LayerAsk) -> LayerAsk:
        self._running.add(ask.config)
        return ask

    def _may(self, pair: LayerConfig) -> bool:
        return not self.knows(pair) and self.could(pair)

    def _open(self, pair: LayerConfig) -> bool:
        """Whether a pair of legal configs makes a layer that may be tried."""
        return (
            not any((stage, pair.of(stage)) in self._refused for stage in Stage)
            and (self._within is None or pair in self._within)
            and fit(pair, one_config=self._one_config)
            and self._allowed(pair)
        )

    def _neighbours(self, stage: Stage, config: Config) -> list[Config]:
        if (stage, config) not in self._near_by:
            self._near_by[stage, config] = self._stages[stage].space.neighbours(config)
        return self._near_by[stage, config]

    def _plan(self) -> None:
        """The next few: first the pairs of the stages' leaders, then what the model expects to gain by."""
        if not self._opened:
            self._opened = True
            ranked = [self._stages[stage].results for stage in Stage]
            leaders = pairs(*ranked, per_stage=_LEADERS, one_config=self._one_config)
            self._planned.extend(LayerAsk(pair, "leaders") for pair, _ in leaders[: _LEADERS**2])
            return
        # What a stage has tried is legal, and so are neighbours: the rules are not asked thousands of times.
        pool = [pair for pair in self._pool() if not self.knows(pair) and self._open(pair)]
        if not pool:
            self._exhausted_at = self._told
            return
        gain, near = self._gains(pool)
        order = np.argsort(-gain)
        self.expected_improvement = float(gain[order[0]])
        promising = self.expected_improvement >= _PROMISE or len(self._known) < _FEWEST
        self._quiet = 0 if promising else self._quiet + 1
        chosen = dict.fromkeys(int(row) for row in order[: _BATCH - 1])
        # What one knob more or less does is what the model knows the least of.
        neighbour = next((int(row) for row in order if near[row] and int(row) not in chosen), None)
        if neighbour is not None:
            chosen[neighbour] = None
        self._planned.extend(LayerAsk(pool[row], "neighbour" if near[row] else "model") for row in chosen)

    def _pool(self) -> Iterable[LayerConfig]:
        """Pairs worth weighing: the stages' leaders with each other, and with the best layers' stages."""
        if self._within is not None:
            return self._within
        best = [pair for pair, _ in self.results[:_PARTNERS]] or [self.default]
        parts: dict[Stage, list[Config]] = {}
        for stage, search in self._stages.items():
            leading = [config for config, _ in search.results[:_POOLED]]
            around = [
                near
                for pair in best[:_AROUND]
                for near in self._neighbours(stage, pair.of(stage))
                if search.time(near) is not None or not search.knows(near)
            ]
            parts[stage] = list(dict.fromkeys([*leading, *(pair.of(stage) for pair in best), *around]))
        ones, twos = parts[Stage.STAGE1], parts[Stage.STAGE2]
        if self._one_config:
            return [LayerConfig(config, config) for config in dict.fromkeys([*ones, *twos])]
        few = [[config for config, _ in self._stages[stage].results[: _POOLED // 2]] for stage in Stage]
        pool = dict.fromkeys(LayerConfig(stage1, stage2) for stage1 in few[0] for stage2 in few[1])
        for pair in best:
            pool |= dict.fromkeys(LayerConfig(stage1, pair.stage2) for stage1 in ones)
            pool |= dict.fromkeys(LayerConfig(pair.stage1, stage2) for stage2 in twos)
        return pool

    def _gains(self, pool: Sequence[LayerConfig]) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Expected improvement of each pair, as a fraction, and whether it is one knob from the best."""
        seen = [(self.default, 1.0), *((p, r) for p, r in self._known.items() if r is not None)]
        everything = [pair for pair, _ in seen] + list(pool)
        expected, doubts = self._added_up(everything)
        residual = np.log([ratio for _, ratio in seen]) - expected[: len(seen)]
        sure = np.flatnonzero(sum(doubt[: len(seen)] for doubt in doubts.values()) == 0)
        centre = float(np.median(residual[sure])) if len(sure) > 3 else 0.0
        alike = _SPREAD**2 * self._alike(everything, len(seen))
        # How far layers deviate from their stages' sum is told by the results, once there are some.
        white = np.linalg.solve(_factor(alike[np.ix_(sure, sure)]), residual[sure] - centre)
        scale = (_FEWEST / 4 + float(white @ white)) / (_FEWEST / 4 + len(sure))
        covariance, variance = scale * alike, np.full(len(everything), scale * _SPREAD**2 * sum(_SHARES))
        for stage, doubt in doubts.items():
            # How far off a stage's expected time is, all layers with that config have in common.
            places: dict[Config, int] = {}
            which = np.array([places.setdefault(pair.of(stage), len(places)) for pair in everything])
            covariance += np.multiply.outer(doubt[: len(seen)], doubt) * (which[: len(seen), None] == which)
            variance += doubt**2
        factor = _factor(covariance[:, : len(seen)])
        white = np.linalg.solve(factor, residual - centre)
        mixed = np.linalg.solve(factor, covariance[:, len(seen) :])
        mean = expected[len(seen) :] + centre + mixed.T @ white
        deviation = np.sqrt(np.maximum(variance[len(seen) :] - (mixed**2).sum(axis=0), _NOISE**2))
        best_pair, best = min(seen, key=lambda pair: pair[1])
        gain = deviation * improvement((log(best) - mean) / deviation)
        close = self._near(best_pair)
        return gain, np.array([pair in close for pair in pool], bool)

    def _near(self, best: LayerConfig) -> set[LayerConfig]:
        stage1, stage2 = (self._neighbours(stage, best.of(stage)) for stage in Stage)
        if self._one_config:
            return {LayerConfig(config, config) for config in stage1}
        return {LayerConfig(config, best.stage2) for config in stage1} | {
            LayerConfig(best.stage1, config) for config in stage2
        }

    def _added_up(self, layers: Sequence[LayerConfig]) -> tuple[Matrix, dict[Stage, Matrix]]:
        """Logarithm of what the stages' times add up to, over the default's, and its deviation by each stage.

        What a stage has not tried has the time that its model expects, which may be far off.
        """
        total = np.zeros(len(layers))
        doubts = {}
        base = 0.0
        for stage, search in self._stages.items():
            times = search.expected({pair.of(stage) for pair in [*layers, self.default]})
            stages = [times[pair.of(stage)] for pair in layers]
            total += [time.us for time in stages]
            doubts[stage] = np.array([time.us * time.doubt for time in stages])
            base += times[self.default.of(stage)].us
        return np.log(total / base), {stage: doubt / total for stage, doubt in doubts.items()}

    def _alike(self, layers: Sequence[LayerConfig], seen: int) -> Matrix:
        """Covariance of the first `seen` layers' residuals with all, in units of `_SPREAD` squared."""
        stage1, stage2 = (
            self._kernels[stage].between([pair.of(stage) for pair in layers], seen) for stage in Stage
        )
        first, second, both = _SHARES
        alike: Matrix = first * stage1 + second * stage2 + both * stage1 * stage2
        return alike


def _factor(covariance: Matrix) -> Matrix:
    """Of results with this covariance and the noise of one measurement."""
    return np.asarray(np.linalg.cholesky(covariance + _NOISE**2 * np.eye(len(covariance))))


class _StageKernel:
    """How alike the configs of one stage are."""

    def __init__(self, space: BoundSpace, seed: int) -> None:
        self._space, self._seed = space, seed
        self._encoder: Encoder | None = None
        self._points: dict[Config, NDArray[np.float64]] = {}

    def between(self, configs: Sequence[Config], seen: int) -> Matrix:
        """Kernel of the first `seen` configs with all."""
        if self._encoder is None:
            drawn = self._space.draw(random.Random(self._seed), min(_SPANNED, self._space.size))
            self._encoder = Encoder(self._space, [*drawn, self._space.default])
        new = [config for config in dict.fromkeys(configs) if config not in self._points]
        if new:
            self._points |= dict(zip(new, self._encoder.encode(new).points / _LENGTH, strict=True))
        points = np.array([self._points[config] for config in configs])
        some = points[:seen]
        squares = (some**2).sum(axis=1)[:, None] + (points**2).sum(axis=1)[None, :] - 2 * some @ points.T
        return matern(np.maximum(squares, 0.0))
