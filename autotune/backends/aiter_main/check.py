"""Cases for AITER main's own FlyDSL kernels (a16wmix, INT4): arguments, layouts, and what each must leave.

Arguments and encodings: aiter ba59a37aa6 and e4048607a5, aiter/ops/flydsl/kernels/moe_2stage_a16wmix. Both
stages take bare pointers and a grid of one dimension. What lies between the stages is by sorted position.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np

from autotune.backends.aiter_main.backend import AiterMainGrouped, grouped_tree
from autotune.backends.flydsl.check import unpack
from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.wheel import matching_wheel
from autotune.check.compare import POISON_BF16, OutputErrors, bf16, require_untouched, round_bf16
from autotune.check.execution import Argument, Checker, Execution
from autotune.check.operands import WEIGHTS, Array, Block, Operands, blocks_of, full, of_token, served
from autotune.emulate import Kernel, Memory, Pointer
from autotune.kernels.formats import GROUP
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.protocol.backend import Listing
from autotune.protocol.runtime import Path
from autotune.results import CompilerVersion
from autotune.space.config import Config

SCALES = 0x2000_0000_0000
"""Where the experts' scales begin."""
_PAST = 3  # blocks of the grid that hold nothing
_NO_BLOCK = np.int32(0x7EAD_BEEF)  # what the sort leaves past its blocks is not defined
_XCDS = 8


