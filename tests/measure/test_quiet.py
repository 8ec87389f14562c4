"""Waiting until the GPU is this process's alone, over a clock and workers that do as they are told."""

from collections.abc import Callable
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure import quiet as quiets
from autotune.measure.process import WorkerProcess
from autotune.measure.quiet import Quiet, not_alone
from autotune.measure.requests import Look
from autotune.measure.settings import MeasureSettings
from autotune.results import Failure, Status

WHO = "process 497 (python3)"
GONE = Failure(Status.RUNTIME_ERROR, "the worker is gone")
PUT_OFF = (
    f"{WHO} is on this GPU too: what was timed beside it is put off until the GPU is quiet, for 60 s at most"
    " (--shared-gpu measures beside it)"
)


class Time:
    """Seconds that pass only while something is waited for."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.waits: list[float] = []

    def monotonic(self) -> float:
        return self.now


class Workers(WorkerProcess):
    """A worker whose processes see one after the other what is given."""

    def __init__(self, *looks: Look | Failure) -> None:
        self._looks = list(looks)
        self.did: list[str] = []

    def look(self) -> Look | Failure:
        self.did.append("look")
        return self._looks.pop(0)

    def end(self) -> None:
        self.did.append("end")


@pytest.fixture
def time(monkeypatch: pytest.MonkeyPatch) -> Time:
    time = Time()
    monkeypatch.setattr(quiets, "time", time)
    return time


@pytest.fixture
def locks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[Any, ...]]:
    """What was taken and released; whoever asks gets it."""
    did: list[tuple[Any, ...]] = []

    def acquire(gpu: str, say: Any, given_up: Any, *, wait: bool) -> bool:
        did.append(("acquire", gpu, wait))
        return True

    monkeypatch.setattr(quiets.lock, "acquire", acquire)
    monkeypatch.setattr(quiets.lock, "release", lambda gpu: did.append(("release", gpu)))
    return did


@pytest.fixture
def said() -> list[str]:
    return []


@pytest.fixture
def quiet(time: Time, locks: Any, said: list[str]) -> Callable[..., Quiet]:
    def make(**settings: Any) -> Quiet:
        made = Quiet(MeasureSettings(**settings), said.append)

        def wait(seconds: float) -> bool:
            time.waits.append(seconds)
            time.now += seconds
            return False

        made._given_up.wait = wait  # type: ignore[assignment,method-assign]
        return made

    return make


def seeing(*who: str | Failure | None) -> Callable[[], str | Failure | None]:
    left = list(who)
    return lambda: left.pop(0)


def test_a_gpu_that_is_free_is_taken_once_and_given_back(
    quiet: Any, locks: list[Any], said: list[str]
) -> None:
    mine, worker = quiet(), Workers(Look("GPU-1", None))
    mine.enter(worker)
    mine.enter(worker)
    assert (mine.gpu, worker.did) == ("GPU-1", ["look"])
    mine.leave()
    mine.leave()
    assert locks == [("acquire", "GPU-1", True), ("release", "GPU-1")]
    assert said == []


def test_what_cannot_be_told_from_another_gpu_is_not_locked(quiet: Any, locks: list[Any]) -> None:
    mine = quiet()
    mine.enter(Workers(Look(None, None)))
    mine.leave()
    assert locks == []


def test_a_lock_that_was_not_got_is_not_given_back(
    quiet: Any, locks: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(quiets.lock, "acquire", lambda *_, **__: False)
    mine = quiet()
    mine.enter(Workers(Look("GPU-1", None)))
    mine.leave()
    assert locks == []


def test_a_worker_that_was_closed_is_asked_again_by_the_next_request(quiet: Any, locks: list[Any]) -> None:
    mine, worker = quiet(), Workers(GONE, Look("GPU-1", None))
    mine.enter(worker)
    assert (mine.gpu, locks) == (None, [])
    mine.enter(worker)
    assert mine.gpu == "GPU-1"


def test_who_is_there_before_us_is_waited_for_by_fresh_processes(
    quiet: Any, time: Time, said: list[str]
) -> None:
    worker = Workers(Look("GPU-1", WHO), Look("GPU-1", WHO), Look("GPU-1", None))
    quiet().enter(worker)
    assert worker.did == ["look", "end", "look", "end", "look"]
    assert time.waits == [1.0]
    assert said == [PUT_OFF]


def test_after_another_autotunes_end_it_is_looked_again(
    quiet: Any, time: Time, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its work was still in the memory and the utilisation that the first look saw, or missed."""

    def acquire(*_: Any, **__: Any) -> bool:
        time.now += waits.pop(0)
        return True

    monkeypatch.setattr(quiets.lock, "acquire", acquire)
    monkeypatch.setattr(quiets.lock, "time", time)
    for seconds, did in ((1.5, ["look", "end", "look"]), (1.0, ["look"])):
        waits = [seconds]
        worker = Workers(Look("GPU-1", None), Look("GPU-1", None))
        quiet().enter(worker)
        assert worker.did == did


