# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Sort and quantisation of a step's tokens in one launch: they do not depend on each other. No torch here."""

import triton
import triton.language as tl

from autotune.kernels.quantise import quantise_row
from autotune.kernels.sort import sort_slots
from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin


@triton.jit
def prepare_kernel(
    block_expert,  # i32 [blocks]
    block_slots,  # i32 [blocks, TILE_M]
    valid_blocks,  # i32 [1]
    topk_ids,  # i32 [slots]
    q,  # i8 [tokens, K]
    scale,  # f32 [tokens]
    low_sum,  # i32 [tokens]
    x,  # bf16 [tokens, K]
    tokens,  # i32
    blocks,  # i32, of max_blocks
    K: tl.constexpr,
    HALF: tl.constexpr,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    TOKEN_ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    """The first program sorts, each other one quantises a token. Grid: tokens + 1."""
    begin_after_previous_kernel(PDL)
    let_next_kernel_begin(PDL)
    pid = tl.program_id(0)
    if pid == 0:
        sort_slots(
            block_expert,
            block_slots,
            valid_blocks,
            topk_ids,
            tokens,
            blocks,
            TOP_K,
            EXPERTS,
            TILE_M,
            TOKEN_ROWS,
        )
    else:
        quantise_row(q, scale, low_sum, x, pid - 1, K, HALF)
