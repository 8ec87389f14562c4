"""FlyDSL's kernels: arguments by the metadata, and with a real tree what its unchecked rules protect from.

The second half is skipped unless AUTOTUNE_FLYDSL_SRC names a FlyDSL tree and AUTOTUNE_FLYDSL_PYTHON a Python
with its wheel. scripts/check_flydsl_rules.py tries more values.
"""

import os
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import numpy as np
import pytest

from autotune.backends.flydsl.backend import Flydsl
from autotune.backends.flydsl.check import FlydslChecker, Tiling, _arguments, tiled_executions
from autotune.backends.flydsl.tree import TreeGeneration, find_tree, open_tree
from autotune.check.check import execute
from autotune.check.compare import WrongOutput
from autotune.check.execution import Tally
from autotune.emulate import Kernel, Pointer
from autotune.problem.layer import Stage
from autotune.results import CheckVerdict, VerdictStatus
from autotune.space.config import Config
from tests.spaces import KIMI, MI325X

ONE, TWO = Stage
TREE = os.environ.get("AUTOTUNE_FLYDSL_SRC")
real = pytest.mark.skipif(
    TREE is None or "AUTOTUNE_FLYDSL_PYTHON" not in os.environ,
    reason="give AUTOTUNE_FLYDSL_SRC (a tree) and AUTOTUNE_FLYDSL_PYTHON (with its wheel)",
)


def slots(*sizes: int) -> Kernel:
    kinds = [SimpleNamespace(kind="global_buffer" if size == 8 else "by_value", size=size) for size in sizes]
    return cast(Kernel, SimpleNamespace(info=SimpleNamespace(arguments=kinds)))


def test_bare_pointers_come_before_the_numbers() -> None:
    made = _arguments(slots(8, 8, 4, 4), [Pointer(1), Pointer(2)], [3, 4])
    assert made == [Pointer(1), Pointer(2), 3, 4]


def test_mains_descriptors_are_filled_with_what_nobody_should_read() -> None:
    made = _arguments(slots(8, 16, 8, 4, 4, 4), [Pointer(1), Pointer(2)], [3, 4])
    assert made == [Pointer(1), b"\xcc" * 16, Pointer(2), b"\xcc" * 4, 3, 4]


def test_columns_without_a_workgroup_are_found_without_running_anything() -> None:
    tiling = Tiling(16, 448, 0, "atomic", 16)
    with pytest.raises(WrongOutput, match="columns 0 to 255 of the output have no workgroup"):
        list(tiled_executions(KIMI, 4, ONE, tiling, cast(Kernel, None), 0))


def test_only_atomics_round_at_every_addition() -> None:
    assert FlydslChecker().path(TWO, Config({"mode": "atomic"}), KIMI).bf16_adds == KIMI.top_k
    assert FlydslChecker().path(TWO, Config({"mode": "reduce"}), KIMI).bf16_adds == 0
    assert FlydslChecker().path(ONE, Config({}), KIMI).bf16_adds == 0


@pytest.fixture
def generation(monkeypatch: pytest.MonkeyPatch) -> TreeGeneration:
    assert TREE is not None
    monkeypatch.setenv("DSL2_ROOT", TREE)
    return open_tree(Path(TREE)).generation


def check(stage: Stage, **knobs: Any) -> CheckVerdict:
    config = Flydsl().space(KIMI, 4, stage, MI325X).complete(knobs)
    listing = Flydsl().listing(KIMI, 4, stage, config, MI325X)
    return execute("flydsl", KIMI, 4, stage, config, listing)[0]


def outputs(stage: Stage, **knobs: Any) -> np.ndarray:
    config = Flydsl().space(KIMI, 4, stage, MI325X).complete(knobs)
    kernel = Kernel.from_asm(Flydsl().listing(KIMI, 4, stage, config, MI325X).text)
    turn, bits = iter(range(1 << 20)), []
    for case in FlydslChecker().executions(KIMI, 4, stage, config, kernel, 0):
        case.run(kernel, 0, turn, Tally())
        bits.append(case.output.reshape(-1).copy())
    return np.concatenate(bits)


@real
@pytest.mark.parametrize("stage", Stage)
def test_what_ships_passes(generation: TreeGeneration, stage: Stage) -> None:
    knobs = {"tile_k": 256} if generation is TreeGeneration.MAIN and stage is ONE else {}
    verdict = check(stage, **knobs)
    assert verdict.status is VerdictStatus.PASS, verdict.text


@real
@pytest.mark.parametrize(("stage", "knobs"), [(ONE, {"sched": False}), (TWO, {"tile_k": 256})])
def test_the_published_pair_gives_the_defaults_bits(
    generation: TreeGeneration, stage: Stage, knobs: dict[str, Any]
) -> None:
    if generation is not TreeGeneration.PUBLISHED:
        pytest.skip("the pair is the published generation's")
    np.testing.assert_array_equal(outputs(stage, **knobs), outputs(stage))


@real
@pytest.mark.parametrize(
    ("stage", "knobs"),
    [
        (ONE, {"tile_n": 32}),
        (ONE, {"tile_n": 96}),
        (ONE, {"tile_k": 448}),
        (ONE, {"tile_k": 1024}),
        (TWO, {"tile_k": 512}),
        (TWO, {"tile_n": 320, "tile_k": 128}),
    ],
)
def test_what_the_rules_refuse_is_wrong(
    generation: TreeGeneration, stage: Stage, knobs: dict[str, Any]
) -> None:
    if generation is not TreeGeneration.PUBLISHED:
        pytest.skip("main asserts these rules itself")
    assert check(stage, **knobs).wrong


@real
def test_mains_waves_race_where_a_tile_of_activations_is_smaller_than_its_loads(
    generation: TreeGeneration,
) -> None:
    """256 threads store 16 bytes each: 4096, into a tile of tile_m * tile_k bytes."""
    if generation is not TreeGeneration.MAIN:
        pytest.skip("FlyDSL main's")
    assert find_tree().generation is TreeGeneration.MAIN
    small = check(ONE, tile_m=16, tile_k=128)
    assert small.status is VerdictStatus.FAULT
    assert "LDS race" in str(small.reason)
    assert not check(ONE, tile_m=32, tile_k=128).wrong
    assert not check(ONE, tile_m=16, tile_k=256).wrong
