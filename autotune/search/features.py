"""Configs as points: what a model of the search space measures distances by."""

from collections.abc import Sequence
from math import log2

import numpy as np
from numpy.typing import NDArray

from autotune.config import Config
from autotune.space import Param

Matrix = NDArray[np.float64]


def encode(params: Sequence[Param], configs: Sequence[Config]) -> Matrix:
    """One row a config, one or more columns a knob, every column within [0, 1].

    Numbers are placed by their logarithm, since tiles and splits work by ratios; one that may be unset has a
    second column that says so. Words and switches have a column a value, two values share one.
    """
    columns: list[list[float]] = []
    for param in params:
        values = [config.get(param.name) for config in configs]
        numbers = [v for v in param.values if isinstance(v, int) and not isinstance(v, bool)]
        words = [v for v in param.values if not isinstance(v, int) or isinstance(v, bool)]
        if len(numbers) > 1:
            places = _places(numbers)
            columns.append([places.get(v, 0.5) if type(v) is int else 0.5 for v in values])
            columns += [[float(v is word) for v in values] for word in words]
        elif len(param.values) == 2:
            columns.append([float(v == param.values[1] and type(v) is type(param.values[1])) for v in values])
        elif len(param.values) > 2:
            columns += [[float(v == word and type(v) is type(word)) for v in values] for word in param.values]
    return np.array(columns, np.float64).T.reshape(len(configs), len(columns))


def _places(numbers: Sequence[int]) -> dict[int, float]:
    ordered = sorted(numbers)
    raw = [log2(n) for n in ordered] if ordered[0] > 0 else [float(rank) for rank in range(len(ordered))]
    return {n: (place - raw[0]) / (raw[-1] - raw[0]) for n, place in zip(ordered, raw, strict=True)}
