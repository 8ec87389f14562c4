"""Cases for what a layer launches beside its two GEMMs: the sort and the quantiser, right to the last bit.

The launches are those of `kernels.chain`, in its order and on one set of buffers: what the first leaves the
next finds. All workgroups that a result depends on are executed; of tokens that are only quantised some, of
the many programs that place slots a sample, whose writes alone must then be there.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from functools import partial

import numpy as np

from autotune.check.compare import OutputErrors, WrongOutput
from autotune.check.execution import Argument, Beside, Execution
from autotune.check.operands import Array, blocks_of
from autotune.compile.isa import gpu_target, machine_code_hash
from autotune.emulate import Kernel, Memory, Pointer
from autotune.kernels.chain import Link, layer_chain
from autotune.kernels.config import LayerDims
from autotune.kernels.sort import TOKEN_ROWS, Plan, plan
from autotune.kernels.spec import compile_kernel
from autotune.kernels.tuned import default_config
from autotune.machine.devices import Device
from autotune.problem.layer import Layer
from autotune.space.config import Config

_DTYPES = {"bfloat16": np.uint16, "int8": np.int8, "float32": np.float32, "int32": np.int32}
_POISON = -77
"""In every buffer that need not be zeros; no expert and no slot."""
_SORTED = ("block_expert", "block_slots", "valid_blocks")
_ALL = 128
"""Programs that place slots up to which all are executed."""


def cases(layer: Layer, tokens: int, config: Config, device: Device, seed: int) -> Iterator[Beside]:
    """The launches with their cases; each must be run before the next one is asked for.

    Args:
        config: stage 1's.
    """
    dims = LayerDims(layer.model_dim, layer.inter_dim, layer.experts, layer.top_k)
    default, tile_m = default_config(tokens, dims, device.arch), int(str(config["tile_m"]))
    # Of the GEMMs' knobs these launches know the block size alone.
    stage1, stage2 = replace(default.stage1, tile_m=tile_m), replace(default.stage2, tile_m=tile_m)
    chain = layer_chain(dims, stage1, stage2, tokens, device.runtime)
    rng = np.random.default_rng(seed)
    ids = np.argsort(rng.random((tokens, layer.experts)), axis=1)[:, : layer.top_k].astype(np.int32)
    arrays = {
        name: np.full(buffer.shape, 0 if buffer.zeroed else _POISON).astype(_DTYPES[buffer.dtype])
        for name, buffer in chain.scratch.items()
        if name not in ("partial1", "partial2_float32", "partial2_bfloat16", "partial2_zeroed")
    }
    arrays |= {"topk_ids": ids, "x": _rows(tokens, layer.model_dim, rng)}
    arrays["middle"][...] = _rows(tokens * layer.top_k, layer.inter_dim, rng)
    how = plan(tokens, layer.top_k, layer.experts)
    expected = _sorted_by_numpy(arrays, ids, tile_m)
    for link in chain.links:
        if link.spec.stage.startswith("stage"):
            continue
        compiled = compile_kernel(link.spec, gpu_target(device))
        text = compiled.asm["amdgcn"]
        launch = (compiled.metadata.shared, compiled.metadata.num_warps)
        yield Beside(
            link.spec.stage,
            text,
            compiled.metadata.shared,
            machine_code_hash(text, *launch),
            partial(_executions, link, how, arrays, expected),
        )


def _rows(rows: int, width: int, rng: np.random.Generator) -> Array:
    """Bits of bfloat16 numbers; one row is zeros, and one has a value far above the others."""
    values = rng.standard_normal((rows, width)).astype(np.float32)
    values[rows // 2] *= rows > 2
    values[-1, width // 3] = 1000.0
    return (values.view(np.uint32) >> np.uint32(16)).astype(np.uint16)


def _sorted_by_numpy(arrays: dict[str, Array], ids: Array, tile_m: int) -> dict[str, Array]:
    expected = {name: np.full_like(arrays[name], -1) for name in ("block_expert", "block_slots")}
    blocks = blocks_of(ids, tile_m, by_token=len(ids) <= TOKEN_ROWS)
    for block in blocks:
        expected["block_expert"][block.number] = block.expert
        expected["block_slots"][block.number] = block.rows
    return {**expected, "valid_blocks": np.array([len(blocks)], np.int32)}


def _executions(
    link: Link, how: Plan, arrays: dict[str, Array], expected: dict[str, Array], kernel: Kernel
) -> Iterable[Execution]:
    del kernel  # everything that the launch needs is in the link
    memory = Memory()
    arguments: list[Argument] = [
        link.numbers[name]
        if name in link.numbers
        else Pointer(memory.map(arrays[link.tensors[name]], name=name))
        for name in link.spec.run_time
    ]
    programs = list(range(link.grid[0]))
    judges: list[Callable[[OutputErrors], None]] = []
    whole = True
    if link.spec.stage == "place":
        placers = link.grid[0] - how.groups
        if len(programs) > _ALL:
            middle = (placers // 2, placers + how.groups // 2)
            programs, whole = sorted({0, placers - 1, placers, programs[-1], *middle}), False
    else:
        # The rows that are quantised, after the programs that sort.
        sorters = how.programs if link.spec.stage == "prepare" else 0
        rows = sorted({0, (len(programs) - sorters) // 2, len(programs) - sorters - 1})
        programs = [*programs[:sorters], *(sorters + row for row in rows)]
        judges.append(partial(_require_quantised, link, arrays, rows))
    if link.spec.stage == "place" or (link.spec.stage == "prepare" and how.way != "count"):
        judges.append(partial(_require_sorted, arrays, expected, whole))
    if link.spec.stage == "prepare":
        judges.append(partial(_require_counted, arrays))

    def judge(errors: OutputErrors) -> None:
        for each in judges:
            each(errors)

    workgroups = [(program, 0, 0) for program in programs]
    output = arrays[link.tensors["q" if "q" in link.tensors else "block_slots"]]
    yield Execution(link.spec.stage, memory, arguments, link.grid, workgroups, output, judge)


def _require_sorted(
    arrays: dict[str, Array], expected: dict[str, Array], whole: bool, errors: OutputErrors
) -> None:
    for name in _SORTED:
        there = np.ones(arrays[name].shape, bool) if whole else arrays[name] != _POISON
        if not there.any() or (arrays[name] != expected[name])[there].any():
            raise WrongOutput(f"{name} is not that of the sorted slots")
    slots = np.where(arrays["block_slots"] == expected["block_slots"], expected["block_slots"], 0)
    errors.compare(slots.astype(float), slots.astype(float), "block_slots")


def _require_counted(arrays: dict[str, Array], errors: OutputErrors) -> None:
    del errors
    if arrays["arrived"].any():
        raise WrongOutput("the count of programs that have arrived is not zero again")


def _require_quantised(link: Link, arrays: dict[str, Array], rows: list[int], errors: OutputErrors) -> None:
    x = (arrays[link.tensors["x"]][rows].astype(np.uint32) << np.uint32(16)).view(np.float32)
    peak = np.abs(x).max(axis=1)
    inverse = np.where(peak > 0, np.float32(127) / np.maximum(peak, np.float32(1e-30)), np.float32(0))
    q = np.rint(x * inverse[:, None]).astype(np.int8)
    half = q[:, : q.shape[1] // 2].sum(axis=1, dtype=np.int32)
    for name, values in (("q", q), ("scale", peak / np.float32(127)), ("low_sum", half)):
        left = arrays[link.tensors[name]][rows]
        if (left != values).any():
            raise WrongOutput(f"{name} is not that of the rows, rounded half to even")
    errors.compare(arrays[link.tensors["q"]][rows].astype(float), q.astype(float), "q")
