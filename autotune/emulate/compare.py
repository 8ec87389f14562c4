"""Vector comparisons: V_CMP_* into a lane mask, V_CMPX_* into EXEC as well.

Inactive lanes give 0. CDNA3 ISA guide, "VOPC instructions".
"""

from __future__ import annotations

import numpy as np

from autotune.emulate import encodings
from autotune.emulate import lanes as L
from autotune.emulate.decoded import Decoded, Modifiers, expect, touched
from autotune.emulate.floats import classify
from autotune.emulate.parser import EXEC, Instruction, Reg
from autotune.emulate.registers import Array, Wave, lane_mask
from autotune.emulate.vector import Function, split_encoding


def _never(a: Array, b: Array) -> Array:
    return np.zeros(64, np.bool_)


def _always(a: Array, b: Array) -> Array:
    return np.ones(64, np.bool_)


def _unordered(a: Array, b: Array) -> Array:
    return np.isnan(a) | np.isnan(b)


_ORDERED: dict[str, Function] = {
    "lt": np.less, "eq": np.equal, "le": np.less_equal, "gt": np.greater, "ge": np.greater_equal,
}  # fmt: skip
# For integers "ne" is plain inequality; for floats "lg" is false and "neq" true when an operand is NaN.
INTEGER = _ORDERED | {"f": _never, "t": _always, "ne": np.not_equal}
FLOAT = _ORDERED | {
    "f": _never,
    "tru": _always,
    "lg": lambda a, b: ~(_unordered(a, b) | (a == b)),
    "o": lambda a, b: ~_unordered(a, b),
    "u": _unordered,
    "nge": lambda a, b: ~(a >= b),
    "nlg": lambda a, b: _unordered(a, b) | (a == b),
    "ngt": lambda a, b: ~(a > b),
    "nle": lambda a, b: ~(a <= b),
    "neq": lambda a, b: ~(a == b),
    "nlt": lambda a, b: ~(a < b),
}


def _lookup(name: str) -> tuple[Function, tuple[str, str], bool] | None:
    """Relation, source kinds and whether EXEC is written, from a mnemonic."""
    parts = name.split("_")
    if len(parts) != 4 or parts[0] != "v" or parts[1] not in {"cmp", "cmpx"}:
        return None
    relation, kind, into_exec = parts[2], parts[3], parts[1] == "cmpx"
    if relation == "class" and kind in {"f32", "f16"}:
        return classify, (kind, "u32"), into_exec
    if kind in {"f16", "f32", "f64"}:
        table = FLOAT
    elif kind in {"i16", "i32", "i64", "u16", "u32", "u64"}:
        table = INTEGER
    else:
        return None
    return (table[relation], (kind, kind), into_exec) if relation in table else None


def decode_compare(instruction: Instruction) -> Decoded | None:
    """Binds a comparison; None if the opcode is not one."""
    name, encoding = split_encoding(instruction.opcode)
    operation = _lookup(name)
    if operation is None or encoding == "dpp":
        return None
    relation, kinds, into_exec = operation
    expect(instruction, 3)
    modifiers = Modifiers(instruction)
    result, *operands = instruction.operands
    if encoding == "sdwa":
        first, second = (
            encodings.sdwa_source(operand, kind, modifiers.word(f"src{i}_sel", "DWORD"))
            for i, (operand, kind) in enumerate(zip(operands, kinds, strict=True))
        )
    else:
        first, second = (L.source(operand, kind) for operand, kind in zip(operands, kinds, strict=True))
    modifiers.finish()
    store = L.mask_sink(result)
    writes = touched(result)
    if not into_exec:
        return Decoded(
            lambda wave: store(wave, relation(first(wave), second(wave))), "valu", touched(*operands), writes
        )

    def run(wave: Wave) -> None:
        value = relation(first(wave), second(wave))
        store(wave, value)
        wave.set_exec(lane_mask(value & wave.mask))

    return Decoded(run, "valu", touched(*operands), writes | touched(Reg("s", EXEC, 2)))
