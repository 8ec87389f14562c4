"""What a stage's search gives out, and in which order."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from autotune.search.samplers import sampler_names
from autotune.search.study import Ask, StageSearch
from autotune.space.config import Config
from tests.spaces import toy_space


def us_of(config: Config) -> float:
    """A landscape with one optimum."""
    tile, split = int(str(config["tile_n"])), int(str(config["split_k"]))
    return (
        10 + abs(tile - 64) / 8 + abs(split - 2) + 3 * bool(config["fast"]) + int(config["waves_per_eu"] or 0)
    )


def search(
    folder: Path, *, budget: int = 10, sampler: str = "tpe", seed: int = 0, **kw: object
) -> StageSearch:
    return StageSearch(toy_space(folder), sampler=sampler, seed=seed, budget=budget, **kw)  # type: ignore[arg-type]


def drain(made: StageSearch) -> list[Ask]:
    asks = []
    while (ask := made.ask()) is not None:
        asks.append(ask)
        made.tell(ask.config, us_of(ask.config))
    return asks


def test_the_shipped_default_comes_first_and_seeds_next(tmp_path: Path) -> None:
    near = toy_space(tmp_path).default.replaced(split_k=2)
    made = search(tmp_path, seeds=[Ask(near, "published")])
    first, second, *rest = drain(made)
    assert (first.config, first.origin) == (made.space.default, "default")
    assert second == Ask(near, "published")
    assert {ask.origin for ask in rest} <= {"tpe", "neighbour"}


def test_a_seed_of_another_device_is_fitted_to_this_space(tmp_path: Path) -> None:
    foreign = Config({"tile_n": 32, "split_k": 99, "pdl": True})
    made = search(tmp_path, seeds=[Ask(foreign, "earlier winner")])
    made.ask()
    second = made.ask()
    assert second == Ask(made.space.default.replaced(tile_n=32), "earlier winner")


def test_a_seed_that_is_illegal_here_is_left_out(tmp_path: Path) -> None:
    illegal = toy_space(tmp_path).default.replaced(tile_n=128, split_k=2, waves_per_eu=1)
    made = search(tmp_path, budget=10, seeds=[Ask(illegal, "earlier winner")])
    assert illegal not in [ask.config for ask in drain(made)]


@pytest.mark.parametrize("sampler", sampler_names())
@settings(max_examples=8, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(seed=st.integers(0, 1000), budget=st.integers(1, 30))
def test_every_config_is_legal_and_no_config_is_given_twice(
    tmp_path: Path, sampler: str, seed: int, budget: int
) -> None:
    if sampler == "gp":
        pytest.importorskip("torch")
        pytest.importorskip("scipy")
        budget = min(budget, 12)
    made = search(tmp_path, budget=budget, sampler=sampler, seed=seed)
    asks = drain(made)
    assert len(asks) == len({ask.config for ask in asks}) == budget
    assert all(made.space.is_legal(ask.config) for ask in asks)


def test_a_space_that_fits_the_budget_is_swept_whole(tmp_path: Path) -> None:
    made = search(tmp_path, budget=10_000)
    assert {ask.config for ask in drain(made)} == set(made.space)
    assert made.done
    assert made.ask() is None


def test_equal_seeds_give_equal_searches(tmp_path: Path) -> None:
    assert drain(search(tmp_path, budget=25, seed=3)) == drain(search(tmp_path, budget=25, seed=3))


def test_a_suggestion_known_already_becomes_an_untried_neighbour_of_the_best(tmp_path: Path) -> None:
    made = search(tmp_path, budget=40, seed=1)
    for ask in drain(made):
        if ask.origin == "neighbour":
            return
    pytest.fail("TPE repeated nothing in 40 asks of a space of 60")


def test_what_was_observed_is_not_asked_again_and_counts_towards_the_budget(tmp_path: Path) -> None:
    made = search(tmp_path, budget=5)
    known = list(made.space)[:3]
    for config in known:
        made.observe(config, us_of(config))
    asks = drain(made)
    assert len(asks) == 2
    assert not {ask.config for ask in asks} & set(known)
    assert len(made.results) == 5


def test_observing_twice_is_observing_once(tmp_path: Path) -> None:
    made = search(tmp_path)
    made.observe(made.space.default, 12.0)
    made.observe(made.space.default, 99.0)
    assert made.results == [(made.space.default, 12.0)]


def test_it_joins_in_what_another_search_asks_for(tmp_path: Path) -> None:
    made = search(tmp_path)
    config = made.space.default.replaced(tile_n=32)
    assert made.join(config)
    assert not made.join(config)
    made.tell(config, 11.0)
    assert made.best == (config, 11.0)


def test_it_does_not_join_in_what_is_illegal_here_or_beyond_its_budget(tmp_path: Path) -> None:
    made = search(tmp_path, budget=2)
    assert not made.join(made.space.default.replaced(tile_n=128, split_k=2, waves_per_eu=1))
    assert made.join(made.space.default.replaced(tile_n=32))
    assert not made.join(made.space.default.replaced(tile_n=128)), "the default's place is kept for it"
    assert [ask.origin for ask in drain(made)] == ["default"]


def test_failures_count_but_never_become_the_best(tmp_path: Path) -> None:
    made = search(tmp_path, budget=20)
    while (ask := made.ask()) is not None:
        made.tell(ask.config, None if ask.config["fast"] else us_of(ask.config))
    assert made.asked == 20
    assert not any(config["fast"] for config, _ in made.results)


def test_results_are_sorted_the_fastest_first(tmp_path: Path) -> None:
    made = search(tmp_path, budget=15)
    drain(made)
    times = [us for _, us in made.results]
    assert times == sorted(times)


@pytest.mark.parametrize("sampler", ["joint", "random"])
def test_it_stops_when_little_gain_is_to_be_expected_and_says_what_it_left(
    tmp_path: Path, sampler: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("autotune.search.study._PATIENCE", 5)
    made = search(tmp_path, budget=45, sampler=sampler, stop_when=0.4)
    asked = len(drain(made))
    assert 30 <= asked < 45
    assert made.done
    assert made.stopped is not None
    assert f"{made.space.size - asked} of {made.space.size} legal configs were not tried" in made.stopped
    assert "--stop-when 0.4" in made.stopped


def test_it_never_stops_early_unless_asked_to(tmp_path: Path) -> None:
    made = search(tmp_path, budget=45)
    assert len(drain(made)) == 45
    assert made.stopped is None


def test_a_stopped_search_joins_no_more(tmp_path: Path) -> None:
    made = search(tmp_path, budget=45, sampler="joint", stop_when=0.4)
    tried = {ask.config for ask in drain(made)}
    assert not any(made.join(config) for config in made.space if config not in tried)
