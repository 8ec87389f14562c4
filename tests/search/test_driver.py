"""What the driver does with asks, compiles and evaluations."""

import time
from collections.abc import Callable, Collection
from concurrent.futures import Future
from math import ceil
from pathlib import Path
from typing import Any

import pytest

from autotune.problem.layer import Layer, Problem, Stage
from autotune.results import Compiled, Failure, StaticFacts, Status
from autotune.search.study import Ask, StageSearch
from autotune.space.config import Config
from tests.search.fakes import FakeEvaluator, FakePool, Journal, binary, make_driver, searches
from tests.spaces import KIMI, toy_space

M1, M4, M8 = Problem(KIMI, 1), Problem(KIMI, 4), Problem(KIMI, 8)


def us_of(problem: Problem, config: Config) -> float:
    return problem.tokens + int(str(config["tile_n"])) / 32 + int(str(config["split_k"]))


def test_a_result_is_stored_before_its_search_is_told(tmp_path: Path) -> None:
    tasks, journal = searches(tmp_path, [M4]), Journal()
    search = tasks[M4, Stage.STAGE1]
    stored: list[Config] = []
    tell = search.tell

    def watched(config: Config, us: float | None) -> None:
        assert journal.trials[-1].config == config
        stored.append(config)
        tell(config, us)

    search.tell = watched  # type: ignore[method-assign]
    assert make_driver(tasks, FakePool(), FakeEvaluator(us_of), journal).run()
    assert len(stored) == len(journal.trials) == 10


def test_one_compile_is_evaluated_at_every_problem_that_its_binary_serves(tmp_path: Path) -> None:
    tasks, journal, pool = searches(tmp_path, [M1, M4], budget=12), Journal(), FakePool()
    evaluator = FakeEvaluator(us_of)
    make_driver(tasks, pool, evaluator, journal).run()
    assert len(pool.submitted) == len(set(pool.submitted)) == 12
    assert len(evaluator.evaluated) == 24
    assert {record.origin for record in journal.trials} >= {"default", "shared"}
    for config in pool.submitted:
        assert {p for p, c in evaluator.evaluated if c == config} == {M1, M4}
        compile_s = [record.compile_s for record in journal.trials if record.config == config]
        assert sum(seconds > 0 for seconds in compile_s) == 1


def test_what_ships_is_known_as_such_at_every_problem_even_where_another_asked_for_it(
    tmp_path: Path,
) -> None:
    tasks, journal = searches(tmp_path, [M1, M4], budget=12), Journal()
    make_driver(tasks, FakePool(), FakeEvaluator(us_of), journal).run()
    for (problem, stage), search in tasks.items():
        ships = search.space.default
        (record,) = [r for r in journal.trials if (r.problem, r.stage, r.config) == (problem, stage, ships)]
        assert record.origin == "default"


def test_problems_with_binaries_of_their_own_do_not_share(tmp_path: Path) -> None:
    tasks, journal, pool = searches(tmp_path, [M1, M4], budget=6), Journal(), FakePool()
    driver = make_driver(
        tasks, pool, FakeEvaluator(us_of), journal, artefact_key=lambda p, s, c: f"{p.key}{s}{c.key}"
    )
    driver.run()
    assert len(pool.submitted) == 12
    assert "shared" not in {record.origin for record in journal.trials}


def test_equal_machine_code_is_measured_once_and_shares_its_time(tmp_path: Path) -> None:
    def say(config: Config) -> Compiled:
        return Compiled(binary(config.replaced(fast=False)), StaticFacts(), 0.5)

    tasks, journal, evaluator = searches(tmp_path, [M4], budget=60), Journal(), FakeEvaluator(us_of)
    make_driver(tasks, FakePool(say), evaluator, journal).run()
    merged = [record for record in journal.trials if record.merged_into is not None]
    assert merged
    assert len(evaluator.evaluated) + len(merged) == len(journal.trials)
    for record in merged:
        twin = journal.trials[record.merged_into - 1]  # type: ignore[operator]
        assert (record.time_us, record.binary_hash) == (twin.time_us, twin.binary_hash)
        assert record.measure_s == 0.0


def test_a_candidate_that_breaks_a_constraint_is_never_launched(tmp_path: Path) -> None:
    def say(config: Config) -> Compiled:
        return Compiled(binary(config), StaticFacts(spills=4 if config["fast"] else 0), 0.5)

    tasks, journal, evaluator = searches(tmp_path, [M4], budget=30), Journal(), FakeEvaluator(us_of)
    make_driver(tasks, FakePool(say), evaluator, journal).run()
    assert not any(config["fast"] for _, config in evaluator.evaluated)
    refused = [record for record in journal.trials if record.config["fast"]]
    assert refused
    assert all(r.status is Status.CONSTRAINT and r.time_us is None and r.reason for r in refused)


def test_spills_are_allowed_on_request(tmp_path: Path) -> None:
    pool = FakePool(lambda config: Compiled(binary(config), StaticFacts(spills=4), 0.5))
    tasks, journal = searches(tmp_path, [M4]), Journal()
    make_driver(tasks, pool, FakeEvaluator(us_of), journal, allow_spills=True).run()
    assert {record.status for record in journal.trials} == {Status.OK}


