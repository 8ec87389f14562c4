"""Layers of a search: timed in turn with the default in one process, and judged; and their race."""

import pytest

from autotune.measure import confirm as confirming
from autotune.measure.pool import Measurer
from autotune.measure.timer import time_beside
from autotune.measure.worker import Worker
from autotune.protocol.runtime import What
from autotune.results import Failure, LayerMeasurement, Status
from tests.measure.conftest import FAKE, PROBLEM, QUICK, TINY
from tests.measure.fake_runtime import Fault, fake_config, with_stages


def test_a_layer_is_timed_beside_the_default_and_what_was_timed_is_judged(measurer: Measurer) -> None:
    default, faster = with_stages(fake_config(10)), with_stages(fake_config(9))
    outcome = measurer.submit_layer(PROBLEM, faster, default).result()
    assert isinstance(outcome, LayerMeasurement)
    assert outcome.ratio == pytest.approx(0.9, rel=0.01)
    assert sum(outcome.default_us) / len(outcome.default_us) == pytest.approx(20, rel=0.01)
    assert 1e-3 < outcome.error < 2e-2


@pytest.mark.parametrize("fault", [Fault.WRONG_TILE, Fault.NOT_FINITE, Fault.UNWRITTEN_ROW])
def test_a_layer_with_wrong_numbers_has_no_time(measurer: Measurer, fault: Fault) -> None:
    wrong = with_stages(fake_config(5, fault=fault))
    outcome = measurer.submit_layer(PROBLEM, wrong, with_stages(fake_config(10))).result()
    assert isinstance(outcome, Failure)
    assert outcome.status is Status.INCORRECT


def test_a_layer_that_kills_the_worker_is_a_failure_and_the_next_one_is_timed(measurer: Measurer) -> None:
    default = with_stages(fake_config(10))
    deadly = with_stages(fake_config(5, fault=Fault.DIES_IN_LAYERS))
    assert isinstance(measurer.submit_layer(PROBLEM, deadly, default).result(), Failure)
    assert isinstance(measurer.submit_layer(PROBLEM, default, default).result(), LayerMeasurement)


def test_one_pass_is_enough_for_a_poor_layer() -> None:
    worker = Worker(FAKE, QUICK)
    worker.prepare(TINY, [PROBLEM])
    default = with_stages(fake_config(10))
    assert len(worker.layer(PROBLEM, with_stages(fake_config(8)), default).us) > 1
    assert len(worker.layer(PROBLEM, with_stages(fake_config(9.5)), default).us) == 1


class Drifting:
    """A pass that takes longer each time."""

    method = "graph"
    ticks = 0

    def __init__(self, us: float) -> None:
        self._us = us

    def passes(self, samples: int, passes_a_sample: int) -> list[float]:
        taken = []
        for _ in range(samples):
            Drifting.ticks += 1
            taken.append(self._us * (1 + 0.01 * Drifting.ticks))
        return taken

    def close(self) -> None:
        pass


def test_a_drift_cancels_since_the_default_is_looked_at_before_and_after() -> None:
    around, taken = time_beside(Drifting(1000.0), Drifting(900.0), 300.0)
    ratio = sum(taken) / len(taken) / (sum(around) / len(around))
    assert ratio == pytest.approx(0.9, rel=1e-3)


def test_a_race_is_run_on_routings_of_its_own_and_once_more_after_a_kernel_that_does_nothing(
    measurer: Measurer,
) -> None:
    configs = [with_stages(fake_config(us)) for us in (10, 9, 8)]
    rounds = measurer.race(PROBLEM, configs, 4, 0)
    assert len(rounds) == 4
    assert all(set(us) == {"layer", "spaced"} for round_ in rounds for us in round_.us)
    assert rounds[0].us[2]["layer"] == pytest.approx(16, rel=0.02)
    seeds = (0, confirming.RACE_SEED, confirming.SELECT_SEED, confirming.JUDGE_SEED, confirming.COMPARE_SEED)
    assert min(abs(a - b) for n, a in enumerate(seeds) for b in seeds[:n]) > 100_000


def test_the_kernel_between_layers_is_launched_before_each() -> None:
    worker = Worker(FAKE, QUICK)
    worker.prepare(TINY, [PROBLEM])
    launched: list[str] = []
    worker._nothing = lambda: launched.append("nothing")  # type: ignore[method-assign]
    work = worker._load().pass_of(PROBLEM, 0)
    for launch in worker._launches(What.SPACED, with_stages(fake_config(10)), work):
        before = len(launched)
        launch.run()
        assert launched[before:] == ["nothing"]
