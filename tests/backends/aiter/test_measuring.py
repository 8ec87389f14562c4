"""The adapter end to end: through real measure workers and the numeric gate, over a stand-in AITER."""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from autotune.backends.aiter.backend import Aiter, spaces
from autotune.measure.pool import Measurer
from autotune.problem.layer import Stage
from autotune.protocol.process_knobs import layer_environment
from autotune.results import Failure, Finalist, LayerConfig, Measurement, Status
from autotune.space.config import Config
from tests.backends.aiter.conftest import Launches
from tests.backends.aiter.on_cpu import CARELESS, LAYER, NAME, PROBLEM, SHARED_CACHE_VARIABLE
from tests.measure.conftest import QUICK
from tests.spaces import MI325X

pytestmark = pytest.mark.slow

BACKEND = Aiter()
# The stand-in is slow and its times mean nothing.
FEW = replace(
    QUICK, steps=1, cold=0.0, window_s=0.01, warmup_s=0.01, min_sample_us=1.0, select_rounds=2, judge_rounds=2
)


def config(stage: Stage, **knobs: Any) -> Config:
    return spaces()[stage].at(LAYER, 4, MI325X).complete(knobs)


def measured(measurer: Measurer, stage: Stage, one: Config) -> Measurement | Failure:
    return measurer.submit(PROBLEM, stage, one, BACKEND.environment(one)).result()


@pytest.fixture
def measurer(launches: Launches) -> Iterator[Measurer]:
    with Measurer(NAME, [PROBLEM], FEW) as made:
        yield made


def test_tiles_mode_and_trim_reach_the_kernels_and_the_numbers_are_right(
    measurer: Measurer, launches: Launches
) -> None:
    for stage, knobs, expected in (
        (Stage.STAGE1, {}, {"tile_n": 64, "tile_k": 256}),
        (Stage.STAGE1, {"tile_n": 128, "tile_k": 64, "grid_trim": False}, {"tile_n": 128, "tile_k": 64}),
        (Stage.STAGE2, {}, {"tile_n": 256, "tile_k": 64, "accumulate": True}),
        (Stage.STAGE2, {"tile_n": 512, "tile_k": 256}, {"tile_n": 512, "tile_k": 256}),
        (Stage.STAGE2, {"mode": "reduce"}, {"tile_n": 256, "accumulate": False}),
    ):
        answer = measured(measurer, stage, config(stage, **knobs))
        assert isinstance(answer, Measurement), answer
        assert answer.error < 0.01
        assert expected.items() <= launches()[-1].items()
    assert {launch["tile_m"] for launch in launches()} == {16}


def test_the_layer_is_confirmed_with_both_stages_knobs(launches: Launches) -> None:
    default, published = (
        LayerConfig(config(Stage.STAGE1, **one), config(Stage.STAGE2, **two))
        for one, two in (({}, {}), ({"sched": False}, {"tile_k": 256}))
    )
    finalists = [Finalist("default", default), Finalist("published", published)]
    with Measurer(NAME, [PROBLEM], FEW) as measurer:
        confirmation = measurer.confirm(PROBLEM, finalists, layer_environment(BACKEND.environment))
    assert all(error is not None and error < 0.02 for error in confirmation.errors), confirmation.notes
    ran = {(one["stage"], one["gate"], one["tile_k"]) for one in launches()}
    assert ran == {(1, True, 256), (1, False, 256), (2, True, 64), (2, True, 256)}


def gates_run(runtime: str, launches: Launches) -> set[bool]:
    """The gates of the kernels that ran for a config whose gate is off, after one whose gate is on."""
    with Measurer(runtime, [PROBLEM], FEW) as measurer:
        on = measured(measurer, Stage.STAGE1, config(Stage.STAGE1))
        before = len(launches())
        off = measured(measurer, Stage.STAGE1, config(Stage.STAGE1, sched=False))
    assert isinstance(on, Measurement)
    assert isinstance(off, Measurement)
    return {launch["gate"] for launch in launches()[before:]}


@pytest.mark.slow
def test_the_rows_padding_reaches_both_stages_of_a_layer_and_no_other_process(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("FLYDSL_CK_LDS128", "0")  # a shell's, which is nobody's
    plain, padded = (config(Stage.STAGE1, lds128=value) for value in (None, False))
    two = config(Stage.STAGE2)
    with Measurer(NAME, [PROBLEM], FEW) as measurer:
        for stage, one in ((Stage.STAGE1, plain), (Stage.STAGE1, padded), (Stage.STAGE2, two)):
            assert isinstance(measured(measurer, stage, one), Measurement)
        alone = {(launch["stage"], launch["pad"]) for launch in launches()}
        before = len(launches())
        finalists = [
            Finalist("default", LayerConfig(plain, two)),
            Finalist("padded", LayerConfig(padded, two)),
        ]
        measurer.confirm(PROBLEM, finalists, layer_environment(BACKEND.environment))
    assert alone == {(1, 0), (1, 8), (2, 0)}
    assert {(launch["stage"], launch["pad"]) for launch in launches()[before:]} == {
        (1, 0),
        (1, 8),
        (2, 0),
        (2, 8),
    }


def test_one_cache_folder_for_both_gates_gives_the_stale_kernel_even_in_a_new_process(
    launches: Launches, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(SHARED_CACHE_VARIABLE, str(tmp_path / "shared"))
    assert gates_run(CARELESS, launches) == {True}


def test_a_cache_folder_for_each_gate_gives_none(launches: Launches, tmp_path: Path) -> None:
    assert gates_run(NAME, launches) == {False}
    folders = {path.name for path in (tmp_path / "cache").iterdir()}
    assert folders == {"stage1-on.stage2-on", "stage1-off.stage2-on"}


def test_an_illegal_tile_is_refused_before_it_is_launched(measurer: Measurer, launches: Launches) -> None:
    answer = measured(measurer, Stage.STAGE1, config(Stage.STAGE1, tile_n=32))
    assert isinstance(answer, Failure)
    assert answer.status is Status.RUNTIME_ERROR
    assert "16 columns at a time" in answer.reason
    assert launches() == []


def test_no_knob_of_the_shell_reaches_a_candidate(
    launches: Launches, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Among them a bad integer, which AITER would drop together with its own rule for tile_k."""
    for name, value in {
        "AITER_FLYDSL_STAGE1_TILE_N": "many",
        "AITER_FLYDSL_STAGE1_TILE_M": "32",
        "FLYDSL_MOE_STAGE1_SCHED": "0",
        "AITER_W4A8_USE_INT8": "0",
        "AITER_ENFORCE_DSL": "0",
    }.items():
        monkeypatch.setenv(name, value)
    with Measurer(NAME, [PROBLEM], FEW) as measurer:
        assert isinstance(measured(measurer, Stage.STAGE1, config(Stage.STAGE1)), Measurement)
    launch = launches()[-1]
    assert (launch["tile_m"], launch["tile_n"], launch["tile_k"], launch["gate"]) == (16, 64, 256, True)
