# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Token slots sorted by expert into blocks of `tile_m` rows, on the device and with static shapes.

A slot is one (token, choice) pair: slot = token * top_k + choice. A block holds slots of one expert, padded:

    block_expert  int32 [max_blocks]          expert of the block; -1 past the last block
    block_slots   int32 [max_blocks, tile_m]  slot of the row; -1 where the row is padding
    valid_blocks  int32 [1]                   number of blocks

Blocks ascend by expert. Up to `TOKEN_ROWS` tokens row r of a block belongs to token r, which lets stage 2
sum over experts in registers; above, the rows are filled without gaps, in slot order. Shapes depend on the
number of tokens alone and nothing is read back, so the sort can be captured in a graph.
"""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin

if TYPE_CHECKING:
    import torch

TOKEN_ROWS = 16
"""Up to so many tokens a block's row is the token's index. No more than the smallest tile_m."""

KERNEL_SLOTS = 2048
"""Slots up to which the sort is one program of the Triton kernel; above, torch sorts."""


def max_blocks(tokens: int, top_k: int, experts: int, tile_m: int) -> int:
    """Blocks that any routing of `tokens` tokens can need: the length of the sorted arrays.

    A token's experts are distinct, as every router's top-k makes them. Each block has a slot, and an expert
    has at most one block that is not full.
    """
    slots = tokens * top_k
    return min(slots, experts + slots // tile_m)


@triton.jit
def sort_kernel(
    block_expert,  # i32 [blocks]
    block_slots,  # i32 [blocks, TILE_M]
    valid_blocks,  # i32 [1]
    topk_ids,  # i32 [slots]
    tokens,  # i32
    blocks,  # i32, of max_blocks
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    TOKEN_ROWS: tl.constexpr,
    PDL: tl.constexpr,
):
    """One program. Grid: 1."""
    begin_after_previous_kernel(PDL)
    let_next_kernel_begin(PDL)
    sort_slots(
        block_expert, block_slots, valid_blocks, topk_ids, tokens, blocks, TOP_K, EXPERTS, TILE_M, TOKEN_ROWS
    )


@triton.jit
def sort_slots(
    block_expert,
    block_slots,
    valid_blocks,
    topk_ids,
    tokens,
    blocks,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    TOKEN_ROWS: tl.constexpr,
):
    """The sort, done by the calling program alone."""
    # Padding everywhere first, then the slots over it. The barrier orders the two: they are other threads'
    # stores.
    WIDTH: tl.constexpr = 1024
    lane = tl.arange(0, WIDTH)
    nothing = tl.full((WIDTH,), -1, tl.int32)
    for start in tl.range(0, blocks, WIDTH):
        tl.store(block_expert + start + lane, nothing, mask=start + lane < blocks)
    for start in tl.range(0, blocks * TILE_M, WIDTH):
        tl.store(block_slots + start + lane, nothing, mask=start + lane < blocks * TILE_M)
    tl.debug_barrier()
    if tokens <= TOKEN_ROWS:
        _place_by_token(
            block_expert, block_slots, valid_blocks, topk_ids, tokens, TOP_K, EXPERTS, TILE_M, TOKEN_ROWS
        )
    else:
        _place_by_rank(block_expert, block_slots, valid_blocks, topk_ids, tokens, TOP_K, EXPERTS, TILE_M)


@triton.jit
def _place_by_token(
    block_expert,
    block_slots,
    valid_blocks,
    topk_ids,
    tokens,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    TOKEN_ROWS: tl.constexpr,
):
    """Few slots: compare each with each. An expert's block is the number of smaller experts that occur."""
    SLOTS: tl.constexpr = triton.next_power_of_2(TOKEN_ROWS * TOP_K)
    slots = tokens * TOP_K
    lane = tl.arange(0, SLOTS)
    ids = tl.load(topk_ids + lane, mask=lane < slots, other=EXPERTS)
    earlier = (ids[:, None] == ids[None, :]) & (lane[:, None] < lane[None, :])
    repeats = tl.sum(earlier.to(tl.int32), axis=0)
    occurs = ((repeats == 0) & (lane < slots)).to(tl.int32)
    smaller = tl.where(ids[None, :] < ids[:, None], 1, 0)
    block = tl.sum(smaller * occurs[None, :], axis=1)
    tl.store(block_slots + block * TILE_M + lane // TOP_K, lane, mask=lane < slots)
    tl.store(block_expert + block, ids, mask=lane < slots)
    tl.store(valid_blocks, tl.sum(occurs, axis=0))


@triton.jit
def _place_by_rank(
    block_expert,
    block_slots,
    valid_blocks,
    topk_ids,
    tokens,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
):
    """Counting sort: a table of (expert, slot) hits a chunk; its sums give counts, then ranks."""
    BINS: tl.constexpr = triton.next_power_of_2(EXPERTS)
    CHUNK: tl.constexpr = 32
    slots = tokens * TOP_K
    bins = tl.arange(0, BINS)
    lane = tl.arange(0, CHUNK)
    count = tl.zeros((BINS,), dtype=tl.int32)
    for start in tl.range(0, slots, CHUNK):
        ids = tl.load(topk_ids + start + lane, mask=start + lane < slots, other=-1)
        count += tl.sum((ids[None, :] == bins[:, None]).to(tl.int32), axis=1)
    own = (count + TILE_M - 1) // TILE_M
    row = (tl.cumsum(own, axis=0) - own) * TILE_M  # where an expert's next slot goes
    tl.store(valid_blocks, tl.sum(own, axis=0))
    for start in tl.range(0, slots, CHUNK):
        slot = start + lane
        ids = tl.load(topk_ids + slot, mask=slot < slots, other=-1)
        hit = (ids[None, :] == bins[:, None]).to(tl.int32)
        before = tl.cumsum(hit, axis=1) - hit
        place = tl.sum(hit * (row[:, None] + before), axis=0)
        tl.store(block_slots + place, slot, mask=slot < slots)
        tl.store(block_expert + place // TILE_M, ids, mask=slot < slots)
        row += tl.sum(hit, axis=1)


def sort_with_torch(
    block_expert: "torch.Tensor",
    block_slots: "torch.Tensor",
    valid_blocks: "torch.Tensor",
    topk_ids: "torch.Tensor",
    experts: int,
) -> None:
    """The same result for any number of slots, by torch's sort.

    Args:
        block_expert: int32 [max_blocks], written.
        block_slots: int32 [max_blocks, tile_m], written.
        valid_blocks: int32 [1], written.
        topk_ids: int32 [tokens, top_k], in [0, experts).
    """
    import torch

    blocks, tile_m = block_slots.shape
    tokens, top_k = topk_ids.shape
    ids = topk_ids.reshape(-1).long()
    count = torch.zeros(experts, dtype=torch.long, device=ids.device)
    count.scatter_add_(0, ids, torch.ones_like(ids))
    by_token = tokens <= TOKEN_ROWS
    own = count.clamp(max=1) if by_token else (count + tile_m - 1) // tile_m
    end = own.cumsum(0)
    first = end - own
    valid_blocks.copy_(end[-1:])
    # bins of the right ends: block b belongs to the first expert whose end lies past b.
    block = torch.arange(blocks, device=ids.device)
    expert = torch.searchsorted(end, block, right=True)
    block_expert.copy_(torch.where(block < end[-1], expert, -1))
    order = ids.argsort(stable=True)
    sorted_ids = ids[order]
    rank = torch.arange(ids.numel(), device=ids.device) - (count.cumsum(0) - count)[sorted_ids]
    row = order // top_k if by_token else rank
    block_slots.fill_(-1)
    block_slots.view(-1)[first[sorted_ids] * tile_m + row] = order.to(torch.int32)
