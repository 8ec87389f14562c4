"""What recordings of other layers let a search expect, before and beside its own results.

Layers of unlike sizes agree on much: on how slow a pair of knobs is, and on peculiarities of single configs
that no model of the knobs explains. So each recorded table has a Gaussian process of its own, which gives a
time to every config of the space, and where a config was recorded itself, nearly that time; a search's own
process then learns only how far times are from a mixture of these means. Before there are results, a table's
share in it is how far it agrees with the others; then the weights come from the results: a table that says
nothing of this layer loses its part.
"""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from math import log

import numpy as np
from numpy.typing import NDArray

from autotune.search.features import Encoder, Matrix
from autotune.search.gaussian import GaussianProcess
from autotune.search.recorded import Recorded
from autotune.space.config import Config
from autotune.space.space import BoundSpace

NEAR = 1.2  # times the best: up to here a model sees times in full
BEYOND = 0.3  # of what lies beyond: how slow a bad config is should not bend the model where the good are
_REACH = 8.0  # times the most or least columns recorded, beyond which a table says nothing
_FEWEST = 20  # configs of a table; with fewer it is left aside
_FITTED = 320  # configs of a table that its process is of: more cost more than they tell of others
_SURE = 0.8  # how far a config's mean follows its own recorded time
_STEPS = 40  # of fitting a table's kernel
_USELESS = log(1.15)  # from which a config is of no use
_TRUST = 0.5  # deviation of the mixture's weight, all tables together, from one
_MOST = 1.5  # weight of a table
_LEAST_AGREEMENT = 0.02  # of a table with the others: against them all it is heard by its evidence alone
_MANY = 1000  # configs whose means take longer than starting threads
_THREADS = 4  # more want more memory than they save time: some 100 MB each
_LEVEL = 1e-2  # precision of a level, in units of the values: there need not be a result


class Prior:
    """Expected times of a space's configs by recordings of other layers.

    Args:
        tables: of one stage.
        spaces: the searched spaces, one an output.
        encoder: of their configs.
    """

    def __init__(self, tables: Sequence[Recorded], spaces: Sequence[BoundSpace], encoder: Encoder) -> None:
        fitting = [_fitting(table, spaces[0]) for table in tables]
        enough = [table for table in fitting if len(table.configs) >= _FEWEST]
        with ThreadPoolExecutor(_THREADS) as threads:  # numpy, which does most of the work, lets others run
            means = list(threads.map(lambda table: _TableMean(table, spaces, encoder), enough))
        self._tables = [mean for mean in means if mean.says.any()]
        self._outputs = len(spaces)

    def __bool__(self) -> bool:
        return bool(self._tables)

    def means(self, configs: Sequence[Config], points: Matrix) -> NDArray[np.float64]:
        """[tables, points, outputs]: `bent` logarithms of times over the fastest's; 0: nothing is said.

        Args:
            points: the configs as the encoder makes them.
        """
        if len(configs) < _MANY:
            means = [table.mean(configs, points) for table in self._tables]
        else:
            with ThreadPoolExecutor(_THREADS) as threads:
                means = list(threads.map(lambda table: table.mean(configs, points), self._tables))
        return np.array(means).reshape(len(means), len(points), self._outputs)


def shares(means: NDArray[np.float64]) -> NDArray[np.float64]:
    """What each table counts for before there are results, [tables]: its correlation with the others.

    Of two nobody knows which is wrong.

    Args:
        means: see `Prior.means`.
    """
    if len(means) < 3:
        return np.full(len(means), 1 / max(1, len(means)))
    flat = means - means.mean(axis=1, keepdims=True)
    flat /= np.maximum(np.linalg.norm(flat, axis=1, keepdims=True), 1e-9)
    rest = flat.sum(axis=0) - flat
    alike = (flat * rest).sum(axis=1) / np.maximum(np.linalg.norm(rest, axis=1), 1e-9)
    agreement = np.maximum(alike.mean(axis=1), _LEAST_AGREEMENT)
    share: NDArray[np.float64] = agreement / agreement.sum()
    return share


def mixture(
    process: GaussianProcess, values: Matrix, means: NDArray[np.float64], share: NDArray[np.float64]
) -> Matrix:
    """The trend of a process, [points, outputs]: the tables' means by weights, and a level an output.

    By generalised least squares under the process' kernel, with the mixture by shares as prior; the less a
    share, the surer it is.

    Args:
        values: see `GaussianProcess.posterior`.
        means: see `Prior.means`, of all points of the process, in units of the values.
        share: see `shares`.
    """
    tables, _, outputs = means.shape
    rows = process.rows[: len(values)]
    columns = np.hstack([np.ones((len(rows), 1)), *means[:, rows]])
    columns[np.isnan(values).any(axis=1)] = np.nan
    _, white = process.solved(np.hstack([values, columns]))
    own, level = white[:, :outputs], white[:, outputs]
    said = white[:, outputs + 1 :].reshape(len(rows), tables, outputs)
    weight = float(level @ level) + _LEVEL
    own_flat = own - np.multiply.outer(level, level @ own / weight)
    said_flat = said - np.multiply.outer(level, np.tensordot(level, said, 1) / weight)
    # Outputs are nearly copies of each other: together they count as one.
    noise = np.maximum((own_flat**2).mean(axis=0), 1e-3) * outputs
    among = np.einsum("rto,rso,o->ts", said_flat, said_flat, 1 / noise)
    towards = np.einsum("rto,ro,o->t", said_flat, own_flat, 1 / noise)
    sureness = 1 / (share * _TRUST**2)
    weights = np.linalg.solve(among + np.diag(sureness), towards + sureness * share)
    weights = np.clip(weights, 0.0, _MOST)
    levels = level @ (own - np.tensordot(said, weights, (1, 0))) / weight
    trend: Matrix = np.tensordot(weights, means, 1) + levels
    return trend


