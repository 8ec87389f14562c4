"""VOP3P: the same operation on both halves of a register (or on two registers), and mixed-precision fma.

op_sel says which half of each source the low result uses, op_sel_hi the same for the high result; neg_lo and
neg_hi negate them. CDNA3 ISA guide, "VOP3P instructions".
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autotune.emulate import lanes as L
from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.float_ops import FLOAT
from autotune.emulate.floats import clamp01, fma32
from autotune.emulate.integer_ops import INTEGER16
from autotune.emulate.parser import Imm, Instruction, Operand, Reg
from autotune.emulate.registers import F32, U32, Array, Wave, register_set, row_of, splat
from autotune.emulate.scalar_operands import constant
from autotune.emulate.vector import Function, Valu, clamped, low_bits

PACKED16: dict[str, Valu] = {
    **{f"v_pk_{n}_u16": INTEGER16[f"v_{n}_u16"] for n in ("add", "sub", "mul_lo", "max", "min", "mad")},
    **{f"v_pk_{n}_i16": INTEGER16[f"v_{n}_i16"] for n in ("add", "sub", "max", "min", "mad")},
    **{f"v_pk_{n}_b16": INTEGER16[f"v_{n}_b16"] for n in ("lshlrev", "lshrrev")},
    "v_pk_ashrrev_i16": INTEGER16["v_ashrrev_i16"],
    **{f"v_pk_{n}_f16": FLOAT[f"v_{n}_f16"] for n in ("add", "mul", "max", "min", "fma")},
}
PACKED32: dict[str, Valu] = {f"v_pk_{n}_f32": FLOAT[f"v_{n}_f32"] for n in ("add", "mul", "fma")}


def _negated(read: L.Source, negative: int, kind: str) -> L.Source:
    if not negative:
        return read
    if not L.is_float(kind):
        raise NotEmulated(f"neg on an operand of kind {kind}")
    return lambda wave: np.negative(read(wave))


def _decode16(instruction: Instruction, operation: Valu) -> Decoded:
    count = len(operation.sources)
    expect(instruction, count + 1)
    result, operands = instruction.operands[0], instruction.operands[1:]
    modifiers = Modifiers(instruction)
    function = clamped(operation) if modifiers.flag("clamp") else operation.function
    none, all_high = (0,) * count, (1,) * count
    selected = (modifiers.bits("op_sel", none), modifiers.bits("op_sel_hi", all_high))
    negated = (modifiers.bits("neg_lo", none), modifiers.bits("neg_hi", none))
    modifiers.finish()
    sources = [
        [
            _negated(L.source(operand, kind, half), negative, kind)
            for operand, kind, half, negative in zip(
                operands, operation.sources, selected[i], negated[i], strict=True
            )
        ]
        for i in range(2)
    ]
    for side in sources:
        for index, mask in operation.amounts:
            side[index] = low_bits(side[index], operands[index], mask, operation.sources[index])
    store = L.sink(result, "u32")
    low, high = sources

    def run(wave: Wave) -> None:
        lower = function(*[read(wave) for read in low]).view(np.uint16)
        upper = function(*[read(wave) for read in high]).view(np.uint16)
        store(wave, lower | upper.astype(np.uint32) << np.uint32(16))

    return Decoded(run, "valu", touched(*operands), touched(result))


def _word(operand: Operand, high: int) -> tuple[L.Source, int]:
    """One 32-bit half of a 64-bit packed source as float32, and the register that it reads as a set."""
    base = plain(operand)
    if isinstance(base, Imm):
        # The constant stands in the low word only.
        fixed = splat(0 if high else constant(base.value, 32))[F32]
        return (lambda wave: fixed), 0
    if not isinstance(base, Reg) or base.count != 2:
        raise NotEmulated(f"operand {base} of a packed 32-bit operation")
    part = Reg(base.file, base.index + high, 1)
    return L.source(Operand(part), "f32"), register_set(part)


def _decode32(instruction: Instruction, function: Function, count: int) -> Decoded:
    """Packed float32: two registers a source, op_sel picks among them."""
    expect(instruction, count + 1)
    result, operands = instruction.operands[0], instruction.operands[1:]
    modifiers = Modifiers(instruction)
    limit = modifiers.flag("clamp")
    none, all_high = (0,) * count, (1,) * count
    selected = (modifiers.bits("op_sel", none), modifiers.bits("op_sel_hi", all_high))
    negated = (modifiers.bits("neg_lo", none), modifiers.bits("neg_hi", none))
    modifiers.finish()
    reads = 0
    sides: list[list[L.Source]] = []
    for choice, negation in zip(selected, negated, strict=True):
        side = []
        for operand, high, negative in zip(operands, choice, negation, strict=True):
            read, registers = _word(operand, high)
            reads |= registers
            side.append(_negated(read, negative, "f32"))
        sides.append(side)
    base = plain(result)
    if not isinstance(base, Reg) or base.count != 2:
        raise NotEmulated(f"destination {base} of a packed 32-bit operation")
    first = L.sink(Operand(Reg(base.file, base.index, 1)), "f32")
    second = L.sink(Operand(Reg(base.file, base.index + 1, 1)), "f32")
    low, high_side = sides

    def run(wave: Wave) -> None:
        lower = function(*[read(wave) for read in low])
        upper = function(*[read(wave) for read in high_side])
        if limit:
            lower, upper = clamp01(lower), clamp01(upper)
        first(wave, lower)
        second(wave, upper)

    return Decoded(run, "valu", reads, touched(result))


def _decode_move(instruction: Instruction) -> Decoded:
    """V_PK_MOV_B32: the low result is a word of source 0, the high result a word of source 1 (both by
    op_sel).
    """
    expect(instruction, 3)
    modifiers = Modifiers(instruction)
    choice = modifiers.bits("op_sel", (0, 0))
    # op_sel_hi has no meaning for this opcode; LLVM prints it all the same.
    modifiers.bits("op_sel_hi", (1, 1))
    modifiers.finish()
    (low, low_reads), (high, high_reads) = (
        _word(operand, half) for operand, half in zip(instruction.operands[1:], choice, strict=True)
    )
    base = plain(instruction.operands[0])
    if not isinstance(base, Reg) or base.count != 2:
        raise NotEmulated(f"destination {base} of v_pk_mov_b32")
    row = row_of(base)

    def run(wave: Wave) -> None:
        lower, upper = low(wave).view(np.uint32).copy(), high(wave).view(np.uint32)
        np.copyto(wave.rows[U32][row + 1], upper, where=wave.mask)
        np.copyto(wave.rows[U32][row], lower, where=wave.mask)

    return Decoded(run, "valu", low_reads | high_reads, touched(base))


def _decode_mix(instruction: Instruction, name: str) -> Decoded:
    """V_FMA_MIX*: op_sel_hi makes a source float16 (its half by op_sel); neg and abs stand at the source."""
    expect(instruction, 4)
    modifiers = Modifiers(instruction)
    limit = modifiers.flag("clamp")
    halves, is_half = modifiers.bits("op_sel", (0, 0, 0)), modifiers.bits("op_sel_hi", (0, 0, 0))
    modifiers.finish()
    operands = instruction.operands[1:]
    sources: list[L.Source] = []
    for operand, half, narrow in zip(operands, halves, is_half, strict=True):
        read = L.source(operand, "f16" if narrow else "f32", half if narrow else 0)
        sources.append(_widened(read) if narrow else read)
    result = instruction.operands[0]
    store = (
        L.sink(result, "f32")
        if name == "v_fma_mix_f32"
        else L.half_sink(result, int(name == "v_fma_mixhi_f16"))
    )

    def run(wave: Wave) -> None:
        value = fma32(*[read(wave) for read in sources])
        if limit:
            value = clamp01(value)
        store(wave, value if name == "v_fma_mix_f32" else value.astype(np.float16))

    return Decoded(run, "valu", touched(*operands), touched(result))


def _widened(read: L.Source) -> Callable[[Wave], Array]:
    return lambda wave: read(wave).astype(np.float32)


def decode_packed(instruction: Instruction) -> Decoded | None:
    """Binds a VOP3P instruction other than the matrix products; None if the opcode is not one of them."""
    name = instruction.opcode
    if name in PACKED16:
        return _decode16(instruction, PACKED16[name])
    if name in PACKED32:
        return _decode32(instruction, PACKED32[name].function, len(PACKED32[name].sources))
    if name == "v_pk_mov_b32":
        return _decode_move(instruction)
    if name in {"v_fma_mix_f32", "v_fma_mixlo_f16", "v_fma_mixhi_f16"}:
        return _decode_mix(instruction, name)
    return None
