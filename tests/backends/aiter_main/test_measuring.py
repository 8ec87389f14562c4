"""AITER main's adapters end to end: through real measure workers and the gate, over a stand-in AITER."""

import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.errors import UserError
from autotune.measure.pool import Measurer
from autotune.problem.layer import Stage
from autotune.protocol.backend import Backend
from autotune.protocol.registry import load_backend
from autotune.protocol.runtime import load_runtime
from autotune.results import Failure, Finalist, LayerConfig, Measurement, Status
from autotune.space.config import Config
from tests.backends.aiter_main.conftest import Launches
from tests.backends.aiter_main.on_cpu import CK, GFX942, GROUPED, LAYER, MISPACKED, PROBLEM
from tests.measure.conftest import QUICK
from tests.spaces import MI325X
from tests.standins import SITE_MAIN, with_buffer_atomics

# The stand-in is slow and its times mean nothing.
FEW = replace(
    QUICK, steps=1, cold=0.0, window_s=0.01, warmup_s=0.01, min_sample_us=1.0, select_rounds=2, judge_rounds=2
)
CK_BACKEND, GROUPED_BACKEND = (load_backend(name) for name in ("aiter_main", "aiter_main_w4a16"))


def config(backend: Backend, stage: Stage, **knobs: Any) -> Config:
    return backend.space(LAYER, PROBLEM.tokens, stage, MI325X).complete(knobs)


def measured(runtime: str, *wanted: tuple[Stage, Config]) -> list[Measurement | Failure]:
    with Measurer(runtime, [PROBLEM], FEW) as measurer:
        return [measurer.submit(PROBLEM, stage, one).result() for stage, one in wanted]


def instance(stage: Stage, tile_m: int) -> str:
    space = CK_BACKEND.space(LAYER, PROBLEM.tokens, stage, MI325X)
    names = [c["kernel"] for c in space if c["tile_m"] == tile_m and c["kernel"] is not None]
    assert len(names) == 1
    return str(names[0])


@pytest.mark.slow
def test_kernels_by_name_are_launched_and_their_numbers_are_right(launches: Launches) -> None:
    named = [
        (stage, config(CK_BACKEND, stage, tile_m=64, kernel=instance(stage, 64)))
        for stage in (Stage.STAGE1, Stage.STAGE2)
    ]
    unnamed = [(stage, config(CK_BACKEND, stage)) for stage in Stage]
    answers = measured(CK, *named, *unnamed)
    for answer in answers:
        assert isinstance(answer, Measurement), answer
        assert answer.error < 0.01
    ran = {(one["stage"], one["kernel"], one["block_m"], one["nt"]) for one in launches()}
    assert {(1, instance(Stage.STAGE1, 64), 64, True), (2, instance(Stage.STAGE2, 64), 64, True)} <= ran
    assert {(1, "", 32, True), (2, "", 32, True)} <= ran


@pytest.mark.slow
def test_a_layer_of_both_kernels_is_confirmed(launches: Launches) -> None:
    configs = [
        LayerConfig(*(config(CK_BACKEND, stage, tile_m=m, kernel=instance(stage, m)) for stage in Stage))
        for m in (32, 64)
    ]
    finalists = [Finalist("default", configs[0]), Finalist("taller", configs[1])]
    with Measurer(CK, [PROBLEM], FEW) as measurer:
        confirmation = measurer.confirm(PROBLEM, finalists)
    assert all(error is not None and error < 0.03 for error in confirmation.errors), confirmation.notes


@pytest.mark.slow
def test_an_instance_of_another_block_is_refused_before_it_is_launched(launches: Launches) -> None:
    wrong = config(CK_BACKEND, Stage.STAGE1, tile_m=32, kernel=instance(Stage.STAGE1, 64))
    (answer,) = measured(CK, (Stage.STAGE1, wrong))
    assert isinstance(answer, Failure)
    assert "kernel-of-block" in answer.reason
    assert launches() == []


@pytest.mark.slow
def test_a_name_that_this_aiter_does_not_have_is_refused_where_aiter_would_take_another(
    launches: Launches,
) -> None:
    with pytest.raises(UserError, match="use one of unset, moe_ck2stages"):
        measured(CK, (Stage.STAGE1, config(CK_BACKEND, Stage.STAGE1, kernel="moe_ck2stages_gemm1_turbo")))
    assert launches() == []


def test_weights_in_another_layout_are_found_out(launches: Launches) -> None:
    (answer,) = measured(MISPACKED, (Stage.STAGE1, config(CK_BACKEND, Stage.STAGE1)))
    assert isinstance(answer, Failure)
    assert answer.status is Status.INCORRECT


@pytest.mark.slow
def test_tiles_reach_the_grouped_kernels_and_the_numbers_are_right(launches: Launches) -> None:
    one = config(GROUPED_BACKEND, Stage.STAGE1, tile_n=64, tile_k=256, b_nt=0, k_wave=1)
    sliced = config(GROUPED_BACKEND, Stage.STAGE1, tile_n=16, tile_k=128, k_wave=2, tile_m=32)
    two = config(GROUPED_BACKEND, Stage.STAGE2)
    answers = measured(GROUPED, (Stage.STAGE1, one), (Stage.STAGE2, two))
    for answer in answers:
        assert isinstance(answer, Measurement), answer
        assert answer.error < 0.01
    ran = launches()
    assert {"stage": 1, "tile_m": 16, "tile_n": 64, "tile_k": 256, "k_wave": 1, "b_nt": 0} in ran
    assert {"stage": 2, "tile_m": 16, "tile_n": 128, "tile_k": 128} in ran
    (answer,) = measured(GROUPED, (Stage.STAGE1, sliced))
    assert isinstance(answer, Failure)  # four waves' columns of 16 do not fit into 16
    assert "tile-n-per-wave" in answer.reason


@pytest.mark.slow
def test_a_grouped_layer_is_confirmed(launches: Launches) -> None:
    default = LayerConfig(*(config(GROUPED_BACKEND, stage) for stage in Stage))
    other = LayerConfig(default.stage1.replaced(b_nt=0), default.stage2)
    with Measurer(GROUPED, [PROBLEM], FEW) as measurer:
        confirmation = measurer.confirm(PROBLEM, [Finalist("default", default), Finalist("kept", other)])
    assert all(error is not None and error < 0.02 for error in confirmation.errors), confirmation.notes


@pytest.mark.parametrize("buffer_atomics", [False, True])
def test_on_the_card_a_grouped_stage_2_that_has_no_code_is_refused_with_the_reason(
    launches: Launches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, buffer_atomics: bool
) -> None:
    asked = [(stage, config(GROUPED_BACKEND, stage)) for stage in Stage]
    tree = shutil.copytree(SITE_MAIN, tmp_path / "tree")
    if buffer_atomics:
        with_buffer_atomics(tree / "aiter")
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(tree))
    one, two = measured(GFX942, *asked)
    assert isinstance(one, Measurement)
    assert isinstance(two, Failure) is buffer_atomics
    if isinstance(two, Failure):
        assert "gfx942 does not have" in two.reason
        assert "ba59a37aa6" in two.reason
    assert {launch["stage"] for launch in launches()} == ({1} if buffer_atomics else {1, 2})


@pytest.mark.parametrize("runtime", ["aiter_main", "aiter_main_w4a16"])
def test_a_machine_without_an_amd_gpu_is_told_so(launches: Launches, runtime: str) -> None:
    with pytest.raises(UserError, match="AMD GPUs only"):
        load_runtime(load_backend(runtime).runtime)
