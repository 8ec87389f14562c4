"""Several GPUs in one run, by way of the CPU stand-in: shared work, unlike and lost GPUs, finals."""

import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.cli.progress import Progress
from autotune.errors import UserError
from autotune.machine.fingerprint import Fingerprint
from autotune.measure import lock
from autotune.measure.calibration import calibration_of
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.results import Gpu
from autotune.space.config import Config
from autotune.store.records import CalibrationWindow, StoredTrial
from autotune.store.store import Store
from autotune.tuning.calibration import compared
from autotune.tuning.fleet import Fleet
from autotune.tuning.run import RunRequest, RunResult, run
from tests.cli.helper import env, heed_signals
from tests.live_stand_in import TARGET, TINY, OfFleet
from tests.store.examples import MI325X

PROBLEMS = [Problem(TINY, tokens) for tokens in (1, 2, 4)]


class Heard(Progress):
    """Keeps what is said of the GPUs."""

    def __init__(self) -> None:
        super().__init__()
        self.said: list[str] = []

    def on_wait(self, sentence: str) -> None:
        self.said.append(sentence)

    def on_gpus(self, sentence: str) -> None:
        self.said.append(sentence)


@pytest.fixture(autouse=True)
def locks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A test beside this one has GPUs of the same names."""
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


@pytest.fixture
def heard() -> Heard:
    return Heard()


def _run(store: Store, heard: Heard, devices: int, problems: Sequence[Problem] = PROBLEMS) -> RunResult:
    request = RunRequest(
        backend=OfFleet.name,
        problems=problems,
        target=TARGET,
        trials=20,
        seed=0,
        sampler="tpe",
        workers=1,
        measuring=MeasureSettings(steps=4, timeout_s=10.0, select_rounds=2, judge_rounds=8),
        devices=tuple(range(devices)),
    )
    return run(request, store, heard)


def _odd(monkeypatch: pytest.MonkeyPatch, marks: Path, **gpus: dict[str, float]) -> None:
    monkeypatch.setenv(
        "FAKE_FLEET", json.dumps({name.removeprefix("gpu"): how for name, how in gpus.items()})
    )
    monkeypatch.setenv("FAKE_MARKS", str(marks))


def _finals(store: Store, result: RunResult) -> dict[Problem, Gpu | None]:
    confirmations = [store.confirmation(winner.confirmation or 0).confirmation for winner in result.best]
    return {confirmation.problem: confirmation.gpu for confirmation in confirmations}


@pytest.mark.slow
def test_equal_gpus_share_the_problems_and_each_sample_says_where_it_was_taken(
    store: Store, heard: Heard
) -> None:
    result = _run(store, heard, 2)
    assert result.complete
    right = Config({"us": 8000, "fault": "none"})
    assert [winner.config.stage1 for winner in result.best] == [right] * 3
    trials = store.trials_of(result.run)
    gpus = Counter(trial.gpu.uuid for trial in trials if trial.gpu and trial.status == "ok")
    assert set(gpus) == {"GPU-fake-0", "GPU-fake-1"}
    assert all(trial.gpu for trial in trials if trial.status == "ok")
    assert all(gpu is not None for gpu in _finals(store, result).values())
    # Whether they agree was measured: default and others, on both, at once.
    calibration = calibration_of(store.calibration(result.run))
    assert calibration is not None
    assert calibration.agree
    assert heard.said == [calibration.text]
    assert "2 GPUs agree within" in calibration.text


@pytest.mark.slow
def test_gpus_that_do_not_agree_do_not_share_a_problem(
    store: Store, heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _odd(monkeypatch, tmp_path, gpu1={"slower": 1.02})
    result = _run(store, heard, 2)
    assert re.match(r"2 GPUs differ by (1\.9|2\.0)", heard.said[0])
    assert "GPU-fake-1" in heard.said[0]
    homes = {problem: set[Gpu | None]() for problem in PROBLEMS}
    for trial in store.trials_of(result.run):
        homes[trial.problem].add(trial.gpu)
    assert all(len(gpus) == 1 for gpus in homes.values())
    assert {problem: {gpu} for problem, gpu in _finals(store, result).items()} == homes
    assert len(set(_finals(store, result).values())) == 2  # and both have work

    # A problem stays where its trials are when the run is taken up again.
    again = _run(store, Heard(), 2)
    assert _finals(store, again) == _finals(store, result)


@pytest.mark.slow
def test_a_gpu_that_is_not_equal_to_the_others_is_left_out(
    store: Store, heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _odd(monkeypatch, tmp_path, gpu1={"power_cap_w": 500})
    result = _run(store, heard, 3, PROBLEMS[:1])
    assert "GPU 1 is left out" in heard.said[0]
    assert "power_cap_w: 700 -> 500" in heard.said[0]
    gpus = {trial.gpu.uuid for trial in store.trials_of(result.run) if trial.gpu}
    assert gpus <= {"GPU-fake-0", "GPU-fake-2"}


@pytest.mark.slow
@pytest.mark.fault
def test_a_gpu_that_falls_off_the_bus_ends_its_own_work_only(
    store: Store, heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _odd(monkeypatch, tmp_path, gpu1={"falls_after": 450})
    result = _run(store, heard, 2)
    assert result.complete
    assert [winner.gain_low is not None and winner.gain_low > 0.01 for winner in result.best] == [True] * 3
    assert any("GPU 1 is lost, 1 go on without it" in sentence for sentence in heard.said)
    # No candidate is blamed for it.
    assert {str(trial.status) for trial in store.trials_of(result.run)} == {"ok"}


@pytest.mark.slow
@pytest.mark.fault
def test_the_last_gpus_loss_ends_the_run_with_a_sentence_and_the_same_command_resumes(
    store: Store, heard: Heard, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    _odd(monkeypatch, tmp_path, gpu0={"falls_after": 900}, gpu1={"falls_after": 800})
    with pytest.raises(UserError, match="torch sees no GPU"):
        _run(store, heard, 2)
    (first,) = store.runs()
    assert first.state == "failed"
    kept = len(store.trials_of(first.id))
    assert 0 < kept < 18
    for mark in tmp_path.glob("fallen-*"):
        mark.unlink()
    monkeypatch.delenv("FAKE_FLEET")
    again = _run(store, heard, 2)
    assert sum(trial.origin != "race" for trial in store.trials_of(again.run)) == 18 - kept
    assert again.complete


@pytest.mark.slow
@pytest.mark.fault
@pytest.mark.parametrize("during", ["search", "finals"])
def test_an_interrupt_ends_all_gpus_work_and_the_same_command_resumes(
    store: Store, own_database: Path, during: str
) -> None:
    command = [sys.executable, "-m", "tests.tuning.fleet_driver", str(own_database)]
    driver = subprocess.Popen(
        command,
        env=env(),
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        preexec_fn=heed_signals,
    )
    end = time.monotonic() + 120
    while not store.runs() or not _reached(store.trials_of(store.runs()[0].id), during):
        assert time.monotonic() < end
        time.sleep(0.02)
    driver.send_signal(signal.SIGINT)
    assert driver.wait(60) == 130
    (run_,) = store.runs()
    assert run_.state == "interrupted"
    # No candidate is blamed, and nothing of the run is left.
    kept = store.trials_of(run_.id)
    assert {str(trial.status) for trial in kept} == {"ok"}
    assert _gone(driver.pid)

    assert subprocess.run(command, env=env(), check=False).returncode == 0
    again = [trial for trial in store.trials_of(store.runs()[1].id) if trial.origin != "race"]
    before = [trial for trial in kept if trial.origin != "race"]
    assert len({(t.stage, t.config) for t in again} & {(t.stage, t.config) for t in before}) == 0
    assert len(again) + len(before) == 2 * 41
    assert len(store.winners()) == 1


def _gone(session: int) -> bool:
    """Whether a session's processes have all ended; the resource tracker has a moment."""
    end = time.monotonic() + 10
    while time.monotonic() < end:
        try:
            os.killpg(session, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.05)
    return False