@pytest.mark.parametrize(
    "failure",
    [
        Failure(Status.COMPILE_ERROR, "no such instruction", 0.2),
        Failure(Status.COMPILE_TIMEOUT, "60 s", 60.0),
    ],
)
def test_a_failed_compile_is_a_trial_at_every_problem_that_waited_for_it(
    tmp_path: Path, failure: Failure
) -> None:
    pool = FakePool(lambda config: failure if config["split_k"] == 2 else None)
    tasks, journal = searches(tmp_path, [M1, M4], budget=30), Journal()
    make_driver(tasks, pool, FakeEvaluator(us_of), journal).run()
    failed = [record for record in journal.trials if record.status is failure.status]
    assert {record.problem for record in failed} == {M1, M4}
    assert all(record.reason == failure.reason and record.binary_hash is None for record in failed)


def test_a_failed_measurement_is_a_trial_with_its_reason(tmp_path: Path) -> None:
    wrong = Failure(Status.INCORRECT, "row 3 is off", 0.1, error=0.5)
    evaluator = FakeEvaluator(lambda p, c: wrong if c["split_k"] == 2 else us_of(p, c))
    tasks, journal = searches(tmp_path, [M4], budget=60), Journal()
    make_driver(tasks, FakePool(), evaluator, journal).run()
    failed = [record for record in journal.trials if record.status is Status.INCORRECT]
    assert failed
    assert all((r.gate_error, r.time_us, r.measure_s) == (0.5, None, 0.1) for r in failed)


def test_when_time_is_up_nothing_new_is_asked_and_it_says_so(tmp_path: Path) -> None:
    def slow(problem: Problem, config: Config) -> float:
        time.sleep(0.02)
        return us_of(problem, config)

    tasks, journal = searches(tmp_path, [M4], budget=50), Journal()
    driver = make_driver(tasks, FakePool(), FakeEvaluator(slow), journal, timeout_s=0.05)
    assert not driver.run()
    assert 0 < len(journal.trials) < 50
    assert len(journal.trials) == tasks[M4, Stage.STAGE1].asked, "what was begun is finished"


def test_every_problem_uses_its_own_budget(tmp_path: Path) -> None:
    tasks, journal = searches(tmp_path, [M1, M4], budget=9), Journal()
    assert make_driver(tasks, FakePool(), FakeEvaluator(us_of), journal).run()
    assert [search.asked for search in tasks.values()] == [9, 9]


def test_one_config_for_both_stages_is_tried_at_both(
    tmp_path: Path,
) -> None:
    tasks, journal = searches(tmp_path, [M1, M4], budget=15), Journal()
    spaces = {problem: tasks[problem, Stage.STAGE1].space for problem in (M1, M4)}
    tasks |= {
        (problem, Stage.STAGE2): StageSearch(space, sampler="random", seed=7, budget=15)
        for problem, space in spaces.items()
    }
    make_driver(tasks, FakePool(), FakeEvaluator(us_of), journal, one_config=True).run()
    for problem in (M1, M4):
        one, two = ({config for config, _ in tasks[problem, stage].results} for stage in Stage)
        assert one == two
        assert 15 <= len(one) <= 17  # the last one of a stage is due at the other, budget or not
        ships = spaces[problem].default
        origins = {r.stage: r.origin for r in journal.trials if (r.problem, r.config) == (problem, ships)}
        assert origins == dict.fromkeys(Stage, "default")


class Promising(StageSearch):
    """A search that always promises the same, and notes when it was asked."""

    def __init__(self, folder: Path, problem: Problem, promise: float | None, log: list[int], budget: int):
        super().__init__(
            toy_space(folder, tokens=problem.tokens), sampler="random", seed=problem.tokens, budget=budget
        )
        self._promise, self._tokens, self._log = promise, problem.tokens, log

    @property
    def expected_improvement(self) -> float | None:
        return self._promise

    def ask(self) -> Ask | None:
        ask = super().ask()
        if ask is not None:
            self._log.append(self._tokens)
        return ask


def turns(folder: Path, promises: dict[Problem, float | None], *, budget: int = 6) -> list[int]:
    """The token counts of the searches in the order of their asks; no binary is shared."""
    log: list[int] = []
    tasks: dict[tuple[Problem, Stage], StageSearch] = {
        (problem, Stage.STAGE1): Promising(folder, problem, promise, log, budget)
        for problem, promise in promises.items()
    }
    own = lambda problem, stage, config: f"{problem.key}{config.key}"  # noqa: E731
    driver = make_driver(tasks, FakePool(), FakeEvaluator(us_of), Journal(), artefact_key=own)
    assert driver.run()
    assert sorted(log) == sorted(budget * [problem.tokens for problem in promises])
    return log


def test_between_turns_the_search_that_promises_most_is_asked(tmp_path: Path) -> None:
    log = turns(tmp_path, {M1: 0.0, M4: 0.3, M8: 0.1})
    assert log[:8] == [1, 4, 4, 4, 8, 4, 1, 4]
    assert log[8:11] == [4, 8, 8], "once it is done, the most promising of the others"


