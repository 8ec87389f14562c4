"""Token slots sorted by expert into blocks, in the layout that SGLang's and vLLM's kernels read."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Sorted:
    """Token slots by expert, in blocks.

    Attributes:
        slots: int32 [padded], token * top_k + choice; the number of slots where padded. None: every slot is
            a block of its own (vLLM, few tokens).
        experts: int32 [blocks].
        padded: int32 [1], how much of `slots` counts.
    """

    slots: "torch.Tensor | None"
    experts: "torch.Tensor"
    padded: "torch.Tensor"


def align(ids: "torch.Tensor", experts: int, block: int, size: int) -> Sorted:
    """Sorts the slots of a routing, by torch; not part of what is timed.

    Args:
        ids: int32 [tokens, top_k].
        size: elements of `Sorted.slots`, as the engine allocates them: the grid depends on it.
    """
    import torch

    flat = ids.flatten().long()
    count = flat.numel()
    tokens_of = torch.bincount(flat, minlength=experts)
    blocks_of = (tokens_of + block - 1) // block
    first_row = (torch.cumsum(blocks_of, 0) - blocks_of) * block
    order = torch.argsort(flat, stable=True)
    rank = torch.arange(count, device=ids.device) - (torch.cumsum(tokens_of, 0) - tokens_of)[flat[order]]
    slots = torch.full((size,), count, dtype=torch.int32, device=ids.device)
    slots[first_row[flat[order]] + rank] = order.int()
    of_block = torch.zeros((-(-size // block),), dtype=torch.int32, device=ids.device)
    named = torch.repeat_interleave(torch.arange(experts, device=ids.device), blocks_of).int()
    of_block[: named.numel()] = named
    padded = (blocks_of.sum() * block).int().reshape(1)
    return Sorted(slots, of_block, padded)
