# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""A step's preparation in one launch: sort, and quantisation of the tokens beside it. No torch here."""

import triton
import triton.language as tl

from autotune.kernels.quantise import quantise_row
from autotune.kernels.sort import count_chunk, place_by_rank, place_by_token
from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin


@triton.jit
def prepare_kernel(
    block_expert,  # i32 [blocks]
    block_slots,  # i32 [blocks, TILE_M]
    valid_blocks,  # i32 [1]
    counts,  # i32 [2 * chunks + 2, bins]; not touched unless WAY == "count"
    arrived,  # i32 [1], zero before and after; the same
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
    WAY: tl.constexpr,  # of sort.Plan, as the three below
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    SORTERS: tl.constexpr,  # programs that sort; WAY == "count": as many as there are chunks
    PDL: tl.constexpr,
    HIP: tl.constexpr,
):
    """The first programs sort, each other one quantises a token. Grid: sorters + tokens."""
    begin_after_previous_kernel(PDL)
    let_next_kernel_begin(PDL)
    pid = tl.program_id(0)
    sorters = (tokens * TOP_K + CHUNK - 1) // CHUNK if WAY == "count" else SORTERS
    if pid < sorters:
        if WAY == "token":
            place_by_token(
                block_expert, block_slots, valid_blocks, topk_ids, tokens, blocks,
                TOP_K, EXPERTS, TILE_M, CHUNK,
            )  # fmt: skip
        elif WAY == "count":
            count_chunk(
                counts, arrived, valid_blocks, topk_ids, tokens, pid, TOP_K, EXPERTS, TILE_M, CHUNK, HIP
            )
        else:
            place_by_rank(
                block_expert, block_slots, valid_blocks, topk_ids, tokens, blocks, pid,
                TOP_K, EXPERTS, TILE_M, CHUNK, GROUP,
            )  # fmt: skip
    else:
        quantise_row(q, scale, low_sum, x, pid - sorters, K, HALF)
