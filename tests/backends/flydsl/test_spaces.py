"""What is legal for FlyDSL's kernels, derived a second time from what the kernels do, and the default."""

from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.problem.layer import Layer, Stage
from autotune.space.config import Config
from autotune.space.read import shipped_spaces
from autotune.space.space import BoundSpace
from tests.spaces import KIMI, MI325X

PUBLISHED = shipped_spaces("flydsl/published")
MAIN = shipped_spaces("flydsl/main")


def space(stage: Stage, tokens: int = 4, layer: Layer = KIMI) -> BoundSpace:
    return PUBLISHED[stage].at(layer, tokens, MI325X)


def tiles(stage: Stage, tokens: int = 4) -> set[tuple[Any, Any]]:
    return {(config["tile_n"], config["tile_k"]) for config in space(stage, tokens)}


def test_the_published_tiles_of_a_block_of_16_rows_are_those_that_compute_everything() -> None:
    assert tiles(Stage.STAGE1) == {(n, k) for n in (64, 128, 256) for k in (64, 128, 256, 512)}
    widths = (64, 128, 256, 448, 512, 896, 1024, 1792)
    assert tiles(Stage.STAGE2) == {(n, k) for n in widths for k in (64, 128, 256)}


@pytest.mark.parametrize(("stage", "legal"), [(Stage.STAGE1, 12 * 2), (Stage.STAGE2, 24 * 2 * 2)])
def test_sizes(stage: Stage, legal: int) -> None:
    assert space(stage).size == legal


@pytest.mark.parametrize(
    ("tokens", "widest"), [(128, 1792), (129, 1024), (160, 1024), (2047, 1024), (2048, 512)]
)
def test_taller_blocks_leave_less_lds_for_the_output_tile(tokens: int, widest: int) -> None:
    assert max(n for n, _ in tiles(Stage.STAGE2, tokens)) == widest


@pytest.mark.parametrize(
    ("tokens", "tile_m", "tile_k"),
    [(1, 16, 256), (128, 16, 256), (129, 32, 128), (1024, 32, 128), (2047, 32, 128), (2048, 64, 128)],
)
def test_the_default_is_the_engines(tokens: int, tile_m: int, tile_k: int) -> None:
    """AITER looks at the padded token count, which is 1024 up to 2047 tokens."""
    default = space(Stage.STAGE1, tokens).default
    assert default == Config({"tile_m": tile_m, "tile_n": 64, "tile_k": tile_k, "sched": True})
    assert space(Stage.STAGE1, tokens).is_legal(default)
    assert space(Stage.STAGE2, tokens).default["tile_k"] == 64


@pytest.mark.parametrize(
    ("stage", "knobs", "rule"),
    [
        (Stage.STAGE1, {"tile_m": 32}, "engine-block"),
        (Stage.STAGE1, {"tile_n": 32}, "tile-n-per-wave"),
        (Stage.STAGE1, {"tile_n": 96}, "tile-n-per-wave"),
        (Stage.STAGE1, {"tile_n": 192}, "tile-n-divides"),
        (Stage.STAGE1, {"tile_k": 1024}, "tile-k-even"),
        (Stage.STAGE1, {"tile_k": 448}, "tile-k-swizzle"),
        (Stage.STAGE1, {"tile_k": 896}, "tile-k-swizzle"),
        (Stage.STAGE2, {"tile_m": 64}, "engine-block"),
        (Stage.STAGE2, {"tile_n": 96}, "tile-n-lanes"),
        (Stage.STAGE2, {"tile_n": 320}, "tile-n-divides"),
        (Stage.STAGE2, {"tile_k": 512}, "tile-k-divides"),
    ],
)
def test_what_would_compute_wrong_numbers_is_refused_with_its_reason(
    stage: Stage, knobs: dict[str, Any], rule: str
) -> None:
    bound = space(stage)
    broken = bound.broken_rule(bound.complete(knobs))
    assert broken is not None
    assert broken.name == rule
    assert len(broken.reason) > 20


