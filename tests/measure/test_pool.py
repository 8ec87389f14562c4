"""The measurer: in order, one at a time, a process an environment, failures as values."""

import time
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.errors import UserError
from autotune.measure.confirm import Comparison
from autotune.measure.pool import Measurer
from autotune.problem.layer import Layer, Problem, Stage
from autotune.problem.routing import Routing
from autotune.protocol.process_knobs import layer_environment
from autotune.results import Failure, Finalist, LayerConfig, Measurement
from autotune.space.config import Config
from autotune.statistics import Verdict
from tests.measure.conftest import FAKE, PROBLEM, QUICK, TINY
from tests.measure.fake_runtime import fake_config, with_stages


def test_a_measurement_has_its_samples_and_the_gates_error(measurer: Measurer) -> None:
    result = measurer.submit(PROBLEM, Stage.STAGE1, fake_config(12.5)).result()
    assert isinstance(result, Measurement)
    assert result.us == pytest.approx(12.5, rel=0.01)
    assert len(result.samples) >= QUICK.min_samples
    assert 1e-3 < result.error < 3e-3
    assert result.seconds > 0


def test_requests_are_served_in_their_order(measurer: Measurer) -> None:
    done: list[int] = []
    futures = []
    for number in range(5):
        future = measurer.submit(PROBLEM, Stage.STAGE2, fake_config(10 + number))
        future.add_done_callback(lambda _, number=number: done.append(number))  # type: ignore[misc]
        futures.append(future)
    for future in futures:
        future.result()
    assert done == list(range(5))


def test_the_fingerprint_is_the_workers(measurer: Measurer) -> None:
    fingerprint = measurer.fingerprint()
    assert fingerprint.backend == "fake"
    assert fingerprint.kernel_source == "fake"
    assert fingerprint.torch is not None
    assert measurer.workload_key == QUICK.key


def test_a_final_goes_through_the_workers(measurer: Measurer) -> None:
    progress: list[int] = []
    finalists = [
        Finalist("default", with_stages(fake_config(10))),
        Finalist("published", with_stages(fake_config(9.5))),
        Finalist("candidate", with_stages(fake_config(8))),
    ]
    result = measurer.confirm(PROBLEM, finalists, progress=progress.append)
    assert result.winner == 2
    assert result.gain == pytest.approx(0.2, abs=0.01)
    # The challenger is picked by the layer alone; the rounds that decide time the stages, too.
    assert set(result.rounds[0].us[0]) == {"layer"}
    assert set(result.rounds[-1].us[0]) == {"layer", "stage1", "stage2"}
    assert result.rounds[0].us[0]["layer"] == pytest.approx(20, rel=0.02)
    assert progress == list(range(1, 3 * (QUICK.select_rounds + QUICK.judge_rounds) + 1))


@pytest.mark.parametrize(
    ("us", "says"), [(10.0, Verdict.SAME), (10.3, Verdict.SLOWER), (9.0, Verdict.FASTER)]
)
def test_two_configs_are_compared(measurer: Measurer, us: float, says: Verdict) -> None:
    result = measurer.compare(PROBLEM, fake_config(10, noise=1), fake_config(us, noise=1), Stage.STAGE1)
    assert isinstance(result, Comparison)
    assert result.verdict is says


def test_two_layers_are_compared(measurer: Measurer) -> None:
    a, b = with_stages(fake_config(10)), with_stages(fake_config(12))
    result = measurer.compare(PROBLEM, a, b)
    assert isinstance(result, Comparison)
    assert result.ratio.value == pytest.approx(1.2, rel=0.01)


def test_one_config_has_an_interval(measurer: Measurer) -> None:
    answer = measurer.interval(PROBLEM, fake_config(10), Stage.STAGE1)
    assert not isinstance(answer, Failure)
    interval, error = answer
    assert interval.low <= interval.value <= interval.high
    assert interval.value == pytest.approx(10, rel=0.01)
    assert error > 0


