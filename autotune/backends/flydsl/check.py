"""Cases for FlyDSL's two-stage W4A8 kernels, both generations: arguments, layouts, and what each must leave.

Argument order and encodings: FlyDSL a1d8312 kernels/moe_gemm_2stage.py:273-288 and 1709-1723, and FlyDSL main
kernels/moe/moe_gemm_2stage, which passes each tensor with a descriptor that the kernels never read. Where a
descriptor lies is read from the metadata.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from autotune.backends.flydsl.backend import Flydsl
from autotune.backends.flydsl.request import Request
from autotune.backends.flydsl.tree import TreeGeneration, find_tree
from autotune.backends.flydsl.wheel import matching_wheel
from autotune.check.compare import POISON_BF16, OutputErrors, WrongOutput, bf16, require_untouched
from autotune.check.execution import Argument, Checker, Execution
from autotune.check.operands import WEIGHTS, Array, Block, Operands, blocks_of, full, of_token, served
from autotune.emulate import Kernel, Memory, Pointer
from autotune.machine.devices import Device
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.protocol.backend import Listing
from autotune.protocol.runtime import Path
from autotune.results import CompilerVersion
from autotune.space.config import Config

_NO_BLOCK = np.int32(0x7EAD_BEEF)  # what the sort leaves past its blocks is not defined


@dataclass(frozen=True)
class Tiling:
    """What a launch depends on.

    Attributes:
        columns: output columns of a workgroup.
        workgroups_n: workgroups that share a block's columns.
        mode: of stage 2: `atomic` adds bfloat16 into the output, `reduce` writes a row a slot.
        sort_block: rows of the sort's block; the kernels take it to be tile_m.
    """

    tile_m: int
    columns: int
    workgroups_n: int
    mode: str
    sort_block: int
    lds_rules: Literal["strict", "hardware"] = "strict"

    @classmethod
    def of(cls, request: Request, *, sort_block: int | None = None) -> Tiling:
        """The tiling of what a request compiles.

        Args:
            sort_block: rows of a block of the sort; None: the kernel's own tile_m.
        """
        # FlyDSL main reads LDS that nobody wrote and does not use it: rows 16 to 31 of stage 2's table of ids
        # at tile_m 16, tile_k 128. Poison tells whether it reaches a result.
        main = request.tree.generation is TreeGeneration.MAIN
        return cls(
            request.tile_m,
            request.columns,
            request.workgroups_n,
            request.mode,
            sort_block or request.tile_m,
            "hardware" if main else "strict",
        )


class FlydslChecker(Checker):
    """Of the kernels of the tree that `DSL2_ROOT` names; see `check.execution.Checker`."""

    def compiler(self) -> CompilerVersion:
        return CompilerVersion("flydsl", matching_wheel(find_tree()))

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        return Flydsl().listing(layer, tokens, stage, config, device)

    def path(self, stage: Stage, config: Config, layer: Layer) -> Path:
        """The roundings: atomics round each contribution, and every addition again."""
        if stage is Stage.STAGE2 and config.get("mode", "atomic") == "atomic":
            return Path(contributions_bf16=True, bf16_adds=layer.top_k)
        return Path()

    def executions(
        self, layer: Layer, tokens: int, stage: Stage, config: Config, kernel: Kernel, seed: int
    ) -> Iterator[Execution]:
        tiling = Tiling.of(Request.of(find_tree(), layer, stage, config, "gfx942"))
        return tiled_executions(layer, tokens, stage, tiling, kernel, seed)


def unpack(packed: Array, rows: Array, k: int) -> Array:
    """int8 [rows, K] from AITER's preshuffled INT4.

    `shuffle_weight(w, (16, 16))`, then of every 8 values v byte i is `v[i + 4] << 4 | v[i] & 15`.
    """
    at, row = np.arange(k), rows[:, None]
    byte = (
        row // 16 * (k // 64 * 512)
        + at // 64 * 512
        + at % 64 // 16 * 128
        + row % 16 * 8
        + at % 16 // 8 * 4
        + at % 4
    )
    nibbles = np.where(at % 8 < 4, packed[byte] & 15, packed[byte] >> 4).astype(np.int8)
    return np.asarray((nibbles ^ 8) - 8, np.int8)


def tiled_executions(
    layer: Layer, tokens: int, stage: Stage, tiling: Tiling, kernel: Kernel, seed: int
) -> Iterator[Execution]:
    """The cases of a kernel of a given tiling.

    Raises:
        WrongOutput: output columns have no workgroup.
    """
    width = layer.inter_dim if stage is Stage.STAGE1 else layer.model_dim
    covered = tiling.columns * tiling.workgroups_n
    rng = np.random.default_rng(seed)
    last = tiling.workgroups_n - 1
    many = full(layer, max(tiling.tile_m, tiling.sort_block), rng)
    if tiling.workgroups_n:
        yield _Case(layer, stage, many, tiling, kernel, rng, "a full block").execution((last, 0))
        few = served(layer, tokens, rng)
        yield _Case(layer, stage, few, tiling, kernel, rng, f"{len(few)} tokens").execution((last // 2,))
    if covered < width:
        raise WrongOutput(f"columns {covered} to {width - 1} of the output have no workgroup", float("inf"))


class _Case:
    """The buffers of one launch."""

    def __init__(
        self,
        layer: Layer,
        stage: Stage,
        ids: Array,
        tiling: Tiling,
        kernel: Kernel,
        rng: np.random.Generator,
        name: str,
    ) -> None:
        k = gemm_dims(layer, stage)[1]
        self.layer, self.stage, self.tiling, self.name = layer, stage, tiling, name
        self.operands = Operands(layer, stage, ids, lambda packed, rows: unpack(packed, rows, k), rng)
        self.blocks = blocks_of(ids, tiling.sort_block, by_token=False)
        self.memory = Memory()
        tokens, slots = len(ids), ids.size
        # AITER launches no more blocks than slots (GRID_TRIM).
        self.grid_blocks = max(slots * tiling.sort_block // tiling.tile_m, len(self.blocks))
        sorted_rows = self.grid_blocks * tiling.tile_m
        rows = np.full(sorted_rows, layer.top_k << 24 | tokens, np.int32)
        weights = np.zeros(sorted_rows, np.float32)
        experts = np.full(self.grid_blocks, _NO_BLOCK, np.int32)
        for block in self.blocks:
            at = block.number * tiling.sort_block
            many = len(block.slots)
            rows[at : at + many] = block.slots % layer.top_k << 24 | block.slots // layer.top_k
            weights[at : at + many] = self.operands.router[block.slots]
            experts[block.number] = block.expert
        accumulates = stage is Stage.STAGE2 and tiling.mode == "atomic"
        width = layer.inter_dim if stage is Stage.STAGE1 else layer.model_dim
        self.initial = np.uint16(0) if accumulates else POISON_BF16
        self.out = np.full((tokens if accumulates else slots, width), self.initial, np.uint16)
        valid = np.array([len(self.blocks) * tiling.sort_block], np.int32)
        tensors = [
            self._map("out", self.out, writable=True),
            self._map("x", self.operands.a),
            Pointer(WEIGHTS),
            self._map("scale_x", self.operands.a_scale),
            self._map("scale_w", self.operands.w_scale),
            self._map("sorted ids", rows),
            self._map("expert ids", experts),
            self._map("sorted weights", weights),
            self._map("number of valid ids", valid),
        ]
        self.arguments = _arguments(kernel, tensors, [tokens, width, k, self.grid_blocks])

    def _map(self, name: str, array: Array, *, writable: bool = False) -> Pointer:
        array.setflags(write=writable)
        return Pointer(self.memory.map(array, name=name))

    def execution(self, n_tiles: tuple[int, ...]) -> Execution:
        """Stage 1: the fullest and the emptiest block; stage 2: all blocks of token 0, for a whole sum. And a
        block past the last.
        """
        if self.stage is Stage.STAGE1:
            by_rows = sorted(self.blocks, key=lambda block: len(block.slots))
            tiles = list(zip([by_rows[-1], by_rows[0]], n_tiles, strict=False))
        else:
            tiles = [(block, n_tiles[0]) for block in of_token(self.blocks, self.operands.ids, 0)]
        self.operands.map_weights(self.memory, (block for block, _ in tiles))
        # Where the kernel's block is smaller than the sort's, several workgroups have its rows.
        share = max(1, self.tiling.sort_block // self.tiling.tile_m)
        workgroups = [
            (n_tile, block.number * share + part, 0) for block, n_tile in tiles for part in range(share)
        ]
        if self.grid_blocks > len(self.blocks) * share:
            workgroups.append((0, self.grid_blocks - 1, 0))
        return Execution(
            self.name,
            self.memory,
            self.arguments,
            (self.tiling.workgroups_n, self.grid_blocks, 1),
            workgroups,
            self.out,
            lambda errors: self._judge(errors, tiles),
            self.tiling.lds_rules,
        )

    def _judge(self, errors: OutputErrors, tiles: list[tuple[Block, int]]) -> None:
        touched = np.zeros(self.out.shape, bool)
        sums: dict[int, Array] = {}
        for block, n_tile in tiles:
            columns = np.arange(n_tile * self.tiling.columns, (n_tile + 1) * self.tiling.columns)
            where = f"{self.name}, column tile {n_tile}"
            if self.stage is Stage.STAGE1:
                value = self.operands.stage1(block.slots, block.expert, columns)
            else:
                value = self.operands.stage2(block.slots, block.expert, columns)
            rows = block.slots
            if self.initial == 0:
                rows = block.slots // self.layer.top_k
                total = sums.setdefault(n_tile, np.zeros((len(self.out), len(columns))))
                total[rows] += value
            else:
                errors.compare(bf16(self.out[np.ix_(rows, columns)]), value, where)
            touched[np.ix_(rows, columns)] = True
        for n_tile, total in sums.items():
            columns = np.arange(n_tile * self.tiling.columns, (n_tile + 1) * self.tiling.columns)
            rows = np.flatnonzero(touched[:, columns[0]])
            where = f"{self.name}, column tile {n_tile}"
            errors.compare(bf16(self.out[np.ix_(rows, columns)]), total[rows], where)
        require_untouched(self.out, self.initial, touched, self.name)


def _arguments(kernel: Kernel, tensors: list[Pointer], numbers: list[int]) -> list[Argument]:
    """Tensors and whole numbers in the slots of the kernel's metadata.

    FlyDSL main's descriptors are structures of 4 bytes and more behind each pointer, and never read: the
    whole numbers are the last slots.
    """
    slots = kernel.info.arguments
    pointers, last = iter(tensors), len(slots) - len(numbers)
    arguments: list[Argument] = []
    for index, slot in enumerate(slots):
        if index >= last:
            arguments.append(numbers[index - last])
        else:
            arguments.append(next(pointers) if slot.kind == "global_buffer" else b"\xcc" * slot.size)
    return arguments
