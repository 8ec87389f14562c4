"""The race before a final: on unseen routings, as it is and after a kernel that does nothing."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.machine.targets import Kind
from autotune.measure import confirm as confirming
from autotune.problem.layer import Problem, Stage
from autotune.results import Confirmation, Finalist, LayerConfig, Round
from autotune.search.layers import LayerSearch
from autotune.search.study import StageSearch
from autotune.store.records import WinnerRecord
from autotune.store.store import Store
from autotune.tuning.context import RunRequest, Tuning
from autotune.tuning.finals import confirm_all
from autotune.tuning.layer_race import FINALISTS
from tests.store.examples import M4, MI325X, begin
from tests.tuning.test_decide import PUBLISHED, TARGET, Finals


@dataclass
class Truth:
    """What layers really take over the default, and what they seem to in the search.

    Attributes:
        spaced: of those whose ratio is another one after a kernel that does nothing.
    """

    ratios: Mapping[LayerConfig, float]
    spaced: Mapping[LayerConfig, float] = field(default_factory=dict)
    kind = Kind.MEASURED
    workload = "cold"
    raced: list[LayerConfig] = field(default_factory=list)
    finalists: list[Finalist] = field(default_factory=list)

    def us(self, config: LayerConfig, rng: random.Random, *, spaced: bool = False) -> float:
        ratio = (
            self.spaced.get(config, self.ratios.get(config, 1.0)) if spaced else self.ratios.get(config, 1.0)
        )
        return (41.0 if spaced else 40.0) * ratio * (1 + rng.gauss(0, 0.001))

    def race(
        self, problem: Problem, configs: Sequence[LayerConfig], rounds: int, seed: int
    ) -> Sequence[Round]:
        self.raced += configs[1:]
        rng = random.Random(seed)
        return [
            Round(tuple({"layer": self.us(c, rng), "spaced": self.us(c, rng, spaced=True)} for c in configs))
            for _ in range(rounds)
        ]

    def again(self, *_: object) -> None:
        raise AssertionError("layers decide: no stage is measured again")

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        self.finalists = list(finalists)

        def run(index: int, seed: int) -> dict[str, float]:
            return {"layer": self.us(finalists[index].config, random.Random(f"{index} {seed}"))}

        from autotune.measure.settings import MeasureSettings

        return confirming.confirm(problem, finalists, lambda _: 1e-3, run, MeasureSettings())


@dataclass
class Tried:
    """A run whose search of layers is over."""

    store: Store
    current: Tuning
    search: LayerSearch
    pairs: list[LayerConfig]


@pytest.fixture
def tried(own_database: Path, tmp_path: Path) -> Tried:
    store = Store.open()
    backend = Finals(tmp_path)
    request = RunRequest(backend.name, [M4], TARGET, trials=16, seed=0, sampler="random", workers=1)
    current = Tuning(request, store, Progress(), backend, MI325X, begin(store))
    for stage in Stage:
        search = StageSearch(current.space(M4, stage), sampler="random", seed=0, budget=16)
        for config in search.space:
            search.observe(config, 10.0)
        current.searches[M4, stage] = search
    layers = LayerSearch(current.default(M4), {s: current.searches[M4, s] for s in Stage}, budget=99)
    current.layers[M4] = layers
    ones = [config for config, _ in current.searches[M4, Stage.STAGE1].results]
    pairs = [LayerConfig(one, two) for one in ones for two in ones]
    left = [pair for pair in pairs if pair not in (layers.default, LayerConfig(PUBLISHED, PUBLISHED))]
    return Tried(store, current, layers, left)


def seem(tried: Tried, ratios: Mapping[LayerConfig, float]) -> None:
    for pair, ratio in ratios.items():
        tried.search.observe(pair, ratio)


def decided(tried: Tried, judge: Truth) -> WinnerRecord:
    with tried.store:
        (winner,) = confirm_all(tried.current, judge)
    return winner


def test_the_luckiest_of_the_search_is_found_out_and_what_was_expected_is_told(tried: Tried) -> None:
    lucky, good, *others = tried.pairs
    seem(tried, {lucky: 0.80, good: 0.92, **dict.fromkeys(others[:20], 0.95)})
    judge = Truth({lucky: 0.99, good: 0.92} | dict.fromkeys(others, 0.97))
    with tried.store:
        (winner,) = confirm_all(tried.current, judge)
        assert winner.config == good
        assert winner.confirmation is not None
        notes = tried.store.confirmation(winner.confirmation).confirmation.notes
    told = next(note for note in notes if note.startswith("gain expected"))
    assert "the least of 22 layers 8.0%" in told
    assert "confirmed 8.0%" in told


def test_who_gains_by_overlapping_the_next_layer_alone_is_left_out(tried: Tried) -> None:
    overlaps, good = tried.pairs[:2]
    seem(tried, {overlaps: 0.85, good: 0.93})
    judge = Truth({overlaps: 0.85, good: 0.93}, spaced={overlaps: 1.02})
    winner = decided(tried, judge)
    assert overlaps in judge.raced
    assert overlaps not in {finalist.config for finalist in judge.finalists}
    assert winner.config == good


def test_a_final_has_few_and_the_default_first(tried: Tried) -> None:
    seem(tried, dict.fromkeys(tried.pairs[:40], 0.95))
    judge = Truth(dict.fromkeys(tried.pairs, 0.95))
    decided(tried, judge)
    assert [finalist.label for finalist in judge.finalists] == ["default", "published"] + [
        "candidate"
    ] * FINALISTS


def test_an_earlier_winner_on_the_stack_is_in_the_final_whatever_the_search_did(tried: Tried) -> None:
    earlier, *others = tried.pairs
    seem(tried, {earlier: 0.90})
    with tried.store as store:
        (first,) = confirm_all(tried.current, Truth({earlier: 0.90}))
        assert first.config == earlier
        again = LayerSearch(
            tried.search.default, {s: tried.current.searches[M4, s] for s in Stage}, budget=99
        )
        for pair in others[:30]:
            again.observe(pair, 0.93)
        tried.current.layers[M4] = again
        tried.current.id = begin(store)
        judge = Truth({earlier: 0.90} | dict.fromkeys(others, 0.93))
        (second,) = confirm_all(tried.current, judge)
    assert earlier in {finalist.config for finalist in judge.finalists}
    assert second.config == earlier
