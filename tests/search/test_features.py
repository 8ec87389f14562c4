"""Configs as points."""

import numpy as np

from autotune.config import UNSET, Config, Value
from autotune.search.features import encode
from autotune.space import Param


def param(*values: Value) -> Param:
    return Param("knob", values, values[0], "")


def squares(*values: Value) -> dict[tuple[Value, Value], float]:
    """Squared distances of configs that differ in one knob."""
    points = encode([param(*values)], [Config({"knob": value}) for value in values]).points
    return {
        (a, b): float(((points[i] - points[j]) ** 2).sum())
        for i, a in enumerate(values)
        for j, b in enumerate(values)
    }


def test_numbers_are_as_far_apart_as_their_ratio() -> None:
    apart = squares(16, 32, 64, 256)
    assert apart[16, 32] == apart[32, 64] < apart[64, 256] < apart[16, 256]


def test_two_numbers_of_unlike_value_never_coincide() -> None:
    apart = squares(1, 1000, 1001)
    assert apart[1000, 1001] > 0.9


def test_words_are_equally_far_from_each_other() -> None:
    apart = squares("loop", "arrive", "atomic")
    assert np.allclose([apart["loop", "arrive"], apart["arrive", "atomic"], apart["loop", "atomic"]], 1.0)


def test_unset_and_switches_are_values_of_their_own() -> None:
    assert squares(UNSET, True)[UNSET, True] == 1.0
    assert squares(UNSET, 1, 2, 4)[UNSET, 1] > 0.9


def test_a_knob_without_choice_says_nothing() -> None:
    features = encode([param(16)], [Config({"knob": 16})])
    assert features.points.shape == (1, 0)
    assert len(features.aspects) == 0


def test_every_column_is_within_bounds() -> None:
    values: list[Value] = [UNSET, 0, 1, 3, 7]
    points = encode([param(*values)], [Config({"knob": v}) for v in values]).points
    assert points.min() >= 0.0
    assert points.max() <= 1.0
