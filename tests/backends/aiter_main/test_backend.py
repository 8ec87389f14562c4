"""Spaces, layouts and rules of AITER main: against the stand-in, and against a given tree's own functions."""

import ast
import functools
import shutil
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from autotune.backends.aiter.contract import check_aiter
from autotune.backends.aiter.pack import flydsl_weights
from autotune.backends.aiter.source import AiterGeneration
from autotune.backends.aiter_main.backend import _ck_name, default_block, grouped_spaces
from autotune.backends.aiter_main.instances import f8i4_instances
from autotune.backends.aiter_main.pack import ck_weights, grouped_scales
from autotune.errors import UserError
from autotune.kernels.layout import pack_int4
from autotune.problem.layer import Stage
from autotune.protocol.backend import CompileRefused
from autotune.protocol.registry import load_backend
from autotune.space.config import UNSET, Value
from tests.aiter_trees import given
from tests.backends.aiter_main.conftest import Launches
from tests.spaces import KIMI, MI325X
from tests.standins import SITE, SITE_MAIN, with_buffer_atomics

CK, GROUPED = load_backend("aiter_main"), load_backend("aiter_main_w4a16")
needs_main = given(AiterGeneration.MAIN)


def weights(rows: int = 48, k: int = 128) -> torch.Tensor:
    return torch.randint(-8, 8, (2, rows, k), generator=torch.Generator().manual_seed(1), dtype=torch.int8)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize("stage", Stage)
def test_the_kernels_are_those_that_this_aiter_builds_one_a_block(stage: Stage) -> None:
    configs = list(CK.space(KIMI, 4, stage, MI325X))
    assert {c["tile_m"] for c in configs if c["kernel"] is not UNSET} == {32, 64, 128, 256}
    assert len(configs) == 8  # each by name, and left to AITER
    default = CK.space(KIMI, 4, stage, MI325X).default
    assert (default["tile_m"], default["kernel"]) == (default_block(KIMI, 4, 304), UNSET)


@pytest.mark.usefixtures("launches")
def test_a_ck_space_keeps_its_name_when_its_words_change() -> None:
    space = CK.space(KIMI, 4, Stage.STAGE1, MI325X).space
    assert space.digest == "7588e83a9295096c5bac0380719b40175af0b4c35ce492c49ff27556f65f3340"  # of 0.1.0
    in_other_words = [replace(param, doc="other words") for param in space.params]
    assert _ck_name(in_other_words, space.rules) == space.digest
    assert _ck_name(in_other_words, space.rules[:1]) != space.digest


def test_without_an_aiter_the_remedy_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("autotune.backends.aiter_main.backend.find_package", lambda: None)
    with pytest.raises(UserError, match="AUTOTUNE_AITER_SRC"):
        CK.space(KIMI, 4, Stage.STAGE1, MI325X)


def test_the_published_aiter_is_another_backends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(SITE))
    for backend in (CK, GROUPED):
        with pytest.raises(UserError, match="use --backend aiter"):
            backend.space(KIMI, 4, Stage.STAGE1, MI325X)


@pytest.mark.parametrize(("adds", "has_code"), [
    ("def add(fx): return fx.rocdl.BufferAtomicPkAdd(fx.BFloat16)", False),
    ("def add(llvm): return llvm.AtomicRMWOp(llvm.AtomicBinOp.fadd)", True),
    # Which one a GPU gets is decided there: the compiler will tell.
    ("def add(fx, llvm, old): return llvm.AtomicRMWOp() if old else fx.rocdl.BufferAtomicPkAdd()", True),
])  # fmt: skip
def test_a_grouped_stage_2_without_code_for_the_card_is_refused_before_it_is_compiled(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, adds: str, *, has_code: bool
) -> None:
    tree = shutil.copytree(SITE_MAIN, tmp_path / "tree")
    with_buffer_atomics(tree / "aiter")
    (tree / "aiter/ops/flydsl/kernels/moe_2stage_a16wmix/gemm2.py").write_text(adds)
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(tree))
    assert GROUPED.space(KIMI, 4, Stage.STAGE1, MI325X).default
    later = replace(MI325X, arch="gfx950")
    assert GROUPED.space(KIMI, 4, Stage.STAGE2, later).default
    if has_code:
        assert GROUPED.space(KIMI, 4, Stage.STAGE2, MI325X).default
        return
    with pytest.raises(UserError, match=r"no code for .*gfx942 does not have.*git checkout ba59a37aa6"):
        GROUPED.space(KIMI, 4, Stage.STAGE2, MI325X)


@pytest.mark.usefixtures("launches")
@pytest.mark.parametrize(("stage", "change", "knobs", "rule"), [
    (Stage.STAGE1, {}, {}, None),
    (Stage.STAGE2, {}, {}, None),
    (Stage.STAGE2, {}, {"tile_m": 64, "tile_k": 256}, None),
    # Executed: what comes next was seen to read from wrong places, or asks for more LDS than there is.
    (Stage.STAGE2, {}, {"tile_m": 128}, "lds"),
    (Stage.STAGE1, {"inter_dim": 2048}, {}, "weights-in-4-gib"),
    (Stage.STAGE1, {"inter_dim": 1536}, {}, None),
    (Stage.STAGE2, {"inter_dim": 2048}, {}, None),
    (Stage.STAGE2, {"inter_dim": 4096}, {}, "weights-in-4-gib"),
    (Stage.STAGE1, {"inter_dim": 192}, {"tile_n": 64}, "gate-up-256"),
])  # fmt: skip
def test_what_the_grouped_kernels_do_not_see_to_is_a_rule(
    stage: Stage, change: dict[str, int], knobs: dict[str, Value], rule: str | None
) -> None:
    space = grouped_spaces()[stage].at(replace(KIMI, **change), 4, MI325X)
    broken = space.broken_rule(space.complete(knobs))
    assert (broken and broken.name) == rule


