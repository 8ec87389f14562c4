"""Which tokens, experts and blocks a check executes, so that every code path of a MoE kernel is met.

Two routings. `full` fills the block of one expert to its last row; two of its tokens share all their
experts, whose blocks are nearly empty. `served` is as many tokens as the problem has, two of which share one
expert. Blocks at the end of the grid hold nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from autotune.check.operands import Array
from autotune.problem.layer import Layer

SERVED = 24
"""Tokens of the `served` routing at most: the binary does not know their number, and buffers grow with it."""


@dataclass(frozen=True)
class Block:
    """Rows that a workgroup takes together.

    Attributes:
        number: in the sorted order.
        rows: int32 [tile_m]: the slot of each row, -1 where it is padding.
    """

    number: int
    expert: int
    rows: Array

    @property
    def slots(self) -> Array:
        """The slots that are no padding."""
        return self.rows[self.rows >= 0]


def full(layer: Layer, tile_m: int, rng: np.random.Generator) -> Array:
    """int32 [tile_m, top_k]: every token visits the last expert: its weights are the farthest."""
    last, few = layer.experts - 1, layer.top_k - 1
    others = rng.permutation(last)
    ids = np.empty((tile_m, layer.top_k), np.int32)
    ids[:, 0] = last
    ids[:2, 1:] = others[:few]
    # Where the layer has too few experts all tokens share them all.
    ids[2:, 1:] = others[few : 2 * few] if 2 * few <= last else others[:few]
    return ids


def served(layer: Layer, tokens: int, rng: np.random.Generator) -> Array:
    """int32 [tokens, top_k]: distinct experts in a token; the first two tokens have one in common."""
    tokens = min(tokens, SERVED)
    ids = np.stack([rng.permutation(layer.experts)[: layer.top_k] for _ in range(tokens)]).astype(np.int32)
    if tokens > 1 and ids[0, 0] not in ids[1]:
        ids[1, 0] = ids[0, 0]
    return ids


def blocks_of(ids: Array, tile_m: int, *, by_token: bool) -> list[Block]:
    """The sort: blocks ascending by expert.

    Args:
        by_token: a row belongs to the token of its number, as `autotune.kernels.sort` does it for few tokens;
            else rows are filled in slot order.
    """
    top_k = ids.shape[1]
    flat = ids.reshape(-1)
    blocks: list[Block] = []
    for expert in np.unique(flat):
        slots = np.flatnonzero(flat == expert).astype(np.int32)
        for start in range(0, 1 if by_token else len(slots), tile_m):
            rows = np.full(tile_m, -1, np.int32)
            mine = slots if by_token else slots[start : start + tile_m]
            rows[mine // top_k if by_token else np.arange(len(mine))] = mine
            blocks.append(Block(len(blocks), int(expert), rows))
    return blocks


def of_token(blocks: Sequence[Block], ids: Array, token: int) -> list[Block]:
    """The blocks that hold a token's slots: a sum over its experts needs them all."""
    top_k = ids.shape[1]
    return [block for block in blocks if (block.slots // top_k == token).any()]