@pytest.mark.slow
def test_unlike_environments_live_in_unlike_processes_that_take_turns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    starts = tmp_path / "starts"
    monkeypatch.setenv("FAKE_RUNTIME_STARTS", str(starts))
    fast, slow = with_stages(fake_config(8)), with_stages(fake_config(10))

    def environment(config: object) -> Mapping[str, str]:
        return {"FAKE_GATE": "1"} if config is fast else {"FAKE_GATE": "0"}

    backend = "tests.measure.fake_runtime:make_counting"
    with Measurer(backend, [PROBLEM], QUICK) as measurer:
        finalists = [Finalist("default", slow), Finalist("candidate", fast)]
        result = measurer.confirm(PROBLEM, finalists, environment)
        assert measurer.restarts == 0
    assert result.winner == 1
    started = [line.split() for line in starts.read_text().splitlines()]
    assert sorted(gate for _, gate in started) == ["0", "1"]
    assert len({pid for pid, _ in started}) == 2


def test_another_layer_takes_the_place_of_the_first(measurer: Measurer) -> None:
    other = Problem(Layer("other", 64, 32, 4, 2, 1), 2)
    with Measurer(FAKE, [PROBLEM, other], QUICK) as both:
        for problem in (PROBLEM, other, PROBLEM):
            assert isinstance(both.submit(problem, Stage.STAGE1, fake_config(10)).result(), Measurement)
        assert both.restarts == 0


def test_what_no_candidate_is_to_blame_for_is_a_user_error(tmp_path: Path) -> None:
    recording = tmp_path / "steps.jsonl"
    recording.write_text("[[0, 1]]\n")
    problem = replace(PROBLEM, routing=Routing("file", path=str(recording)))
    with Measurer(FAKE, [problem], QUICK) as made, pytest.raises(UserError, match="record it anew"):
        made.submit(problem, Stage.STAGE1, fake_config(10)).result()


@pytest.mark.parametrize(
    ("backend", "remedy"), [("nothing", "use one of aiter"), ("no_such_module:make", "correct its name")]
)
def test_a_backend_that_cannot_run_here_is_said_at_once(backend: str, remedy: str) -> None:
    with Measurer(backend, [PROBLEM], QUICK) as made, pytest.raises(UserError, match=remedy):
        made.fingerprint()


def test_a_closed_measurer_gives_failures() -> None:
    made = Measurer(FAKE, [PROBLEM], QUICK)
    made.close()
    with pytest.raises(RuntimeError, match="shutdown"):
        made.submit(PROBLEM, Stage.STAGE1, fake_config(10))


@pytest.mark.parametrize("wait_s", [0.0, 0.002, 0.004, 0.008, 0.05])
def test_closing_while_the_worker_starts_leaves_nothing_behind(wait_s: float) -> None:
    made = Measurer(FAKE, [PROBLEM], QUICK)
    starting = made.start()
    time.sleep(wait_s)
    made.close()
    assert starting.cancelled() or isinstance(starting.exception(timeout=10), UserError)
    for process in made._workers.values():
        assert not process._child.is_alive()


def test_a_closed_measurers_worker_is_gone() -> None:
    """Not only told to go: the memory that it holds on the GPU is the next one's."""
    made = Measurer(FAKE, [PROBLEM], QUICK)
    made.fingerprint()
    (process,) = made._workers.values()
    pid = process._child.pid
    made.close()
    assert not Path(f"/proc/{pid}").exists()


def test_a_layers_environment_is_its_stages() -> None:
    def of(config: Config) -> Mapping[str, str]:
        return {"GATE": str(config["us"])}

    same = LayerConfig(Config({"us": 1}), Config({"us": 1}))
    assert layer_environment(of)(same) == {"GATE": "1"}
    with pytest.raises(UserError, match="GATE"):
        layer_environment(of)(LayerConfig(Config({"us": 1}), Config({"us": 2})))
    assert layer_environment(of)(Config({"us": 3})) == {"GATE": "3"}


def test_hot_times_are_measured_on_request() -> None:
    with Measurer(FAKE, [Problem(TINY, 4)], replace(QUICK, cold=0)) as made:
        assert isinstance(made.submit(PROBLEM, Stage.STAGE1, fake_config(10)).result(), Measurement)
        assert made.workload_key.startswith("v1;hot")