def test_kernels_that_differ_in_a_file_of_their_own_are_other_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tree = shutil.copytree(SITE_MAIN, tmp_path / "tree")
    monkeypatch.setenv("AUTOTUNE_AITER_SRC", str(tree))
    before = CK.source_digest(), GROUPED.source_digest()
    with_buffer_atomics(tree / "aiter")
    assert CK.source_digest() == before[0]
    assert GROUPED.source_digest() != before[1]


def test_a_generator_that_answers_otherwise_is_told(tmp_path: Path) -> None:
    path = tmp_path / "aiter_meta/csrc/ck_gemm_moe_2stages_codegen/gemm_moe_ck2stages_common.py"
    path.parent.mkdir(parents=True)
    path.write_text("def get_gemm1_kernels_list(*a): return 'a8w4', {}")
    with pytest.raises(UserError, match="otherwise than expected"):
        f8i4_instances(tmp_path / "aiter", Stage.STAGE1, "gfx942")


def test_nothing_of_composable_kernel_compiles_without_the_card(launches: Launches) -> None:
    with pytest.raises(CompileRefused, match="on the GPU only"):
        CK.compile(KIMI, 4, Stage.STAGE1, CK.space(KIMI, 4, Stage.STAGE1, MI325X).default, MI325X)


def test_odd_sizes_are_refused() -> None:
    with pytest.raises(UserError, match="choose another --tp"):
        ck_weights(torch.zeros((1, 24, 16), dtype=torch.int8))


def test_the_stand_in_has_the_functions_that_the_adapters_call() -> None:
    found = check_aiter(SITE_MAIN / "aiter", AiterGeneration.MAIN)
    assert not any(
        "ck_moe" in misfit or "flydsl_moe" in misfit for misfit in found if "missing" not in misfit
    )


def taken(tree: Path, file: str, *names: str, **known: Any) -> Callable[..., Any]:
    """The last of some functions of the given tree, taken out of their module."""
    parsed = ast.parse((tree / file).read_text())
    body: list[ast.stmt] = [n for n in parsed.body if isinstance(n, ast.FunctionDef) and n.name in names]
    namespace: dict[str, Any] = {"torch": torch, "functools": functools, **known}
    module = ast.Module(ast.parse("from __future__ import annotations").body + body, [])
    exec(compile(module, file, "exec"), namespace)
    function: Callable[..., Any] = namespace[names[-1]]
    return function


@needs_main
def test_the_layout_for_composable_kernel_is_the_given_aiters(tree: Path) -> None:
    dtypes = SimpleNamespace(i8=torch.int8, i32=torch.int32)
    shuffle = taken(tree, "aiter/ops/shuffle.py", "shuffle_weight")
    words = taken(tree, "aiter/int4_utils.py", "convert_int8_to_uint32_int4", dtypes=dtypes)
    rearrange = taken(tree, "aiter/int4_utils.py", "rearrange_4bit_elements", dtypes=dtypes)
    theirs = rearrange(words(shuffle(weights(), (16, 16), use_int4=True)))
    assert torch.equal(ck_weights(pack_int4(weights())), theirs.view(torch.int32))


@needs_main
def test_the_layout_of_grouped_weights_and_scales_is_the_given_aiters(tree: Path) -> None:
    shuffle = taken(tree, "aiter/ops/shuffle.py", "shuffle_weight")
    pack = taken(tree, "aiter/ops/shuffle.py", "pack_int8_to_packed_int4")
    theirs = pack(shuffle(weights(), (16, 16)))
    assert torch.equal(flydsl_weights(pack_int4(weights())).view(-1), theirs)
    scales = torch.rand(2, 4, 48).bfloat16()
    order = taken(tree, "aiter/ops/shuffle.py", "shuffle_scale_for_int4")
    assert torch.equal(grouped_scales(scales), order(scales).view(-1))


@needs_main
def test_the_given_aiter_lists_four_instances_a_stage(tree: Path) -> None:
    for stage in Stage:
        names = f8i4_instances(tree / "aiter", stage, "gfx942")
        assert [name.tile_m for name in names] == [32, 64, 128, 256]
        assert {name.stage for name in names} == {stage}


@needs_main
def test_the_default_block_is_the_given_aiters(tree: Path) -> None:
    rule = taken(tree, "aiter/fused_moe.py", "get_block_size_M", get_cu_num=lambda: 304)
    padded = taken(tree, "aiter/fused_moe.py", "nextPow2")
    for tokens in range(1, 4097, 3):
        theirs = rule(padded(tokens), KIMI.top_k, KIMI.experts, KIMI.inter_dim)
        assert default_block(KIMI, tokens, 304) == theirs, tokens
