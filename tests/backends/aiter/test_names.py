"""Kernel names round-trip: any that the grammar can build, and all in the tables of a given AITER.

The second needs AUTOTUNE_AITER_SRC, a source tree of any generation.
"""

import ast
import csv
import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from autotune.backends.aiter.names import (
    CkName,
    FlydslName,
    LayoutName,
    MxName,
    grouped_int4_name,
    parse_name,
)
from autotune.backends.aiter.source import Generation, generation_of
from autotune.errors import UserError
from autotune.problem.layer import Stage
from autotune.space.space import shipped_spaces
from tests.spaces import KIMI, MI325X

SOURCE = os.environ.get("AUTOTUNE_AITER_SRC")

sides = st.sampled_from([16, 32, 64, 128, 256])
maybe = st.none() | st.integers(0, 14)
flydsl = st.builds(
    FlydslName,
    number=st.sampled_from([1, 2]),
    a=st.sampled_from(["fp8", "fp4", "fp16", "bf16"]),
    w=st.sampled_from(["fp4", "fp8", "int4"]),
    out=st.sampled_from(["bf16", "f16"]),
    tile_m=sides,
    tile_n=sides,
    tile_k=sides,
    mode=st.sampled_from([None, "atomic", "reduce"]),
    waves_per_eu=maybe,
    k_batch=maybe,
    non_temporal=maybe,
    gate_only=st.booleans(),
    interleaved=st.booleans(),
    xcd=maybe,
    persistent=st.booleans(),
    k_wave=maybe,
    quantised=st.sampled_from([None, "fp4", "fp8"]),
    sort_block=st.none() | sides,
)
layout = st.builds(
    LayoutName,
    a=st.sampled_from(["fp4", "fp8"]),
    w=st.sampled_from(["fp4", "fp8"]),
    out=st.sampled_from(["bf16", "f16"]),
    tile_m=sides,
    tile_n=sides,
    tile_k=sides,
    mode=st.sampled_from(["atomic", "reduce"]),
    persistent=st.booleans(),
    non_temporal=st.booleans(),
    sort_block=st.none() | sides,
    bf16_lds=st.booleans(),
    split=st.none() | st.integers(1, 8),
)


@given(flydsl | layout)
def test_a_name_that_is_built_is_read_back(name: FlydslName | LayoutName) -> None:
    assert parse_name(name.text) == name


@pytest.mark.parametrize(
    ("text", "family", "stage"),
    [
        ("flydsl_moe1_abf16_wint4_bf16_t16x64x128_w2_kw4", FlydslName, Stage.STAGE1),
        ("flydsl_moe2_abf16_wfp4_bf16_t32x128x128_atomic_bnt2_persist", FlydslName, Stage.STAGE2),
        ("flydsl_moe1_afp8_wfp4_bf16_t32x128x256_w3_async_w2_cumul4", FlydslName, Stage.STAGE1),
        ("flydsl_moe2_layout_afp4_wfp4_bf16_t32x128x128_atomic_nt_sbm32", LayoutName, Stage.STAGE2),
        ("flydsl_mxmoe_g1_a4w4_16x256x256_f16in_nt", MxName, Stage.STAGE1),
        (
            "moe_ck2stages_gemm2_256x32x64x128_1x4_MulABScale_v1_Nswizzle0_Quant2_MulRoutedWeight1_F8_I4_B16",
            CkName,
            Stage.STAGE2,
        ),
    ],
)
def test_each_family(text: str, family: type, stage: Stage) -> None:
    name = parse_name(text)
    assert isinstance(name, family)
    assert name.text == text
    assert name.stage is stage


def test_what_a_name_leaves_out_has_a_default() -> None:
    one, two = (parse_name(f"flydsl_moe{n}_abf16_wint4_bf16_t16x64x128") for n in (1, 2))
    assert isinstance(one, FlydslName)
    assert isinstance(two, FlydslName)
    assert (one.cache_hint, two.cache_hint) == (2, 0)


@pytest.mark.parametrize("text", ["", "Null", "_ZN5aiter44fmoe_stage1_bf16_pertokenFp8_g1u1_128x64_pf3E"])
def test_kernels_without_parameters_have_no_parts(text: str) -> None:
    assert parse_name(text) is None


@pytest.mark.parametrize("text", ["flydsl_moe1_abf16_wint4_bf16_t16x64x128_turbo", "triton_moe_16"])
def test_what_is_not_known_is_said(text: str) -> None:
    with pytest.raises(UserError, match="no family"):
        parse_name(text)


@pytest.mark.skipif(SOURCE is None, reason="give AUTOTUNE_AITER_SRC, a source tree of AITER")
def test_every_name_in_the_given_aiters_tables_round_trips() -> None:
    assert SOURCE is not None
    tables = [p for p in Path(SOURCE, "aiter/configs").rglob("*fmoe*.csv") if "untuned" not in p.name]
    names = set()
    for table in tables:
        with table.open() as file:
            for row in csv.DictReader(file):
                names |= {(row.get(column) or "").strip() for column in ("kernelName1", "kernelName2")}
    assert len(names) > 100
    for text in sorted(names):
        name = parse_name(text)
        assert name is None or name.text == text
    assert sum(parse_name(text) is not None for text in names) > 100


def registered(source: str, stage: int) -> set[str]:
    """The names of one family that AITER main registers: its own functions, taken out of the module."""
    path = Path(source, "aiter/ops/flydsl/moe_kernels.py")
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


@pytest.mark.skipif(SOURCE is None, reason="give AUTOTUNE_AITER_SRC, a source tree of AITER main")
def test_the_space_of_grouped_int4_is_what_aiter_main_registers() -> None:
    assert SOURCE is not None
    if generation_of(Path(SOURCE, "aiter")) is not Generation.MAIN:
        pytest.skip("the published generation registers no such kernel")
    device = replace(MI325X, lds_bytes=160 * 1024)
    for number, stage in enumerate(Stage, 1):
        space = shipped_spaces("flydsl/aiter")[stage].at(KIMI, 4, device)
        assert {grouped_int4_name(stage, config).text for config in space} == registered(SOURCE, number)
