"""Kernel names round-trip; those of grouped INT4 are what AITERs register that AUTOTUNE_AITER_SRC names."""

import ast
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main.names import CkName, grouped_int4_name
from autotune.problem.layer import Stage
from autotune.space.config import Config
from autotune.space.read import shipped_spaces
from tests.aiter_trees import given as given_trees
from tests.spaces import KIMI, MI325X

sides = st.sampled_from([16, 32, 64, 128, 256])
ck = st.builds(
    CkName,
    number=st.sampled_from([1, 2]),
    threads=st.sampled_from([64, 256]),
    tile_m=sides,
    tile_n=sides,
    tile_k=sides,
    waves_m=st.integers(1, 4),
    waves_n=st.integers(1, 4),
    epilogue=st.sampled_from(["MulABScale", "TypeCast"]),
    pipeline=st.integers(1, 3),
    n_swizzle=st.integers(0, 1),
    quant=st.integers(0, 5),
    routed_weight=st.integers(0, 1),
    activation=st.sampled_from([None, "silu", "gelu"]),
    a=st.sampled_from(["F8", "B16"]),
    b=st.sampled_from(["F8", "I4"]),
    c=st.just("B16"),
)


@given(ck)
def test_a_name_that_is_built_is_read_back(name: CkName) -> None:
    assert CkName.parse(name.text) == name


def test_a_name_of_an_instance_is_taken_apart() -> None:
    text = "moe_ck2stages_gemm2_256x32x64x128_1x4_MulABScale_v1_Nswizzle0_Quant2_MulRoutedWeight1_F8_I4_B16"
    name = CkName.parse(text)
    assert name is not None
    assert (name.stage, name.tile_m, name.tile_n, name.tile_k, name.activation) == (
        Stage.STAGE2,
        32,
        64,
        128,
        None,
    )
    assert name.text == text


@pytest.mark.parametrize("text", ["", "Null", "flydsl_moe1_abf16_wint4_bf16_t16x64x128"])
def test_a_name_of_another_family_is_none(text: str) -> None:
    assert CkName.parse(text) is None


def test_a_grouped_int4_name_leaves_out_what_is_the_default() -> None:
    tile = {"tile_m": 16, "tile_n": 64, "tile_k": 128}
    assert grouped_int4_name(Stage.STAGE1, Config({**tile, "k_wave": 4, "b_nt": 0})) == (
        "flydsl_moe1_abf16_wint4_bf16_t16x64x128_bnt0_kw4"
    )
    assert grouped_int4_name(Stage.STAGE1, Config({**tile, "k_wave": 1, "b_nt": None})) == (
        "flydsl_moe1_abf16_wint4_bf16_t16x64x128"
    )
    assert grouped_int4_name(Stage.STAGE2, Config(tile)) == "flydsl_moe2_abf16_wint4_bf16_t16x64x128_atomic"


def registered(source: Path, stage: int) -> set[str]:
    """The names of one family that AITER main registers: its own functions, taken out of the module."""
    path = source / "aiter/ops/flydsl/moe_kernels.py"
    wanted = {"flydsl_kernel_name", "_gemm1_lds_bytes", f"get_flydsl_stage{stage}_kernels_int4_bf16"}
    body = [
        node
        for node in ast.parse(path.read_text()).body
        if (isinstance(node, ast.FunctionDef) and node.name in wanted)
        or (isinstance(node, ast.Assign) and "_MAX_LDS_BYTES" in ast.unparse(node.targets[0]))
    ]
    names: dict[str, Any] = {"Optional": None, "Dict": dict}
    module = ast.Module(ast.parse("from __future__ import annotations").body + body, [])
    exec(compile(module, str(path), "exec"), names)
    return set(names[f"get_flydsl_stage{stage}_kernels_int4_bf16"]("bf16"))


@given_trees(AiterGeneration.MAIN)
def test_the_space_of_grouped_int4_is_what_aiter_main_registers(tree: Path) -> None:
    device = replace(MI325X, lds_bytes=160 * 1024)
    for number, stage in enumerate(Stage, 1):
        space = shipped_spaces("flydsl/aiter")[stage].at(KIMI, 4, device)
        assert {grouped_int4_name(stage, config) for config in space} == registered(tree, number)
