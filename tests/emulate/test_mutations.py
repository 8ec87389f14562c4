"""Planted bugs in the machine code of real kernels: the interpreter must notice nine in ten."""

from __future__ import annotations

import pytest

from autotune.emulate.errors import Fault
from autotune.emulate.launch import Kernel
from tests.emulate import cases, mutate

pytest.importorskip("triton")
from tests.emulate import triton_kernels as kernels
from tests.emulate.test_triton import BF16, F32, GEMM, STAGE

# Mutants of a class and kernel; every barrier is tried, and of the others evenly spaced ones.
LIMIT = 10
OPTIONS = {"num_warps": 4, "num_stages": 2}


def _gemm():
    constants = {"K": 192, "BM": 16, "BN": 64, "BK": 64, "INTEGER": True}
    return kernels.compile_kernel(kernels.gemm, GEMM, constants, OPTIONS, tuple(GEMM)[:5])


def _stage(gated: bool):
    constants = {
        "K": 128,
        "BM": 16,
        "BN": 64,
        "BK": 64,
        "GATED": gated,
        "SUM": not gated,
        "SPLIT": 1 if gated else 2,
    }
    signature = STAGE | ({} if gated else {"out": "*fp32"})
    return kernels.compile_kernel(kernels.moe_stage, signature, constants, OPTIONS, tuple(STAGE)[:8])


KERNELS = {
    "gemm": (_gemm, lambda: cases.gemm("i8", n=99, k=192), BF16),
    "stage1": (lambda: _stage(True), lambda: cases.moe(True, k=128), BF16),
    "stage2": (lambda: _stage(False), lambda: cases.moe(False, split=2, k=128, tokens=21), F32),
}


def noticed(text: str, lds_bytes: int, problem, tolerance: float) -> bool:
    """Whether any wave order gives a fault or wrong numbers."""
    kernel = Kernel.from_asm(text)
    for seed, order in enumerate(("forward", "reverse", "shuffled")):
        case = problem()
        try:
            kernel.launch(
                case.arguments, case.grid, lds_bytes=lds_bytes, order=order, seed=seed, budget=500_000
            )
        except Fault:
            return True
        if not case.error() < tolerance:
            return True
    return False


@pytest.mark.parametrize(
    "name", [pytest.param(name, marks=[] if name == "gemm" else pytest.mark.slow) for name in KERNELS]
)
def test_planted_bugs_are_noticed(name: str, record_property: pytest.RecordProperty) -> None:
    build, problem, tolerance = KERNELS[name]
    compiled = build()
    text, lds_bytes = compiled.asm["amdgcn"], compiled.metadata.shared
    assert not noticed(text, lds_bytes, problem, tolerance)
    tried, missed = 0, []
    for kind, mutants in mutate.CLASSES.items():
        found = list(mutants(text))
        assert found, kind
        if kind != "barrier removed":
            found = found[:: -(-len(found) // LIMIT)]
        for what, mutant in found:
            tried += 1
            if not noticed(mutant, lds_bytes, problem, tolerance):
                missed.append(f"{kind}: {what}")
    record_property("caught", f"{tried - len(missed)} of {tried}")
    print(f"{name}: {tried - len(missed)} of {tried} caught", *missed, sep="\n  ")
    assert len(missed) <= 0.1 * tried, missed
    # What is left are waits that an earlier wait on every executed path has covered already.
    assert all(what.startswith("wait removed") for what in missed), missed
