"""What the measurer asks of which worker in which order, over workers that answer at once."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure import confirm as confirming
from autotune.measure import pool as pools
from autotune.measure import table as tables
from autotune.measure.confirm import Comparison
from autotune.measure.pool import ROUND_SAMPLES, Measurer
from autotune.measure.requests import Look
from autotune.measure.settings import MeasureSettings
from autotune.measure.worker import RoundTimes
from autotune.problem.layer import Layer, Problem, Stage
from autotune.protocol.process_knobs import layer_environment
from autotune.protocol.runtime import Subject, What
from autotune.results import (
    Failure,
    Finalist,
    Gpu,
    LayerConfig,
    LayerMeasurement,
    Measurement,
    Sample,
    Status,
)
from autotune.space.config import Config
from tests.measure.conftest import FAKE, PROBLEM, QUICK, TINY

CLOSED = Failure(Status.RUNTIME_ERROR, "the measurer was closed")
REFUSED = Failure(Status.INCORRECT, "wrong", 0.1, 0.5)
WINDOW = Measurement((Sample(10.0),), 2e-3, 0.1, None, Gpu("host", "GPU-1"))
BESIDE = Measurement((Sample(30.0),), 2e-3, 0.1, "process 497", Gpu("host", "GPU-1"))


class World:
    """All workers of a test.

    Attributes:
        made: what each was made with, by its environment.
        asked: worker's environment, request, its arguments, in order.
        us: microseconds of a config's layer, and of its stages a half; those of odd seeds are 1 % more.
        wrong: configs that the gate refuses.
        contended: of the next rounds, who disturbs them.
        answers: of the next windows.
    """

    def __init__(self) -> None:
        self.made: dict[Any, tuple[Any, ...]] = {}
        self.asked: list[tuple[Any, str, tuple[Any, ...]]] = []
        self.us: dict[str, float] = {}
        self.wrong: set[str] = set()
        self.contended: list[str | None] = []
        self.answers: list[Any] = []
        self.prepared: Any = "fingerprint"
        self.stopped = 0

    def names(self) -> list[str]:
        return [name for _, name, _ in self.asked]


@pytest.fixture
def world(monkeypatch: pytest.MonkeyPatch) -> World:
    world = World()

    class Worker:
        restarts = 2

        def __init__(
            self, backend: str, problems: Any, settings: Any, environment: Mapping[str, str]
        ) -> None:
            self.environment = tuple(sorted(environment.items()))
            world.made[self.environment] = (backend, problems, settings)

        def look(self) -> Look:
            world.asked.append((self.environment, "look", ()))
            return Look("GPU-1", None)

        def prepare(self, layer: Layer) -> Any:
            world.asked.append((self.environment, "prepare", (layer,)))
            return world.prepared

        def stop(self) -> None:
            world.stopped += 1

        def call(self, layer: Layer, function: Callable[..., Any], *arguments: Any) -> Any:
            assert layer == TINY
            world.asked.append((self.environment, function.__name__, arguments))
            if function.__name__ == "check":
                return REFUSED if arguments[2].key in world.wrong else 1e-3
            if function.__name__ == "round_of":
                _, what, config, seed, _, _ = arguments
                us = world.us[config.key] * (1.01 if seed % 2 else 1.0)
                times = {part.value: us if part in (What.LAYER, What.SPACED) else us / 2 for part in what}
                return RoundTimes(times, world.contended.pop(0) if world.contended else None)
            answer = None if function.__name__ == "watch" else world.answers.pop(0)
            return answer() if callable(answer) else answer

    monkeypatch.setattr(pools, "WorkerProcess", Worker)
    monkeypatch.setattr("autotune.measure.lock.acquire", lambda *_, **__: False)
    return world


@pytest.fixture
def measurer(world: World) -> Any:
    with Measurer(FAKE, [PROBLEM], QUICK, lambda _: None, {"HIP_VISIBLE_DEVICES": "3"}) as made:
        yield made


def config(us: float, world: World | None = None) -> LayerConfig:
    one = Config({"us": round(us * 1000)})
    made = LayerConfig(one, one)
    if world is not None:
        world.us[made.key] = us
    return made


HERE = (("HIP_VISIBLE_DEVICES", "3"),)


def test_a_measurer_without_a_problem_is_none() -> None:
    with pytest.raises(ValueError, match=r"^a measurer is made for at least one problem$"):
        Measurer(FAKE, [])


def test_it_measures_by_the_usual_settings_unless_told_otherwise(world: World) -> None:
    with Measurer(FAKE, [PROBLEM]) as measurer:
        assert measurer.settings == MeasureSettings()
        assert measurer.workload_key == MeasureSettings().key


def test_a_worker_is_made_for_an_environment_with_all_problems_and_sees_its_gpu(
    measurer: Measurer, world: World
) -> None:
    world.answers = [WINDOW, WINDOW, WINDOW]
    stage = config(1).stage1
    for environment in ({"A": "1"}, None, {"A": "1"}):
        measurer.submit(PROBLEM, Stage.STAGE1, stage, environment).result()
    assert list(world.made) == [(("A", "1"), *HERE), HERE]
    assert world.made[HERE] == (FAKE, (PROBLEM,), QUICK)
    assert measurer.restarts == 4


def test_the_gpu_is_looked_at_once_before_the_first_request(measurer: Measurer, world: World) -> None:
    assert measurer.gpu.uuid is None
    world.answers = [WINDOW, WINDOW]
    for _ in range(2):
        assert measurer.submit(PROBLEM, Stage.STAGE2, config(1).stage2).result() is WINDOW
    assert world.asked == [
        (HERE, "look", ()),
        *[(HERE, "measure", (PROBLEM, Stage.STAGE2, config(1).stage2))] * 2,
    ]
    assert measurer.gpu.uuid == "GPU-1"


def test_a_window_beside_others_comes_back_marked_and_the_next_waits_for_their_leave(
    measurer: Measurer, world: World
) -> None:
    world.answers = [BESIDE, REFUSED, WINDOW]
    stage = config(1).stage1
    assert measurer.submit(PROBLEM, Stage.STAGE1, stage, {"A": "1"}).result() is BESIDE
    assert measurer.submit(PROBLEM, Stage.STAGE1, stage, {"A": "1"}).result() is REFUSED
    assert measurer.submit(PROBLEM, Stage.STAGE1, stage, {"A": "1"}).result() is WINDOW
    assert world.names() == ["look", "measure", "watch", "measure", "measure"]
    assert {environment for environment, _, _ in world.asked} == {(("A", "1"), *HERE)}


def test_a_layer_is_timed_beside_the_default_in_its_environment(measurer: Measurer, world: World) -> None:
    a, b = config(1), config(2)
    beside = LayerMeasurement((1.0,), (1.0,), 0.0, 0.1, "process 497", Gpu("host", "GPU-1"))
    world.answers = [beside, REFUSED]
    assert measurer.submit_layer(PROBLEM, a, b, {"A": "1"}).result() is beside
    assert measurer.submit_layer(PROBLEM, a, b, {"A": "1"}).result() is REFUSED
    environment = (("A", "1"), *HERE)
    asked = (environment, "layer", (PROBLEM, a, b))
    assert world.asked == [(environment, "look", ()), asked, (environment, "watch", ()), asked]


def test_the_fingerprint_is_the_prepared_workers(measurer: Measurer, world: World) -> None:
    assert measurer.fingerprint({"A": "1"}) == "fingerprint"
    environment = (("A", "1"), *HERE)
    assert world.asked == [(environment, "look", ()), (environment, "prepare", (TINY,))]
    world.prepared = Failure(Status.RUNTIME_ERROR, "no answer")
    with pytest.raises(UserError, match=r"^no answer: see that the GPU is free and its driver works$"):
        measurer.fingerprint()
    with pytest.raises(UserError, match=r"^no answer$"):
        measurer.ready(TINY).result()
    world.prepared = "fingerprint"
    assert measurer.ready(TINY).result() is None
    assert world.asked[-1] == (HERE, "prepare", (TINY,))


def rounds_of(world: World) -> list[tuple[Any, ...]]:
    return [arguments for _, name, arguments in world.asked if name == "round_of"]


def test_a_final_gates_whole_contenders_and_times_the_stages_only_where_it_decides(
    measurer: Measurer, world: World
) -> None:
    finalists = [
        Finalist("default", config(10, world)),
        Finalist("published", config(9, world)),
        Finalist("candidate", config(8, world)),
    ]
    candidate, progress = finalists[2].config, list[int]()
    final = measurer.confirm(PROBLEM, finalists, lambda c: {"US": str(c is candidate)}, progress.append)
    assert final.winner == 2
    assert final.gain == pytest.approx(0.2)
    gates = [(environment, arguments) for environment, name, arguments in world.asked if name == "check"]
    gated = (What.LAYER, What.STAGE1, What.STAGE2)
    assert gates == [
        ((*HERE, ("US", str(f.config is candidate))), (PROBLEM, gated, f.config)) for f in finalists
    ]
    rounds = rounds_of(world)
    select = 3 * QUICK.select_rounds
    assert {arguments[1] for arguments in rounds[:select]} == {(What.LAYER,)}
    assert {arguments[1] for arguments in rounds[select:]} == {gated}
    assert {arguments[4:] for arguments in rounds} == {(ROUND_SAMPLES, None)}
    assert progress == list(range(1, len(rounds) + 1))


def test_a_round_beside_others_is_run_again_after_they_left_and_the_final_says_so(
    measurer: Measurer, world: World
) -> None:
    finalists = [Finalist("default", config(10, world)), Finalist("candidate", config(9, world))]
    world.contended = [None, "process 497 (x)", "process 498 (y)", None]
    progress: list[int] = []
    final = measurer.confirm(PROBLEM, finalists, progress=progress.append)
    names = world.names()
    first = names.index("round_of")
    assert names[first : first + 6] == ["round_of", "round_of", "watch", "round_of", "watch", "round_of"]
    again = rounds_of(world)
    assert again[1] == again[2] == again[3]
    assert len(progress) == len(again) - 2
    assert (
        final.notes[-1]
        == "2 times beside others were put aside and taken again, the last beside process 498 (y)"
    )
    world.contended = ["process 497 (x)"]
    final = measurer.confirm(PROBLEM, finalists)
    assert (
        final.notes[-1]
        == "1 time beside others was put aside and taken again, the last beside process 497 (x)"
    )
    assert not any("beside" in note for note in measurer.confirm(PROBLEM, finalists).notes)


def test_a_table_times_the_layer_of_every_program_and_decides_nothing(
    measurer: Measurer, world: World
) -> None:
    finalists = [Finalist(f"setting {us}", config(us, world)) for us in (10, 9, 8)]
    table = measurer.time_all(PROBLEM, finalists, lambda c: {"C": c.key}, {2: 1})
    assert {arguments[:3] for _, name, arguments in world.asked if name == "check"} == {
        (PROBLEM, (What.LAYER,), finalist.config) for finalist in finalists[:2]
    }
    assert {arguments[1] for arguments in rounds_of(world)} == {(What.LAYER,)}
    assert len(table.rounds) == QUICK.select_rounds + QUICK.judge_rounds
    assert table.rounds[0].us[2] == table.rounds[0].us[1]
    assert len({environment for environment, name, _ in world.asked if name == "round_of"}) == 2
    seeds = {arguments[3] for arguments in rounds_of(world)}
    assert min(seeds) >= QUICK.seed + tables.TABLE_SELECT_SEED
    assert measurer.time_all(PROBLEM, finalists).errors == (1e-3,) * 3


def test_a_race_times_layers_and_spaced_layers_of_as_many_steps_as_a_search(
    measurer: Measurer, world: World
) -> None:
    configs = [config(10, world), config(8, world)]
    rounds = measurer.race(PROBLEM, configs, 2, 5, lambda c: {"C": c.key})
    assert [set(us) for us in rounds[0].us] == [{"layer", "spaced"}] * 2
    assert len(rounds) == 2
    assert "check" not in world.names()  # they have passed it in the search
    asked = rounds_of(world)
    assert {arguments[1] for arguments in asked} == {(What.LAYER, What.SPACED)}
    assert {arguments[4:] for arguments in asked} == {(ROUND_SAMPLES, QUICK.layer_steps)}
    assert min(arguments[3] for arguments in asked) == QUICK.seed + confirming.RACE_SEED + 5
    assert len({environment for environment, name, _ in world.asked if name == "round_of"}) == 2


@pytest.mark.parametrize(("stage", "what"), [(None, What.LAYER), (Stage.STAGE2, What.STAGE2)])
def test_two_configs_are_gated_and_compared_by_what_was_asked_for(
    stage: Stage | None, what: What, measurer: Measurer, world: World
) -> None:
    a, b = config(10, world), config(12, world)
    compared = measurer.compare(PROBLEM, a, b, stage, lambda c: {"B": str(c is b)})
    assert isinstance(compared, Comparison)
    assert compared.ratio.value == pytest.approx(1.2)
    checks = [arguments for _, name, arguments in world.asked if name == "check"]
    assert checks == [(PROBLEM, (what,), a), (PROBLEM, (what,), b)]
    assert {arguments[1] for arguments in rounds_of(world)} == {(what,)}
    first = {arguments[3] for arguments in rounds_of(world)}
    world.asked.clear()
    measurer.compare(PROBLEM, a, b, stage, seed=1)
    assert {arguments[3] for arguments in rounds_of(world)}.isdisjoint(first)


@pytest.mark.parametrize("place", [0, 1])
def test_a_config_that_the_gate_refuses_is_compared_with_nothing(
    place: int, measurer: Measurer, world: World
) -> None:
    pair = [config(10, world), config(12, world)]
    world.wrong = {pair[place].key}
    assert measurer.compare(PROBLEM, *pair) is REFUSED
    assert measurer.interval(PROBLEM, pair[place]) is REFUSED
    assert rounds_of(world) == []


def test_one_config_has_an_interval_over_rounds_on_fresh_routings(measurer: Measurer, world: World) -> None:
    one = config(10, world)
    answer = measurer.interval(PROBLEM, one, Stage.STAGE1, lambda c: {"ONE": "1"})
    assert not isinstance(answer, Failure)
    interval, error = answer
    assert (interval.low, interval.high) == (pytest.approx(5.0), pytest.approx(5.05))
    assert error == 1e-3
    asked = rounds_of(world)
    assert len(asked) == QUICK.judge_rounds
    assert {arguments[:3] for arguments in asked} == {(PROBLEM, (What.STAGE1,), one)}
    assert min(arguments[3] for arguments in asked) == QUICK.seed + confirming.COMPARE_SEED
    assert {environment for environment, _, _ in world.asked} == {(*HERE, ("ONE", "1"))}
    measurer.interval(PROBLEM, one)
    assert rounds_of(world)[-1][1] == (What.LAYER,)


def test_once_closed_its_workers_are_stopped_and_everything_is_a_failure(world: World) -> None:
    measurer = Measurer(FAKE, [PROBLEM], QUICK)
    world.answers = [WINDOW]
    measurer.submit(PROBLEM, Stage.STAGE1, config(1).stage1).result()
    assert not measurer.closed
    measurer.close()
    assert measurer.closed
    assert world.stopped == 1
    assert measurer._call(TINY, {}, lambda: None) == CLOSED  # type: ignore[arg-type,return-value]
    measurer._worker({"made": "while it closes"})
    assert world.stopped == 2


def test_one_request_is_on_the_gpu_at_a_time(measurer: Measurer, world: World) -> None:
    under_way: list[int] = []

    def answer() -> Measurement:
        under_way.append(1)
        time.sleep(0.02)
        assert len(under_way) == 1
        under_way.clear()
        return WINDOW

    world.answers = [answer] * 3
    futures = [measurer.submit(PROBLEM, Stage.STAGE1, config(1).stage1) for _ in range(3)]
    assert [future.result() for future in futures] == [WINDOW] * 3


def test_closing_cancels_what_waits_and_waits_for_what_is_under_way(world: World) -> None:
    """What is under way comes back because its worker is stopped, and not before."""
    begun = threading.Event()

    def answer() -> Failure | Measurement:
        begun.set()
        late = time.monotonic() + 5
        while not world.stopped and time.monotonic() < late:
            time.sleep(0.005)
        return CLOSED if world.stopped else WINDOW

    measurer = Measurer(FAKE, [PROBLEM], QUICK)
    world.answers = [answer, WINDOW]
    first, second = (measurer.submit(PROBLEM, Stage.STAGE1, config(1).stage1) for _ in range(2))
    begun.wait(10)
    measurer.close()
    assert first.done()
    assert first.result() is CLOSED
    assert second.cancelled()


def test_a_layers_environment_is_of_both_stages_which_must_agree() -> None:
    needs = {"a": {"A": "1", "B": "2"}, "b": {"B": "2", "C": "3"}, "c": {"B": "4"}}

    def environment(stage: Config) -> Mapping[str, str]:
        return needs[str(stage["needs"])]

    of = layer_environment(environment)
    a, b, c = (Config({"needs": name}) for name in "abc")
    subjects: list[tuple[Subject, dict[str, str]]] = [
        (a, needs["a"]),
        (LayerConfig(a, b), {"A": "1", "B": "2", "C": "3"}),
    ]
    for subject, expected in subjects:
        assert of(subject) == expected
    with pytest.raises(UserError, match=r"^stage 1 needs B=2 and stage 2 B=4: choose two that agree$"):
        of(LayerConfig(a, c))


def test_problems_may_be_of_several_layers(world: World) -> None:
    other = Problem(Layer("other", 64, 64, 4, 2, 1), 1)
    with Measurer(FAKE, [other, PROBLEM], QUICK) as measurer:
        measurer.fingerprint()
    assert world.asked[-1] == ((), "prepare", (other.layer,))
    assert world.made[()][1] == (other, PROBLEM)
