"""Triton kernels cross-compiled for gfx942 and executed, against numpy; wave orders must agree."""

from __future__ import annotations

import numpy as np
import pytest

from autotune.emulate.launch import Kernel
from tests.emulate import cases

pytest.importorskip("triton")
from tests.emulate import triton_kernels as kernels

# bfloat16 keeps 8 bits; float32 sums differ by their order only.
BF16, F32 = 4e-3, 2e-6

GEMM = {"a": "*i8", "b": "*i8", "c": "*bf16", "scale_a": "*fp32", "scale_b": "*fp32", "M": "i32", "N": "i32"}
STAGE = {
    "x": "*i8",
    "w": "*i8",
    "out": "*bf16",
    "x_scale": "*fp32",
    "w_scale": "*fp32",
    "token_of": "*i32",
    "expert_of": "*i32",
    "route_weight": "*fp32",
    "tokens": "i32",
    "N": "i32",
    "topk": "i32",
}
MAX_ILP = "amdgpu-sched-strategy=max-ilp"

GEMM_CASES = [
    ("i8", 16, {"num_warps": 1, "num_stages": 1}),
    ("i8", 16, {"num_warps": 4, "num_stages": 2, "kpack": 2}),
    ("i8", 32, {"num_warps": 8, "num_stages": 3, "matrix_instr_nonkdim": 32, "waves_per_eu": 2}),
    ("bf16", 16, {"num_warps": 2, "num_stages": 2, "matrix_instr_nonkdim": 16}),
    ("bf16", 32, {"num_warps": 4, "matrix_instr_nonkdim": 32, "llvm_fn_attrs": MAX_ILP}),
    ("fp16", 16, {"num_warps": 4, "num_stages": 3}),
    ("fp16", 32, {"num_warps": 4, "num_stages": 1, "matrix_instr_nonkdim": 32, "kpack": 2}),
    ("fp8e4b8", 16, {"num_warps": 4, "num_stages": 2}),
    ("fp8e5b16", 32, {"num_warps": 2, "num_stages": 2, "matrix_instr_nonkdim": 32}),
    ("fp32", 16, {"num_warps": 4, "num_stages": 2}),
]
STAGE_CASES = [
    (True, 16, 1, {"num_warps": 1, "num_stages": 1}),
    (True, 16, 1, {"num_warps": 4, "num_stages": 3}),
    (True, 32, 1, {"num_warps": 8, "matrix_instr_nonkdim": 32}),
    (False, 16, 2, {"num_warps": 4, "num_stages": 2, "llvm_fn_attrs": MAX_ILP}),
    (False, 16, 1, {"num_warps": 2, "num_stages": 3, "kpack": 2}),
    (False, 32, 2, {"num_warps": 4, "matrix_instr_nonkdim": 32}),
]


def check(compiled, problem, tolerance: float) -> None:
    kernel = Kernel.from_asm(compiled.asm["amdgcn"])
    counts = set()
    for order, seed in (("forward", 1), ("shuffled", 3)):
        case = problem()
        result = kernel.launch(
            case.arguments, case.grid, lds_bytes=compiled.metadata.shared, order=order, seed=seed
        )
        assert case.error() < tolerance, order
        counts.add(result.counts.instructions)
    assert len(counts) == 1


def named(values) -> str:
    return "-".join(str(v) for v in values) if isinstance(values, tuple) else ""


@pytest.mark.parametrize(
    ("kind", "tile_m", "options"), GEMM_CASES, ids=lambda v: v if isinstance(v, str) else ""
)
def test_gemm(kind: str, tile_m: int, options: dict) -> None:
    constants = {"K": 256, "BM": tile_m, "BN": 64, "BK": 64, "INTEGER": kind == "i8"}
    signature = GEMM | {"a": f"*{kind}", "b": f"*{kind}"}
    compiled = kernels.compile_kernel(kernels.gemm, signature, constants, options, tuple(GEMM)[:5])
    check(compiled, lambda: cases.gemm(kind, tile_m=tile_m), BF16)


@pytest.mark.parametrize(("gated", "tile_m", "split", "options"), STAGE_CASES)
def test_moe_stage(gated: bool, tile_m: int, split: int, options: dict) -> None:
    constants = {"K": 256, "BM": tile_m, "BN": 64, "BK": 64, "GATED": gated, "SUM": not gated, "SPLIT": split}
    signature = STAGE | ({} if gated else {"out": "*fp32"})
    compiled = kernels.compile_kernel(kernels.moe_stage, signature, constants, options, tuple(STAGE)[:8])
    check(compiled, lambda: cases.moe(gated, tile_m=tile_m, split=split), BF16 if gated else F32)


@pytest.mark.parametrize("warps", [1, 4])
def test_reductions(warps: int) -> None:
    options = {"num_warps": warps}
    signature = {"x": "*bf16", "q": "*i8", "scale": "*fp32", "K": "i32"}
    check(
        kernels.compile_kernel(kernels.quantise, signature, {"BLOCK": 1024}, options, ("x", "q")),
        cases.quantise,
        1e-6,
    )
    signature = {"x": "*fp32", "y": "*fp32", "K": "i32"}
    check(kernels.compile_kernel(kernels.softmax, signature, {"BLOCK": 1024}, options), cases.softmax, F32)


@pytest.mark.parametrize("warps", [1, 8])
def test_atomics_across_workgroups(warps: int) -> None:
    options = {"num_warps": warps}
    signature = {"x": "*fp32", "partial": "*fp32", "counter": "*i32", "total": "*fp32", "N": "i32"}
    compiled = kernels.compile_kernel(kernels.last_arriver, signature, {"PARTS": 4, "BLOCK": 512}, options)
    check(compiled, cases.last_arriver, F32)
    signature = {"x": "*i32", "prefix": "*i32", "histogram": "*i32", "N": "i32"}
    compiled = kernels.compile_kernel(kernels.scan_and_count, signature, {"BLOCK": 1024}, options)
    check(compiled, cases.scan_and_count, 0.5)


def test_a_sample_of_workgroups_gives_their_part_of_the_result() -> None:
    constants = {"K": 256, "BM": 16, "BN": 64, "BK": 64, "INTEGER": True}
    compiled = kernels.compile_kernel(kernels.gemm, GEMM, constants, {"num_warps": 4}, tuple(GEMM)[:5])
    kernel = Kernel.from_asm(compiled.asm["amdgcn"])
    outputs = []
    for sample in (None, [(1, 1, 0)]):
        case = cases.gemm("i8")
        kernel.launch(case.arguments, case.grid, lds_bytes=compiled.metadata.shared, workgroups=sample)
        outputs.append(case.arguments[2])
    whole, part = outputs
    np.testing.assert_array_equal(part[16:, 64:], whole[16:, 64:])
    assert not part[:16].any()
    assert not part[:, :64].any()
