"""What a search that begins again takes from stored trials."""

from dataclasses import replace
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.problem.layer import Stage
from autotune.results import StaticFacts, Status
from autotune.search.resume import known_results
from autotune.search.study import StageSearch
from autotune.store.store import Store
from autotune.tuning.context import RunRequest, Tuning
from autotune.tuning.searches import resume
from autotune.tuning.targets import resolve_target
from tests.live_stand_in import StandIn
from tests.spaces import toy_space
from tests.store.examples import M4, MI325X, begin, config, failed, trial


@pytest.mark.parametrize("status", [Status.COMPILE_TIMEOUT, Status.TIMEOUT, Status.RUNTIME_ERROR])
def test_what_another_day_may_bring_about_is_tried_again(status: Status) -> None:
    assert known_results([failed(status)], allow_spills=False) == {}


@pytest.mark.parametrize("status", [Status.COMPILE_ERROR, Status.INCORRECT, Status.CONSTRAINT])
def test_what_stays_so_is_not(status: Status) -> None:
    assert known_results([failed(status)], allow_spills=False) == {config(256): None}


@pytest.mark.parametrize(
    "reason",
    [
        "ModuleNotFoundError: No module named 'torch'",
        "PermissionError: [Errno 13] Permission denied: '/home/user/.triton'",
        "OSError: [Errno 28] No space left on device",
        "RuntimeError: Failed to find C compiler. Please specify via CC environment variable",
    ],
)
def test_what_was_missing_on_the_machine_is_tried_again(reason: str) -> None:
    """Versions up to 0.1.0 stored it as the candidate's own."""
    assert known_results([replace(failed(Status.COMPILE_ERROR), reason=reason)], allow_spills=False) == {}


def test_a_time_counts_once() -> None:
    trials = [trial(time_us=40.0), trial(time_us=41.0, origin="race")]
    assert known_results(trials, allow_spills=False) == {config(256): 40.0}


def test_a_config_that_was_ever_incorrect_has_no_time() -> None:
    trials = [trial(time_us=40.0), failed(Status.INCORRECT, origin="race"), trial(time_us=40.0)]
    assert known_results(trials, allow_spills=False) == {config(256): None}


def test_spills_are_judged_by_todays_rule() -> None:
    spilled = trial(facts=StaticFacts(spills=3), time_us=40.0)
    assert known_results([spilled], allow_spills=True) == {config(256): 40.0}
    assert known_results([spilled], allow_spills=False) == {config(256): None}
    refused = failed(Status.CONSTRAINT, facts=StaticFacts(spills=3))
    assert known_results([refused], allow_spills=True) == {}
    assert known_results([refused], allow_spills=False) == {config(256): None}


def test_trials_of_another_space_are_not_resumed(tmp_path: Path) -> None:
    """Its values, defaults and rules were others: what it calls by the same names is not the same."""
    space = toy_space(tmp_path)
    target = resolve_target("offline:mi325x")
    request = RunRequest(StandIn.name, [M4], target, trials=9, seed=0, sampler="random", workers=1)
    search = StageSearch(space, sampler="random", seed=0, budget=9)
    with Store.open() as store:
        current = Tuning(
            request, store, Progress(), StandIn(), MI325X, begin(store), {(M4, Stage.STAGE1): search}
        )
        for digest, us in (("another", 9.0), (space.space.digest, 10.0)):
            stored = trial(backend=StandIn.name, config=space.default, space_digest=digest, time_us=us)
            store.record_trial(current.id, stored)
        assert resume(current, "cold") == 1
    assert search.results == [(space.default, 10.0)]
