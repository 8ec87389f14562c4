"""The search of the layer: what it tries first, that it learns what stages do not say, when it ends."""

from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from typing import Any

import pytest

from autotune.machine.targets import Kind
from autotune.problem.layer import Layer, Problem, Stage
from autotune.replay.table import Table
from autotune.results import Compiled, Failure, LayerConfig, LayerMeasurement, Status
from autotune.search.evaluate import LayerOutcome
from autotune.search.joint import Expected
from autotune.search.layering import Layering
from autotune.search.layers import LayerAsk, LayerSearch
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.store.records import LayerTrial
from tests.replay.conftest import SMALL
from tests.replay.synthetic import layer_us, synthetic_table
from tests.store.examples import OFFLINE


@pytest.fixture(scope="module")
def table() -> Table:
    return synthetic_table(tokens=(1, 2), kept=SMALL)


def stages(table: Table, tokens: int = 1, part: int = 1) -> dict[Stage, StageSearch]:
    """Stage searches that know every `part`th config."""
    searches = {}
    for stage in Stage:
        space = table.space(tokens, stage)
        search = StageSearch(space, sampler="random", seed=0, budget=len(table.stages[stage].rows))
        search.observe(space.default, table.stages[stage].by_config[space.default].us(tokens))
        for row in table.stages[stage].rows[::part]:
            search.observe(row.config, row.us(tokens))
        searches[stage] = search
    return searches


def layer_search(table: Table, tokens: int = 1, part: int = 1, **others: Any) -> LayerSearch:
    default = LayerConfig(*(table.space(tokens, stage).default for stage in Stage))
    return LayerSearch(default, stages(table, tokens, part), **{"budget": 80, **others})


def ratio(table: Table, search: LayerSearch, pair: LayerConfig, tokens: int = 1) -> float | None:
    if any(table.stages[stage].by_config[pair.of(stage)].us(tokens) is None for stage in Stage):
        return None
    return layer_us(table, pair, tokens) / layer_us(table, search.default, tokens)


def asks(table: Table, search: LayerSearch, tokens: int = 1) -> Iterator[LayerAsk]:
    while (ask := search.ask()) is not None:
        search.tell(ask.config, ratio(table, search, ask.config, tokens))
        yield ask


def everything(table: Table, search: LayerSearch) -> dict[LayerConfig, float]:
    ones, twos = ([row.config for row in table.stages[stage].rows] for stage in Stage)
    pairs = (LayerConfig(one, two) for one in ones for two in twos)
    return {
        pair: us
        for pair in pairs
        if pair.stage1["tile_m"] == pair.stage2["tile_m"] and (us := ratio(table, search, pair)) is not None
    }


def test_nothing_is_tried_before_the_default_has_a_time_at_both_stages(table: Table) -> None:
    spaces = {stage: table.space(1, stage) for stage in Stage}
    known = {s: StageSearch(space, sampler="random", seed=0, budget=9) for s, space in spaces.items()}
    search = LayerSearch(LayerConfig(*(s.default for s in spaces.values())), known, budget=9)
    assert search.ask() is None
    for stage, space in spaces.items():
        known[stage].observe(space.default, 10.0)
    near = next(c for c in spaces[Stage.STAGE1] if c != search.default.stage1)
    known[Stage.STAGE1].observe(near, 9.0)
    assert search.ask() == LayerAsk(LayerConfig(near, search.default.stage2), "leaders")


def test_earlier_winners_then_the_pairs_of_the_stages_leaders_come_first(table: Table) -> None:
    fitting = layer_search(table)
    winner = LayerConfig(fitting.default.stage1, stages(table)[Stage.STAGE2].results[7][0])
    tried = list(asks(table, layer_search(table, first=[LayerAsk(winner, "earlier")])))
    assert tried[0] == LayerAsk(winner, "earlier")
    leading = [[config for config, _ in search.results[:4]] for search in stages(table).values()]
    first = {ask.config for ask in tried[1:9]}
    assert first <= {LayerConfig(one, two) for one in leading[0] for two in leading[1]}
    assert {ask.origin for ask in tried[1:9]} == {"leaders"}


def test_it_finds_what_the_stages_times_do_not_say(table: Table) -> None:
    """80 of thousands of pairs are tried; the best stages together are 4 % and more behind the best."""
    search = layer_search(table)
    every = everything(table, search)
    best = min(every.values())
    leaders = [stages(table)[stage].results[0][0] for stage in Stage]
    assert every[LayerConfig(*leaders)] > 1.04 * best
    assert len(every) > 5000
    list(asks(table, search))
    assert search.best is not None
    assert search.best[1] < 1.02 * best


