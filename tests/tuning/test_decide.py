"""Who reaches the final of a layer."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from autotune.cli.progress import Progress
from autotune.machine.devices import Device
from autotune.machine.targets import Kind
from autotune.measure.confirm import confirm
from autotune.measure.settings import MeasureSettings
from autotune.problem.layer import Layer, Problem, Stage
from autotune.results import Confirmation, Failure, Finalist, LayerConfig, Round, Status
from autotune.search.study import StageSearch
from autotune.space.config import Config
from autotune.space.read import parse_space
from autotune.space.space import BoundSpace
from autotune.store.store import Store
from autotune.tuning.context import RunRequest, Tuning
from autotune.tuning.finals import confirm_all
from tests.live_stand_in import TARGET, StandIn
from tests.store.examples import M4, MI325X, begin, trial

SPACE = """
backend = "final"
generation = "one"
stage = "STAGE"
doc = "one knob that acts on its own stage, one that reaches beyond"
[params.tile_n]
values = [16, 32, 64, 128, 256, 512, 1024, 2048]
default = 64
doc = "columns"
[params.pdl]
values = [false, true]
default = false
coupled = true
doc = "the next kernel may start before this one ends"
"""
PUBLISHED = Config({"tile_n": 2048, "pdl": False})


class Finals(StandIn):
    """Publishes a config that no search would send to a final."""

    name = "tests.tuning.test_decide:Finals"

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def space(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> BoundSpace:
        path = self._folder / f"{stage}.toml"
        path.write_text(SPACE.replace("STAGE", str(stage)))
        return parse_space(path.read_text()).at(layer, tokens, device)

    def seeds(self, layer: Layer, tokens: int, stage: Stage, device: Device) -> Mapping[str, Config]:
        return {"published": PUBLISHED}


@dataclass
class Judge:
    """Notes who is in the final, and keeps the default."""

    kind = Kind.MEASURED
    workload = "cold"
    fingerprint = MI325X
    finalists: list[Finalist] = field(default_factory=list)
    refused: str = ""

    def again(self, problem: Problem, stage: Stage, config: Config) -> None:
        return None

    def confirm(self, problem: Problem, finalists: Sequence[Finalist]) -> Confirmation:
        self.finalists = list(finalists)
        if self.refused:
            failure = Failure(Status.INCORRECT, self.refused, 0.1, 2.1e-2)
            return confirm(
                problem, finalists, lambda index: 1e-3 if index else failure, _never, MeasureSettings()
            )
        rounds = (Round(tuple({"layer": 10.0} for _ in finalists)),) * 2
        return Confirmation(problem, tuple(finalists), rounds, (1e-3,) * len(finalists), 0, 0.0, 0.0, 0.0)


def _never(index: int, seed: int) -> dict[str, float]:
    raise AssertionError("nothing is timed without a default")


@pytest.fixture
def final(tmp_path: Path) -> list[Finalist]:
    """The finalists where pdl is slow in each stage alone, and the published config the slowest of all."""
    judge = Judge()
    decide(tmp_path, judge)
    return judge.finalists


def decide(folder: Path, judge: Judge) -> Progress:
    with Store.open() as store:
        backend, tally = Finals(folder), Progress()
        request = RunRequest(backend.name, [M4], TARGET, trials=16, seed=0, sampler="random", workers=1)
        current = Tuning(request, store, tally, backend, MI325X, begin(store))
        for stage in Stage:
            space = current.space(M4, stage)
            search = StageSearch(space, sampler="random", seed=0, budget=16)
            for config in space:
                us = 10.0 + int(config["tile_n"] or 0) / 100 + (100.0 if config["pdl"] else 0.0)  # type: ignore[call-overload]
                search.observe(config, us)
                store.record_trial(
                    current.id,
                    trial(stage=stage, backend=backend.name, config=config, time_us=us, binary_hash=None),
                )
            current.searches[M4, stage] = search
        confirm_all(current, judge)
    return tally


def test_what_was_published_is_in_the_final_however_slow_its_search_found_it(final: list[Finalist]) -> None:
    assert final[:2] == [
        Finalist("default", LayerConfig(*[Config({"tile_n": 64, "pdl": False})] * 2)),
        Finalist("published", LayerConfig(PUBLISHED, PUBLISHED)),
    ]


def test_a_knob_that_reaches_beyond_its_stage_is_in_the_final_in_every_combination(
    final: list[Finalist],
) -> None:
    combinations = {(f.config.stage1["pdl"], f.config.stage2["pdl"]) for f in final if f.label == "candidate"}
    assert combinations == {(False, False), (False, True), (True, False), (True, True)}


def test_where_what_ships_is_refused_the_case_the_error_and_the_bound_are_told(tmp_path: Path) -> None:
    refused = "at 3 tokens, uniform routing: relative error 2.10e-02 exceeds the path's bound 1.30e-02"
    tally = decide(tmp_path, Judge(refused=refused))
    assert tally.no_winner == {M4: f"the default was not timed: incorrect: {refused}"}