def _reached(trials: Sequence[StoredTrial], phase: str) -> bool:
    return len(trials) > (10 if phase == "search" else 2 * 41 - 1)


class Stub:
    """A GPU whose work is what the test says."""

    workload = "stub"

    def __init__(self, uuid: str, fingerprint: Fingerprint = MI325X) -> None:
        self.gpu, self.fingerprint = Gpu("host", uuid), fingerprint
        self.closed = threading.Event()

    def __enter__(self) -> "Stub":
        return self

    def close(self) -> None:
        self.closed.set()


def _fleet(*judges: Any, said: list[str] | None = None) -> Fleet:
    fleet = Fleet(judges, [judge.gpu.uuid for judge in judges], (said if said is not None else []).append)
    assert fleet.fingerprint == MI325X
    return fleet


def _blocked(fleet: Fleet, count: int) -> tuple[threading.Event, list[Any]]:
    """Keeps so many GPUs busy until the event is set; the judges that have the work."""
    go, there = threading.Event(), threading.Semaphore(0)
    taken: list[Any] = []

    def act(judge: Any) -> None:
        taken.append(judge)
        there.release()
        go.wait(10)

    for _ in range(count):
        fleet.run(PROBLEMS[0], act)
    for _ in range(count):
        assert there.acquire(timeout=10)
    return go, taken


