"""Kernels of FlyDSL main, traced only: parameters are checked by assertions, hints change the code."""

import json

from flydsl.compiler.backends import get_backend
from flydsl.compiler.kernel_function import CompilationContext


class _Module:
    def __init__(self, text):
        self._ir_text = text


class _Launcher:
    def __init__(self, lds, columns):
        self.lds, self.columns = lds, columns

    def __call__(self, *arguments):
        get_backend().pipeline_fragments()
        waves = CompilationContext.hints.get("waves_per_eu") or 0
        kernel = {"generation": "main", "lds": self.lds, "vgprs": 108 - waves, "waits": 100 + self.columns}
        self._last_compiled = (None, _Module("module " + json.dumps(kernel)))


def compile_moe_gemm1(*, model_dim, tile_m, tile_n, tile_k, doweight_stage1, out_dtype="f16", **shape):
    assert tile_k in (128, 256), f"tile_k {tile_k} is neither 128 nor 256"
    return _Launcher(2 * tile_m * tile_k, max(tile_n // 2, 64))


def compile_moe_gemm2(*, tile_m, tile_n, tile_k, doweight_stage2, accumulate=True, out_dtype="f16", **shape):
    assert tile_k in (128, 256), f"tile_k {tile_k} is neither 128 nor 256"
    return _Launcher(2 * tile_m * max(tile_k, tile_n), tile_n)