layers = st.builds(
    Layer,
    model=st.just("any"),
    model_dim=st.sampled_from([2048, 2880, 4096, 5120, 6144, 7168]),
    inter_dim=st.sampled_from([128, 192, 256, 384, 512, 768]),
    experts=st.just(64),
    top_k=st.just(8),
    tp=st.just(1),
)


@given(layers, st.integers(1, 4096))
def test_stage_1_of_the_published_generation_covers_its_columns_and_its_k(layer: Layer, tokens: int) -> None:
    bound = space(Stage.STAGE1, tokens, layer)
    for config in bound:
        tile_m, tile_n, tile_k = (int(str(config[name])) for name in ("tile_m", "tile_n", "tile_k"))
        columns_of_a_wave = tile_n // 4 // 16 * 16
        assert layer.inter_dim // tile_n * 4 * columns_of_a_wave == layer.inter_dim
        pairs_of_k_tiles = layer.model_dim // tile_k // 2
        assert pairs_of_k_tiles * 2 * tile_k == layer.model_dim
        chunks = tile_k // 16
        assert all((chunk ^ row) < chunks for chunk in range(chunks) for row in range(chunks))
        assert 2 * tile_m * tile_k <= 65536


@given(layers, st.integers(1, 4096))
def test_stage_2_of_the_published_generation_covers_its_columns_and_its_k(layer: Layer, tokens: int) -> None:
    bound = space(Stage.STAGE2, tokens, layer)
    for config in bound:
        tile_m, tile_n, tile_k = (int(str(config[name])) for name in ("tile_m", "tile_n", "tile_k"))
        assert layer.model_dim // tile_n * tile_n == layer.model_dim
        assert layer.inter_dim // tile_k * tile_k == layer.inter_dim
        assert max(2 * tile_m * tile_k, 2 * tile_m * tile_n) <= 65536


def test_mains_hints_exist_only_where_the_wheel_heeds_them() -> None:
    without = MAIN[Stage.STAGE1].at(KIMI, 4, MI325X, frozenset({"llvm_options"}))
    assert "waves_per_eu" not in without.default
    assert "sched_strategy" in without.default


@pytest.mark.parametrize("stage", Stage)
def test_mains_default_is_legal_and_has_no_gate(stage: Stage) -> None:
    for tokens in (1, 160, 4096):
        bound = MAIN[stage].at(KIMI, tokens, MI325X)
        assert bound.is_legal(bound.default)
        assert "sched" not in bound.default


def test_mains_stage_1_has_no_tile_of_activations_that_its_stores_run_past() -> None:
    """256 threads of 16 bytes: executed, 16 x 128 gave wrong numbers, 16 x 256 and 32 x 128 right ones."""
    for tokens, legal in ((4, {(16, 256)}), (160, {(16, 256), (32, 128), (32, 256), (64, 128), (64, 256)})):
        bound = MAIN[Stage.STAGE1].at(KIMI, tokens, MI325X)
        found = {
            (m, k)
            for m in (16, 32, 64)
            for k in (128, 256)
            if bound.is_legal(bound.complete({"tile_m": m, "tile_k": k}))
        }
        assert found == legal
    bound = MAIN[Stage.STAGE1].at(KIMI, 4, MI325X)
    broken = bound.broken_rule(bound.complete({"tile_k": 128}))
    assert broken is not None
    assert "confirmed on the card" in broken.reason


def test_of_aiters_registered_stage_1_tiles_twenty_do_not_fit_the_cards_lds() -> None:
    space = shipped_spaces("flydsl/aiter")[Stage.STAGE1]
    with_160_kib = replace(MI325X, lds_bytes=160 * 1024)
    assert space.at(KIMI, 4, with_160_kib).size == 76
    assert space.at(KIMI, 4, MI325X).size == 76 - 20