def test_whoever_is_free_takes_the_next_piece_of_work() -> None:
    with _fleet(Stub("a"), Stub("b")) as fleet:
        go, taken = _blocked(fleet, 2)
        assert len({judge.gpu for judge in taken}) == 2
        waiting = fleet.run(PROBLEMS[0], lambda judge: judge.gpu.uuid)
        assert not waiting.done()
        go.set()
        assert waiting.result(10) in ("a", "b")


def test_what_has_one_binary_goes_to_one_gpu() -> None:
    """Its numeric gate is paid once, while the other GPU has work of its own."""
    both = threading.Barrier(2)

    def act(judge: Any) -> str:
        both.wait(10)
        return str(judge.gpu.uuid)

    with _fleet(Stub("a"), Stub("b")) as fleet:
        go, _ = _blocked(fleet, 2)
        jobs = {group: [fleet.run(PROBLEMS[0], act, group=group) for _ in range(10)] for group in "xy"}
        go.set()
        for futures in jobs.values():
            assert len({future.result(10) for future in futures}) == 1


def test_a_gpu_goes_on_with_the_binary_that_it_is_at() -> None:
    order: list[str] = []
    with _fleet(Stub("a")) as fleet:
        go, _ = _blocked(fleet, 1)
        futures = [fleet.run(PROBLEMS[0], lambda _, g=g: order.append(g), group=g) for g in "xyxyx"]
        go.set()
        for future in futures:
            future.result(10)
    assert order == ["x", "x", "x", "y", "y"]


def _beside(event: threading.Event, timeout: float) -> Any:
    """Work that is true when other work set the event meanwhile."""
    return lambda _: event.wait(timeout)


def test_a_gpu_that_would_idle_takes_some_of_what_waits_of_one_binary() -> None:
    there = threading.Event()
    with _fleet(Stub("a"), Stub("b")) as fleet:
        go, _ = _blocked(fleet, 2)
        first = fleet.run(PROBLEMS[0], _beside(there, 5), group="x")
        rest = [fleet.run(PROBLEMS[0], lambda _: there.set(), group="x") for _ in range(3)]
        go.set()
        assert first.result(10)
        for future in rest:
            assert future.result(10) is None


def test_the_last_that_waits_of_a_binary_is_left_to_the_gpu_that_has_seen_it() -> None:
    there = threading.Event()
    with _fleet(Stub("a"), Stub("b")) as fleet:
        go, _ = _blocked(fleet, 2)
        first = fleet.run(PROBLEMS[0], _beside(there, 0.2), group="x")
        last = fleet.run(PROBLEMS[0], lambda _: there.set(), group="x")
        go.set()
        assert not first.result(10)
        last.result(10)


def test_a_binary_is_at_work_on_each_of_its_problems_homes_at_once() -> None:
    """Before GPUs are found to agree, nobody waits for one that may not do its work."""
    there = threading.Event()
    with _fleet(Stub("a"), Stub("b")) as fleet:
        fleet.stay({PROBLEMS[0]: 0, PROBLEMS[1]: 1})
        first = fleet.run(PROBLEMS[0], _beside(there, 5), group="x")
        fleet.run(PROBLEMS[1], lambda _: there.set(), group="x")
        assert first.result(10)


def test_a_gpu_hears_when_problems_no_longer_stay_on_another() -> None:
    there = threading.Event()
    with _fleet(Stub("a"), Stub("b")) as fleet:
        fleet.stay({PROBLEMS[0]: 0})
        first = fleet.run(PROBLEMS[0], _beside(there, 5))
        fleet.run(PROBLEMS[0], lambda _: there.set())
        assert not there.wait(0.1)
        fleet.stay({})
        assert first.result(10)


