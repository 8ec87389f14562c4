"""A tree's kernel for a request, and the dummy arguments that it is called with."""

import importlib
import sys
import types
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

MODULES = {"published": "kernels.moe_gemm_2stage", "main": "kernels.moe.moe_gemm_2stage"}


def builder(request: "dict[str, Any]") -> "Callable[[], Any]":
    """What builds the launcher of the request's kernel, which is traced when it is first called.

    The parameters are those that AITER passes: bfloat16 out, weights packed INT4 with a scale a row, router
    weights in stage 2 (aiter 511df6a, aiter/fused_moe.py:2165-2180 and 2676-2690).

    Building raises ValueError or AssertionError where the tree rejects the parameters.
    """
    if request["generation"] == "aiter":
        return _aiter_builder(request)
    kernels = importlib.import_module(MODULES[request["generation"]])
    stage = request["stage"]
    parameters: dict[str, Any] = {
        name: request[name]
        for name in ("model_dim", "inter_dim", "experts", "topk", "tile_m", "tile_n", "tile_k")
    }
    parameters |= {"in_dtype": "int4", "out_dtype": "bf16", f"doweight_stage{stage}": stage == 2}
    if stage == 2:
        parameters["accumulate"] = request["mode"] == "atomic"
    if request["generation"] == "published":
        parameters["group_size"] = -1
        parameters["use_cshuffle_epilog"] = False if stage == 1 else None
    build = kernels.compile_moe_gemm1 if stage == 1 else kernels.compile_moe_gemm2
    return partial(build, **parameters)


def _aiter_builder(request: "dict[str, Any]") -> "Callable[[], Any]":
    """AITER main's kernels of INT4 weights in groups (aiter e4048607a5, aiter/ops/flydsl/moe_kernels.py).

    `aiter` itself is not imported, since it looks for ROCm: its packages are made without their contents.
    """
    for name in ("aiter", "aiter.ops", "aiter.ops.flydsl"):
        package = types.ModuleType(name)
        package.__path__ = [str(Path(request["root"], *name.split(".")))]
        sys.modules[name] = package
    kernels = importlib.import_module("aiter.ops.flydsl.kernels.moe_2stage_a16wmix")
    parameters: dict[str, Any] = {
        "BM": request["tile_m"],
        "TILE_N": request["tile_n"],
        "TILE_K": request["tile_k"],
        "NE": request["experts"],
        "D_INTER": request["inter_dim"],
        "w_dtype": "int4",
        "xcd_swizzle": 0,
        "waves_per_eu": None,
        "use_k16": "gfx95" not in request["arch"],
    }
    hint = request["b_nt"]
    if request["stage"] == 2:
        parameters |= {"N_OUT": request["model_dim"], "b_cache_mod": hint or 0}
        return partial(kernels.compile_gemm2_a16w4_port, **parameters)
    parameters |= {"D_HIDDEN": request["model_dim"], "TOPK": request["topk"], "k_wave": request["k_wave"]}
    parameters |= {"act": "silu", "w_layout": "standard", "b_cache_mod": 2 if hint is None else hint}
    return partial(kernels.compile_gemm1_a16w4_port, **parameters)


def arguments(request: "dict[str, Any]") -> "tuple[Any, ...]":
    """Tensors of the ranks and dtypes that AITER passes: ranks are part of the compiled signature.

    Their sizes are not: the weight is one byte where a real one would be gigabytes.
    """
    if request["generation"] == "aiter":  # bare pointers, sizes, and the activation's parameters
        tokens = request["tokens"]
        if request["stage"] == 1:
            return (*(0,) * 6, tokens, 1, 1.0, 1.0, 1.0, 1.0, float("inf"), 0, 0)
        return (*(0,) * 7, tokens, 1, 1, 0, 0)
    import torch

    tokens, topk, experts, tile_m = (request[name] for name in ("tokens", "topk", "experts", "tile_m"))
    model_dim, inter_dim, stage = request["model_dim"], request["inter_dim"], request["stage"]
    rows = tokens * topk + experts * tile_m - topk
    blocks = -(-rows // tile_m)
    bfloat16, int32, int8 = torch.bfloat16, torch.int32, torch.int8
    if stage == 1:
        n, shape = 2 * inter_dim, (inter_dim, model_dim)
        out = torch.empty(tokens, topk, inter_dim, dtype=bfloat16)
        x, scale_x = torch.empty(tokens, model_dim, dtype=int8), torch.empty(tokens)
    else:
        n, shape = model_dim, (model_dim, inter_dim)
        lines = tokens if request["mode"] == "atomic" else tokens * topk
        out = torch.empty(lines, n, dtype=bfloat16)
        x = torch.empty(tokens * topk * inter_dim, dtype=int8)
        scale_x = torch.empty(tokens * topk)
        if request["mode"] != "atomic" and request["generation"] == "published":
            out = out.view(-1)  # the tree's own wrapper flattens its intermediate buffer
    if request["generation"] == "main":
        x = x.view(-1)  # this tree's own harness flattens all inputs
    return (
        out,
        x,
        torch.empty(1, dtype=int8),
        scale_x,
        torch.empty(experts * n),
        torch.empty(rows, dtype=int32),
        torch.empty(blocks, dtype=int32),
        torch.empty(rows),
        torch.empty(1, dtype=int32),
        tokens,
        *shape,
        blocks,
        0,
    )
