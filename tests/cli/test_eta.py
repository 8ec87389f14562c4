"""How long a run still takes."""

import random
from itertools import pairwise

import pytest

from autotune.cli.eta import Eta


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def _search(
    eta: Eta, clock: Clock, trials: int, pace: float, device_s: float = 0.0, jitter: float = 0.0
) -> list[float | None]:
    """What is shown after each trial, and half-way to the next."""
    rng = random.Random(0)
    shown = []
    for done in range(1, trials + 1):
        step = pace * (1 + jitter * rng.uniform(-1, 1))
        for _ in range(2):
            clock.now += step / 2
            shown.append(eta.seconds)
        eta.trial(trials - done, device_s)
    return shown


def test_nothing_is_said_before_anything_is_known() -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(100, 1)
    clock.now = 60.0  # workers start
    for left in (99, 98, 97, 96):  # and finish their first compiles together
        eta.trial(left, 0.0)
        assert eta.seconds is None


def test_it_is_what_is_left_at_the_pace_since_the_first_trial() -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(100, 1)
    clock.now = 60.0
    _search(eta, clock, 20, 2.0)
    eta.trial(10, 0.0)
    assert eta.seconds == pytest.approx(10 * 38 / 20, rel=0.1)


@pytest.mark.parametrize("jitter", [0.0, 0.5, 0.9])
def test_in_normal_progress_it_only_falls_to_nothing(jitter: float) -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(200, 2)
    shown = [s for s in _search(eta, clock, 200, 1.0, jitter=jitter) if s is not None]
    assert len(shown) > 350
    assert all(after <= before for before, after in pairwise(shown))
    assert all(s >= 0 for s in shown)
    assert shown[0] == pytest.approx(190, rel=0.35)
    assert shown[-1] < 3


def test_a_run_that_has_become_slower_says_so() -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(200, 1)
    before = _search(eta, clock, 50, 1.0)[-1]
    for done in range(51, 150):
        clock.now += 10.0
        eta.trial(200 - done, 0.0)
    assert before is not None
    now = eta.seconds
    assert now is not None
    assert now > before


def test_finals_are_part_of_it_and_their_own_time_is_learnt() -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(100, 4)
    shown = _search(eta, clock, 100, 0.5, device_s=0.05)
    assert shown[-1] == pytest.approx(4 * 100 * 0.05, rel=0.1)  # by what trials cost
    told = []
    for _ in range(4):
        eta.final()
        for _ in range(3):
            clock.now += 1.0
            told.append(eta.seconds)
    assert all(
        after is not None and before is not None and after <= before for before, after in pairwise(told)
    )
    assert told[5] == pytest.approx(2 * 3.0, abs=1.0)  # three seconds each, as was seen
    assert 0 <= told[-1] <= 1.0


def test_offline_the_checks_are_said_to_come() -> None:
    clock = Clock()
    eta = Eta(now=clock)
    eta.start(50, 2)
    _search(eta, clock, 50, 1.0)
    assert not eta.finals_known
    eta.final()
    assert eta.seconds is None
    clock.now += 20.0
    eta.final()
    assert eta.finals_known
    assert eta.seconds == pytest.approx(20.0)


def test_a_time_limit_ends_the_search_sooner() -> None:
    clock = Clock()
    eta = Eta(30.0, now=clock)
    eta.start(1000, 1)
    _search(eta, clock, 20, 1.0)
    eta.trial(980, 0.0)
    assert eta.seconds == pytest.approx(10.0, abs=1.0)
