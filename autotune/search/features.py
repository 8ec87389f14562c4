"""Configs as points: what a model of the search space measures distances by."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np
from numpy.typing import NDArray

from autotune.space.config import Value
from autotune.space.space import BoundSpace, Param

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Configs as points.

    Attributes:
        points: one row a config, a column spans about [0, 1].
        aspects: for each column, which aspect of the configs it belongs to; an aspect has one length scale.
    """

    points: Matrix
    aspects: NDArray[np.intp]


class Encoder:
    """Configs of one space by their knobs and by the features that the space's file names.

    A knob with several numbers has two aspects: its size, by the logarithm, since tiles and splits work by
    ratios; and its identity, a column a value, since 48 is not always between 32 and 64. Words and switches
    have the second alone. A feature has its size.

    Args:
        configs: what a feature's column spans [0, 1] over.
    """

    def __init__(self, space: BoundSpace, configs: Sequence[Mapping[str, Value]]) -> None:
        self._space = space
        sizes = self._sizes(configs)
        self._low = sizes.min(axis=0, initial=np.inf)
        span = sizes.max(axis=0, initial=-np.inf) - self._low
        # A feature that is the same for all configs says nothing.
        self._telling = np.flatnonzero(span > 0)
        self._span = span
        self.spanned = self._encoded(configs, sizes)
        """The configs that it was made with, encoded."""

    def encode(self, configs: Sequence[Mapping[str, Value]], space: BoundSpace | None = None) -> Features:
        """One row a config.

        Args:
            space: whose features are meant, of the same knobs at another layer; None: the encoder's own.
        """
        return self._encoded(configs, self._sizes(configs, space))

    def _encoded(self, configs: Sequence[Mapping[str, Value]], features: Matrix) -> Features:
        columns: list[list[float]] = []
        aspects: list[int] = []
        for param in self._space.params:
            for column in _aspects(param, [config.get(param.name) for config in configs]):
                aspects += [max(aspects, default=-1) + 1] * len(column)
                columns += column
        knobs = np.array(columns, np.float64).T.reshape(len(configs), len(columns))
        own = self._telling
        sizes = (features[:, own] - self._low[own]) / self._span[own]
        first = max(aspects, default=-1) + 1
        return Features(
            np.hstack([knobs, sizes]), np.array([*aspects, *range(first, first + len(own))], np.intp)
        )

    def of_knobs(self, names: Collection[str]) -> list[int]:
        """The columns of some knobs; a feature's column is no knob's."""
        columns: list[int] = []
        first = 0
        for param in self._space.params:
            width = sum(len(aspect) for aspect in _aspects(param, []))
            columns += range(first, first + width) if param.name in names else []
            first += width
        return columns

    def _sizes(self, configs: Sequence[Mapping[str, Value]], space: BoundSpace | None = None) -> Matrix:
        count = len(self._space.space.features)
        sizes = [(space or self._space).features(config) for config in configs]
        return np.log2(np.array(sizes, np.float64).reshape(len(configs), count))


def _aspects(param: Param, values: Sequence[object]) -> list[list[list[float]]]:
    """The aspects of a knob, each with its columns."""
    if len(param.values) < 2:
        return []
    numbers = [v for v in param.values if type(v) is int]
    # Two configs of unlike values are then 1 apart, squared.
    offered = param.values if len(param.values) > 2 else param.values[1:]
    height = 1 / sqrt(2) if len(param.values) > 2 else 1.0
    identity = [[height * (v == o and type(v) is type(o)) for v in values] for o in offered]
    if len(numbers) <= 2:
        return [identity]
    places = _places(numbers)
    return [[[places.get(v, 0.5) if type(v) is int else 0.5 for v in values]], identity]


def _places(numbers: Sequence[int]) -> dict[int, float]:
    ordered = sorted(numbers)
    raw = [log2(n) for n in ordered] if ordered[0] > 0 else [float(rank) for rank in range(len(ordered))]
    return {n: (place - raw[0]) / (raw[-1] - raw[0]) for n, place in zip(ordered, raw, strict=True)}
