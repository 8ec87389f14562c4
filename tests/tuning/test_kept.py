"""What one run of a process hands on to the next: the same worker, which measures as a fresh one does."""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, suppress
from dataclasses import replace
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.errors import UserError
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Problem, Stage
from autotune.results import LayerConfig, Measurement
from autotune.search.live import LiveJudge
from autotune.space.config import Config
from autotune.store.store import Store
from autotune.tuning import kept
from autotune.tuning.run import RunRequest, run
from tests.live_stand_in import TARGET, TINY, OneConfig

SETTINGS = MeasureSettings(steps=4, layer_steps=4, timeout_s=10.0, select_rounds=2, judge_rounds=4)
FASTEST = Config({"us": 8000, "fault": "none"})
WIDER = replace(TINY, model="wider", inter_dim=128)


@pytest.fixture(autouse=True)
def keeping() -> Iterator[None]:
    with kept.keeping():
        yield


@pytest.fixture
def store(own_database: Path) -> Iterator[Store]:
    with Store.open(own_database) as opened:
        yield opened


def _run(store: Store, problems: Sequence[Problem]) -> list[LayerConfig]:
    request = RunRequest(
        backend=OneConfig.name,
        problems=problems,
        target=TARGET,
        trials=4,
        seed=0,
        sampler="tpe",
        workers=1,
        measuring=SETTINGS,
    )
    return [winner.config for winner in run(request, store, Progress()).best]


def _processes() -> tuple[int | None, int | None]:
    """Of measuring and of compiling."""
    assert kept._kept is not None
    assert kept._kept.judge is not None
    assert kept._kept.workers is not None
    (measuring,) = kept._kept.judge._measurer._workers.values()
    return measuring._child.pid, kept._kept.workers._children[0].pid


@pytest.mark.slow
def test_runs_one_after_the_other_have_the_same_processes_and_their_own_winners(store: Store) -> None:
    assert _run(store, [Problem(TINY, 1)]) == [LayerConfig(FASTEST, FASTEST)]
    before = _processes()
    assert _run(store, [Problem(WIDER, 2)]) == [LayerConfig(FASTEST, FASTEST)]
    assert _processes() == before


def _judge(say: list[str], problem: Problem) -> AbstractContextManager[LiveJudge]:
    return kept.live_judge(OneConfig(), [problem], SETTINGS, say.append)


def test_the_next_run_measures_another_layer_with_the_same_worker() -> None:
    workers, times = [], []
    for layer in (TINY, WIDER):
        with _judge([], Problem(layer, 1)) as judge:
            measured = judge.again(Problem(layer, 1), Stage.STAGE1, FASTEST)
            assert isinstance(measured, Measurement)
            times.append(measured.us)
            workers.append([worker._child.pid for worker in judge._measurer._workers.values()])
    assert workers[0] == workers[1]
    assert times == pytest.approx([8.0, 8.0], rel=0.01)


def test_after_an_error_the_next_run_starts_a_worker_of_its_own() -> None:
    workers = []
    for fails in (False, True, False):
        with suppress(UserError), _judge([], Problem(TINY, 1)) as judge:
            assert isinstance(judge.again(Problem(TINY, 1), Stage.STAGE1, FASTEST), Measurement)
            workers.append([worker._child.pid for worker in judge._measurer._workers.values()])
            if fails:
                raise UserError("the GPU is lost")
    assert workers[0] == workers[1] != workers[2]


def test_whoever_runs_now_is_told_of_the_gpu() -> None:
    first: list[str] = []
    second: list[str] = []
    with _judge(first, Problem(TINY, 1)) as judge:
        assert judge.fingerprint.backend == "fake"
    with _judge(second, Problem(TINY, 2)) as judge:
        judge._measurer._quiet._tell("another process")
    assert (len(first), len(second)) == (0, 1)
