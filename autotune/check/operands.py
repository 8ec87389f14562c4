"""Chooses tokens, experts and blocks of a check, to meet every code path, and their operands in numpy.

Two routings. `full` fills the block of one expert to its last row; two of its tokens share all their
experts, whose blocks are nearly empty. `served` is as many tokens as the problem has, two of which share one
expert. Blocks at the end of the grid hold nothing.

Integers are exact: products of INT8 and INT4 are summed in float64, where no sum comes near 2^53.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import numpy.typing as npt

from autotune.emulate import Memory
from autotune.problem.layer import Layer, Stage, gemm_dims

Array = npt.NDArray[Any]
Unpack = Callable[[Array, Array], Array]
"""(an expert's packed weights as uint8, row numbers) -> int8 [rows, K] in [-8, 7]."""


WEIGHTS = 0x1000_0000_0000
"""Where the experts' weights begin: far from everything that is mapped without an address."""
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
        """The slots that are no padding, int32, in the order of the block's rows."""
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
        ids: int32 [tokens, top_k].
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
    """The blocks that hold a token's slots: a sum over its experts needs them all.

    Args:
        ids: int32 [tokens, top_k].
    """
    top_k = ids.shape[1]
    return [block for block in blocks if (block.slots // top_k == token).any()]


@dataclass
class Operands:
    """Quantised operands of one stage; an expert's weights are made when it is first asked for.

    Attributes:
        ids: int32 [tokens, top_k], the experts of each token.
        a: int8 [tokens, K] for stage 1, [tokens * top_k, K] for stage 2.
        a_scale: float32, one a row of `a`.
        router: float32 [tokens * top_k].
        w_scale: float32 [experts, N].
        unpack: how the backend packs weights.
    """

    layer: Layer
    stage: Stage
    ids: Array
    unpack: Unpack
    rng: np.random.Generator
    a: Array = field(init=False)
    a_scale: Array = field(init=False)
    router: Array = field(init=False)
    w_scale: Array = field(init=False)
    _packed: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        n, k = gemm_dims(self.layer, self.stage)
        slots = self.ids.size
        rows = self.ids.shape[0] if self.stage is Stage.STAGE1 else slots
        rng = self.rng
        self.a = rng.integers(-127, 128, (rows, k), dtype=np.int8)
        # Scales that make results of order one, where SiLU is neither linear nor flat.
        self.a_scale = ((rng.random(rows) + 0.5) / 73).astype(np.float32)
        self.router = (rng.random(slots) * 0.5 + 0.1).astype(np.float32)
        self.w_scale = ((rng.random((self.layer.experts, n)) + 0.5) / (4.6 * k**0.5)).astype(np.float32)

    def row_of(self, slots: Array) -> Array:
        """The rows of `a` that slots read, an integer a slot."""
        return slots // self.layer.top_k if self.stage is Stage.STAGE1 else slots

    def packed(self, expert: int) -> Array:
        """uint8 [N * K / 2]: every byte is a pair of INT4 values, whatever the packing."""
        if expert not in self._packed:
            n, k = gemm_dims(self.layer, self.stage)
            self._packed[expert] = self.rng.integers(0, 256, n * k // 2, dtype=np.uint8)
            self._packed[expert].setflags(write=False)
        return self._packed[expert]

    def map_weights(self, memory: Memory, blocks: Iterable[Block]) -> None:
        """Maps the weights of the blocks' experts behind `WEIGHTS`; every other read is a fault."""
        for expert in sorted({block.expert for block in blocks}):
            packed = self.packed(expert)
            memory.map(packed, name=f"w of expert {expert}", address=WEIGHTS + expert * packed.size)

    def gemm(self, slots: Array, expert: int, columns: Array) -> Array:
        """float64 [slots, columns]: the scaled product of slots with rows `columns` of an expert."""
        rows = self.row_of(slots)
        w = self.unpack(self.packed(expert), columns).astype(np.float64)
        exact = self.a[rows].astype(np.float64) @ w.T
        scale = self.w_scale[expert, columns].astype(np.float64)
        return np.asarray(exact * self.a_scale[rows].astype(np.float64)[:, None] * scale)

    def stage1(self, slots: Array, expert: int, columns: Array) -> Array:
        """float64 [slots, columns]: SiLU(gate) * up at output columns."""
        inter = self.layer.inter_dim
        both = self.gemm(slots, expert, np.concatenate([columns, columns + inter]))
        gate, up = np.split(both, 2, axis=1)
        return np.asarray(gate / (1 + np.exp(-gate)) * up)

    def stage2(self, slots: Array, expert: int, columns: Array) -> Array:
        """float64 [slots, columns]: each slot's router-weighted contribution."""
        return self.gemm(slots, expert, columns) * self.router[slots].astype(np.float64)[:, None]