def test_configs_that_no_stage_has_tried_are_tried_in_a_layer(table: Table) -> None:
    search = layer_search(table, part=5)
    known = stages(table, part=5)
    tried = list(asks(table, search))
    new = [ask for ask in tried if any(known[s].time(ask.config.of(s)) is None for s in Stage)]
    assert new
    assert "neighbour" in {ask.origin for ask in tried}


@pytest.mark.parametrize(("doubt", "tried"), [(0.0, False), (0.3, True)])
def test_a_layer_whose_stage_may_be_faster_than_expected_is_tried(
    table: Table, monkeypatch: pytest.MonkeyPatch, doubt: float, tried: bool
) -> None:
    """A stage's model may be far off at a config that the stage has not tried; it says by how much."""
    known = stages(table, part=5)
    block = layer_search(table).default.stage1["tile_m"]
    ones = [config for config, _ in known[Stage.STAGE1].results if config["tile_m"] == block][:12]
    twos = [config for config, _ in known[Stage.STAGE2].results if config["tile_m"] == block][:12]
    untried = next(
        row.config
        for row in table.stages[Stage.STAGE2].rows
        if row.us(1) and known[Stage.STAGE2].time(row.config) is None and row.config["tile_m"] == block
    )
    slow = 2 * known[Stage.STAGE2].results[0][1]

    def expected(self: StageSearch, configs: Collection[Config]) -> dict[Config, Expected]:
        return {c: Expected(slow, doubt) if (us := self.time(c)) is None else Expected(us) for c in configs}

    monkeypatch.setattr(StageSearch, "expected", expected)
    within = [LayerConfig(one, two) for one in ones for two in [*twos, untried]]
    search = layer_search(table, part=5, within=within, budget=70)
    asked = [ask.config for ask in asks(table, search)]
    assert any(pair.stage2 == untried for pair in asked) is tried


def test_no_pair_is_tried_twice_nor_the_default_nor_one_of_unlike_blocks(table: Table) -> None:
    search = layer_search(table)
    tried = [ask.config for ask in asks(table, search)]
    assert len(tried) == len(set(tried)) <= 80
    assert search.default not in tried
    assert all(pair.stage1["tile_m"] == pair.stage2["tile_m"] for pair in tried)


def test_a_recordings_pairs_are_the_only_ones_and_what_cannot_run_beside_the_default_is_left_out(
    table: Table,
) -> None:
    free = layer_search(table)
    within = list(everything(table, free))[:40]
    barred = within[3].stage1
    search = layer_search(table, within=within, allowed=lambda pair: pair.stage1 != barred)
    tried = {ask.config for ask in asks(table, search)}
    assert tried == {pair for pair in within if pair.stage1 != barred} - {search.default}


def test_it_ends_when_nothing_works(table: Table) -> None:
    search = layer_search(table)
    while (ask := search.ask()) is not None:
        search.tell(ask.config, None)
    assert search.done
    assert search.tried == 12


def test_what_the_stages_are_told_last_is_tried_in_layers_too(table: Table) -> None:
    """All that they asked is on the GPU when no pair is left of what they know."""
    search, late = layer_search(table, part=1000), []
    for stage, of in search._stages.items():
        while (ask := of.ask()) is not None:
            late.append((of, ask.config, table.stages[stage].by_config[ask.config].us(1)))
        assert of.done
    before = {ask.config for _ in range(3) for ask in asks(table, search)}  # it is asked again and again
    for of, config, us in late:
        of.tell(config, us)
    assert not search.done
    tried = before | {ask.config for ask in asks(table, search)}
    fastest = LayerConfig(*(of.results[0][0] for of in search._stages.values()))
    assert fastest in tried - before
    assert search.done


def test_a_stage_that_cannot_be_compiled_is_in_no_later_layer(table: Table) -> None:
    search = layer_search(table)
    first = search.ask()
    assert first is not None
    search.refuse(first.config, Stage.STAGE2)
    assert all(ask.config.stage2 != first.config.stage2 for ask in asks(table, search))


def test_results_of_an_earlier_run_count(table: Table) -> None:
    first = layer_search(table, budget=20)
    told = {ask.config: ratio(table, first, ask.config) for ask in asks(table, first)}
    again = layer_search(table, budget=30)
    for pair, value in told.items():
        again.observe(pair, value)
    new = [ask.config for ask in asks(table, again)]
    assert len(new) == 10
    assert not told.keys() & set(new)


