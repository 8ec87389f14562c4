"""What a search that begins again takes from stored trials."""

import pytest

from autotune.results import StaticFacts, Status
from autotune.search.resume import known_results
from tests.store.examples import config, failed, trial


@pytest.mark.parametrize("status", [Status.COMPILE_TIMEOUT, Status.TIMEOUT, Status.RUNTIME_ERROR])
def test_what_another_day_may_bring_about_is_tried_again(status: Status) -> None:
    assert known_results([failed(status)], allow_spills=False) == {}


@pytest.mark.parametrize("status", [Status.COMPILE_ERROR, Status.INCORRECT, Status.CONSTRAINT])
def test_what_stays_so_is_not(status: Status) -> None:
    assert known_results([failed(status)], allow_spills=False) == {config(256): None}


def test_a_figure_counts_once() -> None:
    trials = [trial(figure_us=40.0), trial(figure_us=41.0, origin="race")]
    assert known_results(trials, allow_spills=False) == {config(256): 40.0}


def test_a_config_that_was_ever_incorrect_has_no_figure() -> None:
    trials = [trial(figure_us=40.0), failed(Status.INCORRECT, origin="race"), trial(figure_us=40.0)]
    assert known_results(trials, allow_spills=False) == {config(256): None}


def test_spills_are_judged_by_todays_rule() -> None:
    spilled = trial(facts=StaticFacts(spills=3), figure_us=40.0)
    assert known_results([spilled], allow_spills=True) == {config(256): 40.0}
    assert known_results([spilled], allow_spills=False) == {config(256): None}
    refused = failed(Status.CONSTRAINT, facts=StaticFacts(spills=3))
    assert known_results([refused], allow_spills=True) == {}
    assert known_results([refused], allow_spills=False) == {config(256): None}
