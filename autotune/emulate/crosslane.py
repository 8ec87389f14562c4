"""Vector instructions with a scalar side: carries, V_DIV_SCALE, lane reads and writes, lane counts, swaps.

CDNA3 ISA guide, "VOP3B", V_READLANE_B32, V_WRITELANE_B32, V_READFIRSTLANE_B32, V_MBCNT_*.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from autotune.emulate import lanes as L
from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, register, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.floats import div_fmas, div_scale
from autotune.emulate.integer_ops import count_bits
from autotune.emulate.parser import VCC, Instruction, Reg
from autotune.emulate.registers import LANES, U32, Array, Wave, lanes, row_of
from autotune.emulate.scalar_operands import getter
from autotune.emulate.vector import Valu, bind, split_encoding

_VCC = Reg("s", VCC, 2)


def _add(a: Array, b: Array, carry: Array) -> tuple[Array, Array]:
    total = a.astype(np.uint64) + b + carry
    return total.astype(np.uint32), total >> np.uint64(32) != 0


def _sub(a: Array, b: Array, borrow: Array) -> tuple[Array, Array]:
    take = b.astype(np.uint64) + borrow
    return (a - take).astype(np.uint32), a < take


_NO_CARRY = np.zeros(LANES, np.bool_)
# Name: (function, sources exchanged, reads a carry).
CARRY: dict[str, tuple[Callable[[Array, Array, Array], tuple[Array, Array]], bool, bool]] = {
    "v_add_co_u32": (_add, False, False),
    "v_sub_co_u32": (_sub, False, False),
    "v_subrev_co_u32": (_sub, True, False),
    "v_addc_co_u32": (_add, False, True),
    "v_subb_co_u32": (_sub, False, True),
    "v_subbrev_co_u32": (_sub, True, True),
}


def _decode_carry(instruction: Instruction, name: str, encoding: str) -> Decoded:
    """D, carry-out = S0 op S1 [op carry-in]; inactive lanes get a carry of 0."""
    function, exchanged, has_carry = CARRY[name]
    expect(instruction, 5 if has_carry else 4)
    result, carry_out, a, b, *carry = instruction.operands
    modifiers = Modifiers(instruction)
    store, (first, second) = bind(Valu("u32", ("u32", "u32"), np.add), result, (a, b), encoding, modifiers)
    modifiers.finish()
    carry_in = L.source(carry[0], "lanes") if carry else (lambda wave: _NO_CARRY)
    store_carry = L.mask_sink(carry_out)

    def run(wave: Wave) -> None:
        left, right = first(wave), second(wave)
        if exchanged:
            left, right = right, left
        value, overflow = function(left, right, carry_in(wave))
        store_carry(wave, overflow)
        store(wave, value)

    return Decoded(run, "valu", touched(a, b, *carry), touched(result, carry_out))


def _decode_mad64(instruction: Instruction, signed: bool) -> Decoded:
    """V_MAD_U64_U32 and V_MAD_I64_I32: 32 x 32 + 64 bits, with the carry out of bit 63."""
    expect(instruction, 5)
    Modifiers(instruction).finish()
    result, carry_out, *operands = instruction.operands
    narrow, wide = ("i32", "i64") if signed else ("u32", "u64")
    a, b = L.source(operands[0], narrow), L.source(operands[1], narrow)
    c = L.source(operands[2], wide)
    store, store_carry = L.sink(result, wide), L.mask_sink(carry_out)
    dtype = L.WIDE[wide]

    def run(wave: Wave) -> None:
        product, addend = a(wave).astype(dtype) * b(wave), c(wave)
        total = product + addend
        if signed:
            overflow = ((product < 0) & (addend < 0) & (total >= 0)) | (
                (product >= 0) & (addend >= 0) & (total < 0)
            )
        else:
            overflow = total < addend
        store_carry(wave, overflow)
        store(wave, total)

    # Compilers use this as a 32-bit multiply-add with an undefined high half of the addend, whose high half
    # of the result they then ignore; so that half is no read.
    addend = plain(operands[2])
    low = Reg(addend.file, addend.index, 1) if isinstance(addend, Reg) else addend
    return Decoded(run, "valu", touched(*operands[:2], low), touched(result, carry_out))


def _decode_div_scale(instruction: Instruction) -> Decoded:
    expect(instruction, 5)
    Modifiers(instruction).finish()
    result, flag, *operands = instruction.operands
    sources = [L.source(operand, "f32") for operand in operands]
    store, store_flag = L.sink(result, "f32"), L.mask_sink(flag)

    def run(wave: Wave) -> None:
        value, unscale = div_scale(*[read(wave) for read in sources])
        store_flag(wave, unscale)
        store(wave, value)

    return Decoded(run, "valu", touched(*operands), touched(result, flag))


def _decode_div_fmas(instruction: Instruction) -> Decoded:
    """Reads VCC without naming it."""
    expect(instruction, 4)
    Modifiers(instruction).finish()
    result, *operands = instruction.operands
    a, b, c = (L.source(operand, "f32") for operand in operands)
    store = L.sink(result, "f32")

    def run(wave: Wave) -> None:
        store(wave, div_fmas(a(wave), b(wave), c(wave), lanes(wave.get64(VCC))))

    return Decoded(run, "valu", touched(*operands, _VCC), touched(result))


def _decode_lane(instruction: Instruction, name: str) -> Decoded:
    """Reads and writes of one lane; EXEC matters only for which lane is the first."""
    Modifiers(instruction).finish()
    operands = instruction.operands
    if name == "v_writelane_b32":
        expect(instruction, 3)
        row = row_of(register(operands[0], "va", 1))
        value, lane = getter(operands[1], 32), getter(operands[2], 32)

        def write(wave: Wave) -> None:
            wave.v[row, lane(wave) & 63] = value(wave)

        # Scalar registers are spilled so, written or not.
        reads = touched(*operands[1:])
        return Decoded(write, "valu", reads, touched(operands[0]), saved=touched(operands[1]))
    target = register(operands[0], "s", 1).index
    base = plain(operands[1])
    if not isinstance(base, Reg):
        raise NotEmulated(f"{base} where a vector register is needed")
    row = row_of(base)
    if name == "v_readfirstlane_b32":
        expect(instruction, 2)
        return Decoded(
            lambda wave: wave.set32(target, int(wave.v[row, wave.first_lane()])),
            "valu", touched(base), touched(operands[0]),
        )  # fmt: skip
    expect(instruction, 3)
    lane = getter(operands[2], 32)
    return Decoded(
        lambda wave: wave.set32(target, int(wave.v[row, lane(wave) & 63])),
        "valu", touched(*operands[1:]), touched(operands[0]),
    )  # fmt: skip


def _decode_lane_count(instruction: Instruction, high: bool) -> Decoded:
    """V_MBCNT_{LO,HI}: number of bits of S0 below this lane (in that half of the wave), plus S1."""
    expect(instruction, 3)
    Modifiers(instruction).finish()
    result, *operands = instruction.operands
    mask, addend = L.source(operands[0], "u32"), L.source(operands[1], "u32")
    store = L.sink(result, "u32")
    index = np.arange(LANES) - (32 if high else 0)
    below = ((1 << np.clip(index, 0, 32)) - 1).astype(np.uint32)
    return Decoded(
        lambda wave: store(wave, count_bits(mask(wave) & below) + addend(wave)),
        "valu", touched(*operands), touched(result),
    )  # fmt: skip


def _decode_swap(instruction: Instruction) -> Decoded:
    expect(instruction, 2)
    Modifiers(instruction).finish()
    first, second = (row_of(register(operand, "v", 1)) for operand in instruction.operands)

    def run(wave: Wave) -> None:
        a, b = wave.rows[U32][first], wave.rows[U32][second]
        old = a.copy()
        np.copyto(a, b, where=wave.mask)
        np.copyto(b, old, where=wave.mask)

    both = touched(*instruction.operands)
    return Decoded(run, "valu", both, both)


def decode_crosslane(instruction: Instruction) -> Decoded | None:
    """Binds one of this module's instructions; None if the opcode is not one of them."""
    name, encoding = split_encoding(instruction.opcode)
    if name in CARRY:
        return _decode_carry(instruction, name, encoding)
    if encoding in {"sdwa", "dpp"}:
        return None
    if name in {"v_mad_u64_u32", "v_mad_i64_i32"}:
        return _decode_mad64(instruction, name == "v_mad_i64_i32")
    if name == "v_div_scale_f32":
        return _decode_div_scale(instruction)
    if name == "v_div_fmas_f32":
        return _decode_div_fmas(instruction)
    if name in {"v_readlane_b32", "v_writelane_b32", "v_readfirstlane_b32"}:
        return _decode_lane(instruction, name)
    if name in {"v_mbcnt_lo_u32_b32", "v_mbcnt_hi_u32_b32"}:
        return _decode_lane_count(instruction, name == "v_mbcnt_hi_u32_b32")
    if name == "v_swap_b32":
        return _decode_swap(instruction)
    if name == "v_nop":
        return Decoded(lambda wave: None, "other")
    return None
