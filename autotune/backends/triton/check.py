"""Cases for our own kernels: their buffers, which workgroups own which tile, and what each must leave.

Workgroups are found by the mapping that `autotune.kernels.tiles.tile_of_program` makes, written again here:
one that computes another tile reads weights that are not there, or leaves its own unwritten.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from autotune.backends.triton import beside
from autotune.backends.triton.backend import TritonW4A8
from autotune.check.compare import (
    POISON_BF16,
    POISON_F32,
    POISON_I32,
    OutputErrors,
    WrongOutput,
    bf16,
    require_untouched,
)
from autotune.check.execution import Argument, Beside, Checker, Execution, Grid
from autotune.check.operands import WEIGHTS, Array, Block, Operands, blocks_of, full, of_token, served
from autotune.emulate import Kernel, Memory, Pointer
from autotune.kernels.config import Stage1Config, Stage2Config
from autotune.kernels.sort import TOKEN_ROWS
from autotune.kernels.spec import KernelSpec, buffers, grid, stage_spec
from autotune.machine.devices import Device
from autotune.machine.targets import TRITON_DISTRIBUTIONS, package_version
from autotune.problem.layer import Layer, Stage, gemm_dims
from autotune.protocol.backend import Listing
from autotune.protocol.runtime import Path
from autotune.results import CompilerVersion
from autotune.space.config import Config

_DTYPES = {"bfloat16": np.uint16, "int8": np.int8, "float32": np.float32, "int32": np.int32}


class TritonChecker(Checker):
    """See `check.execution.Checker`."""

    def compiler(self) -> CompilerVersion:
        return CompilerVersion("triton", package_version(*TRITON_DISTRIBUTIONS) or "unknown")

    def listing(self, layer: Layer, tokens: int, stage: Stage, config: Config, device: Device) -> Listing:
        return TritonW4A8().listing(layer, tokens, stage, config, device)

    def path(self, stage: Stage, config: Config, layer: Layer) -> Path:
        return Path(contributions_bf16=stage is Stage.STAGE2 and config.get("partials") == "bfloat16")

    def beside(
        self, layer: Layer, tokens: int, config: Config, device: Device, seed: int
    ) -> Iterator[Beside]:
        """The sort and the quantiser."""
        yield from beside.cases(layer, tokens, config, device, seed)

    def executions(
        self, layer: Layer, tokens: int, stage: Stage, config: Config, kernel: Kernel, seed: int
    ) -> Iterator[Execution]:
        """The cases of one of our kernels; see `sample`."""
        del kernel  # everything that a launch needs follows from the config
        spec = stage_spec(stage, config, layer, "hip")
        assert spec.config is not None
        tile_m, n_tiles = spec.config.tile_m, _n_tiles(spec)
        rng = np.random.default_rng(seed)
        loops = isinstance(spec.config, Stage2Config) and spec.config.reduce == "loop"
        # The loop has a row for every token that it serves, and there are no more than these.
        many = full(layer, min(tile_m, TOKEN_ROWS) if loops else tile_m, rng)
        yield _execution(spec, layer, stage, many, rng, "a full block", [n_tiles - 1, 0])
        few = served(layer, min(tokens, TOKEN_ROWS) if loops else tokens, rng)
        yield _execution(spec, layer, stage, few, rng, f"{len(few)} tokens", [n_tiles // 2])


def unpack(packed: Array, rows: Array, k: int) -> Array:
    """int8 [rows, K]: a byte holds w[j] + 8 in its low nibble and w[j + K / 2] in its high one."""
    half = packed.reshape(-1, k // 2)[rows]
    return np.concatenate([(half & 15).astype(np.int8) - 8, half.view(np.int8) >> 4], axis=1)


def _execution(
    spec: KernelSpec,
    layer: Layer,
    stage: Stage,
    ids: Array,
    rng: np.random.Generator,
    name: str,
    n_tiles: Sequence[int],
) -> Execution:
    k = gemm_dims(layer, stage)[1]
    operands = Operands(layer, stage, ids, lambda packed, rows: unpack(packed, rows, k), rng)
    assert spec.config is not None
    blocks = blocks_of(ids, spec.config.tile_m, by_token=len(ids) <= TOKEN_ROWS)
    case = _Case(spec, operands, blocks, name)
    tiles, judge = _TILES[_kind(spec)](case, n_tiles)
    programs = _programs(case, tiles, rng)
    return Execution(name, case.memory, case.arguments, case.grid, programs, case.out, judge)


def _kind(spec: KernelSpec) -> str:
    if isinstance(spec.config, Stage2Config):
        return "loop" if spec.config.reduce == "loop" else "tile"
    return "stage1"


class _Case:
    """The buffers of one launch. Outputs and scratch are poisoned, counters are zero."""

    def __init__(self, spec: KernelSpec, operands: Operands, blocks: list[Block], name: str) -> None:
        self.spec, self.operands, self.blocks, self.name = spec, operands, blocks, name
        tokens = len(operands.ids)
        self.grid: Grid = grid(spec, tokens)
        self.memory = Memory()
        arrays = {
            key: np.zeros(buffer.shape, _DTYPES[buffer.dtype])
            for key, buffer in buffers(spec, tokens).items()
            if key not in ("w", "w_scale")
        }
        self.blocks_in_grid = len(arrays["block_expert"])
        self.out, self.partial, self.arrivals = arrays["out"], arrays.get("partial"), arrays["arrivals"]
        self.out[...] = POISON_BF16
        assert self.partial is not None
        self.rounded = isinstance(spec.config, Stage2Config) and spec.config.partials == "bfloat16"
        poison = POISON_I32 if spec.stage == "stage1" else POISON_F32
        self.atomic = isinstance(spec.config, Stage2Config) and spec.config.reduce == "atomic"
        if not self.atomic:
            if self.rounded:
                self.partial[...] = POISON_BF16
            else:
                self.partial.view(np.uint32)[...] = poison
        arrays["block_expert"][...], arrays["block_slots"][...] = -1, -1
        for block in blocks:
            arrays["block_expert"][block.number] = block.expert
            arrays["block_slots"][block.number] = block.rows
        half = operands.a.shape[1] // 2
        arrays |= {
            "a": operands.a,
            "a_scale": operands.a_scale,
            "a_low_sum": operands.a[:, :half].sum(axis=1, dtype=np.int32),
            "topk_weight": operands.router,
            "topk_ids": operands.ids,
            "valid_blocks": np.array([len(blocks)], np.int32),
            "w_scale": operands.w_scale,
        }
        for key in ("a", "a_scale", "a_low_sum", "topk_weight", "w_scale", "block_expert", "block_slots"):
            arrays[key].setflags(write=False)
        self.arrays = arrays
        self.arguments: list[Argument] = []
        for key in spec.run_time:
            if key == "tokens":
                self.arguments.append(tokens)
            elif key == "w":
                self.arguments.append(Pointer(WEIGHTS))
            else:
                self.arguments.append(Pointer(self.memory.map(arrays[key], name=key)))

    def columns(self, n_tile: int) -> Array:
        """Output columns of a tile."""
        assert self.spec.config is not None
        width, end = self.spec.config.tile_n, self.spec.dims.model_dim
        if self.spec.stage == "stage1":
            width, end = width // 2, self.spec.dims.inter_dim
        return np.arange(n_tile * width, min((n_tile + 1) * width, end))

    def counters(self, expected: Array) -> None:
        """Raises WrongOutput when a counter is not what the sampled workgroups make of it."""
        if (self.arrivals != expected).any():
            where = [int(index) for index in np.argwhere(self.arrivals != expected)[0]]
            raise WrongOutput(f"{self.name}: arrivals{where} is left at {self.arrivals[tuple(where)]}")


@dataclass(frozen=True)
class _Tile:
    """A tile to compute; `block` is not read by the kernel that walks over all blocks."""

    block: int
    n_tile: int


Planned = tuple[list[_Tile], Callable[[OutputErrors], None]]


def _stage1(case: _Case, n_tiles: Sequence[int]) -> Planned:
    """The fullest and the emptiest block at unlike column tiles, and a block that is not there."""
    by_rows = sorted(case.blocks, key=lambda block: len(block.slots))
    chosen = list(zip([by_rows[-1], by_rows[0]], n_tiles, strict=False))
    case.operands.map_weights(case.memory, (block for block, _ in chosen))
    last = isinstance(case.spec.config, Stage1Config) and case.spec.config.requantise == "last"
    before = case.out.copy()
    if last:
        _finish_others(case, chosen)
        before = case.out.copy()

    def judge(errors: OutputErrors) -> None:
        touched = np.zeros(case.out.shape, bool)
        for block, n_tile in chosen:
            columns = case.columns(n_tile)
            place = np.ix_(block.slots, columns)
            expected = case.operands.stage1(block.slots, block.expert, columns)
            errors.compare(bf16(case.out[place]), expected, f"{case.name}, column tile {n_tile}")
            touched[place] = True
        require_untouched(case.out, before, touched, case.name)
        case.counters(np.zeros_like(case.arrivals))
        if last:
            _require_requantised(case, [block for block, _ in chosen])

    tiles = [_Tile(block.number, n_tile) for block, n_tile in chosen]
    return [*tiles, *_empty(case)], judge


def _finish_others(case: _Case, chosen: Sequence[tuple[Block, int]]) -> None:
    """Leave the blocks as if all their other column tiles had been computed: the last one then quantises."""
    rng = np.random.default_rng(0)
    for block, _ in chosen:
        rows = rng.standard_normal((len(block.slots), case.out.shape[1])).astype(np.float32)
        case.out[block.slots] = (rows.view(np.uint32) >> np.uint32(16)).astype(np.uint16)
        mine = sum(other.number == block.number for other, _ in chosen)
        case.arrays["finished"][block.number] = _n_tiles(case.spec) - mine


def _require_requantised(case: _Case, blocks: Sequence[Block]) -> None:
    """To the bit: what is quantised is what the kernel itself has stored.

    Raises:
        WrongOutput: a value differs, or a counter is not zero again.
    """
    slots = np.concatenate([block.slots for block in blocks])
    rows = bf16(case.out[slots]).astype(np.float32)
    peak = np.abs(rows).max(axis=1)
    inverse = np.where(peak > 0, np.float32(127) / np.maximum(peak, np.float32(1e-30)), np.float32(0))
    q = np.rint(rows * inverse[:, None]).astype(np.int8)
    expected = {"q": q, "scale": peak / np.float32(127), "low_sum": q[:, : q.shape[1] // 2].sum(axis=1)}
    for name, values in expected.items():
        if (case.arrays[name][slots] != values).any():
            raise WrongOutput(f"{case.name}: {name} is not that of the rows that stage 1 has stored")
    if case.arrays["finished"].any():
        raise WrongOutput(f"{case.name}: a block's counter of finished tiles is not zero again")


def _loop(case: _Case, n_tiles: Sequence[int]) -> Planned:
    """Whole column tiles: a program walks over every block."""
    case.operands.map_weights(case.memory, case.blocks)

    def judge(errors: OutputErrors) -> None:
        touched = np.zeros(case.out.shape, bool)
        for n_tile in n_tiles:
            columns = case.columns(n_tile)
            expected = _sums(case, case.blocks, columns)
            errors.compare(bf16(case.out[:, columns]), expected, f"{case.name}, column tile {n_tile}")
            touched[:, columns] = True
        require_untouched(case.out, POISON_BF16, touched, case.name)
        case.counters(np.zeros_like(case.arrivals))

    return [_Tile(0, n_tile) for n_tile in n_tiles], judge


def _tile(case: _Case, n_tiles: Sequence[int]) -> Planned:
    """All blocks of token 0 at a column tile, so that its sum is finished, and a block that is not there.

    Of tokens that also visit other blocks the sum stays open; what there is of it is compared.
    """
    blocks = of_token(case.blocks, case.operands.ids, 0)
    case.operands.map_weights(case.memory, blocks)
    layer, config = case.operands.layer, case.spec.config
    assert config is not None
    assert case.partial is not None
    partial, split = case.partial, config.split_k
    chosen = n_tiles[:1]
    visits = np.zeros(len(case.operands.ids), int)
    for block in blocks:
        visits[block.slots // layer.top_k] += 1
    finished = visits == layer.top_k

    def judge(errors: OutputErrors) -> None:
        touched = np.zeros(case.out.shape, bool)
        arrivals = np.zeros_like(case.arrivals)
        for n_tile in chosen:
            columns, where = case.columns(n_tile), f"{case.name}, column tile {n_tile}"
            expected = _sums(case, blocks, columns)
            place = np.ix_(np.flatnonzero(finished), columns)
            errors.compare(bf16(case.out[place]), expected[finished], where)
            touched[place] = True
            arrivals[:, n_tile] = np.where(finished, 0, visits * split)
            if case.atomic:
                # A finished sum leaves zeros behind for the next launch.
                left = np.where(finished[:, None], 0.0, expected)
                errors.compare_float32(partial[:, columns].astype(np.float64), left, where)
                continue
            for block in blocks:
                parts = partial[block.slots][:, :, columns]
                value = case.operands.stage2(block.slots, block.expert, columns)
                if case.rounded:
                    errors.compare(bf16(parts[:, 0]), value, where)
                    continue
                # The parts of a sum that cancel are larger than it is.
                errors.compare_float32(parts.astype(np.float64).sum(axis=1), value, where)
        require_untouched(case.out, POISON_BF16, touched, case.name)
        case.counters(arrivals)

    tiles = [_Tile(block.number, n_tile) for n_tile in chosen for block in blocks]
    return [*tiles, *_empty(case)], judge


_TILES: dict[str, Callable[[_Case, Sequence[int]], Planned]] = {
    "stage1": _stage1,
    "loop": _loop,
    "tile": _tile,
}


def _empty(case: _Case) -> list[_Tile]:
    """The grid's last block, where the routing has left it empty."""
    last = case.blocks_in_grid - 1
    return [_Tile(last, 0)] if last >= len(case.blocks) else []


