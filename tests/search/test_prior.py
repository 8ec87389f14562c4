"""Recordings of other layers guide a search that they are like, and lose their say where they are not."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from autotune.problem.layer import Layer
from autotune.search import prior
from autotune.search.features import Encoder, Features, Matrix
from autotune.search.gaussian import GaussianProcess
from autotune.search.joint import JointModel
from autotune.search.prior import Prior, bent, cover, mixture, shares
from autotune.search.recorded import Recorded
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.space.space import BoundSpace
from tests.search.test_study import us_of
from tests.spaces import KIMI, TEXT, toy_space

TOKENS = (1, 2, 4)


def table(
    space: BoundSpace, us: Callable[[Config], float], layer: Layer = KIMI, tokens: tuple[int, ...] = TOKENS
) -> Recorded:
    """A table of the whole toy space."""
    configs = list(space)
    times = np.array([us(config) for config in configs])
    knobs = {param.name: param.values for param in space.params}
    return Recorded(
        layer, tokens, knobs, configs, np.repeat(times[:, None] / times.min(), len(tokens), axis=1)
    )


def needed(space: BoundSpace, tables: list[Recorded], seed: int = 0) -> int:
    """Configs that a search tries until it has the best."""
    search = StageSearch(
        space, sampler="joint", seed=seed, budget=space.size - 1, model=JointModel(seed, tables), tokens=4
    )
    least = min(us_of(config) for config in space)
    while (ask := search.ask()) is not None:
        us = us_of(ask.config)
        if us == least:
            return search.asked
        search.tell(ask.config, us)
    return space.size


def means(tables: list[Recorded], spaces: list[BoundSpace], configs: list[Config]) -> Matrix:
    encoder = Encoder(spaces[0], configs)
    return Prior(tables, spaces, encoder).means(configs, encoder.encode(configs).points)


def opposite(config: Config) -> float:
    """What `us_of` finds fast is slow here."""
    return 100 / us_of(config)


def test_the_best_of_a_like_layer_is_tried_at_once(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    assert needed(space, [table(space, us_of)]) <= 3


def test_a_table_that_is_wrong_loses_its_say(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    assert needed(space, [table(space, opposite)]) <= space.size / 2
    assert needed(space, [table(space, us_of), table(space, opposite)]) <= 6


def test_a_knob_of_one_recorded_value_changes_nothing(tmp_path: Path) -> None:
    """A table that was made before a knob was there tells of the others alone."""
    space = toy_space(tmp_path)
    whole = table(space, us_of)
    rows = [row for row, config in enumerate(whole.configs) if config["fast"] is False]
    old = Recorded(
        KIMI,
        TOKENS,
        {**whole.knobs, "fast": [False]},
        [whole.configs[row] for row in rows],
        whole.ratios[rows],
    )
    configs = list(space)
    said = dict(zip(configs, means([old], [space], configs)[0, :, 0], strict=True))
    for config in configs:
        assert said[config] == pytest.approx(said[config.replaced(fast=not config["fast"])], abs=0.02)


def test_a_value_that_the_space_has_no_longer_is_left_out(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    whole = table(space, us_of)
    gone = Recorded(
        KIMI,
        TOKENS,
        {**whole.knobs, "tile_n": [32, 64, 128, 512]},
        [*whole.configs, {**whole.configs[0], "tile_n": 512}],
        np.vstack([whole.ratios, np.full((1, 3), 0.5)]),
    )
    configs = list(space)
    assert means([gone], [space], configs) == pytest.approx(means([whole], [space], configs))


def test_a_config_that_was_recorded_itself_has_nearly_that_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Though the process is of the first few alone, and knows nothing of this config's peculiarity."""
    monkeypatch.setattr(prior, "_FITTED", 25)
    space = toy_space(tmp_path)
    whole = table(space, us_of)
    odd = whole.ratios.copy()
    odd[-1] = 1.9 * odd.max()
    configs = list(space)
    usual = means([whole], [space], configs)[0, -1]
    said = means([Recorded(KIMI, TOKENS, whole.knobs, configs, odd)], [space], configs)[0, -1]
    assert said == pytest.approx(0.8 * bent(np.log(odd[-1]))[:1] + 0.2 * usual, rel=0.1)
    renamed = {**whole.knobs, "gone": [1, 2]}
    twice = [{**config, "gone": n} for n in (1, 2) for config in configs]
    split = Recorded(KIMI, TOKENS, renamed, twice, np.vstack([whole.ratios, odd]))
    assert (means([split], [space], configs)[0, -1] < said / 2).all(), "two rows are one config here"


def test_token_counts_are_matched_by_the_columns_that_are_computed(tmp_path: Path) -> None:
    """Half of the experts a token: 4 tokens there are as much work as 2 here."""
    space = toy_space(tmp_path, tokens=2)
    whole = table(space, us_of, Layer("other", 7168, 256, 384, 4, 8))
    other = np.array([[1.0, 1.1, 1.2]]) * np.where(whole.ratios < 1.2, whole.ratios, 1.2)
    configs = list(space)
    there = Recorded(whole.layer, TOKENS, whole.knobs, configs, other)
    said = means([there], [space], configs)[0, :, 0]
    assert said == pytest.approx(bent(np.log(other[:, 2])), abs=0.05)


