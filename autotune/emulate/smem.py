"""Scalar loads. They return in any order and count in lgkmcnt. CDNA3 ISA guide, "Scalar memory
operations".
"""

from __future__ import annotations

import re

from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, register, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import EXEC, Imm, Instruction
from autotune.emulate.registers import Wave, register_set
from autotune.emulate.scalar_operands import getter
from autotune.emulate.waits import issue

_MNEMONIC = re.compile(r"^s_(buffer_)?load_dword(?:x(2|4|8|16))?$")


def decode_smem(instruction: Instruction) -> Decoded | None:
    """Binds a scalar load; None if the opcode is not one.

    The address is base plus scalar or constant offset, its low two bits ignored; a buffer load past the end
    gives 0.
    """
    match = _MNEMONIC.match(instruction.opcode)
    if match is None:
        return None
    expect(instruction, 3)
    buffer, count = bool(match[1]), int(match[2] or 1)
    result, base, offset = instruction.operands
    target = register(result, "s", count)
    pointer = register(base, "s", 4 if buffer else 2).index
    modifiers = Modifiers(instruction)
    modifiers.ignore("glc")
    constant = modifiers.number("offset")
    modifiers.finish()
    distance = getter(offset, 32)
    if isinstance(plain(offset), Imm):
        # An immediate is signed, a register is not.
        fixed = plain(offset)
        if not isinstance(fixed, Imm) or not isinstance(fixed.value, int):
            raise NotEmulated(f"offset {fixed}")
        constant, distance = constant + fixed.value, lambda wave: 0
    first, writes, line = target.index, register_set(target), instruction.line
    if first >= EXEC:
        raise NotEmulated("scalar load into EXEC")

    def run(wave: Wave) -> None:
        reach = distance(wave) + constant & ~3
        if buffer:
            low, high, records, _ = wave.s[pointer : pointer + 4]
            address = (low | (high & 0xFFFF) << 32) + reach
            inside = max(0, min(count, (records - reach) // 4))
        else:
            address, inside = (wave.get64(pointer) & ~3) + reach, count
        words = wave.memory.read_scalar(address, inside) if inside else []
        wave.s[first : first + count] = words + [0] * (count - inside)
        issue(wave, lgkm=True, writes=writes, line=line, ordered=False)

    return Decoded(run, "smem", touched(base, offset), writes)
