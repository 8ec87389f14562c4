"""Configs as points: what a model of the search space measures distances by."""

from collections.abc import Sequence
from dataclasses import dataclass
from math import log2, sqrt

import numpy as np
from numpy.typing import NDArray

from autotune.config import Config
from autotune.space import Param

Matrix = NDArray[np.float64]


@dataclass(frozen=True)
class Features:
    """Configs as points.

    Attributes:
        points: one row a config, every column within [0, 1].
        aspects: for each column, which aspect of the configs it belongs to; an aspect has one length scale.
    """

    points: Matrix
    aspects: NDArray[np.intp]


def encode(params: Sequence[Param], configs: Sequence[Config]) -> Features:
    """Configs by their knobs.

    A knob with several numbers has two aspects: its size, by the logarithm, since tiles and splits work by
    ratios; and its identity, a column a value, since 48 is not always between 32 and 64. Words and switches
    have the second alone.
    """
    columns: list[list[float]] = []
    aspects: list[int] = []
    for param in params:
        values = [config.get(param.name) for config in configs]
        numbers = [v for v in param.values if type(v) is int]
        if len(param.values) < 2:
            continue
        if len(numbers) > 2:
            places = _places(numbers)
            aspects.append(max(aspects, default=-1) + 1)
            columns.append([places.get(v, 0.5) if type(v) is int else 0.5 for v in values])
        # Two configs of unlike values are then 1 apart, squared.
        offered = param.values if len(param.values) > 2 else param.values[1:]
        height = 1 / sqrt(2) if len(param.values) > 2 else 1.0
        aspects += [max(aspects, default=-1) + 1] * len(offered)
        columns += [[height * (v == o and type(v) is type(o)) for v in values] for o in offered]
    points = np.array(columns, np.float64).T.reshape(len(configs), len(columns))
    return Features(points, np.array(aspects, np.intp))


def _places(numbers: Sequence[int]) -> dict[int, float]:
    ordered = sorted(numbers)
    raw = [log2(n) for n in ordered] if ordered[0] > 0 else [float(rank) for rank in range(len(ordered))]
    return {n: (place - raw[0]) / (raw[-1] - raw[0]) for n, place in zip(ordered, raw, strict=True)}
