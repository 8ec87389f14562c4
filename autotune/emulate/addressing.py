"""Where the lanes of a vector memory instruction point: GLOBAL, FLAT, MUBUF and SCRATCH address operands.

Each closure gives the addresses of all 64 lanes; inactive ones are meaningless. CDNA3 ISA guide, "Vector
memory operations", "Flat memory instructions".
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from autotune.emulate import lanes as L
from autotune.emulate.decoded import Modifiers, plain, register, touched
from autotune.emulate.errors import Fault, NotEmulated
from autotune.emulate.parser import Operand, Symbol
from autotune.emulate.registers import LANES, U32, Array, Wave, row_of
from autotune.emulate.scalar_operands import getter

Addresses = Callable[[Wave], Array]


@dataclass(frozen=True, slots=True)
class BufferAddress:
    """Byte offsets of a raw buffer access and how far they may go.

    Attributes:
        base: buffer address.
        offsets: int64[64], from the base, the scalar offset included.
        records: size of the buffer in bytes; what is not below it is out of range.
    """

    base: int
    offsets: Array
    records: int


def is_off(operand: Operand) -> bool:
    """Whether the operand is the word `off`."""
    return isinstance(operand.base, Symbol) and operand.base.name == "off"


def global_address(vaddr: Operand, saddr: Operand, modifiers: Modifiers) -> Addresses:
    """A 64-bit address in two VGPRs, or a scalar base plus a 32-bit VGPR; plus a signed constant."""
    offset = modifiers.number("offset")
    if is_off(saddr):
        row = row_of(register(vaddr, "v", 2))
        return lambda wave: L.read_wide(wave, row).view(np.int64) + offset
    base = getter(saddr, 64)
    row = row_of(register(vaddr, "v", 1))
    # Added as uint64, since a base may wrap around with its offset.
    return lambda wave: (
        wave.rows[U32][row].astype(np.uint64) + np.uint64(base(wave) + offset & (1 << 64) - 1)
    ).view(np.int64)


def flat_address(vaddr: Operand, modifiers: Modifiers) -> Addresses:
    """A 64-bit address in two VGPRs plus a constant. The LDS and scratch apertures are not mapped."""
    offset = modifiers.number("offset")
    row = row_of(register(vaddr, "v", 2))
    return lambda wave: L.read_wide(wave, row).view(np.int64) + offset


def scratch_address(vaddr: Operand, saddr: Operand, modifiers: Modifiers) -> Addresses:
    """Byte offset in the lane's own private memory: VGPR plus scalar plus constant, each optional."""
    offset = modifiers.number("offset")
    row = -1 if is_off(vaddr) else row_of(register(vaddr, "v", 1))
    scalar = (lambda wave: 0) if is_off(saddr) else getter(saddr, 32)

    def address(wave: Wave) -> Array:
        common = scalar(wave) + offset
        if row < 0:
            return np.full(LANES, common, np.int64)
        return wave.rows[U32][row].astype(np.int64) + common

    return address


def buffer_address(
    vaddr: Operand, resource: Operand, soffset: Operand, modifiers: Modifiers
) -> Callable[[Wave], BufferAddress]:
    """Raw buffer access: descriptor base plus scalar offset, constant and (with `offen`) VGPR offset.

    Raises:
        NotEmulated: structured access (`idxen`), where the stride matters.
    """
    if modifiers.flag("idxen") or modifiers.flag("addr64"):
        raise NotEmulated("structured buffer access")
    constant = modifiers.number("offset")
    first = register(resource, "s", 4).index
    scalar = getter(soffset, 32)
    row = row_of(register(vaddr, "v", 1)) if modifiers.flag("offen") else -1
    if row < 0 and not is_off(vaddr):
        raise NotEmulated("address register without offen")

    def address(wave: Wave) -> BufferAddress:
        low, high, records, _ = wave.s[first : first + 4]
        if high >> 16 & 0x3FFF:
            raise Fault(f"raw buffer access through a descriptor with stride {high >> 16 & 0x3FFF}")
        start = scalar(wave) + constant
        offsets = (
            wave.rows[U32][row].astype(np.int64) + start if row >= 0 else np.full(LANES, start, np.int64)
        )
        return BufferAddress(low | (high & 0xFFFF) << 32, offsets, records)

    return address


def operand_registers(*operands: Operand) -> int:
    """Registers among address operands, as a set; `off` and constants have none."""
    return touched(*(plain(operand) for operand in operands))
