"""What the driver may ask of the process that owns the GPU, and how what goes wrong there comes back."""

from collections.abc import Callable
from types import SimpleNamespace
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure import requests
from autotune.measure.gate import Incorrect
from autotune.measure.requests import Look
from autotune.problem.layer import Stage
from autotune.protocol.runtime import What
from autotune.results import Failure, Status
from tests.measure.conftest import FAKE, PROBLEM, QUICK, TINY
from tests.measure.fake_runtime import fake_config, with_stages

CONFIG = fake_config()
LAYER = with_stages(CONFIG)


class Worker:
    """Answers with what it was asked."""

    errors: dict[str, Exception | SystemExit] = {}  # noqa: RUF012

    def __init__(self, *made_with: Any) -> None:
        self.made_with = made_with
        machine = SimpleNamespace(identity=lambda: "GPU-1", early=lambda: "process 497")
        self.runtime = SimpleNamespace(machine=machine)

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def answer(*arguments: Any) -> Any:
            if name in self.errors:
                raise self.errors[name]
            return (name, *arguments)

        return answer

    def check(self, problem: Any, what: What, config: Any) -> float:
        assert (problem, config) == (PROBLEM, CONFIG)
        return {What.STAGE1: 1e-3, What.STAGE2: 3e-3, What.LAYER: 2e-3}[what]

    def watch(self) -> str:
        return "process 498"

    def recover(self) -> None:
        return None

    def throttled(self) -> bool:
        return True


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Worker:
    monkeypatch.setattr(Worker, "errors", {})
    monkeypatch.setattr(requests, "Worker", Worker)
    made = Worker()
    monkeypatch.setattr(requests, "_worker", made)
    return made


def test_each_request_is_the_workers(worker: Worker) -> None:
    assert requests.measure(PROBLEM, Stage.STAGE2, CONFIG) == ("measure", PROBLEM, Stage.STAGE2, CONFIG)
    assert requests.layer(PROBLEM, LAYER, CONFIG) == ("layer", PROBLEM, LAYER, CONFIG)  # type: ignore[arg-type]
    parts = (What.LAYER,)
    assert requests.round_of(PROBLEM, parts, LAYER, 7, 5, 3) == ("round", PROBLEM, parts, LAYER, 7, 5, 3)
    assert requests.round_of(PROBLEM, parts, LAYER, 7, 5)[-1] is None  # type: ignore[index]
    assert (requests.watch(), requests.recover(), requests.throttled()) == ("process 498", None, True)


def test_a_finalists_gate_is_of_all_that_is_asked_for_and_its_error_the_worst(worker: Worker) -> None:
    assert requests.check(PROBLEM, (What.STAGE1, What.STAGE2, What.LAYER), CONFIG) == 3e-3
    assert requests.check(PROBLEM, (What.STAGE1, What.LAYER), CONFIG) == 2e-3


def test_the_worker_is_made_by_the_first_look_or_layer_and_kept(
    worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    for first in (lambda: requests.look(FAKE, QUICK), lambda: requests.prepare(FAKE, QUICK, TINY, [PROBLEM])):
        monkeypatch.setattr(requests, "_worker", None)
        first()
        made = requests._worker
        assert isinstance(made, Worker)
        assert made.made_with == (FAKE, QUICK)
        assert requests.look(FAKE, QUICK) == Look("GPU-1", "process 497")
        assert requests.prepare(FAKE, QUICK, TINY, [PROBLEM]) == ("prepare", TINY, [PROBLEM])
        assert requests._worker is made


def test_nothing_is_asked_of_a_worker_before_it_is_prepared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(requests, "_worker", None)
    with pytest.raises(AssertionError, match=r"^prepare\(\) comes first$"):
        requests.throttled()


def asked(worker: Worker, error: Exception | SystemExit) -> Failure:
    worker.errors["measure"] = error
    answer = requests.measure(PROBLEM, Stage.STAGE1, CONFIG)
    assert isinstance(answer, Failure)
    assert 0 <= answer.seconds < 5
    return answer


def test_wrong_numbers_are_incorrect_with_their_error(worker: Worker) -> None:
    answer = asked(worker, Incorrect("at 4 tokens: it is wrong", 0.25))
    assert (answer.status, answer.reason, answer.error) == (
        Status.INCORRECT,
        "at 4 tokens: it is wrong",
        0.25,
    )


@pytest.mark.parametrize(
    ("error", "reason"),
    [
        (ValueError("no such tile"), "ValueError: no such tile"),
        (RuntimeError("two\n  lines\tand a tab"), "RuntimeError: two lines and a tab"),
        (RuntimeError(), "RuntimeError"),
        (SystemExit(3), "SystemExit: 3"),
        (RuntimeError("x" * 400), f"RuntimeError: {'x' * 300}"),
    ],
)
def test_whatever_a_launch_raises_is_a_runtime_error_on_one_line(
    worker: Worker, error: Exception | SystemExit, reason: str
) -> None:
    answer = asked(worker, error)
    assert (answer.status, answer.reason, answer.error) == (Status.RUNTIME_ERROR, reason, None)


def test_the_time_until_it_failed_is_told(worker: Worker, monkeypatch: pytest.MonkeyPatch) -> None:
    for error in (Incorrect("wrong", 1.0), RuntimeError("no")):
        clock = iter((100.0, 107.5))
        monkeypatch.setattr(requests.time, "perf_counter", lambda clock=clock: next(clock))
        worker.errors["measure"] = error
        answer = requests.measure(PROBLEM, Stage.STAGE1, CONFIG)
        assert isinstance(answer, Failure)
        assert answer.seconds == 7.5


def test_a_user_error_is_nobodys_failure(worker: Worker) -> None:
    worker.errors["prepare"] = UserError("too little memory")
    with pytest.raises(UserError, match="too little memory"):
        requests.prepare(FAKE, QUICK, TINY, [PROBLEM])
