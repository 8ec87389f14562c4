"""Our own W4A8 kernels, as the triton backend compiles them for the MI325X, executed against plain numpy."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import pytest

from autotune.emulate import Kernel, Memory, Pointer
from autotune.emulate.atomic_ops import bf16_to_f32
from tests.emulate.cases import deviation, silu

pytest.importorskip("triton")
from triton.backends.compiler import GPUTarget

from autotune.kernels.config import LayerDims
from autotune.kernels.spec import buffers, compile_kernel, grid, stage_spec

LAYER = LayerDims(model_dim=512, inter_dim=128, experts=64, top_k=2)
DTYPES = {"bfloat16": np.uint16, "int8": np.int8, "float32": np.float32, "int32": np.int32}
TOKENS = 4


def pack(w: np.ndarray) -> np.ndarray:
    """`autotune.kernels.layout`: byte j holds w[j] + 8 in its low nibble and w[j + K/2] in its high one."""
    half = w.shape[1] // 2
    return ((w[:, :half] + 8) | (w[:, half:] & 15) << 4).astype(np.uint8)


@cache
def built(stage: str, knobs: tuple[tuple[str, Any], ...]) -> tuple[Any, Any]:
    """The stage's kernel and its machine code."""
    spec = stage_spec(stage, dict(knobs), LAYER, "hip")
    return spec, compile_kernel(spec, GPUTarget("hip", "gfx942", 64))


def execute(stage: str, config: dict[str, Any], order: str) -> float:
    """Largest deviation of a stage's output; every token visits two of three experts."""
    spec, compiled = built(stage, tuple(config.items()))
    rng = np.random.default_rng(0)
    n, k = (2 * LAYER.inter_dim, LAYER.model_dim) if stage == "stage1" else (LAYER.model_dim, LAYER.inter_dim)
    shapes = {name: buffer for name, buffer in buffers(spec, TOKENS).items() if name not in {"w", "w_scale"}}
    values = {name: np.zeros(buffer.shape, DTYPES[buffer.dtype]) for name, buffer in shapes.items()}
    experts = [3, 17, 60]
    expert_of = np.array([experts[(slot // 2 + slot % 2) % 3] for slot in range(TOKENS * 2)])
    values["block_expert"][:], values["block_slots"][:] = -1, -1
    for block, expert in enumerate(experts):
        values["block_expert"][block] = expert
        for row, slot in enumerate(np.flatnonzero(expert_of == expert)):
            # The loop kernel wants row r to be a slot of token r.
            place = slot // 2 if config.get("reduce") == "loop" else row
            values["block_slots"][block, place] = slot
    if "valid_blocks" in values:
        values["valid_blocks"][0] = len(experts)
    a = values["a"]
    a[:] = rng.integers(-127, 128, a.shape)
    values["a_low_sum"][:] = a[:, : k // 2].sum(1)
    values["a_scale"][:] = (rng.random(len(a)) + 0.5) * 1e-2
    w = {expert: rng.integers(-8, 8, (n, k)).astype(np.int8) for expert in experts}
    values["w_scale"] = ((rng.random((LAYER.experts, n)) + 0.5) * 1e-2).astype(np.float32)
    weight = rng.random(TOKENS * 2).astype(np.float32)
    values["topk_weight"] = weight
    values["topk_ids"] = np.zeros((TOKENS, 2), np.int32)  # only a prefetch looks at them

    # Only the experts that are met have weights: a load of any other is a fault.
    memory, base = Memory(), 0x10_0000_0000
    for expert, matrix in w.items():
        memory.map(pack(matrix), name=f"w[{expert}]", address=base + expert * n * k // 2)
    arguments = [
        Pointer(base) if name == "w" else TOKENS if name == "tokens" else values[name]
        for name in spec.run_time
    ]
    Kernel.from_asm(compiled.asm["amdgcn"]).launch(
        arguments, grid(spec, TOKENS), lds_bytes=compiled.metadata.shared, memory=memory, order=order
    )

    row = np.arange(TOKENS * 2) // (2 if stage == "stage1" else 1)
    exact = np.stack(
        [w[e].astype(np.int64) @ a[r].astype(np.int64) for e, r in zip(expert_of, row, strict=True)]
    )
    value = exact * values["a_scale"][row][:, None].astype(float) * values["w_scale"][expert_of]
    if config.get("requantise") == "last":
        require_quantised(values)
    if stage == "stage1":
        expected = silu(value[:, : LAYER.inter_dim]) * value[:, LAYER.inter_dim :]
    else:
        expected = (value * weight[:, None]).reshape(TOKENS, 2, n).sum(1)
    return deviation(bf16_to_f32(values["out"]), expected)


def require_quantised(values: dict[str, np.ndarray]) -> None:
    """To the bit the quantiser's of the rows that stage 1 has stored; counters are zero again."""
    rows = bf16_to_f32(values["out"])
    peak = np.abs(rows).max(axis=1)
    q = np.rint(rows * (np.float32(127) / peak)[:, None]).astype(np.int8)
    np.testing.assert_array_equal(values["q"], q)
    np.testing.assert_array_equal(values["scale"], peak / np.float32(127))
    np.testing.assert_array_equal(values["low_sum"], q[:, : q.shape[1] // 2].sum(axis=1))
    assert not values["finished"].any()


@pytest.mark.parametrize(
    ("stage", "config", "order"),
    [
        ("stage1", {}, "forward"),
        ("stage2", {"reduce": "atomic", "num_warps": 8, "kpack": 2}, "reverse"),
        # Where workgroups wait for each other's parts, either may be the last.
        *(
            (stage, config, order)
            for stage, config in (
                ("stage1", {"tile_k": 64, "split_k": 2, "num_warps": 2, "xcds": 8}),
                ("stage1", {"requantise": "last", "num_warps": 2}),
                ("stage1", {"requantise": "last", "tile_k": 64, "split_k": 2}),
                ("stage2", {"reduce": "loop"}),
                ("stage2", {"reduce": "arrive", "tile_k": 64, "split_k": 2}),
            )
            for order in ("forward", "reverse")
        ),
    ],
)
def test_stage(stage: str, config: dict[str, Any], order: str) -> None:
    assert execute(stage, config, order) < 4e-3
