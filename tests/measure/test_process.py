"""One worker process as the driver sees it, over a child that dies, hangs and answers as it is told."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure import process as processes
from autotune.measure import requests
from autotune.measure.process import WorkerProcess
from autotune.measure.requests import Look
from autotune.processes.spawning import ChildDied, ChildLate
from autotune.results import Failure, Status
from tests.measure.conftest import FAKE, PROBLEM, QUICK, TINY

OTHER = PROBLEM.layer.__class__("other", model_dim=64, inter_dim=64, experts=4, top_k=2, tp=1)
DIES, HANGS = ChildDied("was killed (SIGKILL)", from_outside=True), ChildLate()


class Child:
    """Answers from a script by the request's name; an exception in it happens to the process.

    Attributes:
        asked: the requests with their arguments and time limits.
        started: as of a real one: asking starts it, its death ends it.
    """

    script: Mapping[str, list[Any]]

    def __init__(self, log: Path, environment: Mapping[str, str], *, ahead: bool) -> None:
        self.log, self.environment = log, environment
        self.asked: list[tuple[str, tuple[Any, ...], float]] = []
        self.started = self.stopped = self.dead = False
        self.kills = 0
        self.answers = {name: list(answers) for name, answers in self.script.items()}

    def ask(self, function: Any, arguments: tuple[Any, ...], timeout_s: float) -> Any:
        self.started, self.dead = True, False
        self.asked.append((function.__name__, arguments, timeout_s))
        answers = self.answers.get(function.__name__, [])
        answer = answers.pop(0) if answers else {"prepare": "ready", "recover": None}.get(function.__name__)
        if isinstance(answer, Exception):
            self.started = False
            raise answer
        return answer

    def is_alive(self) -> bool:
        return self.started and not self.dead

    def kill(self) -> int:
        self.kills += 1
        self.started = False
        return 0

    def stop(self) -> None:
        self.stopped = True

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.asked]


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Any:
    monkeypatch.setattr(processes, "Child", Child)

    def make(**script: list[Any]) -> tuple[WorkerProcess, Any]:
        monkeypatch.setattr(Child, "script", script, raising=False)
        worker = WorkerProcess(FAKE, (PROBLEM,), QUICK, {"A": "1"})
        return worker, worker._child

    return make


def ask(worker: WorkerProcess, layer: Any = TINY) -> Any:
    return worker.call(layer, requests.throttled, "argument")


def test_it_has_the_environment_and_a_log_of_its_own(worker: Any) -> None:
    process, child = worker()
    assert child.environment == {"A": "1"}
    assert child.log.name == "worker.log"
    assert child.log.parent.is_dir()
    assert child.log.parent.name.startswith("autotune-measure-")
    process.stop()
    assert child.stopped
    assert not child.log.parent.exists()


def test_looking_starts_it_with_the_time_that_a_start_may_take(worker: Any) -> None:
    process, child = worker(look=[Look("GPU-1", None)])
    assert process.look() == Look("GPU-1", None)
    assert child.asked == [("look", (FAKE, QUICK), QUICK.prepare_timeout_s)]


def test_a_layer_is_loaded_once_with_the_problems_that_are_its_own(worker: Any) -> None:
    process, child = worker(throttled=[False, True, False])
    assert [ask(process), ask(process)] == [False, True]
    assert child.asked == [
        ("prepare", (FAKE, QUICK, TINY, (PROBLEM,)), QUICK.prepare_timeout_s),
        *[("throttled", ("argument",), QUICK.timeout_s)] * 2,
    ]
    ask(process, OTHER)
    assert child.asked[-2] == ("prepare", (FAKE, QUICK, OTHER, ()), QUICK.prepare_timeout_s)
    assert process.restarts == 0


def test_who_was_on_the_gpu_when_it_died_is_tried_once_more_with_the_layer_loaded_anew(worker: Any) -> None:
    process, child = worker(throttled=[DIES, "answer"])
    assert ask(process) == "answer"
    assert child.names == ["prepare", "throttled", "prepare", "throttled"]
    assert process.restarts == 1


def test_a_death_that_repeats_is_the_candidates(worker: Any) -> None:
    process, child = worker(throttled=[DIES, DIES, "never asked for"])
    answer = ask(process)
    assert isinstance(answer, Failure)
    assert answer.status is Status.RUNTIME_ERROR
    assert answer.reason == "the worker was killed (SIGKILL); the second death, in a fresh worker"
    assert 0 <= answer.seconds < 10
    assert process.restarts == 2
    assert child.names.count("throttled") == 2
    assert "recover" not in child.names  # there is no process to ask


def test_a_hang_is_no_death_and_is_not_tried_again(worker: Any) -> None:
    process, child = worker(throttled=[HANGS, "never asked for"])
    answer = ask(process)
    assert (answer.status, answer.reason) == (
        *(Status.TIMEOUT, "no answer within 20 s: a hang; the worker was killed"),
    )
    assert process.restarts == 1
    assert child.names == ["prepare", "throttled"]


def test_after_a_failure_the_worker_says_whether_it_is_sound(worker: Any) -> None:
    failure = Failure(Status.INCORRECT, "wrong", 0.1)
    process, child = worker(throttled=[failure, True])
    assert ask(process) is failure
    assert child.asked[-1] == ("recover", (), processes.RECOVER_TIMEOUT_S)
    assert ask(process) is True
    assert child.names == ["prepare", "throttled", "recover", "throttled"]
    assert (child.kills, process.restarts) == (0, 0)


@pytest.mark.parametrize(
    "unsound", [Failure(Status.RUNTIME_ERROR, "the weights were overwritten"), DIES, HANGS]
)
def test_a_worker_that_is_not_is_replaced_and_the_layer_loaded_anew(unsound: Any, worker: Any) -> None:
    failure = Failure(Status.RUNTIME_ERROR, "an illegal memory access", 0.1)
    process, child = worker(throttled=[failure, True], recover=[unsound, "never asked for"])
    assert ask(process) is failure
    assert process.restarts == 1
    assert ask(process) is True
    assert child.names == ["prepare", "throttled", "recover", "prepare", "throttled"]


def test_a_worker_that_died_while_nobody_asked_is_no_candidates_doing(worker: Any) -> None:
    process, child = worker(throttled=[True, False])
    ask(process)
    child.dead = True
    assert ask(process) is False
    assert child.names == ["prepare", "throttled", "prepare", "throttled"]
    assert (child.kills, process.restarts) == (1, 1)


def test_one_that_has_not_been_started_yet_has_not_died(worker: Any) -> None:
    process, child = worker(throttled=[True])
    ask(process)
    assert (child.kills, process.restarts) == (0, 0)


@pytest.mark.parametrize("request_name", ["look", "prepare"])
@pytest.mark.parametrize(
    ("script", "why"),
    [
        ([DIES, DIES], "the worker was killed (SIGKILL); the second death, in a fresh worker"),
        ([HANGS], "no answer within 60 s: a hang; the worker was killed"),
        ([Failure(Status.RUNTIME_ERROR, "no driver", 0.0)], "no driver"),
    ],
)
def test_one_that_cannot_be_made_ready_is_the_users_to_mend(
    request_name: str, script: list[Any], why: str, worker: Any
) -> None:
    process, _ = worker(**{request_name: script})
    with pytest.raises(UserError) as told:
        process.look() if request_name == "look" else process.prepare(TINY)
    assert str(told.value) == (
        f"the measure worker could not be made ready, {why}: see that the GPU is free, its driver works and"
        " the machine has memory left"
    )


def test_one_that_died_once_while_it_started_is_started_again(worker: Any) -> None:
    process, child = worker(prepare=[DIES, "ready"], throttled=[True])
    assert ask(process) is True
    assert child.names == ["prepare", "prepare", "throttled"]


def test_once_stopped_every_request_is_a_failure_that_says_so(worker: Any) -> None:
    process, child = worker()
    process.stop()
    for answer in (process.look(), process.prepare(TINY), ask(process)):
        assert isinstance(answer, Failure)
        assert (answer.status, answer.reason) == (Status.RUNTIME_ERROR, "the measurer was closed")
    assert child.asked == []


def test_a_request_that_is_under_way_when_it_is_stopped_says_so_and_counts_as_no_restart(worker: Any) -> None:
    process, child = worker(throttled=[DIES])
    dying = child.ask

    def stopped_meanwhile(function: Any, arguments: Any, timeout_s: float) -> Any:
        child.stopped = function.__name__ == "throttled"
        return dying(function, arguments, timeout_s)

    child.ask = stopped_meanwhile
    answer = ask(process)
    assert (answer.status, answer.reason) == (Status.RUNTIME_ERROR, "the measurer was closed")
    assert process.restarts == 0


def test_ended_it_is_started_by_the_next_request_and_loads_its_layer_again(worker: Any) -> None:
    process, child = worker(throttled=[True, True])
    ask(process)
    process.end()
    assert child.kills == 1
    ask(process)
    assert child.names == ["prepare", "throttled"] * 2


def test_a_user_error_of_the_worker_is_the_drivers(worker: Any) -> None:
    process, _ = worker(prepare=[UserError("too little memory")])
    with pytest.raises(UserError, match=r"^too little memory$"):
        ask(process)
