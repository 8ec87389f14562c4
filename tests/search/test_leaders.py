"""What led on recorded tables of other layers is tried first."""

import pytest

from autotune.machine.devices import DEVICES
from autotune.problem.layer import Layer, Stage
from autotune.protocol.registry import load_backend
from autotune.search import leaders as module
from autotune.search.leaders import COUNT, cover, leaders
from autotune.search.study import Ask, StageSearch
from autotune.space.space import BoundSpace

KIMI = Layer("kimi-k2.5-w4a8", 7168, 256, 384, 8, 8)
SMALL = Layer("small", 2048, 128, 16, 2, 1)
H100 = DEVICES["h100"]


def space(layer: Layer, stage: Stage = Stage.STAGE1) -> BoundSpace:
    return load_backend("triton").space(layer, 4, stage, H100)


def test_the_few_that_between_them_serve_all_tables_come_first() -> None:
    # Three tables with one token count each: the first is good at all, two are the best of one.
    ratios = [[[1.03], [1.03], [1.03]], [[1.0], [1.3], [1.3]], [[1.3], [1.01], [1.3]], [[1.3], [1.3], [1.3]]]
    assert cover(ratios, 4) == [0, 1, 2]
    assert cover(ratios, 1) == [0]
    assert cover([], 3) == cover([[]], 3) == []


def test_a_time_that_was_not_recorded_promises_nothing() -> None:
    assert cover([[[None], [None]], [[1.1], [None]]], 2) == [1]


@pytest.mark.parametrize("stage", list(Stage))
@pytest.mark.parametrize("layer", [KIMI, SMALL])
def test_they_are_legal_different_and_few(layer: Layer, stage: Stage) -> None:
    configs = leaders("triton", H100.arch, stage, space(layer, stage))
    assert 0 < len(set(configs)) == len(configs) <= COUNT
    assert all(space(layer, stage).is_legal(config) for config in configs)


def test_those_of_another_arch_or_backend_say_nothing() -> None:
    assert leaders("triton", "gfx942", Stage.STAGE1, space(KIMI)) == []
    assert leaders("sglang", H100.arch, Stage.STAGE1, space(KIMI)) == []


def test_a_layers_own_table_can_be_left_out() -> None:
    every = module._read("triton")[H100.arch]["stage1"]["ratios"]
    own = next(key for key in every if key.startswith("kimi"))
    whole = leaders("triton", H100.arch, Stage.STAGE1, space(KIMI))
    assert whole != leaders("triton", H100.arch, Stage.STAGE1, space(KIMI), leaving=[own])
    assert leaders("triton", H100.arch, Stage.STAGE1, space(KIMI), leaving=list(every)) == []


def test_they_stand_in_for_the_spread_that_a_search_begins_with() -> None:
    chosen = leaders("triton", H100.arch, Stage.STAGE1, space(KIMI))
    search = StageSearch(
        space(KIMI), sampler="joint", seed=0, budget=50, seeds=[Ask(c, "recorded") for c in chosen]
    )
    asked = []
    for _ in range(len(chosen) + 1):
        ask = search.ask()
        assert ask is not None
        search.tell(ask.config, 10.0)
        asked.append(ask)
    assert asked[0].origin == "default"
    assert {ask.origin for ask in asked[1:]} <= {"recorded", "joint"}
    assert {ask.config for ask in asked} >= set(chosen)