def test_searches_without_a_model_are_asked_in_turn(tmp_path: Path) -> None:
    assert turns(tmp_path, {M1: None, M4: None, M8: None}) == [1, 4, 8] * 6


def test_as_long_as_one_has_no_say_all_are_asked_in_turn(tmp_path: Path) -> None:
    assert turns(tmp_path, {M1: 0.2, M4: 0.9, M8: None}, budget=4) == [1, 4, 8] * 4


def test_the_device_gets_the_first_candidate_while_others_are_asked_for(tmp_path: Path) -> None:
    pool = FakePool()
    compiled_before: list[int] = []

    def measure(problem: Problem, config: Config) -> float:
        compiled_before.append(len(pool.submitted))
        return us_of(problem, config)

    tasks, journal = searches(tmp_path, [M4], budget=20), Journal()
    make_driver(tasks, pool, FakeEvaluator(measure), journal).run()
    assert compiled_before[0] == 1


class SlowPool(FakePool):
    """Compiles nothing until somebody waits for it, and is the clock of that wait."""

    def __init__(self) -> None:
        super().__init__()
        self.under_way: dict[Future[Compiled | Failure], Compiled | Failure] = {}
        self.most = [0]  # under way at once, by wait

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        outcome = super().submit(layer, tokens, stage, config).result()
        future: Future[Compiled | Failure] = Future()
        self.under_way[future] = outcome
        return future

    def now(self) -> float:
        return 0.0

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        done = [future for future in futures if future.done()]
        if not done:
            self.most.append(len(self.under_way))
            future = next(iter(self.under_way))
            future.set_result(self.under_way.pop(future))
            done = [future]
        return done


def test_what_is_asked_for_without_feedback_is_a_share_of_what_is_known(tmp_path: Path) -> None:
    tasks, journal, pool = searches(tmp_path, [M4], budget=40), Journal(), SlowPool()
    driver = make_driver(tasks, pool, FakeEvaluator(us_of), journal, compile_ahead=16, clock=pool)
    assert driver.run()
    # One is heard of at every wait. Before the first has a time, it is the workers who set the pace.
    assert pool.most[1] == 16
    assert pool.most[12:34] == [ceil(4 + heard / 8) for heard in range(11, 33)]


def test_a_gpu_with_nothing_to_do_does_not_wait_for_a_layer_to_be_thought_of(tmp_path: Path) -> None:
    """A stage's candidate that is compiled goes first, though layers have had less of the device."""
    events: list[str] = []

    class Layers:
        seconds = 0.0
        timing, left = 0, 3

        def start(self, *, paced: bool) -> bool:
            self.left -= 1
            events.extend(["layer"] * (self.left >= 0))
            return self.left >= 0

        def waiting(self) -> list[Any]:
            return []

    def measure(problem: Problem, config: Config) -> float:
        events.append("stage")
        return 1.0

    tasks = searches(tmp_path, [M4], budget=3)
    make_driver(tasks, FakePool(), FakeEvaluator(measure), Journal(), layering=Layers()).run()
    assert events[0] == "stage"
    assert events.count("layer") == 3


class _SlowPool(FakePool):
    """One config's compile never ends."""

    def __init__(self, slow: Callable[[Config], bool]) -> None:
        super().__init__()
        self._slow = slow

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        return Future() if self._slow(config) else super().submit(layer, tokens, stage, config)


class _Hours:
    """A clock of which an hour passes each time that there is nothing to do but wait."""

    def __init__(self) -> None:
        self.hours = 0

    def now(self) -> float:
        return 3600.0 * self.hours

    def wait(self, futures: Collection[Future[Any]]) -> Collection[Future[Any]]:
        done = [future for future in futures if future.done()]
        self.hours += not done
        assert self.hours < 5, "it would wait for ever"
        return done


def test_the_end_does_not_wait_for_a_compile_that_is_far_slower_than_others(tmp_path: Path) -> None:
    tasks, journal = searches(tmp_path, [M4], budget=8), Journal()
    search = tasks[M4, Stage.STAGE1]
    slow: list[Config] = []

    def first_but_the_default(config: Config) -> bool:
        slow.extend([config] * (not slow and config != search.space.default))
        return config in slow

    evaluator = FakeEvaluator(lambda problem, config: 1.0)
    assert make_driver(tasks, _SlowPool(first_but_the_default), evaluator, journal, clock=_Hours()).run()
    assert len(journal.trials) == 7
    assert slow[0] not in [trial.config for trial in journal.trials]  # so that the next run tries it
    assert search.stopped is not None
    assert "not waited for" in search.stopped


def test_the_default_is_waited_for_however_long_it_takes(tmp_path: Path) -> None:
    tasks = searches(tmp_path, [M4], budget=3)
    default = tasks[M4, Stage.STAGE1].space.default
    evaluator = FakeEvaluator(lambda problem, config: 1.0)
    driver = make_driver(tasks, _SlowPool(lambda c: c == default), evaluator, Journal(), clock=_Hours())
    with pytest.raises(AssertionError, match="for ever"):
        driver.run()
