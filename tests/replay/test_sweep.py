"""A recorded table never holds what was timed while others were on the GPU."""

from collections.abc import Iterator
from concurrent.futures import Future
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from bench import recorder as recording_module
from bench import sweep
from bench.recorder import Recorder
from bench.sweep import Sweeper, SweepSettings

from autotune.errors import UserError
from autotune.measure import lock
from autotune.measure.requests import Look
from autotune.problem.layer import Stage
from autotune.results import Measurement
from tests.measure.conftest import FAKE, PROBLEM, QUICK
from tests.measure.fake_runtime import FakeMachine, crowd, fake_config
from tests.replay.test_recorder import recording


def settings(patience_s: float = 60.0) -> SweepSettings:
    return SweepSettings(replace(QUICK, patience_s=patience_s), least_rounds=2, most_rounds=4)


@pytest.fixture
def sweeper(monkeypatch: pytest.MonkeyPatch) -> Sweeper:
    monkeypatch.setattr(FakeMachine, "ticks", 0)
    monkeypatch.setattr(sweep, "_AGAIN_S", 0.0)
    return Sweeper(FAKE, [PROBLEM], settings())


def others(monkeypatch: pytest.MonkeyPatch, **what: Any) -> None:
    for name, value in crowd(first=FakeMachine.ticks, **what).items():
        monkeypatch.setenv(name, value)


def test_a_swept_window_beside_others_is_marked(sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch) -> None:
    assert sweeper.measure(PROBLEM, Stage.STAGE1, fake_config(10)).contended is None
    others(monkeypatch, share=1.0, times=2.0)
    assert sweeper.measure(PROBLEM, Stage.STAGE1, fake_config(9)).contended is not None


def test_the_best_are_settled_by_undisturbed_rounds(
    sweeper: Sweeper, monkeypatch: pytest.MonkeyPatch
) -> None:
    sweeper.measure(PROBLEM, Stage.STAGE1, fake_config(10))
    others(monkeypatch, share=0.5, last=FakeMachine.ticks + 700)
    configs = [fake_config(10), fake_config(9)]
    settled = sweeper.settle(PROBLEM, Stage.STAGE1, configs)
    assert [settled[config] for config in configs] == pytest.approx([10, 9], rel=0.01)


def test_others_who_stay_end_the_settling(monkeypatch: pytest.MonkeyPatch) -> None:
    others(monkeypatch, listed="process 497 (python3)")
    sweeper = Sweeper(FAKE, [PROBLEM], settings(patience_s=0.2))
    with pytest.raises(UserError, match=r"process 497 \(python3\) is on this GPU too"):
        sweeper.settle(PROBLEM, Stage.STAGE1, [fake_config(10)])


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setenv(lock.FOLDER_VARIABLE, str(tmp_path))
    monkeypatch.setattr(recording_module, "_AGAIN_S", 0.0)
    with Recorder(recording(), tmp_path / "x.journal", lambda _: None) as made:
        yield made


def test_a_marked_outcome_is_swept_again_and_not_for_ever(
    recorder: Recorder, monkeypatch: pytest.MonkeyPatch
) -> None:
    def answer(contended: str | None) -> Future[Any]:
        future: Future[Any] = Future()
        future.set_result({PROBLEM: Measurement((), 0.0, 0.0, contended)})
        return future

    assert not recorder._is_to_be_swept_again(answer(None))
    assert recorder._is_to_be_swept_again(answer("process 497 (python3)"))
    assert not recorder._is_to_be_swept_again(answer(None))
    assert recorder._is_to_be_swept_again(answer("process 497 (python3)"))
    assert recorder._disturbed_since is not None
    recorder._disturbed_since -= 61
    with pytest.raises(UserError, match="has been for 61 s"):
        recorder._is_to_be_swept_again(answer("process 497 (python3)"))


def test_a_table_is_recorded_on_a_gpu_of_ones_own(recorder: Recorder) -> None:
    with pytest.raises(UserError, match=r"process 497 .* is on this GPU too: record when it has ended"):
        recorder._enter(Look("GPU-1", "process 497 (python3)"))
    recorder._enter(Look("GPU-1", None))
    assert recorder._gpu == "GPU-1"
