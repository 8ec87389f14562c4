"""How workgroups walk over the sorted rows."""

from dataclasses import dataclass

import torch


@dataclass
class Block:
    rows: torch.Tensor
    token: torch.Tensor
    slot: torch.Tensor
    expert: int


def blocks_of(ids, experts, valid, tile, tokens):
    """By the kernel's own tile, with the expert of the block of that number."""
    for index in range(len(experts)):
        rows = torch.arange(index * tile, min((index + 1) * tile, len(ids)))
        if index * tile >= int(valid[0]):
            return
        token, slot = (ids[rows] & 0xFFFFFF).long(), (ids[rows] >> 24).long()
        real = token < tokens
        if bool(real.any()):
            yield Block(rows[real], token[real], slot[real], int(experts[index]))


def silu_mul(y):
    gate, up = y.chunk(2, dim=-1)
    return gate / (1 + torch.exp(-gate)) * up