class Device:
    """Compiles and times when told to."""

    def __init__(self, table: Table, say: Callable[[LayerConfig], LayerOutcome]) -> None:
        self._table, self._say = table, say
        self.compiled: list[Config] = []
        self.events: list[str] = []

    def submit(self, layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        self.compiled.append(config)
        done: Future[Compiled | Failure] = Future()
        outcome = self._table.stages[stage].by_config[config].compiled
        done.set_result(outcome)
        return done

    def evaluate_layer(
        self, problem: Problem, config: LayerConfig, default: LayerConfig
    ) -> "Future[LayerOutcome]":
        done: Future[LayerOutcome] = Future()
        done.set_result(self._say(config))
        return done


def layering(
    table: Table, searches: dict[Problem, LayerSearch], device: Device, stored: list[LayerTrial]
) -> Layering:
    problems = list(searches)
    return Layering(
        searches,
        pool=device,
        evaluator=device,
        refuse=lambda compiled: None,
        record=stored.append,
        backend="triton",
        environment=OFFLINE,
        workload="cold",
        kind=Kind.MEASURED,
        near={p: [q for q in problems if q is not p] for p in problems},
    )


def drive(trying: Layering) -> None:
    while trying.start() or trying.timing:
        trying.take(trying.waiting())


def test_layers_do_not_go_through_their_budget_before_the_stages_have_shown_their_best(table: Table) -> None:
    """Else what a stage finds late is never tried as a layer."""
    search = layer_search(table, part=5, budget=40)
    device = Device(table, lambda pair: LayerMeasurement((9.0,), (10.0,), 6e-3, 0.01))
    trying = layering(table, {table.problems[0]: search}, device, [])
    asked = sum(stage.asked for stage in search._stages.values())
    budget = sum(stage.budget for stage in search._stages.values())
    while trying.start(paced=True):
        trying.take(trying.waiting())
    assert search.tried == int(40 * (0.15 + asked / budget)) + 1
    assert trying.start()  # where no stage has anything under way
    for stage in search._stages.values():
        stage.stopped = "enough"
    while trying.start(paced=True):
        trying.take(trying.waiting())
    assert search.done


def test_what_was_timed_is_stored_before_the_search_is_told_and_passed_on_to_near_shapes(
    table: Table,
) -> None:
    problems = table.problems
    searches = {p: layer_search(table, p.tokens, budget=12) for p in problems}
    stored: list[LayerTrial] = []
    device = Device(table, lambda pair: LayerMeasurement((9.0,), (10.0,), 6e-3, 0.01))
    drive(layering(table, searches, device, stored))
    assert {trial.problem for trial in stored} == set(problems)
    assert all(search.done for search in searches.values())
    assert "near" in {trial.origin for trial in stored}
    assert len(stored) == sum(search.tried for search in searches.values())


def test_a_layer_beside_which_others_were_at_work_is_kept_and_timed_again(table: Table) -> None:
    search = layer_search(table, budget=3)
    answers = iter(["python3", None, None, None])
    stored: list[LayerTrial] = []
    device = Device(table, lambda pair: LayerMeasurement((9.0,), (10.0,), 6e-3, 0.01, next(answers)))
    drive(layering(table, {table.problems[0]: search}, device, stored))
    assert stored[0].outcome.contended == "python3"  # type: ignore[union-attr]
    assert stored[0].config in {trial.config for trial in stored[1:]}
    assert len(search.results) == 3


def test_a_wrong_layer_is_stored_with_the_reason_and_has_no_time(table: Table) -> None:
    search = layer_search(table, budget=2)
    stored: list[LayerTrial] = []
    device = Device(table, lambda pair: Failure(Status.INCORRECT, "off", 0.01, 0.4))
    drive(layering(table, {table.problems[0]: search}, device, stored))
    assert [trial.outcome for trial in stored] == [Failure(Status.INCORRECT, "off", 0.01, 0.4)] * 2
    assert search.best is None


def test_what_does_not_compile_is_not_timed(table: Table) -> None:
    search = layer_search(table, budget=6)
    bad = stages(table)[Stage.STAGE1].results[0][0]
    device = Device(table, lambda pair: LayerMeasurement((9.0,), (10.0,), 6e-3, 0.01))
    submit = device.submit

    def refusing(layer: Layer, tokens: int, stage: Stage, config: Config) -> Future[Compiled | Failure]:
        if config != bad:
            return submit(layer, tokens, stage, config)
        done: Future[Compiled | Failure] = Future()
        done.set_result(Failure(Status.COMPILE_ERROR, "no"))
        return done

    device.submit = refusing  # type: ignore[method-assign]
    stored: list[LayerTrial] = []
    drive(layering(table, {table.problems[0]: search}, device, stored))
    assert all(trial.config.stage1 != bad for trial in stored)