def _sums(case: _Case, blocks: Sequence[Block], columns: Array) -> Array:
    """float64 [tokens, columns]: sums over the slots of the given blocks."""
    sums = np.zeros((len(case.operands.ids), len(columns)))
    for block in blocks:
        token = block.slots // case.operands.layer.top_k
        sums[token] += case.operands.stage2(block.slots, block.expert, columns)
    return sums


def _programs(case: _Case, tiles: Sequence[_Tile], rng: np.random.Generator) -> list[Grid]:
    """The workgroups that compute the tiles, every part of each; parts come in an order of their own."""
    config, n_tiles = case.spec.config, _n_tiles(case.spec)
    assert config is not None
    programs = np.arange(case.grid[0])
    if _kind(case.spec) == "loop":
        assert isinstance(config, Stage2Config)
        parts = config.split_blocks
        key = programs // parts
        wanted = [tile.n_tile for tile in tiles]
    else:
        parts = config.split_k
        block, n_tile = _tile_of(programs, n_tiles, parts, config.group, config.xcds or 1)
        key = block * n_tiles + n_tile
        wanted = [tile.block * n_tiles + tile.n_tile for tile in tiles]
    grids: list[Grid] = []
    for each in wanted:
        # The last to arrive finishes the tile: let it not always be the same part.
        grids += [(int(program), 0, 0) for program in rng.permutation(programs[key == each])]
    return grids


def _tile_of(programs: Array, n_tiles: int, split_k: int, group: int, xcds: int) -> tuple[Array, Array]:
    """(block, column tile) of every program."""
    count, pid = len(programs), programs
    if xcds > 1:
        chiplet = pid % xcds
        pid = chiplet * (count // xcds) + np.minimum(chiplet, count % xcds) + pid // xcds
    tile = pid // split_k
    if group == 1:
        return tile // n_tiles, tile % n_tiles
    blocks = count // (n_tiles * split_k)
    first = tile // (group * n_tiles) * group
    size = np.minimum(blocks - first, group)
    within = tile % (group * n_tiles)
    return first + within % size, within // size


def _n_tiles(spec: KernelSpec) -> int:
    assert spec.config is not None
    n = 2 * spec.dims.inter_dim if spec.stage == "stage1" else spec.dims.model_dim
    return -(-n // spec.config.tile_n)
