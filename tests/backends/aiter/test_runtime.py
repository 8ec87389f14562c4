"""Where AITER bites and what the adapter does about it, in one process; every bite is shown first."""

import os
from collections.abc import Iterator
from typing import Any

import pytest
import torch

from autotune.backends.aiter.backend import spaces
from autotune.backends.aiter.knobs import SCRUBBED, SWITCHES
from autotune.backends.aiter.runtime import AiterRuntime
from autotune.errors import UserError
from autotune.measure.gate import Case, Incorrect, make_cases
from autotune.measure.workload import make_weights
from autotune.problem.layer import Stage
from autotune.protocol.runtime import LogicalWeights, What
from autotune.results import LayerConfig
from autotune.space.config import Config
from tests.backends.aiter import on_cpu
from tests.backends.aiter.conftest import Launches
from tests.backends.aiter.on_cpu import LAYER
from tests.gate import check_launch
from tests.spaces import MI325X


@pytest.fixture
def runtime(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> Iterator[AiterRuntime]:
    """A runtime in this process, whose environment is put back afterwards."""
    before = dict(os.environ)
    made = on_cpu.make()
    made.prepare(LAYER, weights())
    made.grow(1)
    yield made
    os.environ.clear()
    os.environ.update(before)


def weights() -> LogicalWeights:
    return make_weights(LAYER, "cpu", seed=1)


def case(tokens: int = 4) -> Case:
    return make_cases(LAYER, weights(), tokens, None, 1, "cpu", 3, thorough=False)[0]


def config(stage: Stage, **knobs: Any) -> Config:
    return spaces()[stage].at(LAYER, 4, MI325X).complete(knobs)


def error(runtime: AiterRuntime, what: What, one: Config | LayerConfig, *, tokens: int = 4) -> float:
    made = case(tokens)
    if isinstance(one, LayerConfig):
        (launch,) = runtime.layer(one, made.inputs, [made.step])
    else:
        (launch,) = runtime.stage(Stage(what.value), one, made.inputs, [made.step])
    return check_launch(launch, made, what, runtime.path(what, one))


LAYER_CONFIG = LayerConfig(config(Stage.STAGE1), config(Stage.STAGE2, mode="reduce"))


@pytest.mark.parametrize("tokens", [1, 3, 4, 8])
def test_stages_and_layer_are_right_at_every_token_count(runtime: AiterRuntime, tokens: int) -> None:
    assert error(runtime, What.STAGE1, config(Stage.STAGE1), tokens=tokens) < 0.01
    assert error(runtime, What.STAGE2, config(Stage.STAGE2), tokens=tokens) < 0.01
    assert error(runtime, What.LAYER, LAYER_CONFIG, tokens=tokens) < 0.02


def test_taller_blocks_are_sorted_and_launched_alike(runtime: AiterRuntime) -> None:
    assert error(runtime, What.STAGE1, config(Stage.STAGE1, tile_m=32), tokens=130) < 0.01


def test_weights_in_another_layout_are_found_out(runtime: AiterRuntime) -> None:
    runtime.copies = [weights()]
    with pytest.raises(Incorrect):
        error(runtime, What.STAGE1, config(Stage.STAGE1))


@pytest.mark.parametrize(
    ("stage", "knobs"),
    [
        (Stage.STAGE1, {"tile_n": 32}),
        (Stage.STAGE1, {"tile_n": 96}),
        (Stage.STAGE1, {"tile_n": 192}),
        (Stage.STAGE1, {"tile_k": 512}),  # one tile of K here
        (Stage.STAGE1, {"tile_m": 32}),
        (Stage.STAGE2, {"tile_n": 320}),
        (Stage.STAGE2, {"tile_k": 512}),
    ],
)
def test_an_illegal_value_is_refused_and_would_give_wrong_numbers(
    runtime: AiterRuntime, monkeypatch: pytest.MonkeyPatch, stage: Stage, knobs: dict[str, Any]
) -> None:
    what = What(stage.value)
    with pytest.raises(ValueError, match="breaks the rule"):
        error(runtime, what, config(stage, **knobs))
    monkeypatch.setattr(AiterRuntime, "_require_legal", lambda *_: None)
    if "tile_m" in knobs:
        return  # a block of another size is sorted as such: right here, and nothing that a server does
    with pytest.raises(Incorrect):
        error(runtime, what, config(stage, **knobs))


def test_an_atomic_output_is_zeroed_before_each_launch(runtime: AiterRuntime) -> None:
    made = case()
    (launch,) = runtime.stage(Stage.STAGE2, config(Stage.STAGE2), made.inputs, [made.step])
    launch.run()
    once = launch.output.clone()
    launch.run()
    assert torch.equal(launch.output, once)
    raw = runtime._stage2(config(Stage.STAGE2), made.inputs, made.step, launch.output).__closure__
    assert raw is not None
    kernel = next(cell.cell_contents for cell in raw if callable(cell.cell_contents))
    kernel()
    assert torch.allclose(launch.output.float(), 2 * once.float(), rtol=0.02, atol=0.02)


def test_knobs_are_set_during_a_launch_only(runtime: AiterRuntime) -> None:
    error(runtime, What.STAGE1, config(Stage.STAGE1, tile_k=64))
    assert not set(SCRUBBED) & set(os.environ)
    assert SWITCHES.items() <= os.environ.items()


def test_a_config_serves_the_token_counts_whose_blocks_have_its_rows(runtime: AiterRuntime) -> None:
    small, large = config(Stage.STAGE1), config(Stage.STAGE1, tile_m=32)
    assert [runtime.serves(What.STAGE1, small, m) for m in (1, 128, 129)] == [True, True, False]
    assert [runtime.serves(What.STAGE1, large, m) for m in (128, 129, 2047, 2048)] == [
        False,
        True,
        True,
        False,
    ]


def test_the_roundings_follow_the_mode(runtime: AiterRuntime) -> None:
    atomic, reduce = (runtime.path(What.STAGE2, config(Stage.STAGE2, mode=m)) for m in (None, "reduce"))
    assert (atomic.bf16_adds, reduce.bf16_adds) == (LAYER.top_k, 0)
    assert runtime.path(What.LAYER, LAYER_CONFIG).requantised


def test_an_overwritten_weight_changes_the_digest(runtime: AiterRuntime) -> None:
    before = runtime.digest()
    runtime.copies[0].w2[3, 5, 7] += 1
    assert runtime.digest() != before


def test_scales_are_float32_whatever_they_were(runtime: AiterRuntime) -> None:
    given = weights()
    runtime.prepare(LAYER, LogicalWeights(given.w1, given.w1_scale.double(), given.w2, given.w2_scale.half()))
    assert runtime.copies[0].w1_scale.dtype == runtime.copies[0].w2_scale.dtype == torch.float32


def test_without_a_tree_the_remedy_is_told(launches: Launches, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("DSL2_ROOT")
    with pytest.raises(UserError, match="--flydsl-root"):
        on_cpu.make()
