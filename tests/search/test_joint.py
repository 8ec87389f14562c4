"""The model that a stage's searches share."""

from pathlib import Path

import numpy as np
import pytest

from autotune.problem.layer import Stage
from autotune.replay.table import Table
from autotune.search import joint
from autotune.search.features import Encoder
from autotune.search.gaussian import GaussianProcess
from autotune.search.joint import JointModel
from autotune.search.study import StageSearch
from autotune.space.config import Config
from tests.replay.conftest import table as table
from tests.replay.synthetic import chance
from tests.search.test_study import us_of
from tests.spaces import toy_space


def pair(folder: Path, *, budget: int = 30) -> tuple[StageSearch, StageSearch]:
    """Two searches, at 1 and 4 tokens, of one model."""
    model = JointModel(0)
    one, two = (
        StageSearch(toy_space(folder), sampler="joint", seed=0, budget=budget, model=model, tokens=tokens)
        for tokens in (1, 4)
    )
    return one, two


def test_equal_seeds_give_equal_proposals(tmp_path: Path) -> None:
    def asked() -> list[Config]:
        one, _ = pair(tmp_path)
        made = []
        while (ask := one.ask()) is not None:
            made.append(ask.config)
            one.tell(ask.config, us_of(ask.config))
        return made

    assert asked() == asked()


def test_a_search_profits_from_what_another_has_found(tmp_path: Path) -> None:
    one, two = pair(tmp_path)
    while (ask := one.ask()) is not None:
        one.tell(ask.config, us_of(ask.config))
    best = one.best
    assert best is not None
    first = []
    for _ in range(4):
        ask = two.ask()
        assert ask is not None
        first.append(ask.config)
        two.tell(ask.config, us_of(ask.config) + 5)
    assert best[0] in first[1:], "the neighbour's best is tried as soon as the default was"


def test_it_learns_where_the_good_configs_are(table: Table) -> None:
    part = table.stages[Stage.STAGE1]
    space = table.space(4, Stage.STAGE1)
    optimum = part.optimum(4)[1]
    needed = []
    for seed in range(5):
        search = StageSearch(space, sampler="joint", seed=seed, budget=space.size - 1)
        count = 0
        while (ask := search.ask()) is not None:
            count += 1
            us = part.by_config[ask.config].us(4)
            search.tell(ask.config, us)
            if us is not None and us <= 1.03 * optimum:
                break
        needed.append(count)
    assert sorted(needed)[2] <= space.size / 10


def test_failures_are_kept_away_from(tmp_path: Path) -> None:
    one, _ = pair(tmp_path, budget=40)
    tried = []
    while (ask := one.ask()) is not None:
        tried.append(ask.config)
        one.tell(ask.config, None if ask.config["split_k"] == 4 else us_of(ask.config))
    early = sum(config["split_k"] == 4 for config in tried[10:25])
    assert early <= 4


def test_expected_gain_falls_as_the_search_goes_on(tmp_path: Path) -> None:
    model = JointModel(0)
    search = StageSearch(toy_space(tmp_path), sampler="joint", seed=0, budget=45, model=model, tokens=4)
    gains = []
    while (ask := search.ask()) is not None:
        search.tell(ask.config, us_of(ask.config))
        gain = model.expected_gain(0, search.knows)
        if gain is not None:
            gains.append(gain)
    assert gains[0] > gains[-1]
    assert gains[-1] < 0.05


def test_what_is_tried_from_outside_of_its_pool_is_learned_as_well(tmp_path: Path) -> None:
    one, _ = pair(tmp_path)
    for _ in range(12):
        ask = one.ask()
        assert ask is not None
        one.tell(ask.config, us_of(ask.config))
    strange = one.space.default.replaced(tile_n=128, split_k=4, waves_per_eu=2)
    one.observe(strange, 7.0)
    ask = one.ask()
    assert ask is not None
    assert one.space.is_legal(ask.config)