def test_far_from_what_was_recorded_nothing_is_said(tmp_path: Path) -> None:
    near, far = toy_space(tmp_path, tokens=16), toy_space(tmp_path, tokens=320)
    configs = list(near)
    said = means([table(near, us_of)], [near, far], configs)
    assert said[:, :, 0].any()
    assert not said[:, :, 1].any()
    assert not Prior([table(near, us_of)], [far], Encoder(near, configs))
    few = table(near, us_of)
    few = Recorded(KIMI, TOKENS, few.knobs, few.configs[:10], few.ratios[:10])
    assert not Prior([few], [near], Encoder(near, configs)), "ten configs are no table"


def test_a_recorded_configs_features_are_of_the_layer_that_it_ran_at(tmp_path: Path) -> None:
    """As many columns of tiles in half of the layer are twice as many in the whole."""
    share = '[[features]]\nname = "share"\nsize = "ceil_div(model_dim, tile_n)"\ndoc = "for the test"\n'
    space = toy_space(tmp_path, text=TEXT + share)
    configs = list(space)
    encoder = Encoder(space, configs)
    half = Layer("half", 3584, 256, 384, 8, 8)
    (of_table,) = Prior([table(space, us_of, half)], [space], encoder)._tables
    here, there = encoder.encode(configs).points, of_table._process.points
    assert there[:, :-1] == pytest.approx(here[:, :-1])
    assert there[:, -1] == pytest.approx(here[:, -1] - 0.5)  # the column spans 56 to 224


def test_the_mixture_is_of_the_tables_that_are_right() -> None:
    rng = np.random.default_rng(0)
    process = GaussianProcess(Features(rng.random((60, 3)), np.arange(3)))
    said = rng.standard_normal((3, 60, 2))
    for row in range(40):
        process.add(row)
    values = 5 + said[1, :40] + 0.05 * rng.standard_normal((40, 2))
    values[7] = np.nan  # under way
    trend = mixture(process, values, said, shares(said))
    assert trend[40:] == pytest.approx(5 + said[1, 40:], abs=0.8)
    # Against all that it says, a table has no weight at all, not a negative one.
    against = mixture(process, -said[0, :40], said[:1], np.ones(1))
    assert against.std(axis=0) == pytest.approx(0.0, abs=1e-9)


def test_without_results_the_mixture_is_by_shares() -> None:
    process = GaussianProcess(Features(np.random.default_rng(0).random((9, 3)), np.arange(3)))
    said = np.random.default_rng(1).standard_normal((2, 9, 1))
    process.add(4)
    trend = mixture(process, np.full((1, 1), np.nan), said, shares(said))
    assert trend == pytest.approx(said.mean(axis=0))
    uneven = mixture(process, np.full((1, 1), np.nan), said, np.array([0.9, 0.1]))
    assert uneven == pytest.approx(0.9 * said[0] + 0.1 * said[1])


def test_the_few_that_between_them_serve_all_tables_come_first() -> None:
    # Three tables with one token count each: the first is good at all, two are the best of one.
    ratios = np.array([[1.03, 1.0, 1.3, 1.3], [1.03, 1.3, 1.01, 1.3], [1.03, 1.3, 1.3, 1.3]])
    logs = np.log(ratios)[:, :, None]
    even = np.full(3, 1 / 3)
    assert cover(logs, even, 4).tolist() == [0, 1, 2]
    assert cover(logs, even, 1).tolist() == [0]
    assert cover(logs, np.array([0.01, 0.98, 0.01]), 1).tolist() == [2], "the second table counts most"
    assert cover(np.zeros((0, 3, 1)), np.zeros(0), 3).tolist() == []


def test_a_table_that_agrees_with_no_other_has_no_share() -> None:
    """Of three that are alike, one permuted and one upside down, the search begins with the three."""
    rng = np.random.default_rng(0)
    truth = rng.standard_normal((200, 2))
    alike = [truth + 0.5 * rng.standard_normal(truth.shape) for _ in range(3)]
    share = shares(np.array([*alike, rng.permutation(alike[0]), -alike[1]]))
    assert share.sum() == pytest.approx(1.0)
    assert share[:3].min() > 0.25
    assert share[3:].max() < 0.1
    assert shares(np.array([truth, -truth])).tolist() == [0.5, 0.5], "of two nobody knows which is wrong"
    assert shares(np.zeros((3, 9, 1))) == pytest.approx(np.full(3, 1 / 3)), "what says nothing"
    assert shares(np.zeros((0, 9, 1))).tolist() == []


def test_what_is_expected_of_a_config_follows_the_table(tmp_path: Path) -> None:
    space = toy_space(tmp_path)
    model = JointModel(0, [table(space, us_of)])
    output = model.join(space, 4)
    known: dict[Config, float] = {}
    for _ in range(12):
        config = model.propose(output, known.__contains__)
        assert config is not None
        known[config] = 3 * us_of(config)
        model.tell(output, config, known[config])
    rest = [config for config in space if config not in known]
    expected = model.expected(output, rest)
    assert expected is not None
    best = min(known.values())
    for config in rest:
        if us_of(config) * 3 < 1.2 * best:
            assert expected[config].us == pytest.approx(3 * us_of(config), rel=0.05)
