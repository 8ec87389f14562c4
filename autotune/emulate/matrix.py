"""Matrix products (MFMA) on VGPRs and AccVGPRs.

One instruction multiplies, for each of B blocks, A (M x K) with B (K x N) and adds C (M x N), M = N. With k
values a lane and K/k lane groups, lane l holds row (A) or column (B) l mod M of block or K group l div M,
values k·group to k·group + k - 1. Result register r of lane l holds column l mod N; its row is 4·(l div N) +
r mod 4, plus 8·(r div 4) where one block of 32 rows fills 16 registers. EXEC is ignored. Integers are exact
and wrap; float products are exact and summed in float64 with the addend, then rounded once to float32,
because the guide does not fix the order in which hardware adds. CDNA3 ISA guide, "Matrix arithmetic
instructions".
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from autotune.emulate import fp8
from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, register, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Instruction, Operand
from autotune.emulate.registers import LANES, Array, Wave, row_of, splat
from autotune.emulate.scalar_operands import constant


@dataclass(frozen=True, slots=True)
class Shape:
    """M (= N), K, blocks, and values a lane of one matrix instruction."""

    m: int
    k: int
    blocks: int
    per_lane: int


_MNEMONIC = re.compile(
    r"^v_mfma_(f32|i32)_(\d+)x(\d+)x(\d+)(?:_(\d+)b)?_(f32|xf32|f16|bf16|i8|(?:fp8|bf8)_(?:fp8|bf8))(?:_1k)?$"
)
# K of one block for each M and number of blocks, by element type. What is not here does not exist on gfx942.
_K: dict[str, dict[tuple[int, int], int]] = {
    "f32": {(32, 2): 1, (16, 4): 1, (4, 16): 1, (32, 1): 2, (16, 1): 4},
    "f16": {(32, 2): 4, (16, 4): 4, (4, 16): 4, (32, 1): 8, (16, 1): 16},
    "i8": {(32, 2): 4, (16, 4): 4, (4, 16): 4, (32, 1): 16, (16, 1): 32},
    "xf32": {(32, 1): 4, (16, 1): 8},
    "fp8": {(32, 1): 16, (16, 1): 32},
}
_K["bf16"] = _K["f16"]
_K["bf8"] = _K["fp8"]
_BITS = {"f32": 32, "xf32": 32, "f16": 16, "bf16": 16, "i8": 8, "fp8": 8, "bf8": 8}


@lru_cache(maxsize=64)
def operand_index(shape: Shape) -> Array:
    """Position of element [block, i, k] among a lane-major list of values: int64[blocks, M, K]."""
    groups = shape.k // shape.per_lane
    block, row, k = np.ogrid[: shape.blocks, : shape.m, : shape.k]
    lane = row + shape.m * (block * groups + k // shape.per_lane)
    return np.asarray(lane * shape.per_lane + k % shape.per_lane)


@lru_cache(maxsize=64)
def result_index(shape: Shape) -> Array:
    """For register r and lane l the flat position in [blocks, M, N]: int64[registers, 64]."""
    m = shape.m
    registers = shape.blocks * m * m // LANES
    r, lane = np.ogrid[:registers, :LANES]
    column = lane % m
    if m == 4:
        block, row = lane // 4, r
    else:
        a_block = registers // shape.blocks
        block, inner = r // a_block, r % a_block
        row = inner % 4 + 4 * (lane // m) + (inner // 4) * 4 * (LANES // m)
    return np.asarray((block * m + row) * m + column)


def _bytes_in_order(part: Array, bits: int) -> Array:
    """Registers uint32[n, 64] as a lane-major flat list of fields of that width."""
    return np.ascontiguousarray(part.T).reshape(-1).view({8: np.uint8, 16: np.uint16, 32: np.uint32}[bits])


def _values(kind: str) -> Callable[[Array], Array]:
    """Closure from raw fields to numbers that multiply exactly: float32 for 8 bits, float64 otherwise."""
    if kind == "i8":
        return lambda raw: raw.view(np.int8).astype(np.float32)
    if kind in fp8.TABLES:
        return lambda raw: fp8.decode(raw, kind).astype(np.float64)
    if kind == "f16":
        return lambda raw: raw.view(np.float16).astype(np.float64)
    if kind == "bf16":
        return lambda raw: (raw.astype(np.uint32) << np.uint32(16)).view(np.float32).astype(np.float64)
    if kind == "xf32":
        # Ten mantissa bits are used; the rest is rounded away.
        return lambda raw: _to_xf32(raw).astype(np.float64)
    return lambda raw: raw.view(np.float32).astype(np.float64)


def _to_xf32(raw: Array) -> Array:
    rounded = raw + np.uint32(0xFFF) + (raw >> np.uint32(13) & np.uint32(1))
    finite = (raw & np.uint32(0x7F80_0000)) != 0x7F80_0000
    return np.where(finite, rounded & ~np.uint32(0x1FFF), raw).view(np.float32)


def _addend(operand: Operand, count: int) -> Callable[[Wave], Array]:
    """C: registers uint32[count, 64] or a constant, which then stands in all of them."""
    base = plain(operand)
    if isinstance(base, Imm):
        fixed = np.broadcast_to(splat(constant(base.value, 32))[0], (count, LANES))
        return lambda wave: fixed
    row = row_of(register(operand, "va", count))
    return lambda wave: wave.v[row : row + count]


def decode_matrix(instruction: Instruction) -> Decoded | None:
    """Binds a matrix product; None if the opcode is not one.

    Raises:
        NotEmulated: a shape that gfx942 lacks, sparse or float64 products, broadcasts (cbsz, abid, blgp).
    """
    name = instruction.opcode.removesuffix("_e64")
    if not name.startswith(("v_mfma_", "v_smfmac_")):
        return None
    match = _MNEMONIC.match(name)
    if match is None:
        raise NotEmulated("matrix instruction")
    accumulator, m, n, k = match[1], int(match[2]), int(match[3]), int(match[4])
    blocks = int(match[5] or 1)
    kind_a, _, kind_b = match[6].partition("_")
    kind_b = kind_b or kind_a
    if m != n or _K[kind_a].get((m, blocks)) != k or (accumulator == "i32") != (kind_a == "i8"):
        raise NotEmulated("no such matrix shape on gfx942")
    expect(instruction, 4)
    modifiers = Modifiers(instruction)
    if any(modifiers.number(key) for key in ("cbsz", "abid", "blgp")):
        raise NotEmulated("broadcast in a matrix product")
    modifiers.finish()
    shape = Shape(m, k, blocks, m * k * blocks // LANES)
    bits = _BITS[kind_a]
    inputs = shape.per_lane * bits // 32
    outputs = blocks * m * n // LANES
    result, a, b, c = instruction.operands
    row_a, row_b = (row_of(register(operand, "va", inputs)) for operand in (a, b))
    row_d = row_of(register(result, "va", outputs))
    addend = _addend(c, outputs)
    gather, scatter = operand_index(shape), result_index(shape)
    to_a, to_b = _values(kind_a), _values(kind_b)
    integer = accumulator == "i32"

    def run(wave: Wave) -> None:
        left = to_a(_bytes_in_order(wave.v[row_a : row_a + inputs], bits).take(gather))
        right = to_b(_bytes_in_order(wave.v[row_b : row_b + inputs], bits).take(gather))
        product = np.matmul(left, right.transpose(0, 2, 1)).reshape(-1).take(scatter)
        if integer:
            # |sum| stays below 2**24, so float32 was exact.
            wave.v[row_d : row_d + outputs] = product.astype(np.int32).view(np.uint32) + addend(wave)
        else:
            total = product + addend(wave).view(np.float32)
            wave.v[row_d : row_d + outputs] = total.astype(np.float32).view(np.uint32)

    return Decoded(run, "mfma", touched(a, b, c), touched(result))