def test_every_third_proposal_of_each_search_is_one_knob_from_the_best_where_it_is_due(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Counted over all searches, the neighbours went to the same few of eight that are asked in turn."""
    due: list[int] = []
    whole = JointModel._due
    monkeypatch.setattr(JointModel, "_due", lambda *given: (due.append(whole(*given)[0]), (due[-1], 1))[1])
    model, space = JointModel(0), toy_space(tmp_path)
    times: list[dict[Config, float]] = [{} for _ in range(8)]
    for tokens in range(1, 9):
        model.join(space, tokens)
    proposals, near = [0] * 8, [0] * 8
    for _ in range(10):
        for output, known in enumerate(times):
            has_say = model.expected_improvement(output) is not None
            config = model.propose(output, known.__contains__)
            assert config is not None
            proposals[output] += model.expected_improvement(output) is not None
            if has_say and proposals[output] % 3 == 0:
                near[output] += config in space.neighbours(
                    min(times[due[-1]], key=times[due[-1]].__getitem__)
                )
            known[config] = us_of(config) * (1 + chance(config.key, output) / 100)
            model.tell(output, config, known[config])
    assert min(near) >= 2


def test_neighbours_are_of_the_best_and_of_good_configs_far_from_every_better_one(tmp_path: Path) -> None:
    model, space = JointModel(0), toy_space(tmp_path)
    output = model.join(space, 4)
    for config in space:
        model.tell(output, config, us_of(config))
    model._ready()
    best, *others = model._incumbents(model._values(), output)
    assert us_of(best) == min(map(us_of, space))
    assert others
    for place, config in enumerate(others, 1):
        apart = [sum(config[k] != better[k] for k in config) for better in (best, *others[: place - 1])]
        assert min(apart) >= 3


def test_the_kernels_lengths_are_held_by_more_than_copies_of_few_results(tmp_path: Path) -> None:
    """Eight token counts that agree are no eight times as many results."""
    model, space = JointModel(0), toy_space(tmp_path)
    for tokens in range(1, 9):
        model.join(space, tokens)
    for config in list(space)[::3]:
        for output in range(8):
            model.tell(output, config, us_of(config))
    free = GaussianProcess(Encoder(space, list(space)).spanned)
    held = model._ready()
    free.rows = list(held.rows)
    for process in (free, held):
        process.fit(model._values(), 40)
    spread = [float(np.ptp(process._log_lengths)) for process in (free, held)]
    assert spread[1] < spread[0] / 2


def test_token_counts_have_their_turns_by_how_far_apart_they_are(tmp_path: Path) -> None:
    """7 and 8 tokens want nearly the same configs, 1 token others."""

    def turns(tokens: list[int]) -> list[int]:
        model, space = JointModel(0), toy_space(tmp_path)
        for count in tokens:
            model.join(space, count)
        model._ready()
        outputs = [model._due(0)[0] for _ in range(120)]
        return [outputs.count(output) for output in range(len(tokens))]

    assert turns([1, 2, 4, 8]) == [30] * 4
    one, two, *_, seven, eight = turns(list(range(1, 9)))
    assert one > two > 2 * seven >= 2 * eight > 0
    assert turns([8, 1, 2])[0] == max(turns([8, 1, 2])), "in any order"
    assert turns([4]) == [120]
    assert min(turns([4, 4])) == 60


def test_the_fastest_by_expectation_and_what_promises_most_at_all_token_counts_come_in_turn(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, space = JointModel(0), toy_space(tmp_path)
    for tokens in (1, 4):
        model.join(space, tokens)
    for config in list(space)[:10]:
        for output in (0, 1):
            model.tell(output, config, us_of(config))
    mean = np.arange(2.0 * space.size).reshape(-1, 2)[::-1]
    gains = np.zeros((space.size, 2))
    gains[20], gains[30] = (0.020, 0.0), (0.019, 0.05)
    monkeypatch.setattr(JointModel, "_gains", lambda *_: gains)
    monkeypatch.setattr(JointModel, "_posterior", lambda *_: (mean, np.ones_like(mean)))
    known = set(list(space)[:10]).__contains__
    assert model.propose(0, known) == model._pool[-1]
    assert model.propose(0, known) == model._pool[30]
    assert model.expected_improvement(0) == 0.020, "what stops a search is what is left to gain there"


def test_a_hope_is_what_the_last_proposal_promised(tmp_path: Path) -> None:
    model, space = JointModel(0), toy_space(tmp_path)
    model.join(space, 4)
    known: dict[Config, float] = {}
    improvements = []
    while len(known) < space.size:
        config = model.propose(0, known.__contains__)
        assert config is not None
        improvements.append(model.expected_improvement(0))
        known[config] = us_of(config)
        model.tell(0, config, known[config])
    assert improvements[:10] == [None] * 10, "no say before the spread"
    told = [improvement for improvement in improvements[10:] if improvement is not None]
    assert len(told) == len(improvements) - 10
    assert told[0] > told[-1] >= 0.0
    assert model.propose(0, known.__contains__) is None
    assert model.propose(0, known.__contains__) is None
    assert model.expected_improvement(0) == 0.0, "nothing is left to gain"


def test_a_search_without_a_model_has_no_hope(tmp_path: Path) -> None:
    search = StageSearch(toy_space(tmp_path), sampler="random", seed=0, budget=20)
    while (ask := search.ask()) is not None:
        search.tell(ask.config, us_of(ask.config))
    assert search.expected_improvement is None


def test_a_pool_too_large_to_weigh_is_narrowed_to_where_the_good_may_be(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(joint, "_NARROWED", 12)
    monkeypatch.setattr(joint, "_WIDE", 20)
    model, space = JointModel(0), toy_space(tmp_path)
    output = model.join(space, 4)
    tried: dict[Config, float] = {}
    while len(tried) < 30:
        config = model.propose(output, tried.__contains__)
        assert config is not None
        tried[config] = us_of(config)
        model.tell(output, config, tried[config])
    assert len(model._pool) < space.size
    assert tried.keys() <= set(model._pool), "what was tried stays known"
    # Every row is still its own config's, and the model has learned of the right ones.
    process = model._ready()
    assert process.points == pytest.approx(model._encoder.encode(model._pool).points)
    assert [model._pool[row] for row in process.rows] == list(tried)


def test_a_pool_prepared_beforehand_changes_no_proposal(tmp_path: Path) -> None:
    def asked(*, prepare: bool) -> list[Config]:
        model, space = JointModel(3), toy_space(tmp_path)
        output = model.join(space, 4)
        if prepare:
            model.prepare()
        tried: list[Config] = []
        for _ in range(15):
            config = model.propose(output, tried.__contains__)
            assert config is not None
            tried.append(config)
            model.tell(output, config, us_of(config))
        return tried

    assert asked(prepare=True) == asked(prepare=False)