def cover(means: NDArray[np.float64], share: NDArray[np.float64], count: int) -> NDArray[np.intp]:
    """Places of configs that between them serve every table at every token count, chosen greedily.

    Args:
        means: see `Prior.means`.
        share: see `shares`.
    """
    weights = np.repeat(share, means.shape[2])
    worth = np.minimum(means.transpose(1, 0, 2).reshape(means.shape[1], -1), _USELESS)
    best = np.full(worth.shape[1], _USELESS)
    chosen: list[int] = []
    while len(chosen) < min(count, len(worth)):
        gains = (best - np.minimum(best, worth)) @ weights
        gains[chosen] = -1.0
        pick = int(np.argmax(gains))
        if gains[pick] <= 0:
            break
        chosen.append(pick)
        best = np.minimum(best, worth[pick])
    return np.array(chosen, np.intp)


class _TableMean:
    """The process of one table.

    Its token counts stand for those of the search at which as many output columns are computed: that, not
    the number of tokens, says how well a config fills the GPU. A config's features are of the layer that it
    ran at.

    Attributes:
        says: [outputs], 1 where the table has a token count that is near enough, else 0.
    """

    def __init__(self, table: Recorded, spaces: Sequence[BoundSpace], encoder: Encoder) -> None:
        space = spaces[0]
        plain = {param.name: param.default for param in space.params}
        # A knob of which the table has one value tells nothing of the others: it is left aside.
        self._aside = encoder.of_knobs({knob for knob in plain if len(table.knobs.get(knob, ())) < 2})
        there = space.of(table.layer)
        rows = [{knob: config.get(knob, value) for knob, value in plain.items()} for config in table.configs]
        logs = bent(np.log(table.ratios))
        logs = np.where(np.isnan(logs), np.nanmax(logs, axis=0), logs)
        # Where the space lacks a knob of the table's, several rows are one config here: none counts alone.
        whole = all(knob in plain for knob, values in table.knobs.items() if len(values) > 1)
        self._recorded = dict(zip(map(Config, rows), logs, strict=True)) if whole else {}
        features = encoder.encode(rows[:_FITTED], there)
        features.points[:, self._aside] = 0.0
        logs = logs[:_FITTED]
        self._centre, self._scale = logs.mean(axis=0), np.maximum(logs.std(axis=0), 1e-6)
        values = (logs - self._centre) / self._scale
        self._process = GaussianProcess(features)
        self._process.rows = list(range(len(values)))
        self._process.fit(values, _STEPS)
        self._pull = self._process.pull(values)
        theirs = log(there.columns / there.tokens) + np.log(table.tokens)
        gaps = np.abs(theirs[None, :] - np.log([space.columns for space in spaces])[:, None])
        self._outputs = gaps.argmin(axis=1)
        self.says = (gaps.min(axis=1) <= log(_REACH)).astype(np.float64)

    def mean(self, configs: Sequence[Config], points: Matrix) -> Matrix:
        """[points, outputs]: see `Prior.means`."""
        seen = points.copy()
        seen[:, self._aside] = 0.0
        logs = self._process.kernel(seen, self._process.points) @ self._pull * self._scale + self._centre
        for place, config in enumerate(configs):
            recorded = self._recorded.get(config)
            if recorded is not None:
                logs[place] += _SURE * (recorded - logs[place])
        says: Matrix = logs[:, self._outputs] * self.says
        return says


def bent(logs: NDArray[np.float64], best: float | NDArray[np.float64] = 0.0) -> NDArray[np.float64]:
    """Logarithms of times, those far above the best's pulled nearer: see `NEAR`."""
    knee = best + log(NEAR)
    made: NDArray[np.float64] = np.where(logs > knee, knee + BEYOND * (logs - knee), logs)
    return made


def _fitting(table: Recorded, space: BoundSpace) -> Recorded:
    """The part of a table whose configs have values that the space offers."""
    # True == 1 in Python, but they are two values with two keys here.
    offered = {param.name: {(type(value), value) for value in param.values} for param in space.params}
    rows = [
        row
        for row, config in enumerate(table.configs)
        if all((type(value), value) in offered[knob] for knob, value in config.items() if knob in offered)
        and not np.isnan(table.ratios[row]).all()
    ]
    occurring = {
        knob: {(type(value), value) for value in (table.configs[row][knob] for row in rows)}
        for knob in table.knobs
    }
    knobs = {
        knob: [value for value in values if (type(value), value) in occurring[knob]]
        for knob, values in table.knobs.items()
    }
    return replace(
        table, knobs=knobs, configs=[table.configs[row] for row in rows], ratios=table.ratios[rows]
    )
