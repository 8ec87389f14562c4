"""The sort's and the quantiser's gfx942 code, executed on the CPU: to the last bit the reference's."""

import numpy as np
import pytest

torch = pytest.importorskip("torch")
pytest.importorskip("triton")

# ruff: noqa: E402
from triton.backends.compiler import GPUTarget

from autotune.emulate import Kernel, Memory, Pointer
from autotune.kernels.chain import layer_chain
from autotune.kernels.config import LayerDims, Stage1Config, Stage2Config
from autotune.kernels.reference import quantise_reference
from autotune.kernels.sort import plan, sort_with_torch
from autotune.kernels.spec import compile_kernel

from .layers import routing

GFX942 = GPUTarget("hip", "gfx942", 64)
DIMS = LayerDims(model_dim=256, inter_dim=64, experts=40, top_k=8)
DTYPES = {"int32": np.int32, "int8": np.int8, "float32": np.float32, "bfloat16": np.uint16}
SORTED = ("block_expert", "block_slots", "valid_blocks")
WRITTEN = (*SORTED, "counts", "arrived", "q1", "scale1", "low_sum1")


@pytest.mark.parametrize(("tokens", "way"), [(5, "token"), (24, "alone"), (70, "count")])
def test_what_comes_before_stage_1(tokens: int, way: str) -> None:
    how = plan(tokens, DIMS.top_k, DIMS.experts)
    assert how.way == way
    one, two = Stage1Config(tile_m=16, tile_n=32, tile_k=64), Stage2Config(tile_m=16, tile_k=64)
    chain = layer_chain(DIMS, one, two, tokens, "hip")
    ids = routing(tokens, DIMS.experts, DIMS.top_k, seed=tokens)
    x = torch.randn(tokens, DIMS.model_dim, generator=torch.Generator().manual_seed(tokens)).bfloat16()
    arrays = {
        name: np.full(buffer.shape, 0 if buffer.zeroed else 77, DTYPES[buffer.dtype])
        for name, buffer in chain.scratch.items()
        if name in WRITTEN
    }
    arrays |= {"topk_ids": ids.numpy().copy(), "x": x.view(torch.uint16).numpy().copy()}
    memory = Memory()
    pointers = {name: Pointer(memory.map(array, name=name)) for name, array in arrays.items()}
    for link in chain.links:
        if link.spec.stage not in ("prepare", "place"):
            continue
        compiled = compile_kernel(link.spec, GFX942)
        programs = list(range(link.grid[0]))
        if link.spec.stage == "prepare":  # the sort's programs, and those of the first and the last token
            programs = [*programs[: how.programs], how.programs, programs[-1]]
        Kernel.from_asm(compiled.asm["amdgcn"]).launch(
            [link.numbers.get(name) or pointers[link.tensors[name]] for name in link.spec.run_time],
            link.grid,
            lds_bytes=compiled.metadata.shared,
            workgroups=[(program, 0, 0) for program in programs],
            memory=memory,
            order="shuffled",
            seed=tokens,
        )
    expected = {name: torch.empty(arrays[name].shape, dtype=torch.int32) for name in SORTED}
    sort_with_torch(**expected, topk_ids=ids, experts=DIMS.experts)
    assert not arrays["arrived"].any()
    for name in SORTED:
        assert np.array_equal(arrays[name], expected[name].numpy()), name
    for name, rows in zip(("q1", "scale1", "low_sum1"), quantise_reference(x), strict=True):
        for token in (0, tokens - 1):
            assert np.array_equal(arrays[name][token], rows[token].numpy()), name
