"""How scalar sources are read and scalar destinations written: registers, EXEC, M0, VCC, constants."""

from __future__ import annotations

import struct
from collections.abc import Callable

from autotune.emulate.decoded import plain, register
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import EXEC, Imm, Operand, Reg
from autotune.emulate.registers import Wave

Get = Callable[[Wave], int]
Put = Callable[[Wave, int], None]


def signed(value: int, bits: int = 32) -> int:
    """Reads an unsigned integer of that width as two's complement."""
    return value - (1 << bits) if value >> (bits - 1) & 1 else value


def constant(value: int | float, bits: int) -> int:
    """Bits of an integer or float constant for an operand of 16, 32 or 64 bits.

    Raises:
        NotEmulated: a 64-bit operand with a 32-bit literal, whose extension the text does not tell.
    """
    if isinstance(value, float):
        formats = {16: ("<e", "<H"), 32: ("<f", "<I"), 64: ("<d", "<Q")}[bits]
        raw: int = struct.unpack(formats[1], struct.pack(formats[0], value))[0]
        return raw
    if bits == 64 and not -(1 << 31) <= value < 1 << 31:
        raise NotEmulated(f"32-bit literal {value:#x} for a 64-bit operand")
    return value & ((1 << bits) - 1)


def getter(operand: Operand, bits: int) -> Get:
    """Closure that reads a scalar source of 32 or 64 bits."""
    base = plain(operand)
    if isinstance(base, Imm):
        fixed = constant(base.value, bits)
        return lambda wave: fixed
    index = register(operand, "s", bits // 32).index
    if bits == 64:
        return lambda wave: wave.get64(index)
    if index >= EXEC:
        return lambda wave: wave.get32(index)
    return lambda wave: wave.s[index]


def putter(operand: Operand, bits: int) -> Put:
    """Closure that writes a scalar destination of 32 or 64 bits."""
    index = register(operand, "s", bits // 32).index
    if bits == 64:
        return lambda wave, value: wave.set64(index, value)
    return lambda wave, value: wave.set32(index, value)


def lane_source(operand: Operand) -> Callable[[Wave], int]:
    """Closure that reads a 64-bit lane mask (VCC, EXEC or a scalar pair)."""
    base = plain(operand)
    if isinstance(base, Reg) and base.file == "s" and base.count == 2:
        return getter(operand, 64)
    raise NotEmulated(f"{base} where a lane mask is needed")
