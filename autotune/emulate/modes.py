"""The one MODE bit that compilers change, FP16_OVFL, and what depends on it.

With the bit set, float32 to fp8 conversions saturate, and so would float16 results; a program that sets the
bit and computes in float16 is not emulated. CDNA3 ISA guide, "Mode register", V_CVT_PK_FP8_F32,
V_CVT_PK_BF8_F32.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

import numpy as np

from autotune.emulate import fp8
from autotune.emulate import lanes as L
from autotune.emulate.decoded import Decoded, Modifiers, expect, plain, touched
from autotune.emulate.errors import NotEmulated
from autotune.emulate.parser import Imm, Instruction, Symbol
from autotune.emulate.registers import Wave
from autotune.emulate.vector import split_encoding

_OVERFLOW_BIT = "hwreg(HW_REG_MODE,23,1)"
_HALF_RESULT = re.compile(r"^v_(pk_)?(?!cmp|cvt_f32_f16|cvt_[iu]16)\w*_f16(_f32)?$")
_TO_FP8 = {f"v_cvt_pk_{kind}_f32": kind for kind in fp8.TABLES}


def check_modes(instructions: Iterable[Instruction]) -> None:
    """Raises NotEmulated if a program sets FP16_OVFL and computes in float16."""
    sets_overflow = False
    half: Instruction | None = None
    for instruction in instructions:
        sets_overflow |= instruction.opcode == "s_setreg_imm32_b32"
        if _HALF_RESULT.match(split_encoding(instruction.opcode)[0]):
            half = instruction
    if sets_overflow and half is not None:
        raise NotEmulated("float16 result under FP16_OVFL", half.line, half.text)


def decode_mode(instruction: Instruction) -> Decoded | None:
    """Binds what sets the bit and what reads it; None for any other instruction."""
    if instruction.opcode == "s_setreg_imm32_b32":
        expect(instruction, 2)
        register, value = (plain(operand) for operand in instruction.operands)
        if not isinstance(register, Symbol) or not isinstance(value, Imm) or value.value not in {0, 1}:
            raise NotEmulated(f"write of {value} to {register}")
        if register.name.replace(" ", "") != _OVERFLOW_BIT:
            raise NotEmulated(f"write to {register.name}")
        saturate = bool(value.value)

        def set_mode(wave: Wave) -> None:
            wave.saturate = saturate

        return Decoded(set_mode, "salu")
    name, encoding = split_encoding(instruction.opcode)
    if name not in _TO_FP8 or encoding in {"sdwa", "dpp"}:
        return None
    expect(instruction, 3)
    result, *operands = instruction.operands
    modifiers = Modifiers(instruction)
    half = modifiers.bits("op_sel", (0, 0, 0))
    modifiers.finish()
    if any(half[:2]):
        raise NotEmulated("op_sel on a float32 source")
    kind = _TO_FP8[name]
    low, high = (L.source(operand, "f32") for operand in operands)
    store = L.half_sink(result, half[2])

    def run(wave: Wave) -> None:
        first, second = (fp8.encode(read(wave), kind, wave.saturate) for read in (low, high))
        store(wave, first.astype(np.uint16) | second.astype(np.uint16) << np.uint16(8))

    return Decoded(run, "valu", touched(*operands), touched(result))
