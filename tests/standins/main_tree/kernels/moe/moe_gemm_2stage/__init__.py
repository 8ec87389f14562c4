"""Kernels of FlyDSL main: parameters are checked by assertions, hints change the code, and are in the keys.

With COMPILE_ONLY they are traced only, else they compute with torch. Inputs are flat; the sum over slots
takes bare pointers, and without it each slot has a row of its own.
"""

import ctypes
import functools
import json
import os

from flydsl.compiler.kernel_function import CompilationContext


class _Module:
    def __init__(self, text):
        self._ir_text = text


class _Launcher:
    def __init__(self, stage, lds, columns, **parameters):
        self.stage, self.lds, self.columns, self.p = stage, lds, columns, parameters

    def __call__(self, *arguments):
        hints = CompilationContext.hints
        if os.environ.get("COMPILE_ONLY") == "1":
            from flydsl.compiler.backends import get_backend

            get_backend().pipeline_fragments()
            waves = hints.get("waves_per_eu") or 0
            kernel = {
                "generation": "main",
                "lds": self.lds,
                "vgprs": 108 - waves,
                "waits": 100 + self.columns,
            }
            self._last_compiled = (None, _Module("module " + json.dumps(kernel)))
            return
        log = os.environ.get("STANDIN_LOG")
        if log:
            with open(log, "a") as file:
                file.write(json.dumps({"stage": self.stage, "hints": hints, **self.p}) + "\n")
        self._launch(*arguments)

    def _launch(self, out, x, w, sx, sw, ids, eids, weights, num_valid, tokens, _n, _k, blocks, _stream):
        import torch

        from tests.standins.published_tree.kernels.toy_gemm import Blocks, gemm_rows

        p, two = self.p, self.stage == 2
        assert x.dim() == w.dim() == 1
        assert x.dtype == w.dtype == torch.int8
        assert sx.dtype == sw.dtype == torch.float32
        n, k = (p["model_dim"], p["inter_dim"]) if two else (2 * p["inter_dim"], p["model_dim"])
        for block in Blocks(ids, eids, int(num_valid[0]), blocks, p["tile_m"], tokens):
            rows = block.token * p["topk"] + block.slot if two else block.token
            y = gemm_rows(x.view(-1, k)[rows], w, block.expert, n, k, p["experts"], p["tile_k"], two)
            y = y * sx[rows][:, None] * sw.view(-1, n)[block.expert]
            if not two:
                gate, up = y.chunk(2, dim=1)
                out[block.token, block.slot] = (gate / (1 + torch.exp(-gate)) * up).bfloat16()
                continue
            y = (y * weights[block.rows][:, None]).bfloat16()
            for row, value in zip(block.token if p["accumulate"] else rows, y, strict=True):
                out[row] = out[row] + value if p["accumulate"] else value


@functools.lru_cache(maxsize=1024)
def compile_moe_gemm1(*, tile_m, tile_n, tile_k, doweight_stage1, in_dtype="fp8", out_dtype="f16", **shape):
    assert tile_k in (128, 256), f"tile_k {tile_k} is neither 128 nor 256"
    columns = max(tile_n // 2, 64)
    return _Launcher(1, 2 * tile_m * tile_k, columns, tile_m=tile_m, tile_n=tile_n, tile_k=tile_k, **shape)


@functools.lru_cache(maxsize=1024)
def compile_moe_gemm2(
    *, tile_m, tile_n, tile_k, doweight_stage2, in_dtype="fp8", accumulate=True, out_dtype="f16", **shape
):
    assert tile_k in (128, 256), f"tile_k {tile_k} is neither 128 nor 256"
    tiles = {"tile_m": tile_m, "tile_n": tile_n, "tile_k": tile_k}
    return _Launcher(2, 2 * tile_m * max(tile_k, tile_n), tile_n, accumulate=accumulate, **tiles, **shape)


def compile_moe_reduction(*, topk, model_dim, dtype_str="f16", use_mask=False):
    import torch

    assert dtype_str == "bf16"

    def at(pointer, rows):
        memory = (ctypes.c_char * (2 * rows * model_dim)).from_address(pointer)
        return torch.frombuffer(memory, dtype=torch.bfloat16)

    def launch(slots, out, _mask, _ids, tokens, _stream):
        summed = at(slots, tokens * topk).view(tokens, topk, model_dim).float().sum(dim=1)
        at(out, tokens).copy_(summed.flatten())

    return launch