def test_a_lost_gpus_work_is_done_by_another() -> None:
    said: list[str] = []
    with _fleet(Stub("a"), Stub("b"), said=said) as fleet:

        def act(judge: Any) -> str:
            if judge.gpu.uuid == "a":
                raise UserError("gone")
            return "done"

        assert [fleet.run(PROBLEMS[0], act).result(10) for _ in range(20)] == ["done"] * 20
        assert said in ([], ["GPU a is lost, 1 go on without it: gone"])


def test_work_that_only_a_lost_gpu_may_do_fails_and_the_rest_goes_on() -> None:
    with _fleet(Stub("a"), Stub("b")) as fleet:

        def gone(judge: Any) -> None:
            raise UserError("gone")

        with pytest.raises(UserError, match="gone"):
            fleet.run(PROBLEMS[0], gone, only=0).result(10)
        with pytest.raises(UserError, match="gone"):
            fleet.run(PROBLEMS[0], lambda judge: None, only=0).result(10)
        fleet.stay({PROBLEMS[0]: 0})  # a home that is lost
        assert fleet.run(PROBLEMS[0], lambda judge: judge.gpu.uuid).result(10) == "b"
        with pytest.raises(UserError, match="gone"):
            fleet.run(PROBLEMS[0], gone).result(10)


def test_what_a_lost_gpu_left_and_what_waits_ends_with_the_last_gpu() -> None:
    first_is_gone = threading.Event()

    def gone(judge: Any) -> None:
        if judge.gpu.uuid == "b":
            assert first_is_gone.wait(10)
        raise UserError("gone")

    def say(sentence: str) -> None:
        first_is_gone.set()

    with Fleet([Stub("a"), Stub("b")], ["a", "b"], say) as fleet:  # type: ignore[list-item]
        assert fleet.fingerprint == MI325X
        under_way = fleet.run(PROBLEMS[0], gone, only=1)
        left = fleet.run(PROBLEMS[0], gone)
        waiting = fleet.run(PROBLEMS[0], lambda judge: None, only=1)
        for future in (under_way, left, waiting):
            with pytest.raises(UserError, match="gone"):
                future.result(10)


def test_closing_ends_what_waits_and_what_is_under_way() -> None:
    stub = Stub("a")
    fleet = _fleet(stub)
    under_way = fleet.run(PROBLEMS[0], lambda judge: stub.closed.wait(10))
    waiting = fleet.run(PROBLEMS[0], lambda judge: None)
    fleet.close()
    assert waiting.cancelled()
    with pytest.raises(CancelledError):
        under_way.result(10)


def test_one_gpu_that_is_shown_twice_counts_once() -> None:
    said: list[str] = []
    with _fleet(Stub("a"), Stub("a"), said=said) as fleet:
        assert len(fleet.gpus) == 1
    assert said == ["GPU a is left out: it is GPU a again"]


def test_the_larger_group_of_equal_gpus_is_taken() -> None:
    said: list[str] = []
    other = replace(MI325X, driver="other")
    with _fleet(Stub("x", other), Stub("a"), Stub("b"), said=said) as fleet:
        assert [gpu.uuid for gpu in fleet.gpus.values()] == ["a", "b"]
    assert "GPU x is left out" in said[0]
    assert "driver: 6.14.5 -> other" in said[0]


def test_gpus_are_compared_at_the_most_tokens_whose_gate_takes_no_time() -> None:
    assert compared(PROBLEMS) == PROBLEMS[2]
    many = [Problem(TINY, 4, 40), Problem(TINY, 1, 40)]
    assert compared([*many, PROBLEMS[1]]) == PROBLEMS[1]
    assert compared(many) == many[1]


def test_a_calibrations_spread_is_of_gpus_not_of_configs_or_windows() -> None:
    fast, slow = Gpu("host", "fast"), Gpu("host", "slow")
    windows = [
        CalibrationWindow(PROBLEMS[0], Stage.STAGE1, Config({"us": us}), gpu, us * factor * noise)
        for us in (10, 1000)
        for gpu, factor in ((fast, 1.0), (slow, 1.02))
        for noise in (1.0, 0.999, 3.0)
    ]
    calibration = calibration_of(windows)
    assert calibration is not None
    assert calibration.spread == pytest.approx(0.02)
    assert calibration.configs == 2
    assert not calibration.agree
    assert calibration_of([window for window in windows if window.gpu == fast]) is None
