"""What is forgotten is tried again; what a winner rests on stays."""

from dataclasses import replace

import pytest

from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.results import Sample, Status
from autotune.space.config import Config
from autotune.store.forgetting import Forgotten
from autotune.store.records import RunState, ShortListed
from autotune.store.store import Store
from tests.store.examples import DEFAULT, M4, OFFLINE, begin, config, estimated, failed, layer_config, trial


@pytest.fixture
def ended(store: Store) -> int:
    run = begin(store)
    store.record_trial(run, trial(config=config(64)), [Sample(41.0)])
    store.record_trial(run, replace(failed(Status.COMPILE_ERROR), config=config(128)))
    store.end_run(run, RunState.FINISHED)
    return run


def left(store: Store, run: int) -> list[str]:
    return [each.config.key for each in store.trials_of(run)]


def test_by_status(store: Store, ended: int) -> None:
    assert store.forget(status=Status.COMPILE_ERROR) == Forgotten(1, 0)
    assert left(store, ended) == [config(64).key]


def test_by_run_with_the_samples(store: Store, ended: int) -> None:
    other = begin(store)
    store.record_trial(other, trial())
    store.end_run(other, RunState.FINISHED)
    (first, _) = store.trials_of(ended)
    assert store.forget(run=ended) == Forgotten(2, 0)
    assert left(store, ended) == []
    assert store.samples(first.id) == ()
    assert len(left(store, other)) == 1


def test_by_some_knobs(store: Store, ended: int) -> None:
    assert store.forget(config=Config({"tile_k": 64})) == Forgotten(1, 0)
    assert left(store, ended) == [config(128).key]


def test_all_that_is_given_must_apply(store: Store, ended: int) -> None:
    assert store.forget(status=Status.OK, config=Config({"tile_k": 128})) == Forgotten(0, 0)
    assert len(left(store, ended)) == 2


def test_what_shares_a_forgotten_time_goes_too(store: Store) -> None:
    run = begin(store)
    first = store.record_trial(run, trial(config=config(64)))
    store.record_trial(run, trial(config=config(128), merged_into=first))
    store.end_run(run, RunState.FINISHED)
    assert store.forget(config=Config({"tile_k": 64})) == Forgotten(2, 0)


def test_what_a_winner_rests_on_is_kept(store: Store) -> None:
    run = begin(store)
    for stage in Stage:
        store.record_trial(run, estimated(stage, 32))
        store.record_trial(run, estimated(stage, 64))
    entries = [ShortListed(layer_config(32, 32), 0.3)]
    store.record_short_list(
        run, problem=M4, backend="triton", environment=OFFLINE, default=DEFAULT, entries=entries
    )
    store.end_run(run, RunState.FINISHED)
    assert store.forget(run=run) == Forgotten(2, 2)
    assert len(store.winners()) == 1


def test_a_run_under_way_is_left_alone(store: Store, run: int) -> None:
    """Its next trial would take the place of a forgotten one, and a merge take the two for one."""
    store.record_trial(run, trial())
    with pytest.raises(UserError, match=f"run {run} is under way"):
        store.forget(run=run)
    assert len(left(store, run)) == 1
