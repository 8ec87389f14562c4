# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator,misc"
"""Token slots sorted by expert into blocks of `tile_m` rows, on the device and with static shapes.

A slot is one (token, choice) pair: slot = token * top_k + choice. A block holds slots of one expert, padded:

    block_expert  int32 [max_blocks]          expert of the block; -1 past the last block
    block_slots   int32 [max_blocks, tile_m]  slot of the row; -1 where the row is padding
    valid_blocks  int32 [1]                   number of blocks

Blocks ascend by expert. Up to `TOKEN_ROWS` tokens row r of a block belongs to token r, which lets stage 2
sum over experts in registers; above, the rows are filled without gaps, in slot order. Shapes depend on the
number of tokens alone and nothing is read back, so the sort can be captured in a graph. An id outside
[0, experts) has no row.

Three ways, one result (`Plan`):

    up to TOKEN_ROWS tokens   one program compares each slot with each
    up to ALONE_SLOTS slots   every program counts all slots by expert, and places those of a few experts
    above                     a first launch counts chunks of slots, and who is last adds the counts up; a
                              second one places, a program a few slots

Nobody waits for anybody, and nothing depends on who comes first.
"""

from dataclasses import dataclass
from typing import TYPE_CHECKING

import triton
import triton.language as tl

from autotune.kernels.tiles import begin_after_previous_kernel, let_next_kernel_begin, publish_stores

if TYPE_CHECKING:
    import torch

TOKEN_ROWS = 16
"""Up to so many tokens a block's row is the token's index. No more than the smallest tile_m."""

ALONE_SLOTS = 512
"""Slots up to which the sort is part of one launch; above it takes a second one."""

_CHUNK = 512
"""Slots that a program counts where there are more."""

_OWN = 64
"""Of these, slots that a program places."""


@dataclass(frozen=True)
class Plan:
    """How so many slots are sorted.

    Attributes:
        way: `token`, `alone` or `count`, as above.
        chunk: slots that a program looks at, a power of two; one binary serves all counts up to it.
        chunks: so many of them.
        group: experts whose blocks a program names and pads.
        groups: so many programs.
        own: slots that a program of the second launch places.
    """

    way: str
    chunk: int
    chunks: int
    group: int
    groups: int
    own: int = 0

    @property
    def programs(self) -> int:
        """Programs of the first launch."""
        return {"token": 1, "alone": self.groups, "count": self.chunks}[self.way]


def plan(tokens: int, top_k: int, experts: int) -> Plan:
    """The way that is fastest on an H100."""
    slots = tokens * top_k
    if tokens <= TOKEN_ROWS:
        return Plan("token", max(16, triton.next_power_of_2(slots)), 1, experts, 1)
    if slots <= ALONE_SLOTS:
        return Plan("alone", max(256, triton.next_power_of_2(slots)), 1, 4, triton.cdiv(experts, 4))
    return Plan("count", _CHUNK, triton.cdiv(slots, _CHUNK), 16, triton.cdiv(experts, 16), _OWN)


def counts_shape(how: Plan, experts: int) -> tuple[int, ...]:
    """Of `counts`, see `count_chunk`: a row has a place an expert and one for what has none."""
    return (2 * how.chunks + 2, triton.next_power_of_2(experts + 1)) if how.way == "count" else (1,)


