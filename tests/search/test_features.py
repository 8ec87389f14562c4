"""Configs as points."""

from collections.abc import Sequence

import numpy as np

from autotune.search.features import Encoder
from autotune.space.config import UNSET, Config, Value, value_text
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace
from tests.spaces import KIMI, MI325X

HEAD = 'backend = "toy"\ngeneration = "one"\nstage = "stage1"\n'
TILES = """
[params.tile]
values = [16, 32, 64, 128]
default = 16
doc = "a tile"

[params.depth]
values = [1, 2, 4]
default = 1
doc = "a depth"

[[features]]
name = "in-flight"
size = "tile * depth"
doc = "what is in flight"

[[features]]
name = "same"
size = "model_dim"
doc = "equal for every config"
"""


def bound(text: str) -> BoundSpace:
    return parse_space(HEAD + text).at(KIMI, 4, MI325X)


def knob(*values: Value) -> BoundSpace:
    """A space of one knob."""
    texts = [f'"{value_text(v)}"' if v is UNSET or isinstance(v, str) else value_text(v) for v in values]
    return bound(f'[params.knob]\nvalues = [{", ".join(texts)}]\ndefault = {texts[0]}\ndoc = ""\n')


def tiles(*pairs: tuple[int, int]) -> list[Config]:
    return [Config({"tile": tile, "depth": depth}) for tile, depth in pairs]


def squares(*values: Value) -> dict[tuple[Value, Value], float]:
    """Squared distances of configs that differ in one knob."""
    configs = [Config({"knob": value}) for value in values]
    points = Encoder(knob(*values), configs).encode(configs).points
    return {
        (a, b): float(((points[i] - points[j]) ** 2).sum())
        for i, a in enumerate(values)
        for j, b in enumerate(values)
    }


def in_flight(over: Sequence[Config], configs: Sequence[Config]) -> list[float]:
    """The last column, where the feature stands."""
    return [float(x) for x in Encoder(bound(TILES), over).encode(configs).points[:, -1]]


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
    features = Encoder(knob(16), [Config({"knob": 16})]).encode([Config({"knob": 16})])
    assert features.points.shape == (1, 0)
    assert len(features.aspects) == 0


def test_every_column_of_what_it_was_made_for_is_within_bounds() -> None:
    values: list[Value] = [UNSET, 0, 1, 3, 7]
    configs = [Config({"knob": value}) for value in values]
    points = Encoder(knob(*values), configs).encode(configs).points
    assert points.min() >= 0.0
    assert points.max() <= 1.0


def test_a_feature_spans_the_configs_given_by_its_logarithm() -> None:
    given = tiles((16, 1), (16, 4), (64, 1), (64, 4))
    assert np.allclose(in_flight(given, given), [0.0, 0.5, 0.5, 1.0])


def test_a_feature_has_one_column_and_an_aspect_of_its_own() -> None:
    given = list(bound(TILES))
    features = Encoder(bound(TILES), given).encode(given)
    # Two knobs of a size and an identity each; what is equal for all configs adds nothing.
    assert features.aspects.tolist() == [0, *[1] * 4, 2, *[3] * 3, 4]
    assert features.points.shape == (12, 10)


def test_a_feature_that_is_the_same_for_all_configs_given_says_nothing() -> None:
    given = tiles((16, 4), (32, 2), (64, 1))
    features = Encoder(bound(TILES), given).encode(tiles((16, 4), (128, 4)))
    assert max(features.aspects) == 3, "its column is missing even where a later config differs"
    assert np.isfinite(features.points).all()


def test_a_config_that_was_not_given_is_on_the_same_scale() -> None:
    given = tiles((16, 1), (64, 4))
    assert np.allclose(in_flight(given, tiles((128, 4), (32, 1))), [1.25, 0.25])
    encoder = Encoder(bound(TILES), given)
    every = tiles((16, 1), (64, 4), (128, 4))
    alone = np.vstack([encoder.encode([config]).points for config in every])
    assert np.array_equal(encoder.encode(every).points, alone)


def test_no_config_makes_no_row() -> None:
    encoder = Encoder(bound(TILES), tiles((16, 1), (64, 4)))
    assert encoder.encode([]).points.shape == (0, 10)
