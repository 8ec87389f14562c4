"""Whatever a candidate does, it is one failure, and the next candidate is measured as if nothing had been."""

import os
import signal
import time
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.measure.pool import Measurer
from autotune.problem.layer import Stage
from autotune.results import Failure, Finalist, Measurement, Status
from tests.measure.conftest import FAKE, PROBLEM, QUICK
from tests.measure.fake_runtime import DEATHS, WRONG_NUMBERS, Fault, fake_config, with_stages

pytestmark = pytest.mark.fault


def measured(measurer: Measurer, fault: Fault = Fault.NONE, **knobs: int) -> Measurement | Failure:
    return measurer.submit(PROBLEM, Stage.STAGE1, fake_config(10, fault, **knobs)).result()


def still_fine(measurer: Measurer) -> bool:
    after = measured(measurer, noise=1)
    return isinstance(after, Measurement) and after.us == pytest.approx(10, rel=0.02)


@pytest.mark.parametrize("fault", WRONG_NUMBERS)
def test_wrong_numbers_are_incorrect(measurer: Measurer, fault: Fault) -> None:
    answer = measured(measurer, fault)
    assert isinstance(answer, Failure)
    assert answer.status is Status.INCORRECT
    assert answer.error is not None
    assert still_fine(measurer)


def test_wrong_numbers_at_another_token_count_that_it_would_serve_are_incorrect(measurer: Measurer) -> None:
    answer = measured(measurer, Fault.WRONG_TILE, at=3)
    assert isinstance(answer, Failure)
    assert answer.status is Status.INCORRECT
    assert "3 tokens" in answer.reason


@pytest.mark.parametrize(
    "fault", [pytest.param(fault, marks=[] if fault == "sigkill" else pytest.mark.slow) for fault in DEATHS]
)
def test_a_death_of_the_worker_is_one_runtime_error(measurer: Measurer, fault: Fault) -> None:
    answer = measured(measurer, fault)
    assert isinstance(answer, Failure)
    assert answer.status is Status.RUNTIME_ERROR
    assert {"exit": "exit code 3", "abort": "SIGABRT", "sigkill": "SIGKILL"}[fault] in answer.reason
    assert "second death" in answer.reason
    assert still_fine(measurer)


@pytest.fixture
def marks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FAKE_MARKS", str(tmp_path))


@pytest.mark.usefixtures("marks")
def test_a_worker_that_was_killed_from_outside_costs_its_candidate_nothing() -> None:
    with Measurer(FAKE, [PROBLEM], QUICK) as measurer:
        answer = measured(measurer, Fault.KILLED_ONCE)
        assert isinstance(answer, Measurement)
        assert measurer.restarts == 1


@pytest.mark.usefixtures("marks")
@pytest.mark.slow
def test_a_worker_that_was_killed_in_a_final_costs_its_finalist_nothing() -> None:
    finalists = [
        Finalist("default", with_stages(fake_config(10))),
        Finalist("candidate", with_stages(fake_config(8, Fault.KILLED_ONCE_IN_ROUNDS))),
    ]
    with Measurer(FAKE, [PROBLEM], QUICK) as measurer:
        confirmation = measurer.confirm(PROBLEM, finalists)
    assert confirmation.winner == 1
    assert confirmation.notes == ()


@pytest.mark.slow
def test_a_worker_that_somebody_stopped_is_no_hang_of_its_candidate() -> None:
    with Measurer(FAKE, [PROBLEM], replace(QUICK, timeout_s=3.0)) as measurer:
        measurer.fingerprint()
        (process,) = measurer._workers.values()
        assert process._child.pid is not None
        os.kill(process._child.pid, signal.SIGSTOP)
        assert still_fine(measurer)


def test_a_worker_that_cannot_be_made_ready_is_no_candidates_fault() -> None:
    with (
        Measurer("tests.measure.fake_runtime:make_dying", [PROBLEM], QUICK) as measurer,
        pytest.raises(UserError, match=r"killed by SIGKILL.*see that the GPU is free"),
    ):
        measured(measurer)


def test_a_dying_runtimes_last_words_are_in_the_reason(measurer: Measurer) -> None:
    answer = measured(measurer, Fault.ABORT)
    assert isinstance(answer, Failure)
    assert "Memory access fault by GPU node-1" in answer.reason


@pytest.mark.parametrize("fault", [Fault.RAISE, Fault.SYSTEM_EXIT, Fault.OUT_OF_MEMORY])
def test_an_exception_is_a_runtime_error_and_the_worker_lives_on(measurer: Measurer, fault: Fault) -> None:
    assert still_fine(measurer)
    before = measurer.restarts
    answer = measured(measurer, fault)
    assert isinstance(answer, Failure)
    assert answer.status is Status.RUNTIME_ERROR
    assert still_fine(measurer)
    assert measurer.restarts == before


@pytest.mark.parametrize("fault", [Fault.ILLEGAL_ADDRESS, Fault.OVERWRITES_WEIGHTS])
def test_what_breaks_the_device_or_the_weights_costs_the_worker(measurer: Measurer, fault: Fault) -> None:
    assert still_fine(measurer)
    before = measurer.restarts
    answer = measured(measurer, fault)
    assert isinstance(answer, Failure)
    assert answer.status in (Status.RUNTIME_ERROR, Status.INCORRECT)
    assert still_fine(measurer)
    assert measurer.restarts == before + 1


@pytest.mark.slow
def test_an_endless_loop_is_a_timeout_and_closing_waits_for_none() -> None:
    with Measurer(FAKE, [PROBLEM], replace(QUICK, timeout_s=5.0)) as measurer:
        measurer.fingerprint()
        start = time.monotonic()
        answer = measured(measurer, Fault.HANG)
        assert isinstance(answer, Failure)
        assert answer.status is Status.TIMEOUT
        assert 5 <= answer.seconds <= time.monotonic() - start < 20
        assert still_fine(measurer)
        hanging: Future[Measurement | Failure] = measurer.submit(
            PROBLEM, Stage.STAGE1, fake_config(10, Fault.HANG)
        )
        waiting = measurer.submit(PROBLEM, Stage.STAGE1, fake_config(10))
        time.sleep(0.1)
        start = time.monotonic()
    assert time.monotonic() - start < 4
    assert isinstance(hanging.result(), Failure)
    assert waiting.cancelled()


@pytest.mark.slow
def test_a_finalist_that_dies_in_a_round_leaves_the_final_to_the_others(measurer: Measurer) -> None:
    finalists = [
        Finalist("default", with_stages(fake_config(10))),
        Finalist("candidate", with_stages(fake_config(5, Fault.DIES_IN_ROUNDS))),
        Finalist("candidate", with_stages(fake_config(8))),
    ]
    confirmation = measurer.confirm(PROBLEM, finalists)
    assert confirmation.winner == 2
    assert confirmation.errors[1] is None
    assert any("SIGKILL" in note for note in confirmation.notes)


def test_a_finalist_with_wrong_numbers_is_never_timed(measurer: Measurer) -> None:
    finalists = [
        Finalist("default", with_stages(fake_config(10))),
        Finalist("candidate", with_stages(fake_config(1, Fault.UNSCALED_ROW))),
    ]
    confirmation = measurer.confirm(PROBLEM, finalists)
    assert confirmation.winner == 0
    assert confirmation.errors[1] is None
    assert all(not r.us[1] for r in confirmation.rounds)
