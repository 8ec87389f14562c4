"""Searching a part of a space, and trying what the user names."""

from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.errors import UserError
from autotune.problem.layer import Problem, Stage
from autotune.search.study import Ask, StageSearch
from autotune.space.config import Config, Value
from autotune.space.read import shipped_spaces
from autotune.space.restrict import narrowed, parse_restriction
from autotune.space.space import BoundSpace
from autotune.store.store import Store
from autotune.tuning.run import RunRequest, run
from tests.live_stand_in import TARGET, TINY, StandIn
from tests.spaces import KIMI, MI325X

SPACES = {stage: shipped_spaces("triton")[stage].at(KIMI, 4, MI325X) for stage in Stage}


def _narrow(*texts: str) -> Mapping[Stage, BoundSpace]:
    return narrowed(SPACES, [parse_restriction(text) for text in texts], "m4")


def _values(space: BoundSpace, knob: str) -> tuple[Value, ...]:
    return next(param.values for param in space.params if param.name == knob)


def test_a_knob_is_narrowed_at_every_stage_that_has_it() -> None:
    parts = _narrow("tile_k=512,256", "reduce=atomic")
    assert _values(parts[Stage.STAGE1], "tile_k") == _values(parts[Stage.STAGE2], "tile_k") == (256, 512)
    assert _values(parts[Stage.STAGE2], "reduce") == ("atomic",)


def test_or_at_the_one_that_is_named() -> None:
    parts = _narrow("stage1:tile_k=256")
    assert _values(parts[Stage.STAGE1], "tile_k") == (256,)
    assert parts[Stage.STAGE2] is SPACES[Stage.STAGE2]


def test_every_config_of_a_part_is_one_of_the_whole_and_has_the_values() -> None:
    part = _narrow("stage2:tile_k=128", "stage2:tile_n=64", "stage2:num_warps=4", "group=1")[Stage.STAGE2]
    whole = SPACES[Stage.STAGE2]
    configs = list(part)
    assert 0 < len(configs) == part.size < whole.size
    assert all(whole.is_legal(config) for config in configs)
    assert {(config["tile_k"], config["tile_n"], config["num_warps"]) for config in configs} == {(128, 64, 4)}
    assert part.space.digest == whole.space.digest  # its trials count for the whole


@pytest.mark.parametrize(
    ("texts", "named"),
    [
        (["tile_q=1"], "stage1 has tile_m, tile_n, tile_k"),
        (["stage1:reduce=atomic"], "no knob reduce here: stage1 has"),
        (["tile_k=7"], "use 128, 256, 512, 1024"),
        (["tile_k=128,7"], "tile_k=7"),
        (["stage3:tile_k=128"], "stage1:KNOB=VALUE"),
        (["tile_k"], "KNOB=VALUE"),
        (["tile_k="], "KNOB=VALUE"),
        (["=128"], "KNOB=VALUE"),
        (["tile_k=128", "stage1:tile_k=256"], "twice"),
    ],
)
def test_what_no_space_has_is_refused_with_what_it_has(texts: list[str], named: str) -> None:
    with pytest.raises(UserError, match=r".*") as refused:
        _narrow(*texts)
    assert named in str(refused.value)


def test_where_both_stages_have_one_config_no_stage_is_named() -> None:
    with pytest.raises(UserError, match="leave out stage1:"):
        narrowed(SPACES, [parse_restriction("stage1:tile_k=256")], "m4", one_config=True)


SPACE = StandIn().space(TINY, 2, Stage.STAGE1, TARGET.device)
OTHER_US = next(v for v in _values(SPACE, "us") if v != SPACE.default["us"])


def _part() -> BoundSpace:
    """Without the default."""
    both = dict.fromkeys(Stage, SPACE)
    return narrowed(both, [parse_restriction(f"us={OTHER_US}")], "m2")[Stage.STAGE1]


@pytest.mark.parametrize("sampler", ["joint", "tpe", "random"])
@pytest.mark.parametrize("budget", [2, 3, 100])
def test_a_search_of_a_part_tries_what_ships_and_nothing_else_outside(sampler: str, budget: int) -> None:
    part = _part()
    search = StageSearch(part, sampler=sampler, seed=0, budget=budget)
    asked = []
    while (ask := search.ask()) is not None:
        search.tell(ask.config, 10.0 + len(asked))
        asked.append(ask.config)
    assert asked[0] == SPACE.default
    assert not part.is_legal(asked[0])
    assert all(config["us"] == OTHER_US for config in asked[1:])
    assert len(set(asked)) == len(asked) == min(budget, part.size + 1)
    assert search.best == (SPACE.default, 10.0)


def test_stored_results_of_the_whole_count_inside_the_part_only() -> None:
    part = _part()
    search = StageSearch(part, sampler="tpe", seed=0, budget=100)
    counted = [search.observe(config, 9.0) for config in SPACE]
    assert sum(counted) == part.size + 1  # and the default
    assert search.done


def test_an_earlier_winner_outside_is_left_out_and_a_published_config_is_not() -> None:
    outside = next(c for c in SPACE if c["us"] not in (OTHER_US, SPACE.default["us"]))
    asked = {
        label: StageSearch(_part(), sampler="tpe", seed=0, budget=9, seeds=[Ask(outside, label)])
        for label in ("earlier", "published", "asked")
    }
    tried = {}
    for label, search in asked.items():
        tried[label] = []
        while (ask := search.ask()) is not None:
            search.tell(ask.config, 1.0)
            tried[label].append(ask.config)
    assert [outside in configs for configs in tried.values()] == [False, True, True]


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


REQUEST = RunRequest(
    backend=StandIn.name,
    problems=[Problem(TINY, 2)],
    target=replace(TARGET, live=False, name="offline:stand-in"),
    trials=100,
    seed=0,
    sampler="tpe",
    workers=1,
)


def _tried(store: Store, run_id: int) -> set[Config]:
    return {t.config for t in store.trials_of(run_id) if t.stage is Stage.STAGE1 and t.origin != "race"}


def test_trials_of_a_part_count_for_the_whole_and_the_other_way_round(store: Store) -> None:
    first = run(replace(REQUEST, knobs=(f"us={OTHER_US}",)), store, Progress())
    part = _tried(store, first.run)
    assert part == {SPACE.default, *_part()}
    second = run(REQUEST, store, Progress())
    assert _tried(store, second.run) == set(SPACE) - part
    third = Progress()
    run(replace(REQUEST, knobs=(f"us={OTHER_US}",)), store, third)
    assert (third.done, third.resumed) == (0, 2 * len(part))


def test_what_the_user_names_is_tried_whatever_the_budget(store: Store) -> None:
    wanted = [c for c in SPACE if c != SPACE.default][:2]
    done = run(
        replace(REQUEST, trials=1, tries=tuple(f"stage1:{config}" for config in wanted)), store, Progress()
    )
    assert _tried(store, done.run) == {SPACE.default, *wanted}


def test_what_is_no_config_is_refused_before_anything_runs(store: Store) -> None:
    with pytest.raises(UserError, match="us=1 is not in"):
        run(replace(REQUEST, tries=("stage1:us=1",)), store, Progress())
    assert store.runs() == []
