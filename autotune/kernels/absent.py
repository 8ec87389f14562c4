# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""What stage 2 must find of slots whose expert is not here (expert parallelism). No torch here.

`stage2.stage2_tile_kernel` sums a token up when all its TOP_K slots have arrived, and a slot without an
expert has no row in any block. So before stage 2 a token's absent slots are counted as arrived, and what it
will read of them is made zero; a token of whom nothing is here is zeros.
"""

import triton
import triton.language as tl

from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin


@triton.jit
def absent_kernel(
    out,  # bf16 [tokens, MODEL_DIM]
    partial,  # f32 (BF16: bf16) [slots, SPLIT_K, MODEL_DIM]; not touched when ATOMIC
    arrivals,  # i32 [tokens, N_TILES], zero before
    topk_ids,  # i32 [slots]
    MODEL_DIM: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    N_TILES: tl.constexpr,
    SPLIT_K: tl.constexpr,
    WIDTH: tl.constexpr,
    ATOMIC: tl.constexpr,
    BF16: tl.constexpr,
    PDL: tl.constexpr,
    HIP: tl.constexpr,
):
    """Grid: tokens."""
    begin_after_previous_kernel(PDL)
    token = tl.program_id(0).to(tl.int64)
    CHOICES: tl.constexpr = triton.next_power_of_2(TOP_K)
    choice = tl.arange(0, CHOICES)
    ids = tl.load(topk_ids + token * TOP_K + choice, mask=choice < TOP_K, other=0)
    away = tl.sum(((ids < 0) | (ids >= EXPERTS)).to(tl.int32), axis=0)
    wide = tl.arange(0, WIDTH)
    zero_out = tl.zeros((WIDTH,), dtype=tl.bfloat16)
    zero_part = tl.zeros((WIDTH,), dtype=tl.bfloat16 if BF16 else tl.float32)
    if away == TOP_K:
        for start in tl.range(0, MODEL_DIM, WIDTH):
            column = start + wide
            tl.store(out + token * MODEL_DIM + column, zero_out, mask=column < MODEL_DIM)
    elif away > 0:
        for start in tl.range(0, N_TILES, WIDTH):
            tile = start + wide
            arrived = tl.full((WIDTH,), 0, tl.int32) + away * SPLIT_K
            tl.store(arrivals + token * N_TILES + tile, arrived, mask=tile < N_TILES)
        if not ATOMIC:
            for slot in tl.range(0, TOP_K):
                expert = tl.load(topk_ids + token * TOP_K + slot)
                if (expert < 0) | (expert >= EXPERTS):
                    row = partial + (token * TOP_K + slot) * (SPLIT_K * MODEL_DIM)
                    for start in tl.range(0, SPLIT_K * MODEL_DIM, WIDTH):
                        at = start + wide
                        tl.store(row + at, zero_part, mask=at < SPLIT_K * MODEL_DIM)
    let_next_kernel_begin(PDL)