def test_who_insists_waits_for_nobody_and_says_beside_whom(
    quiet: Any, locks: list[Any], said: list[str]
) -> None:
    worker = Workers(Look("GPU-1", WHO))
    quiet(shared_gpu=True).enter(worker)
    assert locks == [("acquire", "GPU-1", False)]
    assert worker.did == ["look"]
    assert said == [f"measuring beside {WHO}: times are marked as those of a shared GPU"]


def test_others_who_stay_are_an_error_that_says_what_to_do(quiet: Any, time: Time) -> None:
    worker = Workers(*[Look("GPU-1", WHO)] * 8)
    with pytest.raises(UserError) as told:
        quiet(patience_s=5.0).enter(worker)
    assert str(told.value) == (
        f"{WHO} is on this GPU too, and has been for 6 s: end it, or wait for it, and give the same command"
        " again, or measure beside it with --shared-gpu, which marks the times"
    )
    assert time.waits == [1.0] * 6  # at exactly 5 s it is still waited


def test_a_worker_that_goes_while_it_is_waited_ends_the_waiting(quiet: Any) -> None:
    quiet().enter(Workers(Look("GPU-1", WHO), GONE))
    mine = quiet()
    mine.heard(WHO)
    mine.wait(seeing(GONE))


def test_an_undisturbed_request_waits_for_nobody(quiet: Any) -> None:
    mine = quiet()
    assert mine.heard(None) is False
    mine.wait(seeing())  # nobody looks
    assert (mine.contended, mine.who) == (0, "")


def test_a_disturbed_one_is_made_again_when_the_gpu_is_quiet(quiet: Any, time: Time, said: list[str]) -> None:
    mine = quiet()
    assert mine.heard(WHO) is True
    assert (mine.contended, mine.who) == (1, WHO)
    mine.wait(seeing(WHO, WHO, None))
    assert time.waits == [1.0, 1.0]
    assert said == [PUT_OFF]
    assert mine.heard("another") is True
    assert (mine.contended, mine.who) == (2, "another")
    mine.heard(None)
    mine.wait(seeing())
    assert mine.contended == 2


def test_who_stays_after_a_disturbed_request_is_an_error(quiet: Any, time: Time) -> None:
    mine = quiet(patience_s=2.0)
    mine.heard(WHO)
    time.now += 1.5
    with pytest.raises(UserError, match="has been for 2 s"):
        mine.wait(seeing(*[WHO] * 5))
    assert time.waits == [1.0]
    # A quiet spell ends it: patience is for unbroken disturbance.
    mine.heard(None)
    time.now += 100
    mine.heard(WHO)
    mine.wait(seeing(WHO, None))


def test_patience_begins_with_the_first_of_several_disturbed_requests(quiet: Any, time: Time) -> None:
    mine = quiet(patience_s=2.0)
    mine.heard(WHO)
    time.now += 1.8
    mine.heard(WHO)
    with pytest.raises(UserError):
        mine.wait(seeing(WHO, WHO))


def test_it_is_said_again_after_twenty_seconds(quiet: Any, time: Time, said: list[str]) -> None:
    mine = quiet()
    mine.heard(WHO)
    for seconds, times in ((20.0, 1), (0.5, 2), (20.0, 2)):
        time.now += seconds
        mine.heard(WHO)
        assert said == [PUT_OFF] * times


def test_sixty_disturbed_requests_in_a_row_are_given_up_although_it_looked_quiet_between(quiet: Any) -> None:
    mine = quiet()
    assert all(mine.heard(WHO) for _ in range(59))
    with pytest.raises(UserError, match="--shared-gpu"):
        mine.heard(WHO)
    assert mine.contended == 60


def test_giving_up_ends_all_waiting(quiet: Any, time: Time) -> None:
    mine = quiet()
    mine.heard(WHO)
    mine.give_up()
    mine.wait(seeing())
    assert time.waits == []


def test_what_a_user_is_told_who_is_not_alone() -> None:
    assert not_alone(WHO, 61.6) == (
        f"{WHO} is on this GPU too, and has been for 62 s: end it, or wait for it, and give the same command"
        " again"
    )