class GroupedChecker(Checker):
    """Of the kernels of the AITER that is given or installed; see `check.execution.Checker`."""

    def compiler(self) -> CompilerVersion:
        return CompilerVersion("flydsl", matching_wheel(grouped_tree()))

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        return AiterMainGrouped().listing(layer, tokens, stage, config, device)

    def path(self, stage: Stage, config: Config, layer: Layer) -> Path:
        """Stage 2 rounds each contribution, and every addition again."""
        if stage is Stage.STAGE1:
            return Path()
        return Path(contributions_bf16=True, bf16_adds=layer.top_k)

    def executions(
        self, layer: Layer, tokens: int, stage: Stage, config: Config, kernel: Kernel, seed: int
    ) -> Iterator[Execution]:
        request = Request.of(grouped_tree(), layer, stage, config, "gfx942")
        rng = np.random.default_rng(seed)
        last = request.workgroups_n - 1
        many = full(layer, request.tile_m, rng)
        yield _Case(request, many, rng, "a full block").execution((last, 0))
        few = served(layer, tokens, rng)
        yield _Case(request, few, rng, f"{len(few)} tokens").execution((last // 2,))


@dataclass
class GroupedOperands(Operands):
    """bfloat16 activations, and INT4 weights with a bfloat16 scale every `GROUP` values of K.

    Attributes:
        a: uint16 [tokens, K] for stage 1, [tokens * top_k, K] for stage 2: bfloat16 bits.
    """

    _scales: dict[int, Array] = field(default_factory=dict)

    def __post_init__(self) -> None:
        k = gemm_dims(self.layer, self.stage)[1]
        rows = len(self.ids) if self.stage is Stage.STAGE1 else self.ids.size
        values = self.rng.standard_normal((rows, k)).astype(np.float32)
        self.a = (round_bf16(values).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
        self.router = (self.rng.random(self.ids.size) * 0.5 + 0.1).astype(np.float32)

    def scales(self, expert: int) -> Array:
        """float32 [K // GROUP, N], of 5 significant bits: a weight times its scale is a bfloat16."""
        if expert not in self._scales:
            n, k = gemm_dims(self.layer, self.stage)
            exponent = round(float(np.log2(1 / (4.6 * 24 * k**0.5))))  # results of order one
            self._scales[expert] = np.ldexp(
                self.rng.integers(16, 32, (k // GROUP, n)).astype(np.float32), exponent
            )
        return self._scales[expert]

    def map_scales(self, memory: Memory, blocks: Sequence[Block]) -> None:
        """Maps the scales of the blocks' experts, two groups of a row side by side, behind `SCALES`."""
        for expert in sorted({block.expert for block in blocks}):
            scales = self.scales(expert)
            pairs = scales.reshape(len(scales) // 2, 2, -1).transpose(0, 2, 1)
            bits = (np.ascontiguousarray(pairs).view(np.uint32) >> 16).astype(np.uint16)
            bits.setflags(write=False)
            memory.map(bits, name=f"scales of expert {expert}", address=SCALES + expert * bits.nbytes)

    def gemm(self, slots: Array, expert: int, columns: Array) -> Array:
        by_k = np.repeat(self.scales(expert)[:, columns], GROUP, axis=0).astype(np.float64)
        weights = self.unpack(self.packed(expert), columns).T * by_k
        return np.asarray(bf16(self.a[self.row_of(slots)]) @ weights)


class _Case:
    """The buffers of one launch."""

    def __init__(self, request: Request, ids: Array, rng: np.random.Generator, name: str) -> None:
        layer, stage, tile_m = request.layer, request.stage, request.tile_m
        k = gemm_dims(layer, stage)[1]
        self.request, self.name, self.layer = request, name, layer
        self.operands = GroupedOperands(layer, stage, ids, lambda packed, rows: unpack(packed, rows, k), rng)
        self.blocks = blocks_of(ids, tile_m, by_token=False)
        self.memory = Memory()
        tokens = len(ids)
        self.grid_blocks = len(self.blocks) + _PAST
        rows = self.grid_blocks * tile_m
        sorted_ids = np.full(rows, layer.top_k << 24 | tokens, np.int32)
        router = np.zeros(rows, np.float32)
        experts = np.full(self.grid_blocks, _NO_BLOCK, np.int32)
        by_position = np.full((rows, k), POISON_BF16, np.uint16)  # stage 1 leaves padding rows unwritten
        for block in self.blocks:
            at = self.positions(block)
            sorted_ids[at] = block.slots % layer.top_k << 24 | block.slots // layer.top_k
            router[at] = self.operands.router[block.slots]
            experts[block.number] = block.expert
            if stage is Stage.STAGE2:
                by_position[at] = self.operands.a[block.slots]
        self.initial = POISON_BF16 if stage is Stage.STAGE1 else np.uint16(0)
        shape = (rows, layer.inter_dim) if stage is Stage.STAGE1 else (tokens, layer.model_dim)
        self.out = np.full(shape, self.initial, np.uint16)
        a = self.operands.a if stage is Stage.STAGE1 else by_position
        common = [self._map("a", a), Pointer(WEIGHTS), Pointer(SCALES), self._map("expert ids", experts)]
        valid = self._map("number of valid ids", np.array([len(self.blocks) * tile_m], np.int32))
        order = self._map("sorted ids", sorted_ids)
        out = self._map("out", self.out, writable=True)
        self.arguments: list[Argument]
        if stage is Stage.STAGE1:
            # The five numbers are another activation's.
            self.arguments = [*common, valid, order, tokens, 1.0, 1.0, 1.0, 1.0, float("inf"), out]
        else:
            weights = self._map("sorted weights", router)
            self.arguments = [*common, valid, order, weights, tokens, self.grid_blocks, out]

    def positions(self, block: Block) -> Array:
        """The sorted positions of a block's slots."""
        return block.number * self.request.tile_m + np.arange(len(block.slots))

    def _map(self, name: str, array: Array, *, writable: bool = False) -> Pointer:
        array.setflags(write=writable)
        return Pointer(self.memory.map(array, name=name))

    def execution(self, n_tiles: tuple[int, ...]) -> Execution:
        """Stage 1: the fullest and the emptiest block; stage 2: all blocks of token 0, for a whole sum. And a
        block past the last.
        """
        up = self.request.stage is Stage.STAGE1
        if up:
            by_rows = sorted(self.blocks, key=lambda block: len(block.slots))
            tiles = list(zip([by_rows[-1], by_rows[0]], n_tiles, strict=False))
        else:
            tiles = [(block, n_tiles[0]) for block in of_token(self.blocks, self.operands.ids, 0)]
        chosen = [block for block, _ in tiles]
        self.operands.map_weights(self.memory, chosen)
        self.operands.map_scales(self.memory, chosen)
        across = self.request.workgroups_n
        numbers = range(len(self.blocks) * across) if up else spread(len(self.blocks) * across)
        launched = {tile: number for number, tile in enumerate(numbers)}
        workgroups = [(launched[block.number * across + n_tile], 0, 0) for block, n_tile in tiles]
        total = self.grid_blocks * across
        return Execution(
            self.name,
            self.memory,
            self.arguments,
            (total, 1, 1),
            [*workgroups, (total - 1, 0, 0)],
            self.out,
            lambda errors: self._judge(errors, tiles),
        )

    def _judge(self, errors: OutputErrors, tiles: Sequence[tuple[Block, int]]) -> None:
        touched = np.zeros(self.out.shape, bool)
        sums = np.zeros((len(self.out), self.request.columns))
        for block, n_tile in tiles:
            columns = self._columns(n_tile)
            if self.request.stage is Stage.STAGE1:
                place = np.ix_(self.positions(block), columns)
                value = self.operands.stage1(block.slots, block.expert, columns)
                errors.compare(bf16(self.out[place]), value, f"{self.name}, column tile {n_tile}")
            else:
                rows = block.slots // self.layer.top_k
                place = np.ix_(rows, columns)
                sums[rows] += self.operands.stage2(block.slots, block.expert, columns)
            touched[place] = True
        if self.request.stage is Stage.STAGE2:
            n_tile = tiles[0][1]  # of all
            columns = self._columns(n_tile)
            rows = np.flatnonzero(touched[:, columns[0]])
            out = bf16(self.out[np.ix_(rows, columns)])
            errors.compare(out, sums[rows], f"{self.name}, column tile {n_tile}")
        require_untouched(self.out, self.initial, touched, self.name)

    def _columns(self, n_tile: int) -> Array:
        return np.arange(n_tile * self.request.columns, (n_tile + 1) * self.request.columns)


def spread(tiles: int) -> Sequence[int]:
    """The tile of each workgroup of stage 2: workgroup by workgroup to the next of eight XCDs, whose tiles
    lie together (gemm2.py, `_xcd_np`).
    """
    each, more = divmod(tiles, _XCDS)
    return [n % _XCDS * each + min(n % _XCDS, more) + n // _XCDS for n in range(tiles)]
