# mypy: disable-error-code="no-untyped-def,no-untyped-call,untyped-decorator"
"""What vLLM runs around humming's two GEMMs, in kernels of ours: the sort into blocks and the weighted sum.

vLLM's sort is a compiled extension (`moe_align_block_size`), its sum a Triton kernel of one program a token
(`moe_fused_mul_sum`). These do the same work in the same number of passes; the activation and the
quantisation are humming's own.
"""

from typing import TYPE_CHECKING

import triton
import triton.language as tl

if TYPE_CHECKING:
    import torch

_CHUNK = 1024
_COLUMNS = 4096


@triton.jit
def _align(
    sorted_ids,  # i32 [blocks * BLOCK]
    block_experts,  # i32 [blocks]
    padded_rows,  # i32 [1]
    ids,  # i32 [slots]
    slots,  # i32
    EXPERTS: tl.constexpr,
    BINS: tl.constexpr,  # a power of two above EXPERTS
    BLOCK: tl.constexpr,
    WIDE: tl.constexpr,  # BLOCK, or the next power of two
    CHUNK: tl.constexpr,
):
    """A program an expert: it counts all slots, and so knows where its own blocks begin."""
    mine = tl.program_id(0)
    lane = tl.arange(0, CHUNK)
    bins = tl.arange(0, BINS)
    count = tl.zeros((BINS,), tl.int32)
    for start in tl.range(0, slots, CHUNK):
        chunk = tl.load(ids + start + lane, mask=start + lane < slots, other=EXPERTS)
        count += tl.histogram(chunk, BINS)
    count = tl.where(bins < EXPERTS, count, 0)
    blocks = (count + BLOCK - 1) // BLOCK
    first = tl.sum(tl.where(bins < mine, blocks, 0), axis=0)
    own = tl.sum(tl.where(bins == mine, count, 0), axis=0)
    if mine == 0:
        tl.store(padded_rows, tl.sum(blocks, axis=0) * BLOCK)
    place = first * BLOCK
    for start in tl.range(0, slots, CHUNK):
        slot = start + lane
        chunk = tl.load(ids + slot, mask=slot < slots, other=EXPERTS)
        hit = (chunk == mine).to(tl.int32)
        rank = tl.cumsum(hit, axis=0) - hit
        tl.store(sorted_ids + place + rank, slot, mask=hit > 0)
        place += tl.sum(hit, axis=0)
    row = tl.arange(0, WIDE)
    for block in tl.range(0, (own + BLOCK - 1) // BLOCK):
        tl.store(block_experts + first + block, mine)
        at = block * BLOCK + row
        tl.store(sorted_ids + first * BLOCK + at, slots, mask=(row < BLOCK) & (at >= own))


@triton.jit
def _weighted_sum(contributions, router, out, width, TOP_K: tl.constexpr, COLUMNS: tl.constexpr):
    """A program a token."""
    token = tl.program_id(0)
    for start in tl.range(0, width, COLUMNS):
        at = start + tl.arange(0, COLUMNS)
        mask = at < width
        total = tl.zeros((COLUMNS,), tl.float32)
        for choice in tl.static_range(TOP_K):
            slot = token * TOP_K + choice
            value = tl.load(contributions + slot.to(tl.int64) * width + at, mask=mask, other=0.0)
            total += value.to(tl.float32) * tl.load(router + slot)
        tl.store(out + token.to(tl.int64) * width + at, total.to(tl.bfloat16), mask=mask)


class Order:
    """Buffers of a routing's slots by expert, in blocks of `block` rows, and the kernel that fills them.

    Attributes:
        sorted_ids: int32, slots; where a block is padded their number.
        block_experts: int32, an expert a block.
        padded_rows: int32 [1], how much of `sorted_ids` counts.
    """

    def __init__(self, slots: int, experts: int, block: int, device: str) -> None:
        import torch

        # As vLLM allocates them: an expert with a slot has at most one block that is not full.
        rows = min(slots * block, slots + experts * (block - 1))
        rows = -(-rows // block) * block
        self.block, self.experts = block, experts
        self.sorted_ids = torch.full((rows,), slots, dtype=torch.int32, device=device)
        self.block_experts = torch.zeros((rows // block,), dtype=torch.int32, device=device)
        self.padded_rows = torch.zeros((1,), dtype=torch.int32, device=device)

    def fill(self, ids: "torch.Tensor") -> None:
        """Sorts int32 [tokens, top_k]."""
        bins = triton.next_power_of_2(self.experts + 1)
        _align[(self.experts,)](
            *(self.sorted_ids, self.block_experts, self.padded_rows, ids, ids.numel()),
            EXPERTS=self.experts,
            BINS=bins,
            BLOCK=self.block,
            WIDE=triton.next_power_of_2(self.block),
            CHUNK=_CHUNK,
        )


def weighted_sum(contributions: "torch.Tensor", router: "torch.Tensor", out: "torch.Tensor") -> None:
    """out = each token's slots by the router's weights, summed in float32.

    Args:
        contributions: bfloat16 [tokens * top_k, width].
        router: float32 [tokens, top_k].
        out: bfloat16 [tokens, width].
    """
    tokens, width = out.shape
    columns = min(_COLUMNS, triton.next_power_of_2(width))
    _weighted_sum[(tokens,)](
        contributions, router, out, width, TOP_K=router.shape[1], COLUMNS=columns, num_warps=16
    )