def max_blocks(tokens: int, top_k: int, experts: int, tile_m: int) -> int:
    """Blocks that any routing of `tokens` tokens can need: the length of the sorted arrays.

    A token's experts are distinct, as every router's top-k makes them. Each block has a slot, and an expert
    has at most one block that is not full.
    """
    slots = tokens * top_k
    return min(slots, experts + slots // tile_m)


@triton.jit
def place_by_token(
    block_expert,
    block_slots,
    valid_blocks,
    topk_ids,
    tokens,
    blocks,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
):
    """Few slots, by one program: an expert's block is the number of smaller experts that occur."""
    # Padding everywhere first, then the slots over it. The barrier orders the two: they are other threads'
    # stores.
    WIDTH: tl.constexpr = 1024
    wide = tl.arange(0, WIDTH)
    nothing = tl.full((WIDTH,), -1, tl.int32)
    for start in tl.range(0, blocks, WIDTH):
        tl.store(block_expert + start + wide, nothing, mask=start + wide < blocks)
    for start in tl.range(0, blocks * TILE_M, WIDTH):
        tl.store(block_slots + start + wide, nothing, mask=start + wide < blocks * TILE_M)
    tl.debug_barrier()
    lane = tl.arange(0, CHUNK)
    ids = _ids(topk_ids, lane, tokens * TOP_K, EXPERTS)
    real = ids < EXPERTS
    earlier = (ids[:, None] == ids[None, :]) & (lane[:, None] < lane[None, :])
    repeats = tl.sum(earlier.to(tl.int32), axis=0)
    occurs = ((repeats == 0) & real).to(tl.int32)
    smaller = tl.where(ids[None, :] < ids[:, None], 1, 0)
    block = tl.sum(smaller * occurs[None, :], axis=1)
    tl.store(block_slots + block * TILE_M + lane // TOP_K, lane, mask=real)
    tl.store(block_expert + block, ids, mask=real)
    tl.store(valid_blocks, tl.sum(occurs, axis=0))


@triton.jit
def count_chunk(
    counts,  # i32 [2 * chunks + 2, bins]
    arrived,  # i32 [1], zero before and after
    valid_blocks,
    topk_ids,
    tokens,
    chunk,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
    HIP: tl.constexpr,
):
    """Count a chunk's slots by expert; the last to arrive adds up.

    Of `counts` the first rows are the chunks' counts, the next ones where an expert's first slot of each
    chunk goes in `block_slots`, the last two the experts' first blocks and their numbers of slots.
    """
    BINS: tl.constexpr = triton.next_power_of_2(EXPERTS + 1)
    bins = tl.arange(0, BINS)
    chunks = (tokens * TOP_K + CHUNK - 1) // CHUNK
    ids = _ids(topk_ids, chunk * CHUNK + tl.arange(0, CHUNK), tokens * TOP_K, EXPERTS)
    tl.store(counts + chunk * BINS + bins, tl.histogram(ids, BINS))
    publish_stores(HIP)
    before = tl.atomic_add(arrived, 1, sem="acq_rel", scope="gpu")
    if before == chunks - 1:
        tl.debug_barrier()
        tl.store(arrived, 0)
        total = tl.zeros((BINS,), dtype=tl.int32)
        for first in tl.range(0, chunks, 8):
            for more in tl.static_range(8):
                total += _count_of(counts, first + more, chunks, BINS)
        total = tl.where(bins < EXPERTS, total, 0)
        own = (total + TILE_M - 1) // TILE_M
        begin = tl.cumsum(own, axis=0) - own
        tl.store(valid_blocks, tl.sum(own, axis=0))
        tl.store(counts + 2 * chunks * BINS + bins, begin)
        tl.store(counts + (2 * chunks + 1) * BINS + bins, total)
        row = begin * TILE_M
        rows = counts + chunks * BINS + bins
        for first in tl.range(0, chunks, 4):
            # All loads before a store, which the compiler keeps in this order.
            one = _count_of(counts, first, chunks, BINS)
            two = _count_of(counts, first + 1, chunks, BINS)
            three = _count_of(counts, first + 2, chunks, BINS)
            four = _count_of(counts, first + 3, chunks, BINS)
            tl.store(rows + first * BINS, row)
            tl.store(rows + (first + 1) * BINS, row + one, mask=bins < (chunks - first - 1) * BINS)
            tl.store(rows + (first + 2) * BINS, row + one + two, mask=bins < (chunks - first - 2) * BINS)
            row += one + two + three
            tl.store(rows + (first + 3) * BINS, row, mask=bins < (chunks - first - 3) * BINS)
            row += four


@triton.jit
def _count_of(counts, chunk, chunks, BINS: tl.constexpr):
    """A chunk's counts, zeros past the last one."""
    bins = tl.arange(0, BINS)
    inside = bins < (chunks - chunk) * BINS
    return tl.load(counts + chunk * BINS + bins, mask=inside, other=0, cache_modifier=".cg")


@triton.jit
def place_by_rank(
    block_expert,
    block_slots,
    valid_blocks,
    topk_ids,
    tokens,
    blocks,
    program,
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
):
    """Place the slots of GROUP experts: where an expert begins follows from the counts, a slot's row from the
    number of its expert's slots before it."""
    BINS: tl.constexpr = triton.next_power_of_2(EXPERTS + 1)
    GROUPS: tl.constexpr = (EXPERTS + GROUP - 1) // GROUP
    bins = tl.arange(0, BINS)
    slot = tl.arange(0, CHUNK)
    ids = _ids(topk_ids, slot, tokens * TOP_K, EXPERTS)
    total = tl.histogram(ids, BINS)
    total = tl.where(bins < EXPERTS, total, 0)
    own = (total + TILE_M - 1) // TILE_M
    begin = tl.cumsum(own, axis=0) - own
    valid = tl.sum(own, axis=0)

    expert = program * GROUP + tl.arange(0, GROUP)
    mine = bins[None, :] == expert[:, None]
    first_block = tl.sum(tl.where(mine, begin[None, :], 0), axis=1)
    count = tl.sum(tl.where(mine, total[None, :], 0), axis=1)
    hit = (ids[None, :] == expert[:, None]) & (expert < EXPERTS)[:, None]
    rank = tl.cumsum(hit.to(tl.int32), axis=1) - 1
    row = first_block[:, None] * TILE_M + rank
    tl.store(block_slots + row, tl.broadcast_to(slot[None, :], (GROUP, CHUNK)), mask=hit)
    _fill(
        block_expert, block_slots, expert, first_block, count, valid, blocks, program, TILE_M, GROUP, GROUPS
    )
    if program == 0:
        tl.store(valid_blocks, valid)


@triton.jit
def _fill(
    block_expert,
    block_slots,
    expert,  # [GROUP]
    first_block,
    count,
    valid,
    blocks,
    program,
    TILE_M: tl.constexpr,
    GROUP: tl.constexpr,
    GROUPS: tl.constexpr,
):
    """What no slot writes: the experts of some blocks, their padding, and a share of the blocks of nobody."""
    own = (count + TILE_M - 1) // TILE_M
    row = count[:, None] + tl.arange(0, TILE_M)[None, :]
    padding = tl.full((GROUP, TILE_M), -1, tl.int32)
    tl.store(block_slots + first_block[:, None] * TILE_M + row, padding, mask=row < own[:, None] * TILE_M)
    for first in tl.range(0, tl.max(own, axis=0), 16):
        block = first + tl.arange(0, 16)[None, :]
        named = tl.broadcast_to(expert[:, None], (GROUP, 16))
        tl.store(block_expert + first_block[:, None] + block, named, mask=block < own[:, None])
    for block in tl.range(valid + program, blocks, GROUPS):
        tl.store(block_expert + block, -1)
        tl.store(block_slots + block * TILE_M + tl.arange(0, TILE_M), tl.full((TILE_M,), -1, tl.int32))


@triton.jit
def place_kernel(
    block_expert,  # i32 [blocks]
    block_slots,  # i32 [blocks, TILE_M]
    valid_blocks,  # i32 [1]
    topk_ids,  # i32 [slots]
    counts,  # i32 [2 * chunks + 2, bins]
    tokens,  # i32
    blocks,  # i32, of max_blocks
    TOP_K: tl.constexpr,
    EXPERTS: tl.constexpr,
    TILE_M: tl.constexpr,
    CHUNK: tl.constexpr,
    GROUP: tl.constexpr,
    OWN: tl.constexpr,  # slots a program, a divisor of CHUNK
    PDL: tl.constexpr,
):
    """The second launch of the way `count`: a slot's row is its chunk's first of the expert, and the number
    of the expert's slots before it in the chunk. Grid: a program for OWN slots each, then for GROUP experts
    each.
    """
    begin_after_previous_kernel(PDL)
    let_next_kernel_begin(PDL)
    BINS: tl.constexpr = triton.next_power_of_2(EXPERTS + 1)
    slots = tokens * TOP_K
    chunks = (slots + CHUNK - 1) // CHUNK
    program = tl.program_id(0)
    placers = (slots + OWN - 1) // OWN
    if program < placers:
        slot = program * OWN + tl.arange(0, OWN)
        chunk = program * OWN // CHUNK
        other = chunk * CHUNK + tl.arange(0, CHUNK)
        ids = _ids(topk_ids, slot, slots, EXPERTS)
        others = _ids(topk_ids, other, slots, EXPERTS)
        first = tl.load(counts + (chunks + chunk) * BINS + ids)
        earlier = (ids[:, None] == others[None, :]) & (other[None, :] < slot[:, None])
        rank = tl.sum(earlier.to(tl.int32), axis=1)
        tl.store(block_slots + first + rank, slot, mask=ids < EXPERTS)
    else:
        group = program - placers
        expert = group * GROUP + tl.arange(0, GROUP)
        at = counts + 2 * chunks * BINS + expert
        first_block = tl.load(at, mask=expert < EXPERTS, other=0)
        count = tl.load(at + BINS, mask=expert < EXPERTS, other=0)
        GROUPS: tl.constexpr = (EXPERTS + GROUP - 1) // GROUP
        valid = tl.load(valid_blocks)
        _fill(
            block_expert, block_slots, expert, first_block, count, valid, blocks, group, TILE_M, GROUP, GROUPS
        )


@triton.jit
def _ids(topk_ids, slot, slots, EXPERTS: tl.constexpr):
    """Experts of the slots; EXPERTS where there is none."""
    ids = tl.load(topk_ids + slot, mask=slot < slots, other=EXPERTS)
    return tl.where((ids >= 0) & (ids < EXPERTS), ids, EXPERTS)


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
